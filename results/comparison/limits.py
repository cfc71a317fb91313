"""What a comparison must not show: `images_per_s < -5%` fails where the whole interval is below 0.95 of the base.

    limit   = metric ("<" | ">") (sign) number "%"        0% needs no sign
    metric  = a name of the records; of the run where it has one of that name, else of every point both runs share

A limit is broken only by a whole interval beyond it: noise breaks none.  An interval on both sides decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar, Literal

from ..quantities import COUNTS
from ..record import INVALID_MARK, Change, Comparison, Outcome, Requirement, RunRecord, Verdict

FORM = re.compile(r"([a-z][a-z0-9_]*)\s*([<>])\s*([+-][0-9]+(?:\.[0-9]+)?|0(?:\.0+)?)\s*%")


class LimitError(ValueError):
    """A limit is no limit, or of a metric that these runs do not have."""

    exit_status: ClassVar[int] = 2


@dataclass(frozen=True)
class Limit:
    """One metric's largest change; `percent` is signed, -5 being 0.95 of the base."""

    metric: str
    side: Literal["<", ">"]
    percent: float

    @property
    def text(self) -> str:
        """The limit as it is written."""
        return f"{self.metric} {self.side} {self.percent:+g}%"


def parse_limit(text: str) -> Limit:
    """`images_per_s < -5%` -> Limit; raises LimitError for everything else."""
    found = FORM.fullmatch(text.strip())
    if found is None:
        raise LimitError(f"{text!r} is no limit; write METRIC < -N% or METRIC > +N%, as 'images_per_s < -5%'")
    percent = float(found[3])
    if percent <= -100:
        raise LimitError(f"{text!r}: nothing falls by 100 % or more; give a percentage above -100")
    return Limit(found[1], "<" if found[2] == "<" else ">", percent)


def judge(limits: Sequence[Limit], comparison: Comparison, runs: Sequence[RunRecord]) -> Verdict | None:
    """Whether the candidate keeps the limits; None without limits.

    "fail" where an interval is wholly beyond one, "invalid" where a run's measurement does not count or a metric was
    not measured in both, "insufficient" where an interval lies on both sides.  Raises LimitError for a metric that is
    not in both runs.
    """
    if not limits:
        return None
    found = [(limit, change) for limit in limits for change in _meant(limit, comparison.changes)]
    requirements = tuple(_requirement(limit, change) for limit, change in found)
    doubts = _invalid(runs) + [
        f"{limit.metric} cannot be compared: {change.reason}"
        for limit, change in found
        if change.finding == "not comparable"
    ]
    outcome = _outcome([item.passed for item in requirements], doubts)
    return Verdict(
        outcome=outcome,
        passed={"pass": True, "fail": False}.get(outcome),
        sentence=_sentence(outcome, requirements, doubts),
        requirements=requirements,
    )


def _meant(limit: Limit, changes: Sequence[Change]) -> list[Change]:
    """The run's own figure of that name, else those of all shared points."""
    named = [change for change in changes if change.name == limit.metric]
    if not named:
        names = sorted({change.name for change in changes})
        near = get_close_matches(limit.metric, names, n=3, cutoff=0.4) or names[:8]
        raise LimitError(f"{limit.text}: no metric {limit.metric!r} is in both runs; near it: {', '.join(near)}")
    return [change for change in named if not change.where] or named


def _requirement(limit: Limit, change: Change) -> Requirement:
    span = _span(change)
    return Requirement(
        name=f"{limit.metric}{f' ({change.where})' if change.where else ''}",
        text=f"not {limit.text}{f', {change.where}' if change.where else ''}",
        required=limit.percent,
        measured=None if span is None else span[0],
        unit="%",
        passed=None if span is None else _is_kept(limit, *span[1:]),
    )


def _is_kept(limit: Limit, low: float, high: float) -> bool | None:
    """Whether the whole interval is on the allowed side; None where it lies on both."""
    beyond, within = (high < limit.percent, low >= limit.percent)
    if limit.side == ">":
        beyond, within = (low > limit.percent, high <= limit.percent)
    return False if beyond else True if within else None


def _span(change: Change) -> tuple[float, float, float] | None:
    """A change and its interval in percent; counts, which have no interval, count where their ranges do not touch."""
    if change.ratio is not None and change.ci95 is not None:
        return _percent(change.ratio), _percent(change.ci95[0]), _percent(change.ci95[1])
    if change.finding == "no difference" and change.base == change.candidate == 0:
        return 0.0, 0.0, 0.0
    if change.unit not in COUNTS or change.base is None or change.candidate is None:
        return None
    if change.finding == "no difference":
        return 0.0, 0.0, 0.0
    moved = _percent(change.candidate / change.base) if change.base else 1e9  # from none to some: beyond any limit
    return moved, moved, moved


def _percent(ratio: float) -> float:
    return round((ratio - 1) * 100, 9)  # so that 0.95 is -5 %, not a little more


def _invalid(runs: Sequence[RunRecord]) -> list[str]:
    """Why runs do not count."""
    return [f"{run.run_id} is {INVALID_MARK}{why}" for run in runs for why in run.why_invalid]


def _outcome(kept: Sequence[bool | None], doubts: Sequence[str]) -> Outcome:
    if doubts:
        return "invalid"
    if False in kept:
        return "fail"
    return "insufficient" if None in kept else "pass"


def _sentence(outcome: Outcome, requirements: Sequence[Requirement], doubts: Sequence[str]) -> str:
    if doubts:
        return f"The limits cannot be judged: {'; '.join(doubts)}."
    broken = [f"{item.name} {item.measured:+.1f} %" for item in requirements if item.passed is False]
    open_ = [f"{item.name} {item.measured:+.1f} %" for item in requirements if item.passed is None]
    if broken:
        return f"The candidate breaks {len(broken)} of {len(requirements)} limits: {'; '.join(broken)}."
    if outcome == "insufficient":
        return f"No limit is broken for certain; not decided by these blocks: {'; '.join(open_)}."
    return f"The candidate keeps the limit{'s' if len(requirements) > 1 else ''}, whole intervals and all."
