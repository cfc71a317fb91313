"""Whether a rate lasts: what a long row of blocks says of its drift, and of its end."""

from __future__ import annotations

from dataclasses import dataclass

from .record import Metric, Requirement


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
