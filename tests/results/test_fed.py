"""Accelerators fed: worked examples by hand, a simulation, and what must hold for any figures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.results.fed import (
    Fed,
    decide_fed,
    missed_in_spite_of_few_steps,
    predict_fed,
    predict_utilisation,
    rate_between,
    settles,
)
from iobench.results.record import Metric


def rate(value, half=0.0, unit="GB/s"):
    return Metric(value=value, unit=unit, ci95=(value - half, value + half), n=8)


# --- predicted ---------------------------------------------------------------------------------------------------


def test_the_largest_number_whose_rate_covers_its_demand_is_predicted():
    # one asks for 0.5 GB/s, at 0.9 of it: 2 need 0.9, 3 need 1.35, 4 need 1.8
    fed = predict_fed({2: rate(1.4), 3: rate(1.5), 4: rate(1.5)}, demand_gbps=0.5, threshold=0.9)
    assert (fed.value, fed.low, fed.high, fed.reason) == (3, 3, 3, None)


def test_the_range_of_a_prediction_is_what_the_intervals_of_the_rates_allow():
    fed = predict_fed({2: rate(1.5, 0.3), 3: rate(1.5, 0.3), 4: rate(1.5, 0.35)}, demand_gbps=0.5, threshold=0.9)
    assert (fed.value, fed.low, fed.high) == (3, 2, 4)
    assert fed.as_metric(n=8).ci95 == (2.0, 4.0)


def test_a_prediction_of_the_largest_number_measured_is_a_lower_bound():
    fed = predict_fed({1: rate(1.0), 2: rate(2.0)}, demand_gbps=0.5, threshold=0.9)
    assert fed.value == 2
    assert fed.is_at_least
    assert fed.high is None
    assert fed.as_metric(n=8).ci95 is None


def test_nothing_is_predicted_where_the_smallest_number_measured_is_not_fed():
    fed = predict_fed({4: rate(1.0), 5: rate(1.0)}, demand_gbps=0.5, threshold=0.9)
    assert fed.value is None
    assert "fewer than 4" in fed.reason


def test_a_lower_bound_below_everything_measured_is_not_known():
    fed = predict_fed({4: rate(2.0, 0.5), 5: rate(2.0, 0.1)}, demand_gbps=0.5, threshold=0.9)
    assert (fed.value, fed.low) == (4, None)
    fed = predict_fed({1: rate(0.5, 0.2), 2: rate(0.5, 0.1)}, demand_gbps=0.5, threshold=0.9)
    assert (fed.value, fed.low) == (1, 0)


def test_none_is_a_prediction_of_zero_where_one_reader_was_measured():
    fed = predict_fed({1: rate(0.4), 2: rate(0.4)}, demand_gbps=0.5, threshold=0.9)
    assert (fed.value, fed.is_at_least) == (0, False)


@given(
    rates=st.dictionaries(st.integers(1, 32), st.floats(0.01, 100), min_size=1),
    demands=st.tuples(st.floats(0.01, 10), st.floats(0.01, 10)),
    threshold=st.floats(0.1, 0.99),
)
def test_a_larger_demand_is_never_predicted_to_be_fed_to_more(rates, demands, threshold):
    measured = {count: rate(value) for count, value in rates.items()}
    small, large = sorted(demands)
    more, fewer = (predict_fed(measured, demand_gbps=demand, threshold=threshold) for demand in (small, large))
    assert (fewer.value or 0) <= (more.value or 0)


@given(
    rates=st.dictionaries(st.integers(1, 32), st.tuples(st.floats(0.01, 100), st.floats(0, 5)), min_size=1),
    threshold=st.floats(0.1, 0.99),
)
def test_a_predicted_number_was_measured_and_lies_in_its_range(rates, threshold):
    measured = {count: rate(*pair) for count, pair in rates.items()}
    fed = predict_fed(measured, demand_gbps=1.0, threshold=threshold)
    if fed.value is None:
        assert fed.reason
        return
    assert fed.value in {0, *measured}
    assert fed.low is None or fed.low <= fed.value
    assert fed.high is None or fed.value <= fed.high


# --- AU from the rate --------------------------------------------------------------------------------------------


def test_the_utilisation_is_the_share_of_the_demand_that_the_storage_covers():
    # 4 x 0.5 GB/s are asked for
    metric = predict_utilisation(rate(1.5, 0.1), num_ranks=4, demand_gbps=0.5)
    assert metric.value == pytest.approx(0.75)
    assert metric.ci95 == pytest.approx((0.70, 0.80))
    assert predict_utilisation(rate(2.1, 0.3), num_ranks=4, demand_gbps=0.5).ci95 == pytest.approx((0.9, 1.0))


def test_what_meetings_cost_shows_only_where_reading_does_not_hide_it():
    assert predict_utilisation(rate(3.0), num_ranks=4, demand_gbps=0.5, control=0.96).value == pytest.approx(0.96)
    assert predict_utilisation(rate(1.5), num_ranks=4, demand_gbps=0.5, control=0.96).value == pytest.approx(0.75)


def test_a_rate_between_two_measured_ones_is_on_the_line_between_them_and_unknown_beyond():
    rates = {2: rate(1.0), 6: rate(3.0)}
    assert rate_between(rates, 2) is rates[2]
    assert rate_between(rates, 3).value == pytest.approx(1.5)
    assert rate_between(rates, 3).ci95 is None
    beyond = rate_between(rates, 7)
    assert beyond.value is None
    assert predict_utilisation(beyond, num_ranks=7, demand_gbps=0.5).value is None


def simulated_utilisation(*, num_ranks, depth, step_s, batch, bandwidth, meeting_s, num_steps=60, drop=10, tick=2e-4):
    """Ranks that read ahead by `depth` batches, share `bandwidth` evenly and meet after each step, tick by tick."""
    queued, progress = [0] * num_ranks, [0.0] * num_ranks
    done, now, ready_at, begun = 0, 0.0, [None] * num_ranks, 0.0
    while done < num_steps:
        reading = [rank for rank in range(num_ranks) if queued[rank] < depth]
        for rank in reading:
            progress[rank] += bandwidth * tick / len(reading) / batch
            if progress[rank] >= 1:
                progress[rank] -= 1
                queued[rank] += 1
        now += tick
        for rank in range(num_ranks):
            if ready_at[rank] is None and queued[rank]:
                queued[rank] -= 1
                ready_at[rank] = now + step_s
        if all(time is not None for time in ready_at) and now >= max(ready_at) + meeting_s:
            ready_at, done = [None] * num_ranks, done + 1
            begun = now if done == drop else begun
    return (num_steps - drop) * step_s / (now - begun)


@pytest.mark.parametrize(("num_ranks", "meeting_s"), [(2, 0.0), (3, 0.004), (4, 0.004), (5, 0.004), (8, 0.0)])
def test_the_prediction_is_what_simulated_ranks_that_share_a_disk_and_meet_reach(num_ranks, meeting_s):
    step_s, batch, bandwidth = 0.1, 1.0, 40.0  # one asks for 10 a second
    simulated = simulated_utilisation(
        num_ranks=num_ranks, depth=2, step_s=step_s, batch=batch, bandwidth=bandwidth, meeting_s=meeting_s
    )
    control = step_s / (step_s + meeting_s)
    predicted = predict_utilisation(rate(bandwidth), num_ranks=num_ranks, demand_gbps=batch / step_s, control=control)
    assert simulated == pytest.approx(predicted.value, abs=0.01)


# --- measured ----------------------------------------------------------------------------------------------------


def au(value, half=0.0):
    return rate(value, half, "fraction")


def decide(utilisation, unusable=None):
    return decide_fed(utilisation, threshold=0.9, unusable=unusable or {})


def test_the_largest_number_of_ranks_at_the_threshold_is_fed():
    assert decide({2: au(0.99), 3: au(0.91), 4: au(0.80)}) == Fed(3, 3, 3, None)


def test_an_interval_around_the_threshold_widens_the_range_of_what_is_fed():
    fed = decide({2: au(0.99), 3: au(0.91, 0.02), 4: au(0.80, 0.11)})
    assert (fed.value, fed.low, fed.high) == (3, 2, 4)


def test_ranks_that_are_all_fed_give_a_lower_bound():
    fed = decide({2: au(0.99), 3: au(0.95)})
    assert (fed.value, fed.high) == (3, None)
    assert fed.reason == "at least: more than 3 ranks were not run"


def test_a_number_without_a_verdict_between_fed_and_not_fed_leaves_the_answer_open():
    fed = decide({2: au(0.99), 3: au(0.85), 4: au(0.5)}, {3: "harness_limited"})
    assert (fed.value, fed.high) == (2, 3)
    assert fed.reason == "at least: 3 ranks gave no verdict (harness_limited)"


def test_numbers_that_were_not_run_between_fed_and_not_fed_leave_the_answer_open():
    fed = decide({3: au(0.99), 4: au(0.95), 8: au(0.5)})
    assert (fed.value, fed.high) == (4, 7)
    assert fed.reason == "at least: 5 to 7 ranks were not run"


def test_a_number_without_a_verdict_above_one_that_failed_changes_nothing():
    assert decide({2: au(0.99), 3: au(0.5), 4: au(0.4)}, {4: "insufficient"}) == Fed(2, 2, 2, None)


def test_what_is_fed_is_not_known_where_the_smallest_number_that_ran_is_not():
    fed = decide({3: au(0.5), 4: au(0.4)})
    assert fed.value is None
    assert fed.reason.startswith("fewer than 3")


def test_zero_are_fed_where_one_rank_ran_and_was_not():
    assert decide({1: au(0.5)}) == Fed(0, 0, 0, None)


def test_ranks_without_any_verdict_give_null_with_every_reason():
    fed = decide({1: au(0.5), 2: au(0.4)}, {1: "harness_limited", 2: "insufficient"})
    metric = fed.as_metric(n=8)
    assert metric.value is None
    assert metric.reason == "1 rank: harness_limited; 2 ranks: insufficient"
    assert decide({}).as_metric(n=0).reason == "no ranks were run"


def test_a_point_without_a_figure_counts_as_not_run():
    fed = decide({1: au(0.95), 2: Metric(value=None, unit="fraction", reason="no counted step")})
    assert fed.value == 1
    assert fed.is_at_least


@given(st.dictionaries(st.integers(1, 12), st.floats(0.1, 1.0), min_size=1), st.floats(0.2, 0.98))
def test_a_higher_threshold_never_feeds_more(values, threshold):
    points = {count: au(value) for count, value in values.items()}
    lower = decide_fed(points, threshold=threshold - 0.1, unusable={})
    higher = decide_fed(points, threshold=threshold, unusable={})
    assert (higher.value or 0) <= (lower.value or 0)


def test_few_steps_decide_only_against_and_only_when_clear():
    assert missed_in_spite_of_few_steps(au(0.5, 0.1), threshold=0.9)
    assert not missed_in_spite_of_few_steps(au(0.85, 0.1), threshold=0.9)
    assert not missed_in_spite_of_few_steps(au(0.95, 0.01), threshold=0.9)
    assert not missed_in_spite_of_few_steps(Metric(value=0.5, unit="fraction", n=1), threshold=0.9)
    assert not missed_in_spite_of_few_steps(Metric(value=None, unit="fraction", reason="no step"), threshold=0.9)


# --- with a harness that costs something -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("utilisation", "control", "verdict"),
    [
        (0.95, 0.96, True),  # fed in spite of the harness
        (0.79, 0.97, False),  # 1 / (1/0.79 - 0.031) = 0.81: not fed, harness or not
        (0.88, 0.95, None),  # 1 / (1/0.88 - 0.053) = 0.92: it may be the harness
        (0.95, 0.85, None),  # too busy a machine
        (0.95, None, None),
    ],
)
def test_a_verdict_is_given_only_where_the_harness_cannot_change_it(utilisation, control, verdict):
    assert settles(utilisation, control=control, threshold=0.90) is verdict


@given(st.floats(0.5, 5.0), st.floats(0.0, 0.11), st.floats(0.5, 0.95))
def test_it_never_contradicts_a_step_whose_cost_adds_up(read_share, harness, threshold):
    """Step 1, reading `read_share` of it hidden behind it, the harness adding up to its whole cost to either."""
    alone = 1 / max(1.0, read_share)
    for cost in (0.0, harness / 2, harness):  # part of the cost may hide behind reading
        seen = 1 / (max(1.0, read_share) + cost)
        verdict = settles(seen, control=1 / (1 + harness), threshold=threshold)
        assert verdict is None or verdict is (alone >= threshold) or abs(alone - threshold) < 1e-9
