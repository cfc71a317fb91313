"""What two samples of one metric show: better, worse, or no difference; and all of it in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from ..quantities import COUNTS
from ..record import Change, Finding, Metric, RunRecord
from ..row_means import CONFIDENCE
from ..stats import StatisticsError, unpaired_ratio
from .directions import UNKNOWN, UP, direction_of

TOLD = 6  # as many changes are told of in a sentence; all are in the table
CHANCE_FROM = 20  # so many comparisons let one differ by chance at 95 %
ODD_SHARE = 0.05  # that a ratio of typical blocks may be away from the one of means before that is said
ODD = "the ratio is of typical blocks (geometric means); a few blocks far off move the means beside it elsewhere"


def change_of(name: str, base: Metric, candidate: Metric, *, where: str = "") -> Change:
    """One metric of both runs, and what it shows."""

    def change(
        finding: Finding,
        *,
        ratio: float | None = None,
        ci95: tuple[float, float] | None = None,
        reason: str | None = None,
    ) -> Change:
        return Change(
            name=name,
            where=where,
            unit=base.unit,
            base=base.value,
            candidate=candidate.value,
            ratio=ratio,
            ci95=ci95,
            finding=finding,
            reason=reason,
        )

    if (reason := _why_not(base, candidate)) is not None:
        return change("not comparable", reason=reason)
    if base.unit in COUNTS:
        return change(_finding_of_counts(name, base, candidate))
    if not any((*base.samples, *candidate.samples)):
        return change("no difference")  # 0 in every block of both runs: no ratio, and nothing amiss
    try:
        ratio, low, high = unpaired_ratio(candidate.samples, base.samples)
    except StatisticsError as error:
        return change("not comparable", reason=str(error))
    finding: Finding = "no difference" if low <= 1 <= high else _word(name, is_more=ratio > 1)
    assert base.value  # positive, as all that have a ratio, and known
    assert candidate.value
    is_odd = abs(candidate.value / base.value / ratio - 1) > ODD_SHARE
    return change(finding, ratio=ratio, ci95=(low, high), reason=ODD if is_odd else None)


def _why_not(base: Metric, candidate: Metric) -> str | None:
    """Why two sides of a metric are not compared; None where they are."""
    for side, metric in (("base", base), ("candidate", candidate)):
        if metric.value is None:
            return f"not measured in the {side} run: {metric.reason}"
    if base.unit != candidate.unit:
        return f"{base.unit} in the base run, {candidate.unit} in the candidate"
    if base.unit not in COUNTS and min(len(base.samples), len(candidate.samples)) < 2:
        return "a figure of one block has no interval"
    return None


def sentence_of(base: RunRecord, changes: Sequence[Change]) -> str:
    """What changed since a run, in one sentence, and how many of its figures would by chance."""
    moved = [_change_text(change) for change in changes if change.finding not in ("no difference", "not comparable")]
    compared = sum(change.finding != "not comparable" for change in changes)
    since = f"Since {base.started_at} ({base.run_id})"
    if not compared:
        return f"{since}: nothing that both runs measured can be compared."
    if not moved:
        return f"{since}: no difference that this data shows."
    more = f"; and {len(moved) - TOLD} more" if len(moved) > TOLD else ""
    return f"{since}: {'; '.join(moved[:TOLD])}{more}.{_chance(len(moved), compared)}"


def _chance(moved: int, compared: int) -> str:
    """At 95 % one comparison in twenty finds a difference where there is none."""
    if compared < CHANCE_FROM:
        return ""
    return f" {moved} of {compared} figures differ; up to {round(compared * (1 - CONFIDENCE))} would by chance."


def _change_text(change: Change) -> str:
    place = f" ({change.where})" if change.where else ""
    name = f"{change.name}{place} {change.finding}"
    if change.ratio is None or change.ci95 is None:
        return f"{name}: {change.base:g} -> {change.candidate:g}"
    return f"{name}: x {change.ratio:.3f} ({change.ci95[0]:.3f} to {change.ci95[1]:.3f})"


def _finding_of_counts(name: str, base: Metric, candidate: Metric) -> Finding:
    """Whole numbers differ where the ranges that their intervals allow do not touch."""
    (low, high), (other_low, other_high) = _range(base), _range(candidate)
    if other_low > high or other_high < low:
        return _word(name, is_more=other_low > high)
    return "no difference"


def _range(metric: Metric) -> tuple[float, float]:
    assert metric.value is not None  # asked before
    low, high = metric.ci95 or (metric.value, metric.value)
    return low, float("inf") if (metric.reason or "").startswith("at least") else high


def _word(name: str, *, is_more: bool) -> Finding:
    way = direction_of(name)
    if way != UNKNOWN:
        return "better" if is_more is (way == UP) else "worse"
    return "higher" if is_more else "lower"
