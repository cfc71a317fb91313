"""Threads and depth from a probe: the choice by hand, the measurement on real files and on a reader that waits."""

import math
import os
import signal
import threading
from itertools import pairwise
from time import sleep

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.loaders import DataLoader, ShardSet, Suggestion, suggest
from iobench.loaders.engines.readers import READ_BYTES, BufferedReader
from iobench.loaders.probe import ProbeRate, choose, measure_rates, prefetch_factor_of, thread_counts

MIB, GIB = 1 << 20, 1 << 30


def rates(**by_threads: float) -> list[ProbeRate]:
    """`rates(t1=2.0, t8=3.0)`"""
    return [ProbeRate(int(name[1:]), gbps, 3) for name, gbps in by_threads.items()]


class WaitingReader(BufferedReader):
    """A real reader of a storage that answers after `wait_s`, any number of reads at once."""

    def __init__(self, wait_s: float) -> None:
        super().__init__()
        self._wait_s = wait_s

    def read(self, path, offset, target, *, need=None) -> int:
        sleep(self._wait_s)
        return super().read(path, offset, target, need=need)


def waiting(page_set, wait_s: float) -> ShardSet:
    found = ShardSet.open(page_set.folder)
    return ShardSet(found.paths, found.index, WaitingReader(wait_s))


# --- the choice


@pytest.mark.parametrize(
    ("measured", "threads"),
    [
        (rates(t1=2.0), 1),
        (rates(t1=1.0, t2=2.0, t4=3.9, t8=4.0), 4),
        (rates(t1=1.0, t2=2.0, t4=3.87, t8=4.0), 8),
        (rates(t1=5.0, t2=5.1, t4=4.0, t8=2.0), 1),
        (rates(t1=1.0, t2=6.0, t4=5.9, t8=5.8), 2),
        (rates(t1=1.0, t8=3.0), 8),
    ],
)
def test_the_fewest_threads_within_three_percent_of_the_best_are_chosen(measured, threads):
    chosen = choose(measured, batch_bytes=64 * MIB, room_bytes=8 * GIB)
    assert chosen.num_workers == threads
    assert chosen.rates == tuple(measured)
    assert all(f"{rate.threads}: {rate.gbps:.3g}" in chosen.reason for rate in measured)


def test_threads_whose_batches_do_not_fit_into_memory_are_not_chosen():
    measured = rates(t1=1.0, t2=2.0, t4=4.0, t8=8.0)
    chosen = choose(measured, batch_bytes=100 * MIB, room_bytes=650 * MIB)  # six batches, two of them in hand
    assert (chosen.num_workers, chosen.prefetch_factor) == (4, 1)
    assert "more than 4 would not fit into a quarter of the free memory" in chosen.reason
    least = choose(measured, batch_bytes=100 * MIB, room_bytes=10 * MIB)
    assert (least.num_workers, least.prefetch_factor) == (1, 1)


@pytest.mark.parametrize(
    ("threads", "batch_bytes", "factor"),
    [
        (1, 64 * MIB, 2),  # one that is ready, and one being read
        (2, 64 * MIB, 1),  # the same two
        (8, 64 * MIB, 1),
        (2, 4 * MIB, 2),  # three: one ready, two of a read each; there are two for each thread
        (4, MIB, 5),  # seventeen
        (1, 1000, 16),  # no more than the most
    ],
)
def test_the_depth_is_a_ready_batch_and_a_read_for_each_thread(threads, batch_bytes, factor):
    assert READ_BYTES == 4 * MIB
    assert prefetch_factor_of(threads, batch_bytes=batch_bytes, room_bytes=64 * GIB) == factor


@given(st.integers(1, 32), st.integers(1, 1 << 32), st.integers(0, 1 << 40))
def test_the_depth_never_asks_for_more_memory_than_one_batch_a_thread_or_the_room(threads, batch_bytes, room_bytes):
    factor = prefetch_factor_of(threads, batch_bytes=batch_bytes, room_bytes=room_bytes)
    assert 1 <= factor <= 16
    assert factor == 1 or (threads * (factor - 1) + 2) * batch_bytes <= room_bytes


def test_thread_counts_are_powers_of_two_from_one_to_at_least_eight():
    counts = thread_counts()
    assert counts[0] == 1
    assert all(b == 2 * a for a, b in pairwise(counts))
    assert 8 <= counts[-1] <= 32


# --- the measurement


def test_a_storage_that_answers_late_gets_more_threads_than_one(page_set):
    chosen = suggest(waiting(page_set, 0.004), batch_size=10)
    measured = {rate.threads: rate.gbps for rate in chosen.rates}
    assert measured[8] > measured[1]
    assert chosen.num_workers > 1


def test_where_time_is_short_the_fewest_and_the_most_are_measured(page_set):
    measured = measure_rates(waiting(page_set, 0.05), batch_size=64, counts=(1, 2, 4, 8), mode="off", limit_s=0.01)
    assert [(rate.threads, rate.trials) for rate in measured] == [(1, 1), (8, 1)]


@pytest.mark.parametrize("shuffle_mode", ["off", "blocks", "records"])
def test_every_layout_and_engine_is_probed_as_it_is_read(any_set, engine, shuffle_mode):
    shards = ShardSet.open(any_set.folder, engine=engine, shuffle_mode=shuffle_mode)
    threads = threading.active_count()
    measured = measure_rates(shards, batch_size=7, counts=(1, 2), mode=shuffle_mode, limit_s=0.0)
    assert [rate.threads for rate in measured] == [1, 2]
    assert all(rate.gbps > 0 for rate in measured)
    assert shards.reader.delivered_bytes > 0
    assert threading.active_count() == threads


def test_what_is_suggested_is_what_the_loader_takes(page_set):
    shards = ShardSet.open(page_set.folder)
    for chosen in (suggest(shards, batch_size=16), suggest(shards, batch_size=16, num_workers=0)):
        loader = DataLoader(
            shards, batch_size=16, num_workers=chosen.num_workers, prefetch_factor=chosen.prefetch_factor
        )
        assert sum(len(labels) for _, labels in loader) == 130


def test_threads_that_were_given_are_not_probed(page_set):
    shards = waiting(page_set, math.inf)  # a read would fail
    assert suggest(shards, batch_size=10, num_workers=0).prefetch_factor is None
    chosen = suggest(shards, batch_size=1 << 30, num_workers=3)
    assert isinstance(chosen, Suggestion)
    assert (chosen.num_workers, chosen.rates) == (3, ())
    assert shards.reader.delivered_bytes == 0


def test_an_interrupt_ends_the_probe_and_its_threads(page_set):
    shards, threads = waiting(page_set, 0.0), threading.active_count()

    def interrupt(*arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)
        sleep(0.01)
        return BufferedReader.read(shards.reader, *arguments, **options)

    shards.reader.read = interrupt
    with pytest.raises(KeyboardInterrupt):
        suggest(shards, batch_size=8)
    assert threading.active_count() == threads


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batch_size": 8, "num_workers": -1}])
def test_numbers_that_make_no_sense_are_refused(page_set, wrong):
    with pytest.raises(ValueError, match="give at least"):
        suggest(ShardSet.open(page_set.folder), **wrong)
