"""How sure a figure is.

One sample is the mean of one time block; blocks are independent, single reads are not.  Everything here works on
block means, and n is always a number of blocks.

    pilot blocks --plan_blocks--> n      (the pilot only plans: its blocks are thrown away)
    n fresh blocks --summarise--> Metric (mean, 95 % t interval, n)
    interleaved pairs of blocks --ratio_interval--> candidate / base

Fixing n before the measurement is what keeps the interval's promise.  A rule that stops as soon as the interval looks
narrow picks the runs that happened to look quiet, and covers the truth less often than it says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .record import Metric, not_measured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CONFIDENCE = 0.95
ASSURANCE = 0.80  # how often a planned measurement turns out as narrow as it was planned to be


class StatisticsError(ValueError):
    """Samples from which the asked figure cannot be computed."""

    exit_status: ClassVar[int] = 3


def t_interval(samples: Sequence[float]) -> tuple[float, float, float]:
    """The mean of block means and its 95 % interval, as (mean, low, high).

    Student's t with n - 1 degrees of freedom; raises StatisticsError for fewer than two samples, which have a mean
    but no interval.
    """
    values = _finite(samples)
    if values.size < 2:
        raise StatisticsError(f"an interval needs at least 2 time blocks, got {values.size}; measure more blocks")
    mean = float(values.mean())
    half_width = float(_t_quantile(values.size - 1) * values.std(ddof=1) / values.size**0.5)
    return mean, mean - half_width, mean + half_width


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
        if not (values > 0).all():
            raise StatisticsError(f"a ratio needs positive values, a {name} block has {float(values.min()):g}")
    ratio, low, high = np.exp(t_interval((np.log(above) - np.log(below)).tolist())).tolist()
    return ratio, low, high


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


def plan_blocks(pilot: Sequence[float], *, target: float = 0.03, minimum: int = 8, maximum: int) -> int:
    """How many fresh blocks give an interval of +-`target` of the mean, four times out of five.

    The fresh blocks' variance S2 is not known, only the pilot's s2; for normal block means S2 / s2 follows F(n - 1,
    m - 1).  The answer is the smallest n whose half width t(n - 1) * sqrt(s2 * F / n) is within the target, F being
    the 80 % quantile: a small pilot plans more blocks than a large one.  `maximum` where no n within it is enough.
    """
    from scipy.special import fdtri

    values = _finite(pilot)
    if values.size < 2:
        raise StatisticsError(f"a pilot needs at least 2 time blocks, got {values.size}")
    if not 2 <= minimum <= maximum:
        raise StatisticsError(f"blocks are planned between minimum >= 2 and maximum, got {minimum} and {maximum}")
    n = np.arange(minimum, maximum + 1)
    variance = values.var(ddof=1) * fdtri(n - 1, values.size - 1, ASSURANCE)
    enough = _t_quantile(n - 1) * np.sqrt(variance / n) <= target * abs(values.mean())
    return int(n[np.argmax(enough)]) if enough.any() else maximum


def _finite(samples: Sequence[float]) -> NDArray[np.float64]:
    """The samples as an array; a sample that is not a number is an error of the measurement, never skipped."""
    values = np.asarray(samples, dtype=np.float64)
    if not np.isfinite(values).all():
        place = int(np.flatnonzero(~np.isfinite(values))[0])
        raise StatisticsError(f"time block {place} of {values.size} has the value {values[place]}; measure it again")
    return values


def _t_quantile(degrees_of_freedom: NDArray[np.int64] | int) -> NDArray[np.float64]:
    """Student's t that leaves half of what CONFIDENCE leaves open on each side."""
    from scipy.special import stdtrit

    return np.asarray(stdtrit(degrees_of_freedom, 0.5 + CONFIDENCE / 2), dtype=np.float64)
