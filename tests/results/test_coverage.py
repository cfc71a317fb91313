"""How often intervals hold the truth, simulated on rows of blocks as runs make them: the promise is 95 of 100.

400,000 blocks tell the coverage of rows of 8 to +-0.2 points (95 %), of 30 to +-0.4; the slow tests take ten times as
many.
"""

import numpy as np
import pytest
from scipy.signal import lfilter

from iobench.results.comparison.findings import change_of
from iobench.results.row_means import are_correlated, means_of
from iobench.results.stats import plan_blocks, ratio_interval, summarise, t_interval

ROWS = 20_000
BLOCKS = 400_000
TRUTH = 2.0


def normal(rng, rows, n):
    return rng.normal(size=(rows, n))


def skewed(rng, rows, n):
    """Gamma of shape 4: skewness 1, a long tail of fast blocks."""
    return (rng.gamma(4, size=(rows, n)) - 4) / 2


def log_normal(rng, rows, n):
    """Of sigma 0.5: skewness 1.75, its mean at 0 and its variance 1."""
    logs = np.exp(0.5 * rng.normal(size=(rows, n)))
    return (logs - np.exp(0.125)) / (np.exp(0.125) * (np.exp(0.25) - 1) ** 0.5)


def slow_now_and_then(rng, rows, n):
    """The same tail on the side of slow blocks."""
    return -skewed(rng, rows, n)


def heavy_tailed(rng, rows, n):
    """Student's t with 5 degrees of freedom: now and then a block far away on either side."""
    return rng.standard_t(5, size=(rows, n)) / (5 / 3) ** 0.5


def correlated(correlation, *, shape=normal):
    """Rows in which each block takes over a part of the one before (AR 1), already under way at the first block."""

    def make(rng, rows, n):
        run_in = 30
        shocks = shape(rng, rows, run_in + n) * (1 - correlation**2) ** 0.5
        return lfilter([1], [1, -correlation], shocks, axis=1)[:, run_in:]

    make.__name__ = f"correlated_{correlation}_{shape.__name__}"
    return make


def coverage(make, n, *, blocks=BLOCKS, seed=20261121):
    noise = make(np.random.default_rng(seed + n), min(blocks // n, blocks // 8), n)
    low, high = means_of(TRUTH + 0.1 * noise).intervals
    return np.mean((low <= TRUTH) & (high >= TRUTH))


KEPT = [
    *((normal, n) for n in (2, 8, 12, 30)),
    *((skewed, n) for n in (8, 30)),
    *((log_normal, n) for n in (8, 12, 30)),
    (heavy_tailed, 8),
    *((correlated(0.2), n) for n in (8, 12, 30)),
    (correlated(0.4), 30),
]
ALL_KEPT = [
    *((normal, n) for n in (2, 3, 4, 5, 7, 8, 10, 12, 16, 20, 30, 40, 60, 100)),
    *((shape, n) for shape in (skewed, slow_now_and_then, log_normal, heavy_tailed) for n in (8, 12, 16, 30, 60, 100)),
    *((correlated(rho), n) for rho in (0.1, 0.2) for n in (8, 12, 16, 30, 60, 100)),
    *((correlated(0.4), n) for n in (30, 40, 60, 100)),
    *((correlated(0.2, shape=shape), n) for shape in (skewed, heavy_tailed) for n in (16, 30, 60)),
]


def named(part):
    return getattr(part, "__name__", part)


@pytest.mark.parametrize(("make", "n"), KEPT, ids=named)
def test_the_interval_covers_the_truth_in_95_of_100_measurements(make, n):
    assert coverage(make, n) == pytest.approx(0.95, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "n"), ALL_KEPT, ids=named)
def test_the_interval_covers_the_truth_in_95_of_100_measurements_of_every_kind(make, n):
    assert coverage(make, n, blocks=10 * BLOCKS) == pytest.approx(0.95, abs=0.01)


def test_the_intervals_of_many_rows_are_those_of_each_of_them():
    rows = TRUTH + 0.1 * skewed(np.random.default_rng(8), 50, 9)
    low, high = means_of(rows).intervals
    alone = np.array([t_interval(row)[1:] for row in rows.tolist()])
    assert alone == pytest.approx(np.column_stack([low, high]))


def test_where_the_promise_ends_is_known():
    """What the module says of few blocks is what they do: a correlation of 0.4 cannot be told, nor covered, from 8."""
    assert coverage(normal, 6) == pytest.approx(0.965, abs=0.01)
    assert coverage(correlated(0.4), 8) == pytest.approx(0.92, abs=0.01)
    assert coverage(correlated(0.4), 16) == pytest.approx(0.935, abs=0.01)
    assert coverage(correlated(0.2), 5) == pytest.approx(0.91, abs=0.01)


def test_an_interval_that_covered_a_correlation_of_04_from_8_blocks_would_cover_too_much_without_one():
    """Why the promise ends there: 8 such blocks look as independent ones do, so that both would get the wider one."""
    alike = correlated(0.4)(np.random.default_rng(1), ROWS, 8)
    alone = normal(np.random.default_rng(2), ROWS, 8)

    def covered(rows):
        found = means_of(rows)
        low, high = means_of(rows)._replace(variances=1.25**2 * found.variances).intervals
        return np.mean((low <= 0) & (high >= 0))

    assert covered(alike) == pytest.approx(0.95, abs=0.01)
    assert covered(alone) > 0.97


@pytest.mark.parametrize(("n", "most"), [(8, 1.32), (12, 1.30), (30, 1.20), (60, 1.13)])
def test_what_that_costs_independent_blocks_is_known(n, most):
    """In the median width, against the plain t interval, which is right for them alone."""
    from scipy import stats

    rows = normal(np.random.default_rng(n), ROWS, n)
    low, high = means_of(rows).intervals
    plain = 2 * stats.t.ppf(0.975, n - 1) * rows.std(axis=1, ddof=1) / n**0.5
    assert 1.05 < np.median(high - low) / np.median(plain) < most


@pytest.mark.parametrize("n", [6, 8, 12, 30, 60])
def test_blocks_that_do_not_resemble_each_other_are_called_so_in_one_of_100_rows(n):
    assert np.mean(are_correlated(normal(np.random.default_rng(n), ROWS, n))) <= 0.0125


@pytest.mark.parametrize(
    ("correlation", "n", "least"), [(0.4, 30, 0.35), (0.4, 60, 0.7), (0.7, 12, 0.3), (0.7, 30, 0.85)]
)
def test_blocks_that_resemble_each_other_are_found_the_more_there_are(correlation, n, least):
    assert np.mean(are_correlated(correlated(correlation)(np.random.default_rng(n), ROWS, n))) >= least


def test_the_plain_t_interval_would_cover_too_little_where_blocks_resemble_each_other():
    """What the cosine sums replace; if this passed, they would be needless."""
    from scipy import stats

    rows = correlated(0.2)(np.random.default_rng(5), ROWS, 20)
    mean, error = rows.mean(axis=1), rows.std(axis=1, ddof=1) / 20**0.5
    assert np.mean(np.abs(mean) <= stats.t.ppf(0.975, 19) * error) < 0.91


# --- the number of blocks, planned from a pilot ------------------------------------------------------------------


def planned_measurement(rng, make, pilot_blocks):
    """Whether one pilot-planned measurement covers the true mean 2.0, and whether it is as narrow as asked."""
    pilot, fresh = 2.0 + 0.1 * make(rng, 1, pilot_blocks)[0], 2.0 + 0.1 * make(rng, 1, 300)[0]
    n = plan_blocks(pilot.tolist(), target=0.03, minimum=8, maximum=300)
    mean, low, high = t_interval(fresh[:n].tolist())
    return low <= 2.0 <= high, (high - low) / 2 <= 0.03 * mean


def plans(make, pilot_blocks, *, rows):
    rng = np.random.default_rng(31415 + pilot_blocks)
    return np.mean([planned_measurement(rng, make, pilot_blocks) for _ in range(rows)], axis=0)


@pytest.mark.parametrize("pilot_blocks", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_a_planned_measurement_on_fresh_blocks_keeps_coverage_and_is_narrow_four_times_of_five(pilot_blocks):
    covered, narrow = plans(normal, pilot_blocks, rows=2000)
    assert covered == pytest.approx(0.95, abs=0.01)
    assert narrow == pytest.approx(0.80, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("make", [skewed, log_normal, correlated(0.2), correlated(0.4)], ids=named)
def test_a_planned_measurement_keeps_coverage_on_skewed_and_on_correlated_blocks(make):
    assert plans(make, 8, rows=3000)[0] == pytest.approx(0.95, abs=0.01)


def test_stopping_as_soon_as_the_interval_is_narrow_would_cover_too_little():
    """The rule that plan_blocks replaces; if this passed, planning would be needless."""
    rng = np.random.default_rng(2718)

    def stop_when_narrow():
        samples = rng.normal(2.0, 0.1, size=60).tolist()
        for n in range(3, 61):
            mean, low, high = t_interval(samples[:n])
            if (high - low) / 2 <= 0.03 * mean:
                break
        return low <= 2.0 <= high

    assert np.mean([stop_when_narrow() for _ in range(500)]) < 0.92


# --- two runs ----------------------------------------------------------------------------------------------------


def false_alarms(make, n, *, cases=2000, seed=7):
    """The share of pairs of runs of one distribution between which a difference is found."""
    rows = 2.0 + 0.1 * make(np.random.default_rng(seed), 2 * cases, n)
    metrics = [summarise(row, unit="images/s") for row in rows.tolist()]
    found = [
        change_of("images_per_s", base, other).finding for base, other in zip(metrics[::2], metrics[1::2], strict=True)
    ]
    assert set(found) <= {"better", "worse", "no difference"}
    return np.mean([finding != "no difference" for finding in found])


@pytest.mark.parametrize(
    ("make", "n"),
    [(normal, 4), (normal, 8), (normal, 20), (skewed, 8), (heavy_tailed, 8), (correlated(0.2), 12)],
    ids=named,
)
def test_two_runs_of_one_distribution_differ_in_at_most_5_of_100_cases(make, n):
    assert 0.005 < false_alarms(make, n) <= 0.05


def test_two_runs_that_differ_by_more_than_their_noise_are_told_apart():
    rng = np.random.default_rng(3)
    for _ in range(200):
        base, slower = rng.normal(2.0, 0.02, 8), rng.normal(1.8, 0.02, 8)
        change = change_of("images_per_s", summarise(base, unit="images/s"), summarise(slower, unit="images/s"))
        assert change.finding == "worse"


def test_paired_ratios_cover_the_truth_in_95_of_100_measurements():
    rng = np.random.default_rng(4)
    weather = np.exp(0.3 * rng.normal(size=(3000, 8)))
    above = weather * 1.1 * np.exp(0.05 * rng.normal(size=(3000, 8)))
    hits = [low <= 1.1 <= high for _, low, high in map(ratio_interval, above.tolist(), weather.tolist())]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.01)
