"""WebDataset's tars are read in place: every writer's headers, the samples of each key, and what is refused."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iobench.loaders import DataLoader, Fields, ShardSet
from iobench.loaders.index import ShardFormatError
from iobench.loaders.tar import TarError
from iobench.loaders.webdataset import WebDatasetError

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def image(seed: int, kind: str = "JPEG") -> bytes:
    target = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (20 + seed % 7, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(target, kind)
    return target.getvalue()


def write(path: Path, members: list[tuple[str, bytes]], *, form: int = tarfile.USTAR_FORMAT, **fields) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(content))
    return path


def sample(key: str, label: int | bytes, *, seed: int = 0, extension: str = "jpg") -> list[tuple[str, bytes]]:
    text = label if isinstance(label, bytes) else b"%d" % label
    return [(f"{key}.{extension}", image(seed, "PNG" if extension == "png" else "JPEG")), (f"{key}.cls", text)]


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened.convert("RGB"))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("engine", ["buffered", "direct", "mmap"])
def test_images_and_labels_come_out_as_they_were_written(tmp_path, form, engine):
    names = ["0001", "a/0002", "x" * 120 + "/0003", "ünï/" + "ö" * 80, "y" * 90 + "/" + "z" * 60]
    written = [
        sample(f"{name}", 7 * i - 3, seed=i, extension="png" if i == 1 else "jpg") for i, name in enumerate(names)
    ]
    if form == "ustar":  # has no room for these
        written = [members for members in written if len(members[0][0].encode()) < 150]
    path = write(tmp_path / "data" / "a.tar", [member for some in written for member in some], form=FORMATS[form])
    shards = ShardSet.open(path.parent, engine=engine)
    assert shards.index.layout.codec == "jpeg"
    got = shards.__getitems__(range(len(written)))
    for i, ((tensor, label), members) in enumerate(zip(got, written, strict=True)):
        assert label == int(members[1][1])
        assert np.array_equal(tensor.permute(1, 2, 0).numpy(), pixels(members[0][1])), i


def test_a_kept_index_is_used_again(tmp_path):
    write(tmp_path / "d" / "a.tar", sample("1", 1) + sample("2", 2))
    write(tmp_path / "d" / "b.tar", sample("1", 3))
    assert ShardSet.open(tmp_path / "d").index.status == "built"
    again = ShardSet.open(tmp_path / "d")
    assert again.index.status == "cached"
    assert again.index.labels.tolist() == [1, 2, 3]
    assert again.index.shard_sizes == (2, 1)
