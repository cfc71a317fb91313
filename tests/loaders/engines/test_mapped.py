"""The mmap engine: views on the page cache, copies only where a batch has several runs, errors instead of SIGBUS."""

import os
import pickle

import numpy as np
import pytest

from iobench.loaders import DataLoader, ShardSet
from iobench.loaders.decode import place_apart, place_batch, place_scattered
from iobench.loaders.engines.mapped import MappedReader
from iobench.loaders.engines.readers import BufferedReader, ReadError
from iobench.loaders.index import RecordLayout, ShardIndex
from iobench.loaders.placement import Placement
from iobench.loaders.plan import batch_runs


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(np.random.default_rng(0).integers(0, 256, 50_000, dtype=np.uint8)))
    return path


@pytest.mark.parametrize(("offset", "length"), [(0, 50_000), (1, 4095), (4097, 20_000), (49_999, 1)])
def test_a_mapping_shows_the_file_and_a_read_copies_it(file, offset, length):
    reader, wanted = MappedReader(), file.read_bytes()[offset : offset + length]
    mapping = reader.map(file, offset, length)
    assert mapping.populate(0, length) == length
    assert mapping.populate(length - 1, 1) == 1
    assert bytes(mapping.memory) == wanted
    target = bytearray(length)
    assert reader.read(file, offset, memoryview(target)) == length
    assert bytes(target) == wanted


def test_writing_to_a_batch_leaves_the_file_and_later_epochs_alone(page_set):
    shards = ShardSet.open(page_set.folder, engine="mmap")
    for _ in range(2):
        numbers = []
        for images, labels in DataLoader(shards, batch_size=4, num_workers=1):
            assert (
                images.permute(0, 2, 3, 1).numpy() == page_set.images[len(numbers) : len(numbers) + len(labels)]
            ).all()
            images.zero_()
            numbers += labels.tolist()
        assert numbers == page_set.labels.tolist()


def test_a_view_outlives_its_reader(file):
    reader = MappedReader()
    view = reader.map(file, 100, 1000).memory
    reader.close()
    del reader
    assert bytes(view) == file.read_bytes()[100:1100]


def test_what_lies_beyond_the_end_is_an_error_that_names_the_file(file):
    with pytest.raises(ReadError, match="the file ends at byte 50000") as caught:
        MappedReader().map(file, 49_000, 2_000)
    assert caught.value.filename == str(file)


def test_a_file_cut_under_a_mapping_is_an_error_when_it_is_populated(file):
    mapping = MappedReader().map(file, 0, 50_000)
    os.truncate(file, 4096)
    with pytest.raises(ReadError, match="cut short"):
        mapping.populate(0, 50_000)


def test_a_shard_of_another_size_is_refused_before_an_epoch(page_set, copied):
    shards = ShardSet.open(copied(page_set).folder, engine="mmap")
    os.truncate(shards.paths[0], 4096)
    with pytest.raises(ReadError, match="not as long as when"):
        iter(DataLoader(shards, batch_size=4))


def test_an_empty_or_missing_file_is_an_error_that_names_it(tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(ReadError, match="the file ends at byte 0"):
        MappedReader().map(tmp_path / "empty", 0, 1)
    with pytest.raises(ReadError, match="cannot be opened"):
        MappedReader().map(tmp_path / "missing", 0, 1)


def test_a_copy_of_a_reader_maps_for_itself(file):
    reader = MappedReader()
    reader.map(file, 0, 10)
    again = pickle.loads(pickle.dumps(reader))
    assert bytes(again.map(file, 0, 10).memory) == file.read_bytes()[:10]


def test_a_batch_of_one_run_takes_no_buffer_and_counts_as_delivered(page_set):
    shards = ShardSet.open(page_set.folder, engine="mmap")
    loader = DataLoader(shards, batch_size=4, num_workers=1, prefetch_factor=1)
    images, _ = next(iter(loader))
    assert (images.permute(0, 2, 3, 1).numpy() == page_set.images[:4]).all()
    assert loader._road.pool.num_allocated == 0
    assert loader.tally.delivered_bytes == 4 * shards.index.layout.stride_bytes


def index_of(offsets: list[list[int]], payload: int) -> ShardIndex:
    layout = RecordLayout(None, 0, (1, payload, 1), "uint8")
    sizes = tuple(map(len, offsets))
    firsts = np.cumsum([0, *sizes[:-1]])
    flat = np.concatenate([np.array(each, dtype=np.int64) for each in offsets])
    return ShardIndex(layout, (), sizes, firsts, np.zeros(len(flat), np.int64), payload_offsets=flat)


def carry_out(placement: Placement, files: list[bytes], size: int) -> bytes:
    """Do a placement by plain slicing: what the readers must bring about."""
    buffer = bytearray(size)
    for op in placement.reads:
        data = files[op.shard][op.file_offset : op.file_offset + op.length]
        assert len(data) >= op.need
        at = 0
        for place, length in op.parts or [(op.buffer_offset, len(data))]:
            buffer[place : place + length] = data[at : at + length]
            at += length
    for move in placement.moves:
        buffer[move.target : move.target + move.length] = buffer[move.source : move.source + move.length]
    return bytes(buffer)


@pytest.mark.parametrize("read_bytes", [1, 150, 10_000])
@pytest.mark.parametrize("records", [[0, 1, 2, 3, 4, 5], [5, 1, 0, 3, 2, 4], [2], [4, 5, 0]])
def test_records_at_places_of_their_own_come_into_slots_without_what_lies_between(records, read_bytes):
    files = [bytes(np.random.default_rng(seed).integers(0, 256, 20_000, dtype=np.uint8)) for seed in (1, 2)]
    index = index_of([[7, 120, 233, 5001], [0, 16_000]], payload=100)
    runs = batch_runs(np.array(records), index.first_records)
    places = [(0, 7), (0, 120), (0, 233), (0, 5001), (1, 0), (1, 16_000)]
    wanted = b"".join(files[places[i][0]][places[i][1] : places[i][1] + 100] for i in records)
    for placement in (
        place_scattered(runs, index, read_bytes=read_bytes),
        place_apart(runs, index, alignment=512),
    ):
        assert carry_out(placement, files, 40_000)[: len(wanted)] == wanted


def test_a_gap_too_large_for_the_scratch_place_is_skipped():
    index = index_of([[0, 1 << 20]], payload=10)
    placement = place_scattered(batch_runs(np.arange(2), index.first_records), index, read_bytes=8 << 20)
    assert [op.length for op in placement.reads] == [10, 10]


def test_the_reader_decides_how_records_without_a_stride_are_placed():
    index = index_of([[3, 50]], payload=10)
    runs = batch_runs(np.arange(2), index.first_records)
    assert place_batch(runs, index, alignment=1, scatters=True, read_bytes=1 << 20).moves == ()
    assert len(place_batch(runs, index, alignment=4096, scatters=False, read_bytes=1 << 20).moves) == 2


def test_buffered_and_mapped_reads_scatter_alike(file):
    for reader in (BufferedReader(), MappedReader()):
        targets = [bytearray(10), bytearray(300), bytearray(5000)]
        assert reader.scatter(file, 17, [memoryview(target) for target in targets]) == 5310
        assert b"".join(targets) == file.read_bytes()[17:5327]
