"""The picture of copying: time since the start, in place and by way of the copy."""

from __future__ import annotations

from ..quantities import number, scale_for
from ..record import RunRecord
from ..tables import Table, text_column
from ..wording import scaled_words
from .drawing import BLUE, GREEN, Plot, chart, curve, mark_place, whole_numbers


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
