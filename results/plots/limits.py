"""Pictures of limits: how long the slowest reads take, the roofs over a model, and the energy of an image."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any

from ..labels import point_label
from ..quantities import quantity
from ..tables import MOST_ROWS, Table, flag_columns, out_of, point_columns, text_column, thinned
from ..wording import about, accelerator_name, doubts, points_of
from .drawing import (
    BLUE,
    GREEN,
    GREY,
    LINE_COLOURS,
    MOST_BARS,
    MOST_LINES,
    SKY,
    SYMBOLS,
    Plot,
    bar_chart,
    bars,
    chart,
    curve,
    distinct,
    error_bars,
    flag_note,
    hover,
    logarithmic,
    value_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..record import Point, RunRecord

PERCENTILES = {
    "latency_p50_us": "median",
    "latency_p90_us": "90 %",
    "latency_p99_us": "99 %",
    "latency_p99_9_us": "99.9 %",
    "latency_max_us": "longest",
}


def percentile_plot(record: RunRecord) -> Plot | None:
    """Time per read at each percentile: a line a point, the fastest and the slowest among them."""
    wanted = ("latency_p90_us", "latency_p99_us")
    found = [point for point in points_of(record, "storage") if all(value_of(point, name) for name in wanted)]
    if not found:
        return None
    ordered = sorted(found, key=lambda point: value_of(point, "latency_p99_us") or 0)
    points = thinned(ordered, MOST_LINES // 2)
    traces = []
    for point, colour, symbol in zip(points, cycle(LINE_COLOURS), cycle(SYMBOLS), strict=False):
        marks = {word: value for name, word in PERCENTILES.items() if (value := value_of(point, name))}
        times = [value * 1e-3 for value in marks.values()]
        trace = curve(point_label(point), [], times, colour=colour, symbol=symbol + "-open" * bool(doubts(point)))
        traces.append(trace | {"x": list(marks)})
    done = " or ".join(dict.fromkeys(_operation(point) for point in points))
    layout = chart(f"share of the {done}s that take no longer", f"time per {done}, ms")
    layout["xaxis"] |= {"type": "category", "categoryarray": list(PERCENTILES.values())}
    layout["yaxis"] |= logarithmic([value for trace in traces for value in trace["y"]])
    worst = ordered[-1]
    median, tail = value_of(worst, "latency_p50_us"), value_of(worst, "latency_p99_us")
    times_text = f", {tail / median:.1f} times the median" if median and tail else ""
    title = f"One {_operation(worst)} in a hundred takes over {quantity(worst.metrics['latency_p99_us'])}{times_text}"
    shown = thinned(found, MOST_ROWS)
    named = text_column("point", [point_label(point) for point in shown])
    columns = (named, *point_columns(shown, tuple(PERCENTILES)), *flag_columns(shown))
    table = Table("Latency percentiles", columns, left_out=out_of(found, shown))
    note = flag_note(points, mark="Open markers are")
    if len(points) < len(found):
        note = f"{len(points)} of {len(found)} points are drawn, from the fastest to the slowest. {note}".strip()
    return Plot("percentiles", f"{title} ({point_label(worst)})", tuple(traces), layout, table, note=note)


def roofline_plot(record: RunRecord) -> Plot | None:
    """Images per second under every roof of every model, and what was measured below the lowest."""
    points = [point for point in points_of(record, "roofline") if value_of(point, "images_per_s")]
    if not points:
        return None
    points = thinned(points, MOST_BARS)
    names = [_roof_name(point) + " *" * bool(doubts(point)) for point in points]
    labels = distinct(names)
    measured = [not point.params.get("roof") or point.params.get("roof") == "measured" for point in points]
    traces = []
    for name, chosen, colour in (("roof", False, GREY), ("measured", True, BLUE)):
        mine = [place for place, is_measured in enumerate(measured) if is_measured is chosen]
        if mine:
            traces.append(_dots(name, [points[place] for place in mine], [labels[place] for place in mine], colour))
    accelerator = accelerator_name(about(record, points[0]))
    layout = bar_chart(f"images per second, {accelerator}", len(points))
    rates = [value for trace in traces for value in trace["x"]]
    layout["xaxis"] |= logarithmic(rates) | {"range": [min(rates) / 2, max(rates) * 1.5]}
    layout["yaxis"] |= {"categoryarray": list(labels)}
    layout["yaxis"] |= {"showgrid": True}
    roofs = [point for point, is_measured in zip(points, measured, strict=True) if not is_measured]
    title = f"The roofs of {accelerator}, in images per second"
    if roofs:
        lowest = min(roofs, key=lambda point: value_of(point, "images_per_s") or 0)
        title = f"The lowest roof is {_roof_name(lowest)}: {quantity(lowest.metrics['images_per_s'])} ({accelerator})"
    metrics = tuple(dict.fromkeys(name for point in points for name in point.metrics))
    table = Table("Roofline", (text_column("roof", names), *point_columns(points, metrics), *flag_columns(points)))
    return Plot("roofline", title, tuple(traces), layout, table, note=flag_note(points, mark="* is"))


def _dots(name: str, points: Sequence[Point], labels: Sequence[str], colour: str) -> dict[str, Any]:
    """A dot for each rate: bars would begin nowhere on a logarithmic axis."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [value_of(point, "images_per_s") for point in points],
        "y": list(labels),
        "error_x": error_bars([point.metrics["images_per_s"] for point in points]),
        "marker": {"color": colour, "size": 13, "symbol": "diamond" if name == "measured" else "circle"},
        "hovertext": [hover(point, [label, name], "images_per_s") for point, label in zip(points, labels, strict=True)],
    }


def energy_plot(record: RunRecord) -> Plot | None:
    """Joules an image, point by point; what the machine takes when idle is told apart where it is known."""
    points = [point for point in record.points if value_of(point, "joules_per_image") is not None]
    if not points:
        return None
    shown = thinned(points, MOST_BARS)
    labels = distinct([point_label(point) + " *" * bool(doubts(point)) for point in shown])
    trace = bars("energy per image", shown, labels, metric="joules_per_image", colour=GREEN)
    trace |= {"error_x": error_bars([point.metrics["joules_per_image"] for point in shown])}
    traces = [trace]
    if any(value_of(point, "idle_joules_per_image") is not None for point in shown):
        traces.append(bars("of that when idle", shown, labels, metric="idle_joules_per_image", colour=SKY))
    accelerator = accelerator_name(about(record, shown[0]))
    layout = bar_chart(f"joules per image, {accelerator}", len(shown)) | {"barmode": "group"}
    layout["height"] += 18 * len(shown) * (len(traces) - 1)
    least = min(shown, key=lambda point: value_of(point, "joules_per_image") or 0)
    title = f"An image takes {quantity(least.metrics['joules_per_image'])} at best: {point_label(least)}"
    names = ("joules_per_image", "idle_joules_per_image", "images_per_joule", "power_w")
    named = text_column("point", [point_label(point) for point in shown])
    table = Table("Energy", (named, *point_columns(shown, names)), left_out=out_of(points, shown))
    return Plot("energy", f"{title} ({accelerator})", tuple(traces), layout, table, note=flag_note(shown, mark="* is"))


def _operation(point: Point) -> str:
    return str(point.params.get("operation", "read"))


def _roof_name(point: Point) -> str:
    words = (point.params.get(name) for name in ("model", "roof"))
    return ", ".join(str(word).replace("_", " ") for word in words if word) or "measured"
