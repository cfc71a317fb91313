"""Verdicts: how many accelerators are fed, whether to copy first, and the sentence that says so.

    predicted   max N with B(N) >= u * N * d      B(N) measured at N concurrent readers, d one accelerator's demand
                AU(N) = min(AU_control(N), B(N) / (N * d))
    measured    max N of the ranks that ran with AU(N) >= u
    copy or not the smallest E with T_copy + sum T_local(e) < sum T_direct(e), e = 1 cold

Pure functions of measured figures; what the data do not decide is None with a reason, never a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .record import Metric, Outcome, Requirement, Verdict, not_measured

TRUSTED_CONTROL = 0.90

Copying = Literal["copy after E", "never", "does not fit", "same device: not applicable", "not distinguishable"]


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


@dataclass(frozen=True, slots=True)
class CopyChoice:
    """Whether a local copy pays, after how many epochs, and the two curves behind it (cumulative seconds)."""

    outcome: Copying
    sentence: str
    break_even_epochs: int | None
    break_even_range: tuple[int, int] | None = None
    epochs: tuple[int, ...] = ()
    direct_s: tuple[float, ...] = ()
    staged_s: tuple[float, ...] = ()

    def as_workload(self) -> dict[str, Any]:
        """What a record's workload holds as `copy_or_not`, from which the report draws both curves."""
        return {
            "outcome": self.outcome,
            "sentence": self.sentence,
            "epochs": list(self.epochs),
            "direct_s": list(self.direct_s) or None,
            "staged_s": list(self.staged_s) or None,
        }

    def as_metric(self, *, n: int) -> Metric:
        """The break-even in the record's form; `n` counts the time blocks it rests on."""
        if self.break_even_epochs is None:
            return not_measured("epochs", f"{self.outcome}. {self.sentence}")
        even = float(self.break_even_epochs)
        return Metric(value=even, unit="epochs", ci95=self.break_even_range, n=n)


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


@dataclass(frozen=True, slots=True)
class Lasting:
    """Whether a rate lasts: None where the data do not say; the requirement is what the readers need in the end."""

    sentence: str
    requirement: Requirement


def judge_lasting(drift: Metric, *, last: Metric, seconds: float, needed_gbps: float, readers: int) -> Lasting:
    """What a long row of blocks says: how the rate drifts (a share per hour), and whether its `last` part is enough.

    A fall has causes that this program cannot tell apart, and names: burst credits used up, a cache that is full or
    falls out, a device that heats up and slows down, or others that began to read.
    """
    span = f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
    if drift.value is None or drift.ci95 is None:
        sentence = f"Whether the rate lasts is not known: {drift.reason}."
    elif drift.ci95[0] <= 0 <= drift.ci95[1]:
        low, high = (100 * bound for bound in drift.ci95)
        sentence = f"Over {span} the rate shows no drift ({low:+.1f} to {high:+.1f} % per hour)."
    else:
        fell = drift.value < 0
        ends = sorted(abs(100 * bound) for bound in drift.ci95)
        causes = (
            "candidates are burst credits used up, a cache that is exhausted, thermal throttling, and others' load"
            if fell
            else "candidates are a cache that fills with the data, and others' load that ended"
        )
        sentence = (
            f"Over {span} the rate {'fell' if fell else 'rose'} by {abs(100 * drift.value):.1f} % per hour "
            f"({ends[0]:.1f} to {ends[1]:.1f}): {causes}."
        )
    enough = None if last.value is None else last.value >= needed_gbps
    return Lasting(
        sentence,
        Requirement(
            name="last_part_gbps",
            text=f"still gives {readers} readers what they need in the last quarter of {span}",
            required=needed_gbps,
            measured=last.value,
            unit="GB/s",
            passed=enough,
        ),
    )


def choose_copy(
    *,
    copy_s: float,
    direct_first_s: Sequence[float],
    direct_later_s: Sequence[float],
    staged_first_s: Sequence[float],
    staged_later_s: Sequence[float],
    epochs: int,
) -> CopyChoice:
    """When a copy pays back.  Each of the four is (epoch's seconds, low, high) from its measured interval.

    The copy pays after the smallest E at which its curve lies below; where the intervals would also allow the
    opposite answer within `epochs`, the outcome is "not distinguishable".
    """
    middle = _curves(copy_s, direct_first_s, direct_later_s, staged_first_s, staged_later_s, epochs, (0, 0))
    best = _curves(copy_s, direct_first_s, direct_later_s, staged_first_s, staged_later_s, epochs, (2, 1))
    worst = _curves(copy_s, direct_first_s, direct_later_s, staged_first_s, staged_later_s, epochs, (1, 2))
    answers = [_crossing(direct, staged) for direct, staged in (middle, best, worst)]
    known = tuple(range(1, epochs + 1))
    direct, staged = middle
    even, soonest, latest = answers
    if even is not None and soonest is not None and latest is not None:
        sentence = f"A local copy pays from epoch {even} on ({soonest} to {latest} by the intervals)."
        return CopyChoice("copy after E", sentence, even, (soonest, latest), known, direct, staged)
    if answers == [None, None, None]:
        sentence = f"Read in place: a local copy does not pay back within {epochs} epochs."
        return CopyChoice("never", sentence, None, None, known, direct, staged)
    sentence = f"Whether a local copy pays within {epochs} epochs cannot be told from these blocks; measure longer."
    return CopyChoice("not distinguishable", sentence, None, None, known, direct, staged)


def judge_requirement(fed: Fed, *, required: int, what: str, invalid: Sequence[str]) -> tuple[Outcome, Requirement]:
    """Pass, fail, insufficient or invalid against "feeds at least `required`"."""
    passed: bool | None
    outcome: Outcome
    if invalid:
        outcome, passed = "invalid", None
    elif fed.value is not None and fed.value >= required:
        outcome, passed = "pass", True
    elif fed.is_at_least or fed.value is None:
        missed = fed.high is not None and fed.high < required  # whatever the number is, it is less
        outcome, passed = ("fail", False) if missed else ("insufficient", None)
    else:
        outcome, passed = "fail", False
    measured = None if fed.value is None else float(fed.value)
    return outcome, Requirement(
        name="gpus_fed_measured",
        text=f"feeds at least {required} {what}",
        required=float(required),
        measured=measured,
        unit="accelerators",
        passed=passed,
    )


def compose_verdict(
    outcome: Outcome,
    requirement: Requirement,
    *,
    subject: str,
    fed: Fed,
    what: str,
    terms: str,
    reasons: Sequence[str],
    measured_seconds: float,
    measured_bytes: int,
    lasting: Lasting | None = None,
) -> Verdict:
    """The verdict with its one sentence, which names the terms every "feeds N" depends on.

    A rate that does not last makes a pass a fail.
    """
    failed_later = lasting is not None and lasting.requirement.passed is False and outcome == "pass"
    outcome = "fail" if failed_later else outcome
    if outcome in ("pass", "fail"):
        count = (
            f"at least {fed.value}" if fed.is_at_least else f"at most {fed.high}" if fed.value is None else fed.value
        )
        known = fed.low is not None and fed.high is not None and fed.low != fed.high
        spread = f" ({fed.low} to {fed.high} by the interval)" if known else ""
        sentence = f"{subject} feeds {count} {what}{spread}; {requirement.required:.0f} required. {terms}"
    else:
        word = "The measurement is not valid" if outcome == "invalid" else "Not enough was measured for a verdict"
        more = f" (and {len(reasons) - 1} more, see the warnings)" if len(reasons) > 1 else ""
        sentence = f"{word} on {subject}: {reasons[0] if reasons else fed.reason}{more}."
    sentence += f" {lasting.sentence}" if lasting is not None else ""
    return Verdict(
        outcome=outcome,
        passed=False if failed_later else requirement.passed,
        sentence=sentence,
        requirements=(requirement,) if lasting is None else (requirement, lasting.requirement),
        measured_seconds=measured_seconds,
        measured_bytes=measured_bytes,
    )


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


def _curves(
    copy_s: float,
    direct_first: Sequence[float],
    direct_later: Sequence[float],
    staged_first: Sequence[float],
    staged_later: Sequence[float],
    epochs: int,
    sides: tuple[int, int],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    direct_side, staged_side = sides
    direct = [direct_first[direct_side] + e * direct_later[direct_side] for e in range(epochs)]
    staged = [copy_s + staged_first[staged_side] + e * staged_later[staged_side] for e in range(epochs)]
    return tuple(direct), tuple(staged)


def _crossing(direct: Sequence[float], staged: Sequence[float]) -> int | None:
    pairs = enumerate(zip(direct, staged, strict=True), 1)
    return next((epoch for epoch, (in_place, copied) in pairs if copied < in_place), None)
