"""Verdicts: what figures say of a requirement, and the sentence that says so.

What the data do not decide is None with a reason, never a number.
"""

from __future__ import annotations

from collections.abc import Sequence

from .fed import Fed
from .lasting import Lasting
from .record import Outcome, Requirement, Verdict


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
