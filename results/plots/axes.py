"""Where a value stands in a picture: axes of numbers, of their logarithms, and of names; and their ticks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FAR, TINY = 1e30, 1e-30  # values beyond these are no measurements, and must not break a page
MARGIN = 0.05  # of the values' span that a line keeps from the ends of its axis


@dataclass(frozen=True)
class Axis:
    """The values at the two ends of an axis, and where in the picture these are, in pixels.

    An axis of names has a band for each, the first at `start`; `head` is what a band keeps free for its name.
    """

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False
    names: tuple[str, ...] = ()
    head: float = 0.0

    @property
    def band(self) -> float:
        """The pixels from one name to the next, or from one whole number to the next."""
        return abs(self.end - self.start) / (len(self.names) or self.high - self.low)

    def at(self, value: float | str) -> float:
        """The pixel of a value or the middle of a name's band; outside the axis where the value is."""
        if self.names:
            place = self.names.index(str(value)) + 0.5
            return self.start + math.copysign(self.band, self.end - self.start) * place + self.head / 2
        low, high, here = self.low, self.high, float(value)
        if self.is_log:
            low, high, here = (math.log10(max(each, low)) for each in (low, high, here))
        return self.start + (self.end - self.start) * (here - low) / (high - low)

    def has_place_for(self, value: float | str) -> bool:
        """Whether a value can stand here: what is not above zero has no logarithm."""
        return bool(self.names) or not self.is_log or float(value) > 0

    def shows(self, pixel: float) -> bool:
        """Whether a pixel lies between the ends of the axis."""
        return min(self.start, self.end) - 1 <= pixel <= max(self.start, self.end) + 1

    def within(self, value: float) -> float:
        """The pixel of a value, or of the end of the axis that it is beyond."""
        inside = min(max(value, self.low), self.high)
        return self.at(inside)


def axis_for(
    spec: Mapping[str, Any], values: Sequence[Any], *, start: float, end: float, from_zero: bool, head: float = 0.0
) -> Axis:
    """The axis of these values: names in the order of first use, or the range that is asked for, else one that fits."""
    if spec.get("type") == "category":
        names = tuple(dict.fromkeys([*spec.get("categoryarray", ()), *map(str, values)])) or ("",)
        return Axis(0, len(names), start, end, names=names, head=head)
    is_log = spec.get("type") == "log"
    finite = [min(max(float(value), -FAR), FAR) for value in values]
    low, high = spec.get("range") or _span(finite, is_log=is_log, from_zero=from_zero)
    low, high = max(low, TINY if is_log else -FAR), min(high, FAR)
    return Axis(low, high if high > low else low + max(1.0, abs(low)), start, end, is_log=is_log)


def ticks_for(axis: Axis, spec: Mapping[str, Any], *, most: int) -> list[tuple[float, str]]:
    """Values and texts of an axis: those that are asked for, else round numbers, at most about `most` of them."""
    if axis.names:
        return []
    if "tickvals" in spec:
        texts = spec.get("ticktext") or [f"{value:g}" for value in spec["tickvals"]]
        chosen = zip(spec["tickvals"], texts, strict=True)
        return [(value, text) for value, text in chosen if axis.low <= value <= axis.high]
    step = _round_step((axis.high - axis.low) / most)
    step = max(step, float(spec.get("dtick", 0)))
    first, last = math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9)
    return [(place * step, _tick_text(place * step, step, spec)) for place in range(first, last + 1)]


def _span(values: Sequence[float], *, is_log: bool, from_zero: bool) -> tuple[float, float]:
    """Ends that leave a margin around the values; from zero there is none below it."""
    if is_log:
        positive = [value for value in values if value > 0] or [1.0]
        room = max(1.15, (max(positive) / min(positive)) ** MARGIN)
        return min(positive) / room, max(positive) * room
    low, high = min(values, default=0.0), max(values, default=1.0)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    margin = MARGIN * (high - low) or abs(high) * MARGIN or 1.0
    return low - margin * (low != 0 or not from_zero), high + margin * (high != 0 or not from_zero or low == 0)


def _round_step(least: float) -> float:
    """The smallest 1, 2 or 5 of a decade that is not below `least`."""
    decade = 10.0 ** math.floor(math.log10(max(least, TINY)))
    return next(digit * decade for digit in (1, 2, 5, 10) if digit * decade >= least * (1 - 1e-9))


def _tick_text(value: float, step: float, spec: Mapping[str, Any]) -> str:
    if spec.get("tickformat") == ".0%":
        return f"{value:.{0 if step >= 0.01 else 1}%}"
    if step >= 1e12 or step < 1e-9:
        return f"{value:.3g}"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{decimals}f}".replace("-", "\N{MINUS SIGN}")
