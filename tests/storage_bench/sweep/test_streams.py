"""Streams: which bytes are read, in which order, and that each read goes to one thread."""

import itertools
import threading
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.loaders.shards import ShardSet
from iobench.storage_bench.sweep.streams import ReadRequest, SharedBatches, crowding, open_stream, replay_stream
from iobench.storage_bench.workload import DataFile, WorkloadError

BLOCK = 4096


def each(batches):
    """The reads one by one."""
    return itertools.chain.from_iterable(batches)


def reads(requests, count):
    return list(itertools.islice(requests, count))


def some_files(tmp_path, sizes):
    return [DataFile(tmp_path / f"file-{number}", size) for number, size in enumerate(sizes)]


def whole_blocks(files, block_bytes=BLOCK):
    """(path, offset) of every block that is read: all whole ones, and a file shorter than a block as one."""
    return {
        (file.path, block * block_bytes) for file in files for block in range(max(1, file.size_bytes // block_bytes))
    }


sizes = st.lists(st.integers(1, 20 * BLOCK), min_size=1, max_size=6)


@given(sizes=sizes, num_streams=st.integers(1, 9))
def test_each_sequential_stream_reads_every_block_once_per_pass(tmp_path_factory, sizes, num_streams):
    files = some_files(tmp_path_factory.getbasetemp(), sizes)
    blocks = whole_blocks(files)
    for stream in range(num_streams):
        requests = each(
            open_stream(files, access="sequential", block_bytes=BLOCK, stream=stream, num_streams=num_streams, seed=0)
        )
        for _ in range(2):
            seen = [(request.path, request.offset) for request in reads(requests, len(blocks))]
            assert len(set(seen)) == len(seen)
            assert set(seen) == blocks


def test_sequential_streams_start_evenly_apart_and_walk_on(tmp_path):
    files = some_files(tmp_path, [8 * BLOCK])
    starts = []
    for stream in range(4):
        requests = each(
            open_stream(files, access="sequential", block_bytes=BLOCK, stream=stream, num_streams=4, seed=0)
        )
        first, second = reads(requests, 2)
        starts.append(first.offset)
        assert second.offset == first.offset + BLOCK
    assert starts == [0, 2 * BLOCK, 4 * BLOCK, 6 * BLOCK]


@given(sizes=sizes, access=st.sampled_from(["sequential", "random"]), seed=st.integers(0, 2**40))
def test_every_read_is_aligned_and_needs_no_byte_beyond_its_file(tmp_path_factory, sizes, access, seed):
    files = some_files(tmp_path_factory.getbasetemp(), sizes)
    by_path = {file.path: file.size_bytes for file in files}
    requests = each(open_stream(files, access=access, block_bytes=BLOCK, stream=0, num_streams=1, seed=seed))
    for request in reads(requests, 50):
        assert request.offset % 4096 == 0
        assert request.length % 4096 == 0
        assert 0 < request.need <= request.length <= BLOCK
        assert request.offset + request.need <= by_path[request.path]


def test_random_reads_are_spread_evenly_over_all_files(tmp_path):
    files = some_files(tmp_path, [10 * BLOCK, 30 * BLOCK])
    requests = each(open_stream(files, access="random", block_bytes=BLOCK, stream=0, num_streams=1, seed=1))
    counts = Counter((request.path, request.offset) for request in reads(requests, 40_000))
    assert counts.keys() == whole_blocks(files)
    expected = 1000
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < 73  # 39 degrees of freedom: 99.9 % of fair draws stay below


def test_random_reads_are_the_same_for_the_same_seed_and_others_for_each_stream_and_seed(tmp_path):
    files = some_files(tmp_path, [1000 * BLOCK])

    def offsets(stream, seed):
        requests = each(open_stream(files, access="random", block_bytes=BLOCK, stream=stream, num_streams=2, seed=seed))
        return [request.offset for request in reads(requests, 100)]

    assert offsets(0, 1) == offsets(0, 1)
    assert offsets(0, 1) != offsets(1, 1)
    assert offsets(0, 1) != offsets(0, 2)


@pytest.mark.parametrize("num_streams", [1, 3])
@pytest.mark.parametrize("mode", ["blocks", "shards", "records"])
def test_a_replayed_epoch_covers_every_byte_exactly_once_over_all_streams(any_set, mode, num_streams):
    shards = ShardSet.open(any_set.folder, shuffle_mode=mode, seed=5)
    covered = nothing_covered(shards)
    for stream in range(num_streams):
        share = (stream + 1) * len(shards) // num_streams - stream * len(shards) // num_streams
        left = share * shards.index.layout.stride_bytes
        for request in each(replay_stream(shards, batch_size=7, stream=stream, num_streams=num_streams, alignment=1)):
            covered[request.path][request.offset : request.offset + request.need] += 1
            left -= request.need
            if left <= 0:
                break
        assert left == 0
    assert all((counts == 1).all() for counts in covered.values())


@pytest.mark.parametrize("num_streams", [1, 3])
def test_an_epoch_replayed_for_direct_reads_is_aligned_and_misses_no_byte(any_set, num_streams):
    shards = ShardSet.open(any_set.folder, shuffle_mode="off")
    covered = nothing_covered(shards)
    for stream in range(num_streams):
        requests = each(replay_stream(shards, batch_size=7, stream=stream, num_streams=num_streams, alignment=4096))
        first = request = next(requests)
        seen = 0
        while not (seen and request == first):  # the second epoch begins as the first one did
            assert request.offset % 4096 == 0
            assert request.length % 4096 == 0
            covered[request.path][request.offset : request.offset + request.need] += 1
            request, seen = next(requests), seen + 1
    assert all((counts >= 1).all() for counts in covered.values())


def nothing_covered(shards):
    return {path: np.zeros(path.stat().st_size, dtype=np.int64) for path in shards.paths}


def test_a_replay_goes_on_with_another_order_in_the_next_epoch(page_set):
    shards = ShardSet.open(page_set.folder, shuffle_mode="records", seed=5)
    requests = each(replay_stream(shards, batch_size=130, stream=0, num_streams=1, alignment=4096))
    epochs = []
    for _ in range(2):
        offsets, records = [], 0
        while records < 130:
            request = next(requests)
            offsets.append((request.path, request.offset))
            records += request.need // 4096
        epochs.append(offsets)
    assert epochs[0] != epochs[1]


def test_more_streams_than_records_are_refused_instead_of_one_that_never_reads(page_set):
    shards = ShardSet.open(page_set.shards[3])
    assert len(shards) == 10
    with pytest.raises(WorkloadError, match="10 records cannot be split over 11 streams"):
        next(replay_stream(shards, batch_size=4, stream=0, num_streams=11, alignment=1))
    assert next(replay_stream(shards, batch_size=4, stream=9, num_streams=10, alignment=1))[0].need > 0


def test_many_reads_in_flight_on_few_blocks_are_crowded(tmp_path):
    files = some_files(tmp_path, [16 * BLOCK, 100])  # 17 blocks
    assert crowding(files, block_bytes=BLOCK, load=2) is None
    assert "3 reads in flight share 17 blocks of 4 KiB" in crowding(files, block_bytes=BLOCK, load=3)


def test_every_read_of_a_stream_goes_to_one_of_its_threads(tmp_path):
    batches = iter([[ReadRequest(tmp_path, 512 * i + j, 1, 1) for j in range(512)] for i in range(40)])
    shared, taken = SharedBatches(batches), [[] for _ in range(8)]

    def take(mine):
        batch = None
        while True:
            try:
                batch = shared.following(batch)
            except StopIteration:
                return
            mine.extend(request.offset for request in batch)

    threads = [threading.Thread(target=take, args=(mine,)) for mine in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(itertools.chain.from_iterable(taken)) == list(range(512 * 40))
