import dataclasses
import importlib.util
import itertools
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from iobench.loaders.formats.example import encode_example
from iobench.loaders.formats.tfrecord import frame
from iobench.loaders.roads.baselines import PEERS, candidates, missing, open_road
from iobench.loaders.roads.road import RoadError, RoadOptions

BATCH = 13  # divides the 130 images of page_set, but not its shards of 40, 40, 40 and 10
ROADS = [
    ("iobench", RoadOptions()),
    ("iobench", RoadOptions(shuffle="records", engine="buffered", threads=0)),
    ("iobench", RoadOptions(engine="mmap")),
    ("iobench", RoadOptions(cold=True, engine="buffered")),
    ("preadv", RoadOptions()),
    ("preadv", RoadOptions(variant="fresh")),
    ("preadv", RoadOptions(shuffle="records")),
    *(("torch", options) for options in candidates("torch", RoadOptions(threads=2))),
    *(("tfrecord", options) for options in candidates("tfrecord", RoadOptions())),
    *(("dali", options) for options in candidates("dali", RoadOptions())),
]


def road_id(value):
    if isinstance(value, str):
        return value
    return "-".join(str(x) for x in dataclasses.astuple(value))


def seen(name, options, known, num_images):
    """How often each (pixels, label) came in the first batches of a road, `num_images` images or a few more."""
    road = open_road(name, known.shards, options)
    batches = road.batches()
    found = Counter()
    try:
        while found.total() < num_images:
            images, labels = next(batches)
            assert len(images) == len(labels) <= options.batch_size
            for image, label in zip(images, labels.tolist(), strict=True):
                assert image.dtype == np.uint8
                assert image.shape == known.images.shape[1:]
                found[image.tobytes(), label] += 1
    finally:
        batches.close()
        road.close()
    return found


def expected(known, times=1):
    pairs = zip(known.images, known.labels.tolist(), strict=True)
    return Counter({(image.tobytes(), label): times for image, label in pairs})


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize(("name", "options"), ROADS, ids=road_id)
def test_every_road_yields_every_image_with_its_label_once_per_epoch(name, options, page_set):
    if reason := missing(name):
        pytest.skip(reason)
    whole = dataclasses.replace(options, batch_size=BATCH)
    assert seen(name, whole, page_set, len(page_set)) == expected(page_set)


@pytest.mark.parametrize("name", ["iobench", "preadv", "torch", "dali"])
def test_a_second_epoch_brings_the_same_images_again(name, page_set):
    if reason := missing(name):
        pytest.skip(reason)
    options = RoadOptions(batch_size=BATCH)
    assert seen(name, options, page_set, 2 * len(page_set)) == expected(page_set, times=2)


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("name", ["iobench", *PEERS])
def test_odd_shards_and_batches_that_fit_nothing_leave_nothing_out(name, odd_set):
    if reason := missing(name):
        pytest.skip(reason)
    for options in candidates(name, RoadOptions(batch_size=16)):
        assert seen(name, options, odd_set, 112).keys() == expected(odd_set).keys()


@pytest.mark.parametrize("name", ["preadv", "dali", "iobench"])
def test_a_cold_road_reads_past_the_page_cache(name, any_set, direct_io):
    if reason := missing(name):
        pytest.skip(reason)
    variant = "direct" if name == "dali" else ""
    options = RoadOptions(batch_size=16, variant=variant, engine="direct", cold=True)
    assert seen(name, options, any_set, 144).keys() == expected(any_set).keys()


@pytest.fixture(scope="module")
def varied_set(tmp_path_factory):
    """Shards as most tools write them: canonical varints, so that records with labels below 128 are a byte shorter."""
    folder, random = tmp_path_factory.mktemp("varied"), np.random.default_rng(2)
    images, labels = random.integers(0, 256, (48, 20, 21, 3), dtype=np.uint8), random.integers(1, 1001, 48)
    assert {label < 128 for label in labels.tolist()} == {True, False}
    for shard in range(3):
        records = []
        for i in range(shard * 16, shard * 16 + 16):
            features = {
                "image/height": 20,
                "image/width": 21,
                "image/channels": 3,
                "image/class/label": int(labels[i]),
                "image/encoded": images[i].tobytes(),
            }
            records.append(frame(encode_example(features, padded_varints=False)))
        (folder / f"part-{shard}.tfrecord").write_bytes(b"".join(records))
    return VariedSet(folder, images, labels)


class VariedSet(NamedTuple):
    folder: Path
    images: np.ndarray
    labels: np.ndarray

    @property
    def shards(self):
        return sorted(self.folder.glob("*.tfrecord"))


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("name", ["iobench", *PEERS])
def test_records_of_two_lengths_come_right_on_every_road(name, varied_set):
    if reason := missing(name):
        pytest.skip(reason)
    for options in candidates(name, RoadOptions(batch_size=8)):
        assert seen(name, options, varied_set, 48) == expected(varied_set)


@pytest.mark.parametrize("shuffle", ["off", "records"])
@pytest.mark.parametrize("cold", [False, True])
def test_the_bare_loop_takes_records_of_two_lengths_in_any_order_and_past_the_page_cache(
    shuffle, cold, varied_set, direct_io
):
    options = RoadOptions(batch_size=8, shuffle=shuffle, cold=cold)
    assert seen("preadv", options, varied_set, 48) == expected(varied_set)


def test_the_bare_loop_takes_records_in_the_order_ours_does(page_set):
    options = RoadOptions(batch_size=BATCH, shuffle="records", seed=5)
    roads = [open_road(name, page_set.shards, options) for name in ("iobench", "preadv")]
    ways = [itertools.islice(road.batches(), 10) for road in roads]
    for ours, bare in zip(*ways, strict=True):
        assert np.array_equal(ours.images, bare.images)
        assert np.array_equal(ours.labels, bare.labels)
    for road in roads:
        road.close()


def test_closing_the_bare_loop_in_the_middle_ends_its_threads(page_set):
    road = open_road("preadv", page_set.shards, RoadOptions(batch_size=4))
    next(road.batches())
    road.close()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("preadv")]


def test_a_shard_that_ends_too_early_is_an_error_of_the_bare_loop(page_set, copied):
    known = copied(page_set)
    road = open_road("preadv", known.shards, RoadOptions(batch_size=4))
    with known.shards[0].open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(RoadError, match="ends at byte 5000"):
        next(road.batches())
    road.close()


def test_an_unknown_road_is_refused_with_the_known_ones(page_set):
    with pytest.raises(RoadError, match="'ffcv' is not known; known are iobench, preadv, torch, tfrecord, dali"):
        open_road("ffcv", page_set.shards, RoadOptions())


@pytest.mark.parametrize("name", ["dali", "tfrecord"])
def test_what_reads_tfrecord_only_refuses_tensor_shards(name, tmp_path):
    if reason := missing(name):
        pytest.skip(reason)
    with pytest.raises(RoadError, match=r"a.tensors is a tensor shard, and it reads TFRecord only"):
        open_road(name, [tmp_path / "a.tensors"], RoadOptions())


def test_a_road_refuses_an_order_it_does_not_have(page_set):
    with pytest.raises(RoadError, match="shuffle 'records' is not compared; take off"):
        open_road("dali", page_set.shards, RoadOptions(shuffle="records"))


@pytest.mark.parametrize(
    ("name", "package", "extra"), [("dali", "nvidia.dali", "iobench[gpu]"), ("tfrecord", "tfrecord", "iobench[dev]")]
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(name, package, extra, page_set, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == package else find(wanted))
    assert extra in missing(name)
    with pytest.raises(RoadError, match=r"is not installed; pip install"):
        open_road(name, page_set.shards, RoadOptions())


def test_a_package_whose_parent_is_missing_is_missing(monkeypatch):
    def find_spec(wanted):
        raise ModuleNotFoundError(f"No module named {wanted.split('.')[0]!r}")

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert "NVIDIA DALI" in missing("dali")


def test_torch_is_tried_with_both_data_sets_and_every_number_of_workers(monkeypatch):
    ways = candidates("torch", RoadOptions(threads=2))
    assert {(way.variant, way.threads) for way in ways} == set(itertools.product(("map", "iterable"), (0, 1, 2)))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == "tfrecord" else find(wanted))
    assert {way.variant for way in candidates("torch", RoadOptions(threads=2))} == {"map"}
