"""How sure a figure is.

One sample is the mean of one time block, in the order of time; single reads resemble each other far more than blocks
do.  Everything here works on block means, and n is always a number of blocks.

    pilot blocks --plan_blocks--> n      (the pilot only plans: its blocks are thrown away)
    n fresh blocks --summarise--> Metric (mean, 95 % interval, n)
    interleaved pairs of blocks --ratio_interval--> candidate / base
    blocks of two runs --unpaired_ratio--> candidate / base
    a long row of blocks --drift--> slope against time

Fixing n before the measurement is what keeps the interval's promise.  A rule that stops as soon as the interval looks
narrow picks the runs that happened to look quiet, and covers the truth less often than it says.

Blocks that follow each other may still resemble each other, and some rows are skewed: row_means.py sees to both.  Of
independent blocks an interval covers 95 +- 1 % of the truths at any n (of six 96.4 %), of log-normal ones (sigma 0.5)
and of those that correlate with their neighbours by 0.2 from 8 blocks on, and by 0.4 from 30: a simulation in the tests
holds that.  At 0.4, 8 blocks cover 92 %, and so little can be told of them (has_correlated_blocks) that only more
blocks help.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .record import Metric, not_measured
from .row_means import MOST_CORRELATION, are_correlated, correlations, means_of, num_sums, planned_variance, t_quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

ASSURANCE = 0.80  # how often a planned measurement turns out as narrow as it was planned to be
DRIFT_BLOCKS = 20  # time blocks that a slope needs, and the groups that more of them are put into
MAX_CORRELATION = 0.98


class StatisticsError(ValueError):
    """Samples from which the asked figure cannot be computed."""

    exit_status: ClassVar[int] = 3


def t_interval(samples: Sequence[float]) -> tuple[float, float, float]:
    """The mean of block means in the order of time and its 95 % interval, as (mean, low, high).

    Up to five blocks Student's t as it is known; more blocks may resemble their neighbours and be skewed (row_means).
    Raises StatisticsError for fewer than two samples, which have a mean but no interval.
    """
    values = _finite(samples)
    if values.size < 2:
        raise StatisticsError(f"an interval needs at least 2 time blocks, got {values.size}; measure more blocks")
    means = means_of(values[None])
    (low,), (high,) = means.intervals
    return float(means.values[0]), float(low), float(high)


def summarise(samples: Sequence[float], *, unit: str, reason: str | None = None) -> Metric:
    """One metric of the samples of n time blocks.

    Without samples the metric is null and says `reason`; with one it has a value but no interval, and no reason.
    """
    values = tuple(_finite(samples).tolist())
    if not values:
        return not_measured(unit, reason or "no time block was measured")
    if len(values) == 1:
        return Metric(value=values[0], unit=unit, n=1, samples=values)
    mean, low, high = t_interval(values)
    return Metric(value=mean, unit=unit, ci95=(low, high), n=len(values), samples=values)


def ratio_interval(candidate: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """candidate / base of blocks measured in pairs, as (ratio, low, high).

    The t interval of the logarithms of the pairs' ratios, taken back: what moved both blocks of a pair cancels, and
    swapping the two sides gives exactly the reciprocal.  Raises StatisticsError for sides of different length and for
    values that are not positive, which have no ratio.
    """
    above, below = _finite(candidate), _finite(base)
    if above.size != below.size:
        raise StatisticsError(
            f"pairs need as many candidate as base blocks, got {above.size} and {below.size}; run them interleaved"
        )
    for name, values in (("candidate", above), ("base", below)):
        _positive(values, name)
    ratio, low, high = np.exp(t_interval((np.log(above) - np.log(below)).tolist())).tolist()
    return ratio, low, high


def unpaired_ratio(candidate: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """candidate / base of two runs' own blocks, as (ratio, low, high); the numbers of blocks may differ.

    The t interval of the difference of the mean logarithms (their spread as in t_interval), taken back: the runs were
    not interleaved, so that nothing cancels, and what moved between them, weather or defect, is part of the ratio.  Of
    the two numbers of degrees of freedom it takes the smaller, not Welch's between their least and their sum: two runs
    of one distribution then differ in at most 5 of 100 cases, whichever of them is the noisier or the shorter one.
    """
    above, below = (np.log(_positive(values, name)) for values, name in ((candidate, "candidate"), (base, "base")))
    if min(above.size, below.size) < 2:
        raise StatisticsError(f"a ratio needs at least 2 time blocks a side, got {above.size} and {below.size}")
    mean, other = means_of(above[None]), means_of(below[None])
    middle = float(mean.values[0] - other.values[0])
    spread = float(mean.variances[0] + other.variances[0])
    if spread == 0:
        return (float(np.exp(middle)),) * 3
    half_width = float(t_quantile(min(mean.freedom, other.freedom))) * spread**0.5
    ratio, low, high = np.exp([middle, middle - half_width, middle + half_width]).tolist()
    return ratio, low, high


def drift(times: Sequence[float], samples: Sequence[float]) -> tuple[float, float, float]:
    """How fast a row of time blocks drifts: the slope of `samples` against `times`, as (slope, low, high).

    Blocks that follow each other resemble each other, and a plain regression would then find a slope in most quiet
    runs.  So the blocks are put into DRIFT_BLOCKS groups in the order of time, which averages out what is short, and
    a line is fitted to the groups' means with errors that follow their predecessors (Prais and Winsten 1954; the
    correlation corrected for what a fitted line takes of it, Kendall 1954), on as many degrees of freedom as the
    correlation leaves independent groups.  Raises StatisticsError for fewer blocks than groups.
    """
    at, values = _finite(times), _finite(samples)
    if at.size != values.size:
        raise StatisticsError(f"a slope needs a time for each block, got {at.size} times of {values.size} blocks")
    if values.size < DRIFT_BLOCKS:
        raise StatisticsError(f"a slope needs at least {DRIFT_BLOCKS} time blocks, got {values.size}; measure longer")
    order = np.array_split(np.argsort(at, kind="stable"), DRIFT_BLOCKS)
    x = np.array([at[group].mean() for group in order])
    y = np.array([values[group].mean() for group in order])
    return _correlated_slope(x - x.mean(), y)


def _correlated_slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float]:
    correlation, n = 0.0, y.size
    for _ in range(8):
        slope, error, residuals = _weighted_line(x, y, correlation)
        power = float(residuals @ residuals)
        if power <= (1e-12 * float(np.abs(y).max())) ** 2 * n:  # a line without noise
            return slope, slope, slope
        raw = float(residuals[1:] @ residuals[:-1]) / power
        correlation = min(max((n * raw + 2) / (n - 4), 0.0), MAX_CORRELATION)
    slope, error, _ = _weighted_line(x, y, correlation)
    freedom = max(2.0, n * (1 - correlation) / (1 + correlation) - 2)
    half_width = float(t_quantile(freedom)) * error
    return slope, slope - half_width, slope + half_width


def _weighted_line(
    x: NDArray[np.float64], y: NDArray[np.float64], correlation: float
) -> tuple[float, float, NDArray[np.float64]]:
    """Slope, its standard error and the residuals of y on x where each error takes over a part of the one before."""

    def whiten(column: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([column[:1] * (1 - correlation**2) ** 0.5, column[1:] - correlation * column[:-1]])

    design = np.column_stack([whiten(np.ones_like(x)), whiten(x)])
    inverse = np.linalg.inv(design.T @ design)
    line = inverse @ design.T @ whiten(y)
    errors = whiten(y) - design @ line
    variance = float(errors @ errors) / (y.size - 2)
    return float(line[1]), float((variance * inverse[1, 1]) ** 0.5), y - line[0] - line[1] * x


def is_noisy(metric: Metric, limit: float = 0.03) -> bool:
    """Whether the interval reaches further than `limit` times the value to either side.

    A value without an interval is noisy, since nothing shows that it is quiet; a metric without a value is not.
    """
    if metric.value is None:
        return False
    if metric.ci95 is None:
        return True
    low, high = metric.ci95
    return (high - low) / 2 > limit * abs(metric.value)


def has_correlated_blocks(metric: Metric) -> bool:
    """Whether a metric's blocks resemble their neighbours for certain; its interval may then be too narrow."""
    return len(metric.samples) > 1 and bool(are_correlated(_finite(metric.samples)[None])[0])


def rate_flags(metric: Metric) -> tuple[str, ...]:
    """What a point says of the blocks of its rate: "noisy", "blocks_correlated"."""
    found = {"noisy": is_noisy(metric), "blocks_correlated": has_correlated_blocks(metric)}
    return tuple(name for name, is_so in found.items() if is_so)


def plan_blocks(pilot: Sequence[float], *, target: float = 0.03, minimum: int = 8, maximum: int) -> int:
    """How many fresh blocks give an interval of +-`target` of the mean, four times out of five.

    The fresh blocks' variance S2 is not known, only the pilot's s2; for independent normal block means S2 / s2 follows
    F(B, m - 1), B being the degrees of freedom of an interval over n blocks.  The answer is the smallest n whose half
    width t(B) * sqrt(s2 * F / n) is within the target, F being the 80 % quantile: a small pilot plans more blocks than
    a large one, and one whose blocks resemble their neighbours more than one whose blocks do not.  `maximum` where no n
    within it is enough.
    """
    from scipy.special import fdtri

    values = _finite(pilot)
    if values.size < 2:
        raise StatisticsError(f"a pilot needs at least 2 time blocks, got {values.size}")
    if not 2 <= minimum <= maximum:
        raise StatisticsError(f"blocks are planned between minimum >= 2 and maximum, got {minimum} and {maximum}")
    row = values[None]
    rho = min(float(correlations(row)[0]), MOST_CORRELATION) if are_correlated(row)[0] else 0.0
    n = np.arange(minimum, maximum + 1)
    freedom = np.array([num_sums(count) for count in n.tolist()])
    times = np.array([planned_variance(count, rho, seen=values.size) for count in n.tolist()])
    variance = values.var(ddof=1) * fdtri(freedom, values.size - 1, ASSURANCE) * times
    enough = t_quantile(freedom) * np.sqrt(variance / n) <= target * abs(values.mean())
    return int(n[np.argmax(enough)]) if enough.any() else maximum


def _positive(samples: Sequence[float] | NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """The samples as an array; a value without a logarithm is an error."""
    values = _finite(samples)
    if not (values > 0).all():
        raise StatisticsError(f"a ratio needs positive values, a {name} block has {float(values.min()):g}")
    return values


def _finite(samples: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """The samples as an array; a sample that is not a number is an error of the measurement, never skipped."""
    values = np.asarray(samples, dtype=np.float64)
    if not np.isfinite(values).all():
        place = int(np.flatnonzero(~np.isfinite(values))[0])
        raise StatisticsError(f"time block {place} of {values.size} has the value {values[place]}; measure it again")
    return values
