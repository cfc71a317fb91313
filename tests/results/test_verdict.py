"""Verdicts: worked examples by hand, and what must hold for any figures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.results.record import Metric, Requirement
from iobench.results.verdict import (
    Fed,
    choose_copy,
    compose_verdict,
    decide_fed,
    judge_requirement,
    missed_in_spite_of_few_steps,
    predict_fed,
    predict_utilisation,
    rate_between,
)


def rate(value, half=0.0, unit="GB/s"):
    return Metric(value=value, unit=unit, ci95=(value - half, value + half), n=8)


def exact(seconds):
    return seconds, seconds, seconds


def copy_choice(copy_s, direct, staged, *, later=None, epochs=10):
    """Later epochs cost what the first one does, unless told otherwise; each is (seconds, low, high)."""
    direct_later, staged_later = later or (direct, staged)
    return choose_copy(
        copy_s=copy_s,
        direct_first_s=direct,
        direct_later_s=direct_later,
        staged_first_s=staged,
        staged_later_s=staged_later,
        epochs=epochs,
    )


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


# --- the requirement ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fed", "required", "expected"),
    [
        (Fed(3, 3, 3), 3, "pass"),
        (Fed(3, 3, 3), 4, "fail"),
        (Fed(0, 0, 0), 1, "fail"),
        (Fed(3, 3, None, "at least: more than 3 ranks were not run"), 3, "pass"),
        (Fed(3, 3, None, "at least: more than 3 ranks were not run"), 8, "insufficient"),
        (Fed(2, 2, 3, "at least: 3 ranks gave no verdict (noisy)"), 3, "insufficient"),
        (Fed(2, 2, 3, "at least: 3 ranks gave no verdict (noisy)"), 4, "fail"),
        (Fed(None, reason="no ranks were run"), 1, "insufficient"),
        (Fed(None, high=3, reason="fewer than 4: ..."), 3, "insufficient"),
        (Fed(None, high=3, reason="fewer than 4: ..."), 4, "fail"),
    ],
)
def test_only_what_the_ranks_decide_passes_or_fails(fed, required, expected):
    outcome, requirement = judge_requirement(fed, required=required, what="emulated H100", invalid=[])
    assert outcome == expected
    assert requirement.passed is {"pass": True, "fail": False}.get(expected)
    assert requirement.measured == fed.value


def test_a_contradicting_counter_overrules_every_number():
    outcome, requirement = judge_requirement(Fed(9, 9, 9), required=1, what="emulated H100", invalid=["cached"])
    assert (outcome, requirement.passed) == ("invalid", None)


def compose(outcome, fed, reasons=()):
    requirement = Requirement(name="g", text="t", required=2, measured=fed.value, unit="accelerators", passed=None)
    return compose_verdict(
        outcome,
        requirement,
        subject="data",
        fed=fed,
        what="emulated H100",
        terms="Each asks for 0.5 GB/s.",
        reasons=reasons,
        measured_seconds=60.0,
        measured_bytes=10**9,
    )


def test_the_sentence_names_the_number_its_range_what_is_required_and_the_terms():
    said = compose("pass", Fed(3, 2, 4)).sentence
    assert said == "data feeds 3 emulated H100 (2 to 4 by the interval); 2 required. Each asks for 0.5 GB/s."
    assert "at least 3 emulated" in compose("pass", Fed(3, 3, None, "at least: more were not run")).sentence
    assert "feeds at most 1 emulated" in compose("fail", Fed(None, high=1, reason="fewer than 2: ...")).sentence


def test_a_sentence_without_a_verdict_says_why():
    assert "no ranks were run" in compose("insufficient", Fed(None, reason="no ranks were run")).sentence
    said = compose("invalid", Fed(3, 3, 3), ["storage: cached", "ranks: cached"]).sentence
    assert "not valid" in said
    assert "storage: cached (and 1 more" in said


# --- copy or not -------------------------------------------------------------------------------------------------


def test_a_copy_pays_back_in_the_epoch_that_makes_up_for_it():
    # direct 10, 20, 30, 40 ...; copy 25 + 2, 4, 6, 8 ...: 27, 29, 31, 33 -> the fourth
    choice = copy_choice(25.0, exact(10.0), exact(2.0))
    assert choice.outcome == "copy after E"
    assert choice.break_even_epochs == 4
    assert choice.break_even_range == (4, 4)
    assert choice.direct_s[:2] == (10.0, 20.0)
    assert choice.staged_s[:2] == (27.0, 29.0)


def test_a_first_cold_epoch_alone_can_pay_for_the_copy_or_never():
    warm = (exact(1.0), exact(1.0))
    assert copy_choice(5.0, exact(10.0), exact(2.0), later=warm).break_even_epochs == 1
    assert copy_choice(9.0, exact(10.0), exact(2.0), later=warm).outcome == "never"


def test_a_copy_that_reads_no_faster_never_pays():
    choice = copy_choice(1.0, exact(10.0), exact(10.0))
    assert (choice.outcome, choice.break_even_epochs) == ("never", None)


def test_intervals_that_allow_both_answers_are_not_distinguishable():
    choice = copy_choice(8.0, (10.0, 9.0, 11.0), (9.5, 8.5, 10.5))
    assert (choice.outcome, choice.break_even_epochs) == ("not distinguishable", None)


def test_the_range_of_the_break_even_comes_from_the_intervals():
    # best case: direct 12, staged 1, 25 / 11 -> 3 epochs; worst: direct 8, staged 3, 25 / 5 -> 6
    choice = copy_choice(25.0, (10.0, 8.0, 12.0), (2.0, 1.0, 3.0))
    assert (choice.break_even_epochs, choice.break_even_range) == (4, (3, 6))


SECONDS = st.floats(0.1, 1000)


@given(copy_s=SECONDS, firsts=st.tuples(SECONDS, SECONDS), later=st.tuples(SECONDS, SECONDS), epochs=st.integers(1, 40))
def test_the_break_even_is_the_first_epoch_at_which_the_sums_say_so(copy_s, firsts, later, epochs):
    choice = choose_copy(
        copy_s=copy_s,
        direct_first_s=exact(firsts[0]),
        direct_later_s=exact(later[0]),
        staged_first_s=exact(firsts[1]),
        staged_later_s=exact(later[1]),
        epochs=epochs,
    )

    def gain(count):
        return firsts[0] + (count - 1) * later[0] - copy_s - firsts[1] - (count - 1) * later[1]

    paid = [count for count in range(1, epochs + 1) if gain(count) > 1e-9]
    if choice.break_even_epochs is None:
        assert not paid
    else:
        assert choice.outcome == "copy after E"
        assert gain(choice.break_even_epochs) > -1e-9
        assert not [count for count in paid if count < choice.break_even_epochs]


@given(st.tuples(SECONDS, SECONDS, SECONDS), st.tuples(SECONDS, SECONDS, SECONDS), SECONDS)
def test_a_break_even_lies_in_its_range(direct, staged, copy_s):
    direct, staged = ((mid, low, high) for low, mid, high in map(sorted, (direct, staged)))
    choice = copy_choice(copy_s, direct, staged)
    if choice.break_even_epochs is not None:
        soonest, latest = choice.break_even_range
        assert soonest <= choice.break_even_epochs <= latest
