"""Figures as people read them: a number, its unit, and as many digits as its interval supports."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .record import Metric

LADDERS: dict[str, tuple[tuple[float, str], ...]] = {
    "s": ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s")),
    "us": ((1.0, "µs"), (1e3, "ms"), (1e6, "s")),
    "bytes": ((1.0, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB")),
    "GB/s": ((1e-3, "MB/s"), (1.0, "GB/s")),
}
SPELLINGS = {"B": "bytes", "µs": "us", "seconds": "s"}
DIMENSIONLESS = frozenset({"", "1", "fraction", "ratio", "share"})
COUNTS = frozenset({"accelerators", "epochs"})
BINARY_STEPS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Scale:
    """What a figure is divided by to be shown, and the unit it then has."""

    factor: float
    unit: str

    def of(self, value: float) -> float:
        """The value as it is shown."""
        return value / self.factor


def scale_for(unit: str, values: Iterable[float | None]) -> Scale:
    """The largest step of the unit's ladder that keeps the largest of the values at 1 or more."""
    unit = SPELLINGS.get(unit, unit)
    ladder = LADDERS.get(unit)
    if ladder is None:
        return Scale(1.0, "" if unit in DIMENSIONLESS else unit)
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    fitting = [step for step in ladder if step[0] <= largest]
    native = next(step for step in ladder if step[0] == 1.0)
    return Scale(*(fitting[-1] if fitting else ladder[0] if largest else native))


def number(value: float, *, half_width: float | None = None) -> str:
    """A number to two digits of its interval's half width; without one to four digits, whole numbers whole."""
    if _is_beyond(value):
        return f"{value:.4g}"
    if half_width and math.isfinite(half_width):
        decimals = min(12, max(0, 1 - math.floor(math.log10(half_width))))
    elif value == int(value):
        decimals = 0
    else:
        decimals = min(12, max(0, 3 - math.floor(math.log10(abs(value)))))
    text = f"{value:,.{decimals}f}"
    return "0" if value == 0 else text.replace("-", "\N{MINUS SIGN}")


def value_text(metric: Metric, scale: Scale | None = None) -> str:
    """A metric's value without its unit, as long as its interval supports."""
    if metric.value is None:
        return NOT_MEASURED
    scale = scale or scale_for(metric.unit, [metric.value])
    return number(scale.of(metric.value), half_width=_half_width(metric, scale))


def interval_text(metric: Metric, scale: Scale | None = None) -> str:
    """A metric's interval without its unit; empty where it has none.

    Of a rate it begins at 0 at the least: the record keeps the bound that a few blocks gave, no rate lies below.
    """
    if metric.value is None or metric.ci95 is None:
        return ""
    scale = scale or scale_for(metric.unit, [metric.value])
    is_rate = metric.unit.endswith("/s") and metric.value >= 0
    bounds = (max(bound, 0.0) if is_rate else bound for bound in metric.ci95)
    low, high = (number(scale.of(bound), half_width=_half_width(metric, scale)) for bound in bounds)
    return f"{low} to {high}"


def quantity(metric: Metric) -> str:
    """A metric with its unit, `2.051 GB/s`."""
    unit = _singular(scale_for(metric.unit, [metric.value]).unit, metric.value)
    return value_text(metric) if metric.value is None or not unit else f"{value_text(metric)} {unit}"


def amount(value: float, unit: str) -> str:
    """A bare value with a unit to three digits, `402 GB`; without needless zeros where it stands in its own unit."""
    scale = scale_for(unit, [value])
    shown = scale.of(value)
    if _is_beyond(shown):
        return f"{shown:.3g} {_singular(scale.unit, value)}".strip()
    digits = max(0, 2 - math.floor(math.log10(abs(shown)))) if shown else 0
    text = f"{shown:,.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text and scale.factor == 1 else text
    return f"{text} {_singular(scale.unit, value)}".strip()


def percent(share: float) -> str:
    """A share to a tenth of a percent, `2.6 %`."""
    return f"{number(share * 100) if _is_beyond(share) else f'{share * 100:.1f}'}\N{NO-BREAK SPACE}%"


def binary_size(num_bytes: float) -> str:
    """A block size as it is written on a command line, `4 MiB`."""
    for step, unit in BINARY_STEPS:
        if num_bytes >= step and num_bytes % step == 0:
            return f"{num_bytes // step:.0f} {unit}"
    return f"{num_bytes:,.0f} B"


def span_of_time(start: str, end: str) -> str:
    """Two ISO 8601 times as a person reads them, `2024-06-07 10:15 to 10:23 UTC`; other texts as they stand."""
    try:
        first, last = datetime.fromisoformat(start), datetime.fromisoformat(end)
    except ValueError:
        return f"{start} to {end}"
    until = f"{last:%H:%M}" if first.date() == last.date() else f"{last:%Y-%m-%d %H:%M}"
    return f"{first:%Y-%m-%d %H:%M} to {until} {first.tzname() or ''}".strip()


def duration(seconds: float) -> str:
    """A span of time in the two largest units, `7 min 12 s`."""
    if seconds < 60:
        return amount(seconds, "s")
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def counted(count: float, noun: str) -> str:
    """A number of things, `1 rank`, `3 ranks`, `1,281,167 images`."""
    text = f"{count:,.0f}" if count == int(count) else f"{count:,g}"
    return f"{text} {noun}" if count == 1 else f"{text} {noun}s"


def sentences(*texts: str) -> str:
    """Sentences in a row, empty ones left out."""
    return " ".join(text for text in texts if text)


def _is_beyond(value: float) -> bool:
    """Whether a value is so large or small that it is read as a power of ten."""
    return not math.isfinite(value) or abs(value) >= 1e15 or 0 < abs(value) < 1e-9


def _singular(unit: str, value: float | None) -> str:
    return unit.removesuffix("s") if unit in COUNTS and value == 1 else unit


def _half_width(metric: Metric, scale: Scale) -> float | None:
    """Half the interval in the shown unit; None for counts, which are shown whole."""
    if metric.ci95 is None or (metric.unit in COUNTS and all(bound.is_integer() for bound in metric.ci95)):
        return None
    return scale.of(metric.ci95[1] - metric.ci95[0]) / 2
