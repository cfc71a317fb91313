"""What real training is fed: whole steps whatever the number of ranks, a place in them, and data that are refused."""

from contextlib import closing
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iobench.loaders.plan import Indices
from iobench.loaders.resume import ResumeError
from iobench.loaders.shards import ShardSet
from iobench.storage_bench.generate import GenerateJpeg, generate
from iobench.training_bench.feed import FeedError, FeedUsageError, ShardFeed, StepBatches, SyntheticFeed, check_data
from iobench.training_bench.real.plan import RealPlan


def plan_of(folder, *, ranks=1, batch_size=8, **changes):
    told = {
        "model": "resnet18",
        "device": "cpu",
        "num_ranks": ranks,
        "batch_size": batch_size,
        "steps": 10,
        "source": "direct",
        "image_shape": (35, 35, 3),
        "threads": 1,
        "data": str(folder),
    }
    return RealPlan(**{**told, **changes})


def steps_of(shards, *, ranks, batch_size) -> list[Indices]:
    """The records of each step, rank behind rank."""
    of_ranks = [
        list(StepBatches(shards, batch_size, shuffle=True, drop_last=True, rank=rank, world_size=ranks))
        for rank in range(ranks)
    ]
    return [np.concatenate(parts) for parts in zip(*of_ranks, strict=True)]


@given(st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_a_steps_records_do_not_depend_on_how_many_ranks_share_them(page_set, ranks):
    shards = ShardSet.open(page_set.folder, shuffle_mode="blocks", seed=5)
    whole = steps_of(shards, ranks=1, batch_size=12)
    shared = steps_of(shards, ranks=ranks, batch_size=12 // ranks)
    assert len(whole) == 130 // 12
    np.testing.assert_array_equal(whole, shared)
    assert len(np.unique(whole)) == 120  # each once
    batches = StepBatches(shards, 12 // ranks, shuffle=True, drop_last=True, world_size=ranks)
    assert (len(batches), batches.num_dropped) == (10, 10)


def test_a_feed_goes_on_from_its_place_over_the_end_of_an_epoch(page_set):
    plan = plan_of(page_set.folder, ranks=2, reader_threads=1)
    first = ShardFeed(plan, 1)
    with closing(first.batches()) as batches:
        before = [labels.tolist() for _, labels in islice(batches, 5)]
        state = first.state_dict()
        after = [(images.clone(), labels.clone()) for images, labels in islice(batches, 9)]  # an epoch has 8 steps
    again = ShardFeed(plan, 1)
    again.load_state_dict(state)
    with closing(again.batches()) as batches:
        resumed = [(images.clone(), labels.clone()) for images, labels in islice(batches, 9)]
    assert len(before) == 5
    for (images, labels), (same_images, same_labels) in zip(after, resumed, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)
    assert first.payload_bytes >= 14 * 8 * 35 * 35 * 3
    assert first.delivered_bytes >= first.payload_bytes


def test_a_feed_brings_its_batches_to_the_device(page_set, device):
    """A played GPU: what a network is fed there is what it is fed on the host, batch for batch."""
    plan = plan_of(page_set.folder, reader_threads=1)
    with closing(ShardFeed(plan, 0, device).batches()) as there, closing(ShardFeed(plan, 0).batches()) as here:
        both = list(islice(zip(there, here, strict=True), 20))  # an epoch has 16 steps
    device.settle()
    assert len(device.copies) >= 20
    for (images, labels), (right, numbers) in both:
        assert torch.equal(images, right)
        assert torch.equal(labels, numbers)


def test_a_place_in_another_order_is_refused(page_set):
    state = ShardFeed(plan_of(page_set.folder), 0).state_dict()
    with pytest.raises(ResumeError, match="seed"):
        ShardFeed(plan_of(page_set.folder, seed=9), 0).load_state_dict(state)


def test_a_synthetic_batch_is_the_same_one_for_ever_with_labels_of_the_classes(page_set):
    feed = SyntheticFeed(
        plan_of(page_set.folder, source="synthetic", num_classes=4, batch_size=50), torch.device("cpu")
    )
    (images, labels), (same, _) = islice(feed.batches(), 2)
    assert images is same
    assert images.shape == (50, 3, 35, 35)
    assert set(labels.tolist()) == set(range(4))


def checked(folder, *, num_classes=10, images_per_step=8):
    shards = ShardSet.open(folder)
    return check_data(shards, num_classes=num_classes, images_per_step=images_per_step, path="there")


def test_images_of_one_size_with_labels_give_their_shape(page_set):
    assert checked(page_set.folder) == (35, 35, 3)


def test_labels_beyond_the_classes_are_refused_with_the_record_and_the_number_it_takes(page_set):
    highest = int(page_set.labels.max())
    first = int(np.argmax(page_set.labels))
    with pytest.raises(FeedError, match=f"record {first} has label {highest}, .*--set num_classes={highest + 1}"):
        checked(page_set.folder, num_classes=highest)


def test_too_few_images_for_a_step_are_refused(page_set):
    with pytest.raises(FeedError, match="130 images do not fill a step of 131"):
        checked(page_set.folder, images_per_step=131)


def test_data_without_labels_are_refused(page_set, tmp_path):
    (tmp_path / "a.tensors").write_bytes(bytes(8 * 8 * 3) * 4)
    shards = ShardSet.open(tmp_path, shape=(8, 8, 3))
    with pytest.raises(FeedError, match="record 0 has no label"):
        check_data(shards, num_classes=10, images_per_step=1, path="there")


def test_samples_that_are_no_rgb_bytes_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 4, 4), np.float32), y=np.int64(1))
    with pytest.raises(FeedError, match="RGB images of one size in bytes"):
        checked(tmp_path)


def test_images_that_are_only_decoded_are_refused_as_a_wrong_wish_not_as_wrong_data(tmp_path):
    generate(tmp_path / "jpegs", GenerateJpeg(num_images=8, mean_bytes=20_000))
    with pytest.raises(FeedUsageError, match=r"sizes of their own, .* use --transform train or validation") as raised:
        checked(tmp_path / "jpegs")
    assert raised.value.exit_status == 2
