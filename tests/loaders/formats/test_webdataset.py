"""WebDataset's tars are read in place: every writer's headers, the samples of each key, and what is refused."""

import gzip
import io
import tarfile
import urllib.request
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from iobench.loaders import DataLoader, Fields, ShardSet, transforms
from iobench.loaders.formats.tar import TarError, TarFile
from iobench.loaders.formats.webdataset import TarFormat, WebDatasetError, read_samples
from iobench.loaders.images.decoding import ImageError
from iobench.loaders.index import ShardFormatError, load_index, verify_shards

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
Members = list[tuple[str, bytes]]


def image(seed: int, kind: str = "JPEG") -> bytes:
    target = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (20 + seed % 7, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(target, kind)
    return target.getvalue()


def write(path: Path, members: Members, *, form: int = tarfile.USTAR_FORMAT, **fields: object) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(content))
    return path


def sample(key: str, label: int | bytes, *, seed: int = 0, extension: str = "jpg") -> Members:
    text = label if isinstance(label, bytes) else b"%d" % label
    return [(f"{key}.{extension}", image(seed, "PNG" if extension == "png" else "JPEG")), (f"{key}.cls", text)]


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened.convert("RGB"))


def labels_of(path: Path, **options) -> list[int]:
    return ShardSet.open(path, **options).index.labels.tolist()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("engine", ["buffered", "direct", "mmap"])
def test_images_and_labels_come_out_as_they_were_written(tmp_path, form, engine):
    names = ["0001", "a/0002", "x" * 120 + "/0003", "ünï/" + "ö" * 80, "y" * 90 + "/" + "z" * 60]
    if form == "ustar":
        names.remove("ünï/" + "ö" * 80)  # its name of 160 bytes does not go into one of 100
    written = [sample(name, 7 * i - 3, seed=i, extension="png" if i == 1 else "jpg") for i, name in enumerate(names)]
    path = write(tmp_path / "data" / "a.tar", [member for some in written for member in some], form=FORMATS[form])
    shards = ShardSet.open(path.parent, engine=engine)
    assert shards.index.layout.codec == "jpeg"
    assert "labels from .cls; 0 members left out" in shards.index.layout_reason
    got = shards.__getitems__(range(len(written)))
    for (tensor, label), members in zip(got, written, strict=True):
        assert label == int(members[1][1])
        assert np.array_equal(tensor.permute(1, 2, 0).numpy(), pixels(members[0][1]))
    shards.close()


@settings(max_examples=60, deadline=None)
@given(
    form=st.sampled_from(sorted(FORMATS.values())),
    members=st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=20).map(
                lambda name: name.strip("/") or "n"
            ),
            st.binary(max_size=1600),
        ),
        max_size=8,
    ),
)
def test_any_members_are_where_pythons_tarfile_has_them(tmp_path_factory, form, members):
    path = write(tmp_path_factory.mktemp("any") / "a.tar", members, form=form)
    with tarfile.open(path) as archive:
        theirs = [(info.name, info.offset_data, info.size) for info in archive]
    with path.open("rb") as file:
        walked = TarFile(file.fileno(), path.stat().st_size, path=path).members()
        assert [(member.name.rstrip("/"), member.offset, member.length) for member in walked] == [
            (name.rstrip("/"), offset, size) for name, offset, size in theirs
        ]


def test_sizes_are_also_read_as_binary_numbers_and_from_pax_headers(tmp_path):
    path = write(tmp_path / "binary.tar", sample("1", 4))
    raw = bytearray(path.read_bytes())
    size = int(raw[124:135], 8)
    respell(raw, 124, b"\x80" + size.to_bytes(11, "big"))
    path.write_bytes(raw)
    assert labels_of(path) == [4]

    told = write(tmp_path / "pax.tar", sample("2", 5), form=tarfile.PAX_FORMAT, pax_headers={"size": "77"})
    with tarfile.open(told) as archive:
        sizes = [info.size for info in archive][:1]
    with told.open("rb") as file:
        members = TarFile(file.fileno(), told.stat().st_size, path=told).members()
        assert next(members).length == sizes[0] == 77
        with pytest.raises(TarError, match="no tar header at byte"):  # what pax said was not so
            next(members)


def test_other_extensions_are_left_out_and_counted(tmp_path):
    beside = [("1.json", b"{}"), ("1.seg.png", b"no image"), ("README", b"x"), ("__index__", b"x"), ("2.txt", b"x")]
    members = [("0.txt", b"alone"), *sample("1", 3), *beside, ("dir.d/2.JPEG", image(1)), ("dir.d/2.CLS", b" 9\n")]
    shards = ShardSet.open(write(tmp_path / "a.tar", members))
    assert shards.index.labels.tolist() == [3, 9]
    assert shards.index.layout_reason.endswith("6 members left out")


def test_fields_name_extensions(tmp_path):
    members = [("1.left.png", image(1, "PNG")), ("1.right.png", image(2, "PNG")), ("1.target", b"5")]
    path = write(tmp_path / "a.tar", members)
    shards = ShardSet.open(path, fields=Fields(image="right.png", label="target"))
    assert np.array_equal(shards[0][0].permute(1, 2, 0).numpy(), pixels(members[1][1]))
    assert shards[0][1] == 5
    assert labels_of(path, fields=Fields(image="left.png;jpg", label=None)) == [-1]
    opaque = ShardSet.open(path, fields=Fields(image="left.png", label="target", opaque=True))
    assert bytes(opaque[0][0].numpy()) == members[0][1]
    with pytest.raises(ShardFormatError, match="images in a tar say their shape themselves"):
        ShardSet.open(path, shape=(20, 30, 3))


@pytest.mark.parametrize("mode", ["off", "shards", "blocks", "records"])
def test_an_epoch_has_every_sample_once_and_goes_on_where_it_was_left(tmp_path, mode):
    for shard in range(3):
        members = [sample(f"{i:03d}", 10 * shard + i, seed=i) for i in range(10)]
        write(tmp_path / "d" / f"{shard}.tar", [member for some in members for member in some])

    def loader():
        shards = ShardSet.open(tmp_path / "d", shuffle_mode=mode, transform=transforms.ImageNetTrain(size=16))
        return DataLoader(shards, batch_size=4, shuffle=mode != "off", num_workers=2)

    first = loader()
    batches = [(images.clone(), labels) for images, labels in first]
    assert sorted(label for _, labels in batches for label in labels.tolist()) == list(range(30))
    assert first.tally.payload_bytes == sum(ShardSet.open(tmp_path / "d").index.extents.lengths)
    left, again = loader(), loader()
    stopped = iter(left)
    next(stopped), next(stopped)
    again.load_state_dict(left.state_dict())
    for (images, labels), (expected, theirs) in zip(again, batches[2:], strict=True):
        assert labels.tolist() == theirs.tolist()
        assert np.array_equal(images.numpy(), expected.numpy())


def test_a_run_of_samples_is_one_read(tmp_path):
    path = write(tmp_path / "a.tar", [member for i in range(12) for member in sample(f"{i}", i, seed=i)])
    loader = DataLoader(ShardSet.open(path), batch_size=6)
    assert [labels.tolist() for _, labels in loader] == [list(range(6)), list(range(6, 12))]
    assert loader.tally.num_reads == 2


def test_a_kept_index_is_used_until_a_tar_changes(tmp_path):
    path = write(tmp_path / "d" / "a.tar", sample("1", 1) + sample("2", 2))
    write(tmp_path / "d" / "b.tar", sample("1", 3))
    assert ShardSet.open(tmp_path / "d").index.status == "built"
    again = ShardSet.open(tmp_path / "d").index
    assert (again.status, again.labels.tolist(), again.shard_sizes) == ("cached", [1, 2, 3], (2, 1))
    write(path, sample("1", 1))
    assert ShardSet.open(tmp_path / "d").index.status == "rebuilt: a.tar has changed since it was indexed"


def test_a_broken_image_is_named_or_left_out(tmp_path):
    members = [*sample("1", 1), ("2.jpg", b"\xff\xd8\xff no image"), ("2.cls", b"2"), *sample("3", 3)]
    path = write(tmp_path / "a.tar", members)
    with tarfile.open(path) as archive:
        place = archive.getmember("2.jpg").offset_data
    with pytest.raises(ImageError, match=rf"a\.tar: record 1 \(byte {place}\): its image cannot be decoded"):
        list(DataLoader(ShardSet.open(path), batch_size=3))
    loader = DataLoader(ShardSet.open(path, on_error="skip"), batch_size=3)
    assert [labels.tolist() for _, labels in loader] == [[1, 3]]
    assert loader.tally.skipped[0].record == 1


def test_evidence_counts_the_bytes_of_the_tars(tmp_path):
    path = write(tmp_path / "a.tar", sample("1", 1) + sample("2", 2, seed=1))
    loader = DataLoader(ShardSet.open(path), batch_size=2)
    list(loader)
    evidence = loader.evidence()
    assert evidence.payload_bytes == len(image(0)) + len(image(1))
    assert evidence.requested_route == "host"


LONG = sample("n" * 90 + "/1", 1) + sample("2", 2, seed=1)
REFUSED: dict[str, tuple[Members, str]] = {
    "no label": ([("1.jpg", image(0)), *sample("2", 2)], r"'1\.jpg' \(header at byte 0\) has no \.cls beside it"),
    "no image": ([*sample("1", 1), ("2.cls", b"2")], r"'2\.cls' \(header at byte \d+\) has no image beside it"),
    "apart": ([("1.jpg", image(0)), ("2.jpg", image(0)), ("1.cls", b"1"), ("2.cls", b"2")], "'1.jpg' .* has no .cls"),
    "two images": ([*sample("1", 1), ("1.png", image(0, "PNG"))], r"'1\.jpg' and '1\.png' .* are both the image"),
    "twice": ([("1.jpg", image(0)), *sample("1", 1)], r"'1\.jpg' .* is the second of its key and extension"),
    "empty image": ([("1.jpg", b""), ("1.cls", b"1")], r"'1\.jpg' \(header at byte 0\) is empty"),
    "word": (sample("1", b"cat"), r"'1\.cls' \(byte \d+\) holds b'cat', no whole number"),
    "long": (sample("1", b"1" + b" " * 40), r"'1\.cls' .* no whole number"),
    "too large": (sample("1", b"9223372036854775808"), "no whole number"),
    "float": (sample("1", b"1.5"), "no whole number"),
    "nothing": ([("1.json", b"{}")], r"no sample in it \(an image \(\.jpg, \.jpeg, \.png\) and a \.cls with one key\)"),
    "no member": ([], "no sample in it"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_samples_without_an_image_and_a_label_each_are_refused_by_name(tmp_path, kind):
    members, message = REFUSED[kind]
    with pytest.raises(WebDatasetError, match=message) as raised:
        ShardSet.open(write(tmp_path / "a.tar", members))
    assert raised.value.exit_status == 4
    assert str(raised.value).startswith(str(tmp_path / "a.tar"))


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE])
def test_links_and_pipes_are_no_images(tmp_path, kind):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("1.jpg")
        info.type, info.linkname = kind, "elsewhere.jpg"
        archive.addfile(info)
    with pytest.raises(WebDatasetError, match=r"'1\.jpg' \(header at byte 0\) is a (link|member of type '6')"):
        ShardSet.open(path)


def damaged(tmp_path: Path, change) -> Path:
    path = write(tmp_path / "a.tar", sample("1", 1) + sample("2", 2, seed=1))
    raw = bytearray(path.read_bytes())
    path.write_bytes(change(raw) or raw)
    return path


def second_header(raw: bytearray) -> int:
    return 512 + -(-int(raw[124:135], 8) // 512) * 512


def spoil(raw: bytearray, place: int, text: bytes) -> None:
    raw[place : place + len(text)] = text


def respell(raw: bytearray, place: int, text: bytes) -> None:
    """Change the first header, and its checksum with it."""
    spoil(raw, place, text)
    spoil(raw, 148, b" " * 8)
    spoil(raw, 148, b"%06o\0 " % sum(raw[:512]))


DAMAGED = {
    "bit": (lambda raw: spoil(raw, second_header(raw) + 10, b"!"), r"no tar header at byte \d+: it says checksum"),
    "in the first image": (lambda raw: raw[:700], r"truncated: '1\.jpg' \(header at byte 0\) says \d+ bytes, .* 700;"),
    "behind a member": (
        lambda raw: raw[: second_header(raw)],
        r"truncated: the file ends at byte \d+, without the zero",
    ),
    "in a header": (lambda raw: raw[: second_header(raw) + 100], r"truncated: the file ends at byte \d+"),
    "joined": (lambda raw: raw + raw, r"something follows the end of the tar, from byte \d+ on"),
    "letters": (lambda raw: respell(raw, 124, b"12x"), "for its size, no octal number"),
    "gzip": (gzip.compress, "gzip data from byte 0 on, .* decompress this tar"),
    "text": (lambda raw: b"<html>" + b" " * 2000, "no tar header at byte 0"),
    "nothing": (lambda raw: b"\0" * 10240, "no sample in it"),
    "empty": (lambda raw: raw[:0] or bytearray(1), "truncated: the file ends at byte 1"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_tars_are_refused_with_the_byte(tmp_path, kind):
    change, message = DAMAGED[kind]
    path = damaged(tmp_path, change)
    with pytest.raises((TarError, WebDatasetError), match=message) as raised:
        ShardSet.open(path)
    assert str(raised.value).startswith(str(path))


def test_a_tar_without_room_for_its_end_is_told_from_a_cut_one(tmp_path):
    path = damaged(tmp_path, lambda raw: bytes(raw).rstrip(b"\0") + b"\0" * (512 - len(bytes(raw).rstrip(b"\0")) % 512))
    with pytest.raises(TarError, match="without the zeros that end a tar"):
        ShardSet.open(path)
    path.write_bytes(path.read_bytes() + b"\0" * 512)  # one block of zeros is an end, if a short one
    assert labels_of(path) == [1, 2]


@pytest.mark.parametrize("fields", [{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, {"GNU.sparse.map": "0,1"}])
def test_sparse_members_are_refused(tmp_path, fields):
    path = write(tmp_path / "a.tar", sample("1", 1), form=tarfile.PAX_FORMAT, pax_headers=fields)
    with pytest.raises(TarError, match=r"a sparse member behind byte 0 \(GNU\.sparse"):
        ShardSet.open(path)
    gnu = write(tmp_path / "gnu.tar", sample("1", 1), type=tarfile.GNUTYPE_SPARSE)
    with pytest.raises(TarError, match="a sparse member at byte 0"):
        ShardSet.open(gnu)


def test_nothing_is_allocated_on_the_word_of_a_long_name(tmp_path):
    path = write(tmp_path / "a.tar", [("n" * 200 + ".jpg", image(0))], form=tarfile.GNU_FORMAT)
    raw = bytearray(path.read_bytes())
    respell(raw, 124, b"77777777777\0")
    path.write_bytes(raw)
    with pytest.raises(TarError, match="the header at byte 0 announces a name of 8589934591 bytes"):
        ShardSet.open(path)


@pytest.mark.parametrize("record", [b"12 path=a\n", b"x path=a\n", b"9 patha\n\n", b"5\n", b"-5 a=b\n", b"99999 a=b\n"])
def test_damaged_pax_headers_are_refused(tmp_path, record):
    path = tmp_path / "a.tar"
    write(path, [("pax", record)], type=tarfile.XHDTYPE)
    with pytest.raises(TarError, match="the pax header at byte 0 is damaged"):
        ShardSet.open(path)


@pytest.mark.parametrize("size", ["-1", "x", "9" * 5000, "1_0"])
def test_sizes_that_are_none_are_refused(tmp_path, size):
    path = write(tmp_path / "a.tar", sample("1", 1), form=tarfile.PAX_FORMAT, pax_headers={"size": size})
    with pytest.raises(TarError, match="has size '"):
        ShardSet.open(path)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_is_damaged_is_read_or_refused_and_nothing_else(tmp_path_factory, data):
    path = write(tmp_path_factory.mktemp("any") / "a.tar", LONG, form=data.draw(st.sampled_from([0, 1, 2])))
    raw = bytearray(path.read_bytes())
    start = data.draw(st.integers(0, len(raw) - 1))
    stop = data.draw(st.integers(start, min(len(raw), start + 700)))
    raw[start:stop] = data.draw(st.binary(max_size=700))
    if data.draw(st.booleans()):
        respell(raw, 0, b"")
    path.write_bytes(raw)
    with path.open("rb") as file, suppress(TarError, WebDatasetError):
        found = read_samples(file.fileno(), len(raw), TarFormat(), path=path)
        assert (found.offsets + found.lengths <= len(raw)).all()


def test_objects_on_a_server_are_read_too(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write(tmp_path / "a.tar", sample("1", 4) + sample("2", 6, seed=1))
    headers = {"Content-Type": "application/octet-stream", "x-amz-acl": "public-read"}
    request = urllib.request.Request(f"{s3}/bucket/set/a.tar", path.read_bytes(), headers, method="PUT")
    urllib.request.urlopen(request, timeout=20).close()
    shards = ShardSet.open("s3://bucket/set")
    assert shards.engine_reason == "auto: remote, because encoded images are decoded in host memory"
    assert [label for _, label in shards.__getitems__([1, 0])] == [6, 4]
    assert np.array_equal(shards[1][0].permute(1, 2, 0).numpy(), pixels(image(1)))
    shards.close()


def test_tars_stand_beside_no_other_shards_and_have_nothing_to_verify(tmp_path):
    path = write(tmp_path / "d" / "a.tar", sample("1", 1))
    index = load_index([path])
    with pytest.raises(ShardFormatError, match="tars hold no checksum of their members' bytes"):
        verify_shards([path], index)
    (tmp_path / "d" / "b.tfrecord").write_bytes(b"")
    with pytest.raises(ShardFormatError, match=r"a\.tar: a tar shard, and b\.tfrecord is none"):
        ShardSet.open(tmp_path / "d")
