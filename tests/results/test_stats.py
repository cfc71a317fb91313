"""Intervals: against hand-worked numbers, another implementation, and simulated truth."""

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from iobench.results.record import Metric, not_measured
from iobench.results.stats import (
    StatisticsError,
    drift,
    has_correlated_blocks,
    is_noisy,
    plan_blocks,
    rate_flags,
    ratio_interval,
    summarise,
    t_interval,
    unpaired_ratio,
)

block_means = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40)
rates = st.floats(1e-3, 1e6)
pairs = st.lists(st.tuples(rates, rates), min_size=2, max_size=40)


def test_the_interval_of_four_blocks_is_the_one_worked_by_hand():
    # mean 5, standard deviation sqrt(20 / 3), t(3) = 3.182446
    mean, low, high = t_interval([2.0, 4.0, 6.0, 8.0])
    half_width = 3.182446305284263 * math.sqrt(20 / 3) / 2
    assert (mean, low, high) == pytest.approx((5.0, 5.0 - half_width, 5.0 + half_width), rel=1e-9)


NUM_SUMS = {6: 4, 8: 4, 20: 4, 30: 6, 40: 7, 60: 9, 100: 13}  # 0.6 n^(2/3), at least 4


def sums_of(n):
    return n - 1 if n < 6 else max(4, round(0.6 * n ** (2 / 3)))


def correlation_of(values):
    """Between neighbours, written out, and without the bias of a mean from the same row."""
    n, mean = len(values), statistics.fmean(values)
    apart = [value - mean for value in values]
    sample = sum(a * b for a, b in itertools.pairwise(apart)) / sum(a * a for a in apart)
    return sample, (n * sample + 1) / (n - 4)


def spectrum(rho, angle):
    """Of a row in which blocks k apart correlate by rho^k, from its covariances."""
    return 1 + 2 * sum(rho**k * math.cos(k * angle) for k in range(1, 40 + round(40 / (1 - rho))))


def rest_over_sums(n, rho):
    """What a mean varies beyond what its row's cosine sums show."""
    return spectrum(rho, 0) / statistics.fmean(spectrum(rho, math.pi * j / n) for j in range(1, sums_of(n) + 1))


def of_mean(values):
    """Mean, standard error and degrees of freedom by another implementation: scipy's cosine transform."""
    from scipy import fft

    n = len(values)
    num_sums = sums_of(n)
    sums = fft.dct(np.asarray(values), norm="ortho")[1 : num_sums + 1]
    times = 1.0
    if n >= 6 and max(values) > min(values):
        rho = min(max((12 * 0.2 + n * correlation_of(values)[1]) / (12 + n), 0), 0.7)
        times = rest_over_sums(n, rho)
    return statistics.fmean(values), math.sqrt(times * np.mean(sums**2) / n), num_sums


@given(st.sampled_from(sorted(NUM_SUMS)), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_the_interval_of_many_blocks_is_that_of_their_slow_cosine_sums_bent_by_their_skewness(n, seed):
    """Its ends are where Hall's cubic of t reaches the quantiles of t: put in, not solved."""
    from scipy import stats

    samples = np.random.default_rng(seed).gamma(4, 1, n).tolist()
    mean, error, freedom = of_mean(samples)
    assert freedom == NUM_SUMS[n]
    lean = min(max(0.7 * float(stats.skew(samples)) / math.sqrt(n), -0.25), 0.25)
    middle, low, high = t_interval(samples)
    assert middle == pytest.approx(mean, rel=1e-9)
    for end, quantile in ((low, stats.t.ppf(0.975, freedom)), (high, stats.t.ppf(0.025, freedom))):
        t = (mean - end) / error
        assert t + lean / 3 * t**2 + lean**2 / 27 * t**3 + lean / 6 == pytest.approx(quantile, rel=1e-6)


def test_a_row_that_leans_neither_way_has_its_interval_around_the_mean():
    mean, low, high = t_interval([1.0, 2.0, 3.0, 4.0, 4.0, 3.0, 2.0, 1.0])
    assert (mean, high - mean) == (2.5, pytest.approx(mean - low))


def test_one_slow_block_among_many_lets_the_truth_lie_lower_rather_than_higher():
    mean, low, high = t_interval([100.0, 101.0, 99.0, 100.0, 60.0, 100.0, 101.0, 99.0])
    assert mean - low > 1.5 * (high - mean)
    assert low > 60.0  # bounded: not the whole way down for one block


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=5))
@settings(deadline=None)  # the first call imports scipy.stats
def test_the_interval_of_few_blocks_agrees_with_scipys_t_test(samples):
    from scipy import stats

    mean, low, high = t_interval(samples)
    scale = max(abs(value) for value in samples) + 1
    spread = statistics.stdev(samples) / len(samples) ** 0.5
    expected = stats.t.interval(0.95, len(samples) - 1, loc=statistics.fmean(samples), scale=spread or 1e-300)
    assert mean == pytest.approx(statistics.fmean(samples), abs=1e-9 * scale)
    assert (low, high) == pytest.approx(expected, abs=1e-6 * scale)


@given(block_means, st.floats(0.01, 100), st.floats(-1e3, 1e3))
@settings(deadline=None)
def test_a_change_of_unit_changes_the_interval_the_same_way(samples, factor, offset):
    moved = t_interval([factor * value + offset for value in samples])
    scale = factor * (max(abs(value) for value in samples) + 1) + abs(offset)
    assert moved == pytest.approx([factor * bound + offset for bound in t_interval(samples)], abs=1e-6 * scale)


@pytest.mark.parametrize("samples", [[], [1.0]])
def test_fewer_than_two_blocks_have_no_interval(samples):
    with pytest.raises(StatisticsError, match="at least 2 time blocks"):
        t_interval(samples)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_block_that_is_not_a_number_is_named(bad):
    with pytest.raises(StatisticsError, match=r"time block 1 of 3"):
        t_interval([1.0, bad, 3.0])


def test_a_summary_holds_mean_interval_and_samples():
    metric = summarise([2, 4, 6, 8], unit="GB/s")
    assert (metric.value, metric.unit, metric.n, metric.samples) == (5.0, "GB/s", 4, (2.0, 4.0, 6.0, 8.0))
    assert metric.ci95 == t_interval([2, 4, 6, 8])[1:]


def test_a_single_block_gives_a_value_without_an_interval():
    assert summarise([3.5], unit="s") == Metric(value=3.5, unit="s", n=1, samples=(3.5,))


def test_no_block_gives_a_null_metric_with_its_reason():
    assert summarise([], unit="s", reason="no GPU") == not_measured("s", "no GPU")
    assert summarise([], unit="s").reason


def test_the_ratio_of_two_pairs_is_the_one_worked_by_hand():
    # log-ratios log 2 and log 8: mean log 4, standard deviation log 4 / sqrt 2, t(1) = 12.7062
    ratio, low, high = ratio_interval([2.0, 8.0], [1.0, 1.0])
    half_width = 12.706204736 * math.log(4) / math.sqrt(2) / math.sqrt(2)
    assert ratio == pytest.approx(4.0)
    assert (low, high) == pytest.approx((4 * math.exp(-half_width), 4 * math.exp(half_width)), rel=1e-6)


@given(pairs)
@settings(deadline=None)
def test_swapping_the_sides_gives_the_reciprocal(samples):
    candidate, base = zip(*samples, strict=True)
    ratio, low, high = ratio_interval(candidate, base)
    assert low <= ratio <= high
    with np.errstate(divide="ignore", over="ignore"):
        expected = np.reciprocal(np.asarray([ratio, high, low]))
    assert np.allclose(ratio_interval(base, candidate), expected, rtol=1e-6)


@given(pairs, st.lists(rates, min_size=40, max_size=40))
@settings(deadline=None)
def test_what_slows_both_blocks_of_a_pair_cancels(samples, weather):
    candidate, base = zip(*samples, strict=True)
    slowed = ratio_interval(
        [value * factor for value, factor in zip(candidate, weather, strict=False)],
        [value * factor for value, factor in zip(base, weather, strict=False)],
    )
    assert np.allclose(slowed, ratio_interval(candidate, base), rtol=1e-6)


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_a_ratio_refuses_values_that_are_not_positive(bad):
    with pytest.raises(StatisticsError, match="base block has"):
        ratio_interval([1.0, 2.0], [1.0, bad])
    with pytest.raises(StatisticsError, match="candidate block has"):
        ratio_interval([1.0, bad], [1.0, 1.0])


def test_a_ratio_refuses_sides_that_are_no_pairs():
    with pytest.raises(StatisticsError, match="as many candidate as base"):
        ratio_interval([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("value", "ci95", "noisy"),
    [
        (100.0, (97.0, 103.0), False),
        (100.0, (96.9, 103.1), True),
        (-100.0, (-104.0, -96.0), True),
        (0.0, (0.0, 0.0), False),
        (0.0, (-0.1, 0.1), True),
        (100.0, None, True),
    ],
)
def test_noisy_means_wider_than_three_percent_to_either_side(value, ci95, noisy):
    assert is_noisy(Metric(value=value, unit="s", ci95=ci95)) is noisy


def test_a_metric_without_a_value_is_not_noisy():
    assert is_noisy(not_measured("s", "no GPU")) is False


def test_a_quiet_pilot_plans_the_minimum_and_a_wild_one_the_maximum():
    assert plan_blocks([5.0, 5.0, 5.0], maximum=100) == 8
    assert plan_blocks([1.0, 9.0], maximum=100) == 100
    assert plan_blocks([-1.0, 1.0], maximum=20) == 20


@given(st.lists(st.floats(50, 150), min_size=3, max_size=12), st.floats(0.01, 0.2))
@settings(deadline=None)  # the first call imports scipy.stats
def test_the_planned_number_is_the_smallest_that_is_enough(pilot, target):
    from scipy import stats

    planned = plan_blocks(pilot, target=target, maximum=400)

    rho = 0.0
    if len(pilot) >= 6 and max(pilot) > min(pilot):
        sample, found = correlation_of(pilot)
        n = len(pilot)
        rho = min(found, 0.7) if sample > -1 / n + 2.326 * (n - 2) / (n * math.sqrt(n - 1)) else 0.0

    def half_width(n: int) -> float:
        freedom = sums_of(n)
        shown = statistics.fmean(spectrum(rho, math.pi * j / n) for j in range(1, freedom + 1))
        within = statistics.fmean(spectrum(rho, math.pi * j / len(pilot)) for j in range(1, len(pilot)))
        times = shown / within * rest_over_sums(n, min((2.4 + n * rho) / (12 + n), 0.7))
        spread = statistics.stdev(pilot) * math.sqrt(times * stats.f.ppf(0.8, freedom, len(pilot) - 1))
        return float(stats.t.ppf(0.975, freedom) * spread / n**0.5) / statistics.fmean(pilot)

    assert planned == 400 or half_width(planned) <= target * (1 + 1e-6)
    assert planned == 8 or half_width(planned - 1) > target * (1 - 1e-6)


def test_a_pilot_whose_blocks_resemble_their_neighbours_plans_more_blocks():
    alike = [95.0, 96, 97, 98, 99, 101, 102, 103, 104, 105]
    mixed = [95.0, 105, 96, 103, 98, 102, 99, 104, 97, 101]
    assert sorted(alike) == sorted(mixed)
    assert has_correlated_blocks(summarise(alike, unit="s"))
    assert not has_correlated_blocks(summarise(mixed, unit="s"))
    assert plan_blocks(alike, maximum=1000) > 2 * plan_blocks(mixed, maximum=1000)


def test_a_point_says_that_its_blocks_are_noisy_or_resemble_their_neighbours():
    quiet, noisy = [100.0, 101.0] * 6, [80.0, 120.0] * 6
    drifting = [100.0 + number / 100 for number in range(12)]
    falling = [100.0 - 5 * number for number in range(12)]
    assert [rate_flags(summarise(row, unit="images/s")) for row in (quiet, noisy, drifting, falling)] == [
        (),
        ("noisy",),
        ("blocks_correlated",),
        ("noisy", "blocks_correlated"),
    ]


@pytest.mark.parametrize("samples", [[], [1.0], [1.0, 2.0, 3.0, 4.0, 5.0], [5.0] * 30])
def test_too_few_blocks_and_blocks_without_spread_show_no_correlation(samples):
    assert has_correlated_blocks(summarise(samples, unit="s")) is False


@given(st.lists(st.floats(90, 110), min_size=3, max_size=8), st.floats(0.01, 0.1), st.floats(1.1, 4))
@settings(max_examples=50, deadline=None)
def test_a_looser_target_never_plans_more_blocks(pilot, target, factor):
    assert plan_blocks(pilot, target=target * factor, maximum=500) <= plan_blocks(pilot, target=target, maximum=500)


@pytest.mark.parametrize(("pilot", "minimum", "maximum"), [([1.0], 8, 20), ([1.0, 2.0], 8, 7), ([1.0, 2.0], 1, 7)])
def test_a_plan_that_cannot_be_made_is_refused(pilot, minimum, maximum):
    with pytest.raises(StatisticsError):
        plan_blocks(pilot, minimum=minimum, maximum=maximum)


# --- two runs ----------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(1, 100), min_size=2, max_size=20), st.lists(st.floats(1, 100), min_size=2, max_size=20))
@settings(deadline=None)
def test_the_ratio_of_two_runs_is_a_t_interval_with_the_fewer_degrees_of_freedom(candidate, base):
    from scipy import stats

    (mean, error, freedom), (other, other_error, other_freedom) = of_mean(np.log(candidate)), of_mean(np.log(base))
    spread = math.hypot(error, other_error)
    assume(spread > 1e-9)
    low, high = stats.t.interval(0.95, min(freedom, other_freedom), loc=mean - other, scale=spread)
    assert np.log(unpaired_ratio(candidate, base)) == pytest.approx((mean - other, low, high), abs=1e-6)


@given(st.lists(st.floats(1, 100), min_size=2, max_size=5), st.lists(st.floats(1, 100), min_size=2, max_size=5))
@settings(deadline=None)
def test_the_ratio_of_two_runs_is_never_surer_than_scipys_welch_test(candidate, base):
    from scipy import stats

    logs = np.log(candidate), np.log(base)
    assume(min(logs[0].std(), logs[1].std()) > 1e-3)  # scipy loses its precision on blocks that are all but equal
    welch = stats.ttest_ind(*logs, equal_var=False).confidence_interval(0.95)
    _, low, high = unpaired_ratio(candidate, base)
    assert math.log(low) <= welch.low + 1e-6
    assert math.log(high) >= welch.high - 1e-6


def test_the_ratio_of_runs_without_spread_is_exact():
    assert unpaired_ratio([3.0, 3.0, 3.0], [2.0, 2.0]) == pytest.approx((1.5, 1.5, 1.5))


def test_the_ratio_of_two_runs_refuses_single_blocks_and_values_that_have_no_logarithm():
    with pytest.raises(StatisticsError, match="at least 2"):
        unpaired_ratio([1.0], [1.0, 2.0])
    with pytest.raises(StatisticsError, match="base block has"):
        unpaired_ratio([1.0, 2.0], [0.0, 2.0])


# --- drift -------------------------------------------------------------------------------------------------------


def test_a_line_without_noise_is_its_own_slope():
    times = np.arange(40.0) * 10
    assert drift(times.tolist(), (5 - 0.002 * times).tolist()) == pytest.approx((-0.002, -0.002, -0.002), rel=1e-6)


def test_the_order_in_which_blocks_are_given_does_not_matter():
    random = np.random.default_rng(3)
    times, values = np.arange(60.0), random.normal(10, 1, 60)
    shuffled = random.permutation(60)
    assert drift(times[shuffled].tolist(), values[shuffled].tolist()) == drift(times.tolist(), values.tolist())


def test_a_slope_of_few_blocks_is_refused():
    with pytest.raises(StatisticsError, match="at least 20 time blocks"):
        drift([1.0] * 19, [1.0] * 19)
    with pytest.raises(StatisticsError, match="a time for each block"):
        drift([1.0] * 19, [1.0] * 20)


def noises(seed, kind, *, runs, blocks):
    """Noise of blocks that resemble those before them, the more the nearer `rho` is to 1: one run a row."""
    rho, white = kind
    random = np.random.default_rng(seed)
    noise = random.normal(size=(runs, blocks))
    for i in range(1, blocks):
        noise[:, i] = rho * noise[:, i - 1] + noise[:, i] * (1 - rho**2) ** 0.5
    return noise + white * random.normal(size=(runs, blocks))


@pytest.mark.parametrize("kind", [(0.0, 0.0), (0.5, 0.0), (0.8, 0.0), (0.8, 1.0)])
@pytest.mark.parametrize("true_slope", [0.0, -0.01])
def test_the_interval_of_a_slope_covers_the_truth_as_often_as_it_says(kind, true_slope):
    times, hits = np.arange(180.0), 0
    for noise in noises(11, kind, runs=400, blocks=180):
        _, low, high = drift(times.tolist(), (50 + true_slope * times + noise).tolist())
        hits += low <= true_slope <= high
    assert 0.92 * 400 <= hits <= 0.99 * 400


def test_a_real_drift_is_found_in_noise_that_resembles_itself():
    times = np.arange(180.0)
    rows = noises(5, (0.5, 0.0), runs=100, blocks=180)
    found = sum(drift(times.tolist(), (50 - 0.05 * times + noise).tolist())[2] < 0 for noise in rows)
    assert found >= 95
