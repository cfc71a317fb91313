"""A map of values: fields in rows and columns, the darker the larger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .drawing import bar_chart

if TYPE_CHECKING:
    from collections.abc import Sequence

NO_FIELD = "rgba(0,0,0,0)"


def heat_map(
    columns: Sequence[str],
    rows: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    x: str,
    unit: str,
    full: float,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A map of values from 0 on and its layout: fields with their value in them, no field where there is no value.

    The darkest field is the largest value, or `full` where all are below it.  Made of bars, one trace a column.
    """
    most = max([full, *(value for row in values for value in row if value is not None)])
    traces = []
    for place, column in enumerate(columns):
        shades = [_shade(row[place], most) for row in values]
        trace = {
            "type": "bar",
            "orientation": "h",
            "name": column,
            "y": list(rows),
            "x": [1] * len(rows),
            "marker": {"color": [fill for fill, _ in shades]},
            "text": ["" if row[place] is None else f"{row[place]:.1f} {unit}" for row in values],
            "insidetextfont": {"color": [ink for _, ink in shades]},
            "hoverinfo": "skip",
            "showlegend": False,
        }
        traces.append(trace)
    layout = bar_chart(x, len(rows)) | {"barmode": "stack", "bargap": 0.06}
    layout["xaxis"] |= {
        "showgrid": False,
        "range": [0, len(columns)],
        "tickvals": [place + 0.5 for place in range(len(columns))],
        "ticktext": list(columns),
    }
    return traces, layout


def _shade(value: float | None, most: float) -> tuple[str, str]:
    """From light yellow for 0 to dark blue for the most, and the ink that is read on it."""
    if value is None:
        return NO_FIELD, NO_FIELD
    share = min(max(0.0, value / most), 1.0)
    light, dark = (253, 243, 204), (0, 59, 92)
    mixed = (round(first + (last - first) * share) for first, last in zip(light, dark, strict=True))
    return f"rgb({','.join(map(str, mixed))})", "#ffffff" if share > 0.5 else "#1b1f23"
