"""Sources of every format with known content, written by hand or by other packages."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iobench.loaders.formats.example import encode_example
from iobench.loaders.formats.tfrecord import frame
from iobench.storage_bench.convert import Convert, Converted, convert

NUM = 23
NAMES = ("ape", "bee", "cat", "dog", "eel")


def picture(height: int, width: int, seed: int) -> Image.Image:
    """Waves and a little noise: something that a wrong cut shows in."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width].astype(float)
    waves = [np.sin(rows / a + columns / b + c) for a, b, c in random.uniform((5, 5, 0), (40, 40, 6), (3, 3))]
    levels = 128 + 90 * np.stack(waves, axis=-1) + random.normal(0, 4, (height, width, 3))
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """`encoded(height, width, seed, kind)`: an image file as Pillow writes it."""

    def make(height: int, width: int, seed: int, kind: str = "JPEG") -> bytes:
        target = io.BytesIO()
        picture(height, width, seed).save(target, kind, quality=90)
        return target.getvalue()

    return make


@pytest.fixture(scope="session")
def images(encoded) -> list[bytes]:
    """Image files of unequal size, of which one is a PNG."""
    sides = [(75, 100), (100, 66), (40, 30), (60, 60)]
    return [encoded(*sides[i % 4], i, "PNG" if i == 5 else "JPEG") for i in range(NUM)]


@pytest.fixture(scope="session")
def jpeg_records() -> Callable[..., Path]:
    """`jpeg_records(folder, images, labels, names)`: shards as build_imagenet_data writes them, ten images in each."""

    def write(folder: Path, images: list[bytes], labels: list[int], names=NAMES) -> Path:
        folder.mkdir()
        records = []
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            features = {
                "image/height": 1,
                "image/width": 1,
                "image/class/label": label,
                "image/class/synset": names[label % len(names)].encode(),
                "image/filename": b"%d" % number,
                "image/encoded": image,
            }
            records.append(frame(encode_example(features, padded_varints=False)))
        for start in range(0, len(records), 10):
            (folder / f"train-{start // 10:05d}-of-00009").write_bytes(b"".join(records[start : start + 10]))
        return folder

    return write


@pytest.fixture(scope="session")
def jpegs(tmp_path_factory, images, jpeg_records) -> Path:
    """JPEG TFRecords of five classes, whose names are in them."""
    folder: Path = jpeg_records(tmp_path_factory.mktemp("jpegs") / "data", images, [i * 3 % 5 for i in range(NUM)])
    return folder


@pytest.fixture
def make(tmp_path) -> Callable[..., Converted]:
    """`make(source, name, **settings)`: convert into tmp_path / name."""

    def call(source: Path, name: str, **settings: object) -> Converted:
        return convert(source, tmp_path / name, Convert.model_validate(settings))

    return call
