"""JPEG TFRecords of TensorFlow's own writer are read; tensorflow/README.md says how they were made."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from iobench.loaders import DataLoader, ShardSet, transforms
from iobench.loaders.index import verify_shards

FOLDER = Path(__file__).parent / "tensorflow"
LABELS = [1, 127, 128, 500, 999, 1000]
MEANS = [  # of each channel, as TensorFlow decodes it
    (128.402, 127.725, 126.564),
    (127.458, 127.773, 127.249),
    (127.482, 127.483, 127.499),
    (127.410, 127.654, 127.495),
    (126.994, 128.221, 127.201),
    (126.200, 129.047, 127.612),
]


@pytest.fixture
def files(tmp_path):
    """Copies, beside which an index may be written."""
    return [Path(shutil.copy(path, tmp_path)) for path in sorted(FOLDER.glob("train-*"))]


def waves(number):
    """What was encoded as image `number`."""
    rows, columns = np.mgrid[: 40 + 3 * number, : 60 - 2 * number].astype(np.float64)
    levels = [128 + 100 * np.sin(rows / (5 + number) + columns / 9 + 2 * channel) for channel in range(3)]
    return np.stack(levels, axis=-1)


@pytest.mark.parametrize("engine", ["buffered", "mmap"])
def test_images_and_labels_are_those_that_tensorflow_wrote(engine, files):
    shards = ShardSet.open(files, engine=engine)
    assert shards.index.layout.codec == "jpeg"
    assert [label for _, label in shards] == LABELS
    for number, (image, _) in enumerate(shards):
        pixels = image.permute(1, 2, 0).numpy().astype(np.float64)
        assert np.round(pixels.mean(axis=(0, 1)), 3) == pytest.approx(MEANS[number], abs=2e-3)
        assert np.abs(pixels - waves(number)).mean() < 4  # quality 90
    shards.close()


def test_their_crcs_are_right_and_they_come_as_batches_of_samples(files):
    shards = ShardSet.open(files, transform=transforms.ImageNetTrain(32, dtype=torch.bfloat16))
    assert verify_shards(shards.paths, shards.index) == sum(path.stat().st_size for path in files)
    images, labels = next(iter(DataLoader(shards, batch_size=6, shuffle=True, num_workers=2)))
    assert images.shape == (6, 3, 32, 32)
    assert images.dtype == torch.bfloat16
    assert sorted(labels.tolist()) == LABELS
