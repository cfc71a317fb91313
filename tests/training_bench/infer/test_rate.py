"""The latency-bound mode: percentiles, arrivals, the search for a rate, and the figures made of them."""

import math
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from iobench.training_bench.infer.plan import Bound
from iobench.training_bench.infer.ranks import open_loop
from iobench.training_bench.infer.rate import Arrived, allowed_misses, arrival_times, highest_rate, percentiles
from iobench.training_bench.infer.search import agreement_metric, share_interval


def make_bound(arrivals="poisson", trial_batches=200, bound_s=1.0):
    return Bound(
        bound_s=bound_s, arrivals=arrivals, trial_batches=trial_batches, resolution=0.01, source="direct", budget_s=60
    )


def served(due, service_s):
    """When each of these arrivals is answered by one server that takes `service_s` for each (Lindley)."""
    return np.array(list(accumulate(due, lambda free, at: max(free, at) + service_s, initial=0.0))[1:])


def test_a_percentile_is_the_least_latency_that_so_many_batches_did_not_exceed():
    latencies = np.arange(1, 201) / 1000  # 1 ms to 200 ms
    assert percentiles(latencies) == pytest.approx((0.1, 0.18, 0.198, 0.2))


@given(st.lists(st.floats(0.001, 10), min_size=100, max_size=400), st.floats(0.001, 10))
def test_the_bound_is_kept_exactly_where_the_99th_percentile_is_within_it(latencies, bound_s):
    found = Arrived.of(1.0, np.array(latencies), asked=len(latencies), bound_s=bound_s, proof=False)
    # the nearest-rank definition, by sorting
    p99 = sorted(latencies)[math.ceil(0.99 * len(latencies)) - 1]
    assert found.p99_s == p99
    assert found.kept is (p99 <= bound_s)


def test_a_trial_that_ended_early_has_no_percentiles_and_did_not_keep_the_bound():
    found = Arrived.of(1.0, np.array([0.1, 0.2]), asked=200, bound_s=1.0, proof=False)
    assert (found.kept, found.p99_s, found.answered) == (False, None, 2)


@pytest.mark.parametrize("limit", [1.0, 3.3, 5.0, 9.97])
def test_the_search_comes_within_its_resolution_of_the_highest_rate_from_below(limit):
    tried = []

    def keeps(rate):
        tried.append(rate)
        return rate <= limit

    found = highest_rate(keeps, capacity=10.0, resolution=0.02)
    assert found <= limit
    assert found >= limit * 0.98 - 1e-9
    assert len(tried) < 14


def test_a_bound_that_is_kept_at_capacity_needs_one_trial():
    tried = []
    assert highest_rate(lambda rate: not tried.append(rate), capacity=8.0, resolution=0.02) == 8.0
    assert tried == [8.0]


def test_a_bound_shorter_than_a_step_is_kept_by_no_rate():
    tried = []
    assert highest_rate(lambda rate: bool(tried.append(rate)), capacity=16.0, resolution=0.02) is None
    assert min(tried) >= 0.5
    assert highest_rate(lambda _: True, capacity=0.0, resolution=0.02) is None


def test_even_arrivals_keep_any_bound_above_the_service_time_up_to_capacity():
    bound, service = make_bound("even"), 0.1

    def keeps(rate):
        due = arrival_times(bound, rate, seed=(0,))
        return np.percentile(served(due, service) - due, 99, method="inverted_cdf") <= service * 1.001

    assert highest_rate(keeps, capacity=9.99, resolution=0.01) == 9.99
    assert not keeps(10.1)


def test_poisson_arrivals_at_a_server_of_constant_service_wait_as_queueing_theory_says():
    # M/D/1 at utilisation 0.5 waits rho / (2 (1 - rho)) = 0.5 service times on average
    due = arrival_times(make_bound(trial_batches=200_000), 5.0, seed=(7,))
    assert due[-1] / 200_000 == pytest.approx(1 / 5.0, rel=0.02)
    assert (served(due, 0.1) - due - 0.1).mean() == pytest.approx(0.05, rel=0.05)


def test_the_latency_of_an_arrival_counts_from_when_it_was_due():
    class Takes:
        def step(self, images, received_ns):
            import time

            time.sleep(0.02)

    # three are due at once: each is answered behind the others
    found = open_loop(iter([None] * 9), np.zeros(3), Takes(), bound_s=10.0, misses=3)
    assert (np.diff(found) >= 0.02).all()
    assert found[0] >= 0.02
    assert len(open_loop(iter([None] * 9), np.zeros(9), Takes(), bound_s=0.001, misses=1)) == 2


@given(st.integers(100, 100_000))
def test_one_batch_in_a_hundred_may_be_late(num_batches):
    assert allowed_misses(num_batches) / num_batches <= 0.01
    assert (allowed_misses(num_batches) + 1) / num_batches > 0.01


@settings(deadline=None)  # scipy is imported in the first
@given(st.integers(1, 500), st.data())
def test_the_interval_of_a_share_is_the_exact_binomial_one(total, data):
    count = data.draw(st.integers(0, total))
    other = binomtest(count, total).proportion_ci(0.95, method="exact")
    assert share_interval(count, total) == pytest.approx((other.low, other.high), abs=1e-9)


def test_agreement_is_of_all_images_of_all_ranks():
    found = agreement_metric([[(3, 4), (4, 4)], [(2, 4), (4, 4)]], "bf16")
    assert (found.value, found.n, found.samples) == (13 / 16, 4, (0.75, 1.0, 0.5, 1.0))
    assert agreement_metric([[], []], "fp32").value is None
