"""How often intervals hold the truth, simulated on rows of blocks as runs make them: the promise is 95 of 100.

With 10,000 rows a share is known to +-0.4 points (95 %).
"""

import numpy as np
import pytest
from scipy.signal import lfilter

from iobench.results.compare import change_of
from iobench.results.stats import plan_blocks, ratio_interval, summarise, t_interval

ROWS = 10_000


def normal(rng, rows, n):
    return rng.normal(size=(rows, n))


def skewed(rng, rows, n):
    """Gamma of shape 4: skewness 1, a long tail of fast blocks."""
    return (rng.gamma(4, size=(rows, n)) - 4) / 2


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


def coverage(make, n, *, rows=ROWS, seed=20261121):
    noise = make(np.random.default_rng(seed + n), rows, n)
    return np.mean([low <= 2.0 <= high for _, low, high in map(t_interval, (2.0 + 0.1 * noise).tolist())])


PROMISED = [
    *((normal, n) for n in (2, 5, 8, 40)),
    *((skewed, n) for n in (12, 40)),
    (slow_now_and_then, 12),
    (heavy_tailed, 8),
    (correlated(0.2), 16),
    (correlated(0.2, shape=skewed), 20),
    (correlated(0.4), 60),
]


@pytest.mark.parametrize(("make", "n"), PROMISED, ids=lambda part: getattr(part, "__name__", part))
def test_the_interval_covers_the_truth_in_95_of_100_measurements(make, n):
    assert coverage(make, n) == pytest.approx(0.95, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 8, 12, 16, 20, 30, 40, 60, 100])
def test_the_interval_of_independent_blocks_covers_95_of_100_at_every_number_of_blocks(n):
    assert coverage(normal, n, rows=40_000) == pytest.approx(0.95, abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("correlation", "n"), [(0.1, 12), (0.1, 100), *((0.2, n) for n in (16, 30, 100)), (0.3, 30), (0.4, 60), (0.4, 100)]
)
@pytest.mark.parametrize("shape", [normal, heavy_tailed])
def test_the_interval_of_blocks_that_resemble_their_neighbours_covers_95_of_100(correlation, n, shape):
    assert coverage(correlated(correlation, shape=shape), n, rows=40_000) == pytest.approx(0.95, abs=0.01)


def test_where_the_promise_ends_is_known():
    """8 blocks do not tell a correlation: what the module says of them is what they do."""
    assert coverage(correlated(0.2), 8) == pytest.approx(0.93, abs=0.01)
    assert coverage(skewed, 8) == pytest.approx(0.94, abs=0.01)


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


@pytest.mark.parametrize("pilot_blocks", [4, 8])
def test_a_planned_measurement_on_fresh_blocks_keeps_coverage_and_is_narrow_four_times_of_five(pilot_blocks):
    covered, narrow = plans(normal, pilot_blocks, rows=3000)
    assert covered == pytest.approx(0.95, abs=0.01)
    assert narrow == pytest.approx(0.80, abs=0.03)


@pytest.mark.parametrize("make", [skewed, correlated(0.2)], ids=lambda make: make.__name__)
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

    assert np.mean([stop_when_narrow() for _ in range(1500)]) < 0.92


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
    ids=lambda part: getattr(part, "__name__", part),
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
    weather = np.exp(0.3 * rng.normal(size=(5000, 8)))
    above = weather * 1.1 * np.exp(0.05 * rng.normal(size=(5000, 8)))
    hits = [low <= 1.1 <= high for _, low, high in map(ratio_interval, above.tolist(), weather.tolist())]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.01)
