"""Whether to copy first: the epoch at which a local copy has paid back.

the smallest E with T_copy + sum T_local(e) < sum T_direct(e), e = 1 cold
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .record import Metric, not_measured

Copying = Literal["copy after E", "never", "does not fit", "same device: not applicable", "not distinguishable"]


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
