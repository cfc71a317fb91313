"""JPEG sets: the fields of build_imagenet_data, ImageNet's sizes, labels that any piece of an image shows."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from tfrecord.reader import tfrecord_loader

from iobench.loaders import DataLoader, ShardSet, transforms
from iobench.storage_bench.generate import GenerateError, GenerateJpeg, generate, jpeg_image, jpeg_label, label_of_image
from iobench.storage_bench.generate.jpeg_images import LEAST_BYTES, MOST_BYTES, jpeg_bytes_wanted

CONFIG = GenerateJpeg(num_images=30, images_per_shard=12, seed=5)
OTHER = CONFIG.model_copy(update={"seed": 1})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jpeg") / "data"
    generate(folder, CONFIG)
    return folder


def test_another_package_reads_the_fields_of_build_imagenet_data(folder):
    paths = sorted(folder.glob("*.tfrecord"))
    assert [path.name for path in paths] == [f"train-{shard:05d}-of-00003.tfrecord" for shard in range(3)]
    records = [record for path in paths for record in tfrecord_loader(str(path), None)]
    assert len(records) == 30
    for number, record in enumerate(records):
        with Image.open(io.BytesIO(record["image/encoded"])) as image:
            assert image.format == "JPEG"
            assert (image.height, image.width) == (record["image/height"][0], record["image/width"][0])
        assert record["image/class/label"][0] == jpeg_label(5, number)
        assert bytes(record["image/format"]) == b"JPEG"
        assert record["image/encoded"] == jpeg_image(CONFIG, number)
        assert {
            "image/colorspace",
            "image/channels",
            "image/class/synset",
            "image/class/text",
            "image/filename",
        } <= set(record)


def test_the_label_is_shown_by_every_piece_of_the_pixels(folder):
    shards = ShardSet.open(folder, transform=transforms.ImageNetTrain(64, dtype=torch.uint8))
    seen = set()
    for images, labels in DataLoader(shards, batch_size=10, num_workers=2):
        for image, label in zip(images.permute(0, 2, 3, 1).numpy(), labels.tolist(), strict=True):
            assert label_of_image(image) == label
            seen.add(label)
    assert len(seen) > 5


def test_sizes_follow_imagenets():
    wanted = np.array([jpeg_bytes_wanted(OTHER, number) for number in range(4000)])
    assert wanted.mean() == pytest.approx(110_000, rel=0.03)
    assert wanted.min() >= LEAST_BYTES
    assert wanted.max() <= MOST_BYTES
    assert np.log(wanted).std() == pytest.approx(0.45, rel=0.03)


def test_files_are_as_large_as_they_should_be_also_the_largest_and_the_smallest():
    asked = np.array([jpeg_bytes_wanted(OTHER, number) for number in range(4000)])
    order = np.argsort(asked)
    chosen = [*order[:4], *order[1000:3000:400], *order[-4:]]
    for number in chosen:
        assert len(jpeg_image(OTHER, int(number))) == pytest.approx(asked[number], rel=0.08), asked[number]


def test_sizes_are_as_they_are_asked_for():
    config = CONFIG.model_copy(update={"mean_bytes": 60_000, "spread": 0.1})
    wanted = np.array([jpeg_bytes_wanted(config, number) for number in range(4000)])
    assert wanted.mean() == pytest.approx(60_000, rel=0.02)
    assert np.log(wanted).std() == pytest.approx(0.1, rel=0.03)
    assert len(jpeg_image(config, 3)) == pytest.approx(wanted[3], rel=0.03)


def test_the_same_set_is_found_again_and_another_is_refused(folder):
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    dataset = generate(folder, CONFIG)
    assert (dataset.format, dataset.shape, dataset.num_images) == ("tfrecord-jpeg", None, 30)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with pytest.raises(GenerateError, match="holds a data set with seed = 5"):
        generate(folder, CONFIG.model_copy(update={"seed": 6}))
