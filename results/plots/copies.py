"""Pictures of copying: what each hop took, and time since the start, in place and by way of the copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..labels import point_label
from ..quantities import number, quantity, scale_for
from ..record_tables import hop_table
from ..tables import Table, text_column
from ..wording import points_of, scaled_words
from .drawing import (
    BLUE,
    GREEN,
    ORANGE,
    SKY,
    Plot,
    bar_chart,
    bars,
    chart,
    curve,
    distinct,
    mark_place,
    value_of,
    whole_numbers,
    write_beside,
)

if TYPE_CHECKING:
    from ..record import Point, RunRecord

HOP_PARTS = {"stage_time_s": ("copying", SKY), "verify_time_s": ("reading back", ORANGE)}


def chain_plot(record: RunRecord) -> Plot | None:
    """How long each hop of a chain was copied and read back, its rate beside it; one hop alone is no picture."""
    hops, table = [point for point in points_of(record, "stage") if "hop" in point.params], hop_table(record)
    if len(hops) < 2 or table is None:
        return None
    labels = distinct([point_label(point) for point in hops])
    scale = scale_for("s", [sum(value_of(point, part) or 0 for part in HOP_PARTS) for point in hops])
    traces = [
        bars(name, hops, labels, metric=part, colour=colour, factor=1 / scale.factor)
        for part, (name, colour) in HOP_PARTS.items()
    ]
    layout = bar_chart(f"time of each hop, {scale.unit}", len(hops))
    ends = [scale.of(sum(value_of(point, part) or 0 for part in HOP_PARTS)) for point in hops]
    write_beside(layout, labels, ends, [_rate_words(point) for point in hops])
    return Plot("chain", _chain_finding(hops), tuple(traces), layout, table)


def _rate_words(point: Point) -> str:
    return "was there already" if value_of(point, "read_gbps") is None else quantity(point.metrics["read_gbps"])


def _chain_finding(hops: list[Point]) -> str:
    copied = [point for point in hops if value_of(point, "read_gbps") is not None]
    if not copied:
        return "Every shard of every hop was there already"
    slowest = min(copied, key=lambda point: value_of(point, "read_gbps") or 0)
    return f"The slowest hop copies {quantity(slowest.metrics['read_gbps'])}: {point_label(slowest)}"


def copy_plot(record: RunRecord) -> Plot | None:
    """Reading directly against copying first: time since the start after each epoch, the crossing marked."""
    case = record.workload.get("copy_or_not")
    case = case if isinstance(case, dict) else {}
    epochs, direct, staged = (case.get(name) or [] for name in ("epochs", "direct_s", "staged_s"))
    if not epochs or not len(epochs) == len(direct) == len(staged):
        return None
    scale = scale_for("s", [*direct, *staged])
    roads = {"read directly": (direct, BLUE, "circle"), "copy first, then read the copy": (staged, GREEN, "square")}
    traces = [
        curve(name, epochs, [scale.of(value) for value in values], colour=colour, symbol=symbol)
        for name, (values, colour, symbol) in roads.items()
    ]
    layout = chart(
        f"epochs done, computed from the measured rates{scaled_words(record)}", f"time since the start, {scale.unit}"
    )
    layout["xaxis"] |= whole_numbers(epochs)
    layout["yaxis"] |= {"rangemode": "tozero"}
    crossing = next((e for e, d, s in zip(epochs, direct, staged, strict=True) if s < d), None)
    if crossing is not None:
        mark_place(layout, crossing, f"the copy pays from epoch {crossing:g}")
    columns = [text_column("epochs", [f"{epoch:g}" for epoch in epochs], numeric=True)]
    for name, (values, _, _) in roads.items():
        columns.append(text_column(f"{name}, s", [number(value) for value in values], numeric=True))
    table = Table("Time since the start", tuple(columns))
    return Plot("copy", str(case.get("sentence") or "Copy or not"), tuple(traces), layout, table)
