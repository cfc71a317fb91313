"""How many accelerators a storage feeds: predicted from rates, and decided by ranks that ran.

    predicted   max N with B(N) >= u * N * d      B(N) measured at N concurrent readers, d one accelerator's demand
                AU(N) = min(AU_control(N), B(N) / (N * d))
    measured    max N of the ranks that ran with AU(N) >= u

Pure functions of measured figures; what the data do not decide is None with a reason, never a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .record import Metric, not_measured

TRUSTED_CONTROL = 0.90


@dataclass(frozen=True, slots=True)
class Fed:
    """A number of accelerators, the range its interval allows (None: not known), and what to know about it."""

    value: int | None
    low: int | None = None
    high: int | None = None
    reason: str | None = None

    @property
    def is_at_least(self) -> bool:
        """Whether more may be fed than `value`: more ranks were not run, or gave no verdict."""
        return (self.reason or "").startswith("at least")

    def contradicts(self, predicted: Fed) -> bool:
        """Whether a prediction lies outside what was measured; a lower bound allows everything above it."""
        if self.value is None or predicted.value is None:
            return False
        if predicted.value > self.value:
            return not self.is_at_least
        return predicted.value < self.value and not predicted.is_at_least

    def as_metric(self, *, n: int) -> Metric:
        """The record's form; `n` counts the time blocks it rests on."""
        if self.value is None:
            return Metric(value=None, unit="accelerators", reason=self.reason or "not measured")
        interval = None if self.low is None or self.high is None else (float(self.low), float(self.high))
        return Metric(value=float(self.value), unit="accelerators", ci95=interval, n=n, reason=self.reason)


def predict_fed(rates: Mapping[int, Metric], *, demand_gbps: float, threshold: float) -> Fed:
    """The largest number of readers whose measured rate covers their demand at the threshold.

    `rates` maps a number of concurrent readers to its read_gbps; the range comes from the rates' intervals.  Below the
    smallest and above the largest number that was measured nothing is known.
    """

    def largest(bound: int | None) -> int:
        fed = [count for count, rate in rates.items() if _bound(rate, bound) >= threshold * count * demand_gbps]
        return max(fed, default=0)

    if not rates:
        return Fed(None, reason="no number of readers was measured")
    value, least, most = largest(None), min(rates), max(rates)
    if value == 0 and least > 1:
        reason = f"fewer than {least}: the smallest number of readers that was measured is not fed"
        return Fed(None, high=least - 1, reason=reason)
    if value == most:
        return Fed(value, _known(largest(0), least), None, f"at least: more than {most} readers were not measured")
    return Fed(value, _known(largest(0), least), largest(1))


def rate_between(rates: Mapping[int, Metric], num_readers: int) -> Metric:
    """The rate at `num_readers`: as measured there, else on the straight line between its measured neighbours.

    Beyond the smallest and the largest number that was measured nothing is known.
    """
    if (there := rates.get(num_readers)) is not None:
        return there
    known = sorted(count for count, rate in rates.items() if rate.value is not None)
    below = [count for count in known if count < num_readers]
    above = [count for count in known if count > num_readers]
    if not below or not above:
        return not_measured("GB/s", f"no rate was measured on both sides of {num_readers} readers")
    low, high = rates[below[-1]], rates[above[0]]
    assert low.value is not None  # as chosen
    assert high.value is not None
    share = (num_readers - below[-1]) / (above[0] - below[-1])
    return Metric(
        value=low.value + share * (high.value - low.value),
        unit=low.unit,
        n=min(low.n, high.n),
        reason=f"between the rates of {below[-1]} and {above[0]} readers",
    )


def predict_utilisation(rate: Metric, *, num_ranks: int, demand_gbps: float, control: float | None = None) -> Metric:
    """The AU that `num_ranks` ranks would reach on a storage that gives `rate` (GB/s) to as many readers.

        step = max(s + m, N * b / B(N))        s the step time, m what a meeting of ranks costs, b bytes of a batch
        AU   = s / step = min(s / (s + m), B(N) / (N * d))        d = b / s

    Ranks meet after each step, so all of them make as many steps, and a rank that reads faster than its share fills
    its queue and leaves the rest to the others: together they go at B(N) where that is too slow.  Reading goes on
    while ranks compute and meet, so that of both costs only the larger one shows.  `control` is s / (s + m), the AU
    of ranks that read nothing; without it meetings cost nothing.  The interval comes from the rate's.
    """
    if rate.value is None:
        return not_measured("fraction", f"no rate: {rate.reason}")
    limit = 1.0 if control is None else control

    def reached(gbps: float) -> float:
        return min(limit, max(0.0, gbps) / (num_ranks * demand_gbps))

    interval = None if rate.ci95 is None else (reached(rate.ci95[0]), reached(rate.ci95[1]))
    return Metric(value=reached(rate.value), unit="fraction", ci95=interval, n=rate.n, reason=rate.reason)


def decide_fed(utilisation: Mapping[int, Metric], *, threshold: float, unusable: Mapping[int, str]) -> Fed:
    """The largest number of ranks that really ran with AU at or above the threshold.

    `unusable` names the numbers of ranks whose point gives no verdict, and why.  When the smallest that ran is not fed
    and is not 1, or none ran validly, the answer is not known.
    """
    usable = {count: rate for count, rate in utilisation.items() if count not in unusable and rate.value is not None}
    if not usable:
        return Fed(None, reason=_told_together(unusable) or "no ranks were run")

    def largest(bound: int | None) -> int:
        return max((count for count, rate in usable.items() if _bound(rate, bound) >= threshold), default=0)

    value = largest(None)
    if value == 0 and min(usable) > 1:
        reason = f"fewer than {min(usable)}: the smallest number of ranks that ran was not fed"
        return Fed(None, high=min(usable) - 1, reason=reason)
    failed = min((count for count in usable if count > value), default=None)
    low = _known(largest(0), min(usable))
    undecided = [count for count in sorted(unusable) if count > value and (failed is None or count < failed)]
    notes = [f"at least: {count} ranks gave no verdict ({unusable[count]})" for count in undecided]
    if failed is None:
        return Fed(value, low, None, "; ".join(notes) or f"at least: more than {value} ranks were not run")
    not_run = sorted(set(range(value + 1, failed)) - set(undecided))
    notes += [f"at least: {_span(not_run)} ranks were not run"] if not_run else []
    return Fed(value, low, max([largest(1), *undecided, *not_run]), "; ".join(notes) or None)


def settles(utilisation: float, *, control: float | None, threshold: float) -> bool | None:
    """Whether ranks are fed although their synthetic control shows that the harness costs something; None: unknown.

    What the harness costs a step lengthens it, and reading hides in a step: at or above the threshold they are fed in
    spite of it.  With all of the control's cost (its step over the nominal one) taken off they would be at most at
    1 / (1/AU - (1/AU_control - 1)); below the threshold even so they are not fed.  A control under 0.90 says that
    the machine is too busy for either.
    """
    if control is None or control < TRUSTED_CONTROL:
        return None
    if utilisation >= threshold:
        return True
    credited = 1 / (1 / utilisation - (1 / control - 1))
    return False if credited < threshold else None


def missed_in_spite_of_few_steps(utilisation: Metric, *, threshold: float) -> bool:
    """Whether ranks are not fed although fewer steps were counted than a verdict takes.

    What was read ahead before the first counted step can only flatter: few steps cannot make ranks look starved.
    """
    return utilisation.ci95 is not None and utilisation.ci95[1] < threshold


def _told_together(unusable: Mapping[int, str]) -> str:
    """Numbers of ranks with their reason, those of one reason together."""
    reasons: dict[str, list[str]] = {}
    for count, why in sorted(unusable.items()):
        reasons.setdefault(why, []).append(str(count))
    found = ((" and ".join(filter(None, (", ".join(rest), last))), why) for why, (*rest, last) in reasons.items())
    return "; ".join(f"{counts} rank{'s' if counts != '1' else ''}: {why}" for counts, why in found)


def _span(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _known(low: int, smallest: int) -> int | None:
    """A lower bound of 0 is known only where 1 was tried."""
    return None if low == 0 and smallest > 1 else low


def _bound(metric: Metric, side: int | None) -> float:
    if metric.value is None:
        return float("-inf")
    return metric.value if side is None or metric.ci95 is None else metric.ci95[side]
