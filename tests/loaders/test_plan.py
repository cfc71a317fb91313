"""Every record exactly once, in an order that is a function of five numbers and nothing else."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.loaders.plan import SHUFFLE_MODES, batch_runs, endless_batches, epoch_order, num_batches, rank_share

SHARD_SIZES = st.lists(st.integers(0, 25), min_size=1, max_size=8)
MODES = st.sampled_from(SHUFFLE_MODES)
PINNED = {
    "off": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
    "shards": [0, 1, 2, 3, 7, 8, 9, 10, 11, 4, 5, 6],
    "blocks": [6, 4, 5, 2, 3, 0, 1, 11, 7, 8, 9, 10],
    "records": [0, 1, 9, 6, 5, 3, 8, 11, 2, 10, 4, 7],
}


def shares(order, world_size, batch_size, drop_last):
    return [
        rank_share(order, rank=rank, world_size=world_size, batch_size=batch_size, drop_last=drop_last)
        for rank in range(world_size)
    ]


@given(SHARD_SIZES, MODES, st.integers(0, 99), st.integers(0, 9), st.integers(1, 30), st.integers(1, 9))
def test_an_epoch_is_a_permutation_of_all_records(sizes, mode, seed, epoch, block, world_size):
    order = epoch_order(sizes, seed=seed, epoch=epoch, mode=mode, block_records=block)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(sum(sizes)))


@given(SHARD_SIZES, MODES, st.integers(1, 12), st.integers(1, 17))
def test_without_drop_last_every_record_comes_exactly_once_over_all_ranks(sizes, mode, world_size, batch_size):
    order = epoch_order(sizes, seed=1, epoch=0, mode=mode, block_records=3)
    found = shares(order, world_size, batch_size, False)
    assert sorted(itertools.chain.from_iterable(share.records.tolist() for share in found)) == list(range(sum(sizes)))
    assert {share.num_dropped for share in found} == {0}
    counts = [-(-len(share.records) // batch_size) for share in found]
    assert max(counts) - min(counts) <= 1
    options = {"world_size": world_size, "batch_size": batch_size, "drop_last": False}
    assert counts == [num_batches(sum(sizes), rank=rank, **options) for rank in range(world_size)]


@given(SHARD_SIZES, MODES, st.integers(1, 12), st.integers(1, 17))
def test_with_drop_last_every_rank_has_the_same_whole_batches_and_the_rest_is_counted(
    sizes, mode, world_size, batch_size
):
    order = epoch_order(sizes, seed=1, epoch=0, mode=mode, block_records=3)
    found = shares(order, world_size, batch_size, True)
    each = (sum(sizes) // world_size) // batch_size
    assert [len(share.records) for share in found] == [each * batch_size] * world_size
    used = list(itertools.chain.from_iterable(share.records.tolist() for share in found))
    assert len(set(used)) == len(used)
    assert {share.num_dropped for share in found} == {sum(sizes) - len(used)}
    assert num_batches(sum(sizes), rank=0, world_size=world_size, batch_size=batch_size, drop_last=True) == each


@pytest.mark.parametrize("mode", ["shards", "blocks", "records"])
def test_the_order_changes_with_seed_and_epoch_and_with_nothing_else(mode):
    def order(seed, epoch):
        return epoch_order([50] * 20, seed=seed, epoch=epoch, mode=mode, block_records=8).tolist()

    assert order(5, 3) == order(5, 3)
    assert order(5, 3) != order(5, 4)
    assert order(5, 3) != order(6, 3)


def test_an_order_of_today_is_an_order_of_tomorrow():
    """A changed order breaks resuming from a checkpoint: if this fails, say so in the change log."""
    order = {mode: epoch_order([4, 3, 5], seed=7, epoch=2, mode=mode, block_records=2).tolist() for mode in PINNED}
    assert order == PINNED


def test_the_shards_mode_keeps_shards_whole():
    order = epoch_order([4, 0, 6, 1], seed=0, epoch=1, mode="shards")
    pieces = {0: 4, 4: 6, 10: 1}
    at = 0
    while at < len(order):
        count = pieces.pop(int(order[at]))
        assert order[at : at + count].tolist() == list(range(order[at], order[at] + count))
        at += count
    assert not pieces


def test_the_blocks_mode_permutes_runs_that_never_cross_a_shard():
    order = epoch_order([7, 5], seed=0, epoch=0, mode="blocks", block_records=3)
    runs = np.split(order, np.flatnonzero(np.diff(order) != 1) + 1)
    starts = sorted(itertools.chain.from_iterable(range(int(run[0]), int(run[-1]) + 1) for run in runs))
    assert starts == list(range(12))
    blocks = {(0, 1, 2), (3, 4, 5), (6,), (7, 8, 9), (10, 11)}
    at = 0
    while at < 12:
        block = next(block for block in blocks if block[0] == order[at])
        assert tuple(order[at : at + len(block)].tolist()) == block
        blocks.remove(block)
        at += len(block)


@given(SHARD_SIZES.filter(any), st.data())
def test_runs_spell_the_batch_and_are_as_long_as_they_can_be(sizes, data):
    records = np.array(data.draw(st.lists(st.integers(0, sum(sizes) - 1), min_size=1, max_size=40)), dtype=np.int64)
    firsts = np.cumsum([0, *sizes[:-1]])
    owner = [shard for shard, size in enumerate(sizes) for _ in range(size)]
    in_file_order = [*batch_runs(records, firsts)]
    assert in_file_order == sorted(in_file_order) or len(set(records.tolist())) < len(records)
    runs = sorted(in_file_order, key=lambda run: run.slot)
    spelled = [int(firsts[run.shard]) + run.first + i for run in runs for i in range(run.num_records)]
    assert spelled == records.tolist()
    assert [run.slot for run in runs] == [0, *itertools.accumulate(run.num_records for run in runs)][:-1]
    for run in runs:
        assert run.first >= 0
        assert run.first + run.num_records <= sizes[run.shard]
    longest = 1 + sum(b != a + 1 or owner[a] != owner[b] for a, b in itertools.pairwise(records.tolist()))
    assert len(runs) == longest


@given(SHARD_SIZES.filter(any), MODES, st.integers(1, 9))
def test_endless_batches_give_every_record_once_per_epoch(sizes, mode, batch_size):
    total = sum(sizes)
    batches = endless_batches(sizes, seed=2, mode=mode, block_records=3, rank=0, world_size=1, batch_size=batch_size)
    drawn = list(itertools.chain.from_iterable(next(batches).tolist() for _ in range(-(-3 * total // batch_size))))
    for epoch in range(3):
        assert sorted(drawn[epoch * total : (epoch + 1) * total]) == list(range(total))


@pytest.mark.parametrize("rank", [-1, 2, 5])
def test_a_rank_outside_the_world_is_refused(rank):
    with pytest.raises(ValueError, match=r"rank .* is not one of world_size 2"):
        rank_share(np.arange(9), rank=rank, world_size=2, batch_size=1, drop_last=False)


def test_endless_batches_of_a_rank_without_a_record_are_refused():
    with pytest.raises(ValueError, match="3 records for 4 ranks"):
        next(endless_batches([3], seed=0, mode="off", block_records=1, rank=0, world_size=4, batch_size=1))
