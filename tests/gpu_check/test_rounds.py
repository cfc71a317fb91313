"""Interleaved blocks, and what their pairs say."""

import math

import pytest

from iobench.gpu_check.bare import BareLoop
from iobench.gpu_check.device import Device
from iobench.gpu_check.rounds import ratio, rounds


def test_every_round_has_one_block_of_each_and_the_first_of_all_is_not_counted():
    calls = []

    def block(name, rate):
        def run(seconds):
            calls.append(name)
            return rate

        return run

    found = list(rounds({"a": block("a", 3.0), "b": block("b", 2.0)}, seconds=0.0, blocks=4))
    assert calls[:2] == ["a", "b"]
    assert all(sorted(calls[start : start + 2]) == ["a", "b"] for start in range(2, len(calls), 2))
    assert found[-1] == {"a": [3.0] * 2, "b": [2.0] * 2}  # no time at all: two rounds are the least


def test_rounds_end_with_the_number_asked_for():
    found = [
        {name: list(rates) for name, rates in each.items()}
        for each in rounds({"a": lambda _: 1.0}, seconds=60, blocks=3)
    ]
    assert found == [{"a": [1.0]}, {"a": [1.0] * 2}, {"a": [1.0] * 3}]


def test_a_ratio_is_of_pairs():
    found = ratio([2.0, 8.0], [1.0, 2.0])
    assert found.value == pytest.approx(math.sqrt(2 * 4))
    assert found.samples == (2.0, 4.0)
    assert found.n == 2
    assert ratio([3.0], [2.0]).value == 1.5
    assert ratio([3.0], [2.0]).ci95 is None


def test_a_block_has_one_read_at_least_however_short_it_is(page_set):
    loop = BareLoop(page_set.shards, Device("cpu"), span_bytes=4096, threads=2)
    assert loop.run(0.0) > 0
    loop.close()
