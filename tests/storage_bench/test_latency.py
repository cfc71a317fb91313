"""Latency histograms against numpy's percentiles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.storage_bench.latency import LatencyHistogram, merge

LATENCIES = st.lists(st.integers(1, 10**13), min_size=1, max_size=200).map(lambda values: np.array(values, np.int64))
PERCENTS = st.sampled_from([0, 1, 25, 50, 90, 99, 99.9, 100])


def histogram_of(latencies):
    histogram = LatencyHistogram()
    histogram.add(latencies)
    return histogram


@given(LATENCIES, PERCENTS)
def test_a_percentile_is_within_a_64th_of_numpys(latencies, percent):
    exact = np.percentile(latencies, percent, method="inverted_cdf") / 1e3
    assert histogram_of(latencies).percentile_us(percent) == pytest.approx(exact, rel=1 / 64)


@given(LATENCIES, LATENCIES)
def test_merging_is_counting_everything_in_one(first, second):
    merged = merge([histogram_of(first), histogram_of(second)])
    together = histogram_of(np.concatenate((first, second)))
    assert (merged.counts == together.counts).all()
    assert merged.total == len(first) + len(second)


@given(st.integers(0, 62))
def test_every_power_of_two_and_its_neighbours_keep_their_order(exponent):
    values = [max(1, (1 << exponent) + step) for step in (-1, 0, 1)]
    means = [histogram_of(np.array([value])).percentile_us(50) for value in values]
    assert means == sorted(means)
    assert means == pytest.approx([value / 1e3 for value in values], rel=1 / 64)


def test_nanoseconds_below_64_are_kept_exactly():
    for value in range(1, 64):
        assert histogram_of(np.array([value])).percentile_us(50) == pytest.approx(value / 1e3)


def test_the_ranks_of_a_worked_example():
    latencies = np.arange(1, 101) * 1000  # 1 us, 2 us ... 100 us
    histogram = histogram_of(latencies)
    for percent, exact in ((50, 50.0), (99, 99.0), (100, 100.0), (1, 1.0)):
        assert histogram.percentile_us(percent) == pytest.approx(exact, rel=1 / 64)


def test_a_read_that_took_no_time_counts_as_a_nanosecond():
    assert histogram_of(np.array([0, 0])).percentile_us(50) == pytest.approx(0.001)


def test_nothing_counted_has_no_percentile():
    assert merge([]).percentile_us(50) is None
    assert histogram_of(np.array([], dtype=np.int64)).total == 0
