"""What does not grow: memory and Python's allocations from epoch to epoch, and the index of a large set."""

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from iobench.loaders import ShardSet
from iobench.loaders.engines.readers import BufferedReader
from iobench.loaders.formats.fields import Wanted
from iobench.loaders.formats.ragged import Extents
from iobench.loaders.formats.records import stamps_of
from iobench.loaders.index import RecordLayout, ShardIndex, load_index, save_index

EPOCHS = Path(__file__).parent / "programs" / "epochs.py"
RECORDS, SHARDS, RECORD_BYTES = 1_300_000, 13, 1000


@pytest.fixture(scope="module", params=["buffered", "mmap"])
def epochs(request, sector_set) -> list[dict[str, int]]:
    """What a process has taken after each of twenty epochs."""
    command = [sys.executable, EPOCHS, str(sector_set.folder), request.param, "records", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["peak_bytes", "anonymous_bytes"])
def test_twenty_epochs_move_memory_by_less_than_a_percent(epochs, what):
    assert len(epochs) == 20
    assert epochs[-1][what] < 1.01 * epochs[0][what]


@pytest.mark.slow
def test_twenty_epochs_of_jpegs_that_are_cut_move_peak_memory_by_less_than_a_percent(encoded_set):
    command = [sys.executable, EPOCHS, str(encoded_set.folder), "buffered", "records", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    epochs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(epochs) == 20
    assert epochs[-1]["peak_bytes"] < 1.01 * epochs[0]["peak_bytes"]


def test_pythons_allocations_do_not_grow_from_epoch_to_epoch(epochs):
    third, last = epochs[2]["python_blocks"], epochs[-1]["python_blocks"]
    assert last - third < len(epochs) - 3, f"a block in each epoch: {third} became {last}"


@pytest.fixture
def large_index(tmp_path) -> list[Path]:
    """Shards of holes, and beside them an index of 1.3 million records, each with a label and a place of its own."""
    paths = [tmp_path / f"part-{number:02d}.tfrecord" for number in range(SHARDS)]
    for path in paths:
        path.touch()
        with path.open("r+b") as file:
            file.truncate(RECORDS // SHARDS * RECORD_BYTES)
    sizes = (RECORDS // SHARDS,) * SHARDS
    places = np.tile(np.arange(RECORDS // SHARDS) * RECORD_BYTES + 40, SHARDS)
    labels = np.random.default_rng(0).integers(0, 1000, RECORDS)
    firsts = np.cumsum([0, *sizes[:-1]])
    layout = RecordLayout(None, 0, (10, 30, 3), "uint8")
    index = ShardIndex(layout, stamps_of(paths), sizes, firsts, labels, places)
    save_index(index, tmp_path, Wanted(), status="built")
    return paths


def test_an_index_of_a_million_records_takes_less_than_32_mb(large_index):
    tracemalloc.start()
    try:
        index = load_index(large_index)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert index.status == "cached"
    assert index.num_records == RECORDS
    assert index.payload_offsets[-1] == (RECORDS // SHARDS - 1) * RECORD_BYTES + 40
    assert now < 32e6
    assert peak < 2 * 32e6


def test_one_sample_of_a_million_takes_no_memory_for_the_others(tmp_path):
    (tmp_path / "part.tfrecord").write_bytes(bytes(range(100)))
    paths = [tmp_path / "part.tfrecord"]
    extents = Extents(np.zeros(RECORDS, np.int64), np.full(RECORDS, 100))
    layout, first = RecordLayout(None, 0, (), "uint8", extents.mean_bytes), np.zeros(1, np.int64)
    index = ShardIndex(layout, stamps_of(paths), (RECORDS,), first, np.arange(RECORDS), extents=extents)
    shards = ShardSet(paths, index, BufferedReader())
    shards[0]
    tracemalloc.start()
    try:
        sample, label = shards[RECORDS - 1]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (sample.tolist(), label) == (list(range(100)), RECORDS - 1)
    assert peak < 1e6
