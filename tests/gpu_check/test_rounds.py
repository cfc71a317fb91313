"""Interleaved blocks, and what their pairs say."""

import math

import pytest

from iobench.gpu_check.bare import BareLoop
from iobench.gpu_check.device import Device
from iobench.gpu_check.part import TWIN, Bench, at_least, at_most
from iobench.gpu_check.rounds import ratio, rounds
from iobench.results.record import Metric


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


def bench(device, tmp_path):
    return Bench(device, tmp_path, tmp_path, tmp_path, 1.0, 2)


def over(low, high):
    return Metric(value=(low + high) / 2, unit="ours/theirs", ci95=(low, high), n=8)


@pytest.mark.parametrize(
    ("low", "high", "least", "most"), [(1.1, 1.3, True, False), (0.7, 0.9, False, True), (0.9, 1.1, None, None)]
)
def test_a_whole_interval_decides_and_a_wide_one_does_not(low, high, least, most, tmp_path):
    on_gpu = bench("cuda", tmp_path)
    assert [each.passed for each in at_least("x", "x", 1.0, over(low, high), on_gpu)] == [least]
    assert [each.passed for each in at_most("x", "x", 1.0, over(low, high), on_gpu)] == [most]


def test_nothing_is_required_of_the_twin(tmp_path):
    twin = bench("cpu", tmp_path)
    assert twin.label == TWIN
    assert at_least("x", "x", 1.0, over(0.1, 0.2), twin) == ()


def test_a_block_has_one_read_at_least_however_short_it_is(page_set):
    loop = BareLoop(page_set.shards, Device("cpu"), span_bytes=4096, threads=2)
    assert loop.run(0.0) > 0
    loop.close()
