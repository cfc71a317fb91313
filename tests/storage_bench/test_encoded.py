"""What becomes of encoded images where ranks train and answer: bytes of one size, decoded and cut by the readers."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from iobench.loaders.index import load_index
from iobench.loaders.shards import ShardSet
from iobench.loaders.transforms import ImageNetValidation
from iobench.storage_bench.encoded import EncodedImages, images_of
from iobench.storage_bench.generate import GenerateJpeg, generate
from iobench.storage_bench.launching.ranks import SingleRank
from iobench.training_bench.feed import FeedError, check_data
from iobench.training_bench.loop import main
from iobench.training_bench.plan import Block, RankPlan
from iobench.training_bench.train_run import TrainConfig


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jpeg")
    generate(folder, GenerateJpeg(num_images=24, images_per_shard=12))
    return folder


def layout_of(folder):
    return load_index(sorted(folder.glob("*.tfrecord"))).layout


def test_the_shape_of_samples_is_what_the_transform_makes_and_none_without(jpegs, page_set):
    layout = layout_of(jpegs)
    assert EncodedImages(image_size=64).sample_shape(layout) == (64, 64, 3)
    assert EncodedImages(transform="none").sample_shape(layout) == ()
    assert EncodedImages(decoder="none").sample_shape(layout) == ()
    assert EncodedImages(image_size=64).sample_shape(layout_of(page_set.folder)) == (35, 35, 3)


def test_memory_is_that_of_the_bytes_read_and_of_the_pixels_made(jpegs, page_set):
    layout, raw = layout_of(jpegs), layout_of(page_set.folder)
    assert EncodedImages(image_size=64).sample_bytes(layout) == layout.slot_bytes + 64 * 64 * 3
    assert EncodedImages(decoder="none").sample_bytes(layout) == layout.slot_bytes
    assert EncodedImages(image_size=64).sample_bytes(raw) == raw.slot_bytes


def test_samples_stay_bytes_and_are_those_of_the_loaders_transform_before_it_normalises(jpegs):
    ours = EncodedImages(transform="validation", image_size=56).open(jpegs)
    transform = ImageNetValidation(56, resize=64, dtype=torch.float32)
    theirs = ShardSet.open(jpegs, transform=transform)
    mean, deviation = (
        torch.tensor(each).view(3, 1, 1) * 255 for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    for record in (0, 13):
        image, label = ours[record]
        assert (image.dtype, tuple(image.shape)) == (torch.uint8, (3, 56, 56))
        same, known = theirs[record]
        torch.testing.assert_close((image.float() - mean) / deviation, same, rtol=1e-4, atol=1e-4)
        assert label == known
    ours.close()
    theirs.close()


def test_settings_of_a_bench_give_those_of_its_images(jpegs):
    assert images_of(TrainConfig(image_size=48, rounds=2)) == EncodedImages(image_size=48)


def test_a_network_needs_images_of_one_size(jpegs):
    shards = EncodedImages(transform="none").open(jpegs)
    with pytest.raises(FeedError, match="use --transform train or validation"):
        check_data(shards, num_classes=1000, images_per_step=2, path="jpegs")
    shards.close()


def test_ranks_compute_on_decoded_images_of_the_size_that_was_asked_for(jpegs):
    images = EncodedImages(image_size=40)
    plan = RankPlan(
        num_ranks=1,
        blocks=(Block(source="direct", num_ranks=1, drop_steps=1, count_steps=3, limit_s=30.0),),
        rounds=1,
        budget_s=60.0,
        folders={"direct": str(jpegs)},
        engines={"direct": "buffered"},
        record_bytes=images.sample_bytes(layout_of(jpegs)),
        image_shape=images.sample_shape(layout_of(jpegs)),
        accelerator="test",
        step_time_s=0.001,
        batch_size=4,
        reader_threads=2,
        prefetch_depth=1,
        images=images,
    )
    (log,) = main(plan.model_dump(mode="json"), SingleRank())["blocks"]
    assert np.array(log["steps_ns"]).shape == (4, 4)
    assert log["delivered_bytes"] > 0


def command(folder, *words):
    call = [sys.executable, "-P", "-m", "iobench", *words, "--json"]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_the_decode_rate_is_a_roof_of_training_on_encoded_images(jpegs, tmp_path):
    words = ("--accelerator", "0.005", "--batch-size", "4", "--steps", "4", "--set", "rounds=2", "--roofline")
    status, record, said = command(tmp_path, "train", str(jpegs), *words)
    assert status in (0, 3), said
    roofs = {point["params"]["roof"]: point for point in record["points"] if point["params"]["stage"] == "roofline"}
    assert roofs["decode"]["metrics"]["images_per_s"]["value"] > 0
    assert "jpeg to train" in roofs["decode"]["params"]["roof_source"]
    assert roofs["storage"]["metrics"]["images_per_s"]["value"] > 0
    assert "roof decoding" in said


@pytest.mark.slow
def test_inference_on_encoded_images_stands_under_the_decode_rate_too(jpegs, tmp_path):
    words = ("--batches", "6", "--warmup", "1", "--rounds", "2", "--threads", "2", "--queue-depth", "2", "--roofline")
    more = ("--accelerator", "0.005", "--batch-size", "4,8")
    status, record, said = command(tmp_path, "infer", str(jpegs), *words, *more)
    assert status in (0, 3), said
    found = [point for point in record["points"] if point["params"]["stage"] == "roofline"]
    roofs = {point["params"]["roof"]: point["metrics"]["images_per_s"]["value"] for point in found}
    assert len(found) == 6, "one roofline, of the network's best batch size"
    assert roofs["decode"] > 0
    assert roofs["measured"] == max(
        point["metrics"]["images_per_s"]["value"]
        for point in record["points"]
        if point["params"]["stage"] == "infer" and point["params"]["source"] == "direct"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("train", "--steps", "6", "--set", "reader_threads=1", "--set", "image_size=64"),
        ("infer", "--batches", "4", "--warmup", "1", "--rounds", "1", "--threads", "1", "--set", "image_size=64"),
    ],
    ids=["train", "infer"],
)
def test_a_real_network_takes_encoded_images(jpegs, tmp_path, words):
    more = ("--accelerator", "cpu", "--model", "resnet18", "--batch-size", "2")
    status, record, said = command(tmp_path, words[0], str(jpegs), *words[1:], *more)
    assert status in (0, 3), said
    assert record["metrics"]["images_per_s"]["value"] > 0
    assert record["workload"]["image_shape"] == [64, 64, 3]
