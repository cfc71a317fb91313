"""Pictures of folders of many small files, and of checkpoints alone and beside readers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..quantities import amount, binary_size, counted, interval_text, percent, quantity, sentences
from ..tables import Table, flag_columns, metric_column, point_columns, text_column
from ..wording import metric_label, points_of
from .drawing import (
    BLUE,
    LINE_COLOURS,
    ORANGE,
    SYMBOLS,
    Plot,
    bar_chart,
    error_bars,
    flag_note,
    hover,
    logarithmic,
    value_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..record import Point, RunRecord

PER_S = "_per_s"
BEYOND = "Intervals that leave the picture are in the table."
CHECKPOINT_RATES = ("write_gbps", "restore_gbps", "read_gbps", "read_during_restore_gbps")
BESIDE = {"nothing": ("alone", BLUE), "reads": ("while others read", ORANGE)}


def names_plot(record: RunRecord) -> Plot | None:
    """Operations on small files a second: a dot each, since their rates lie decades apart."""
    points = [point for point in points_of(record, "metadata") if _operations(point)]
    if not points:
        return None
    names = list(dict.fromkeys(name for point in points for name in _operations(point)))
    traces = [
        _dots(point, names, colour, symbol, several=len(points) > 1)
        for point, colour, symbol in zip(points, LINE_COLOURS, SYMBOLS, strict=False)
    ]
    layout = bar_chart("operations per second, all threads together", len(names))
    rates = [rate for trace in traces for rate in trace["x"]]
    layout["xaxis"] |= logarithmic(rates) | {"range": [min(rates) / 1.6, max(rates) * 1.6]}
    layout["yaxis"] |= {"showgrid": True, "categoryarray": [metric_label(name) for name in names]}
    low, high = layout["xaxis"]["range"]
    spans = [metric.ci95 for point in points for name in names if (metric := point.metrics.get(name)) and metric.ci95]
    wide = any(span[0] < low or span[1] > high for span in spans)
    note = sentences(flag_note(points, mark="Open markers are"), BEYOND * wide)
    return Plot("names", names_finding(points[0]), tuple(traces), layout, _names_table(points, names), note=note)


def checkpoint_plot(record: RunRecord) -> Plot | None:
    """Rates of writing and restoring checkpoints, and of those who read at the same time."""
    points = [point for point in points_of(record, "checkpoint") if value_of(point, "write_gbps") is not None]
    names = [name for name in CHECKPOINT_RATES if any(value_of(point, name) is not None for point in points)]
    if not names:
        return None
    labels = [metric_label(name) for name in names]
    traces = []
    for point in points:
        word, colour = BESIDE.get(str(point.params.get("beside")), (f"beside {point.params.get('beside')}", ORANGE))
        found = [point.metrics.get(name) for name in names]
        trace = {
            "type": "bar",
            "orientation": "h",
            "name": word,
            "y": labels,
            "x": [None if metric is None else metric.value for metric in found],
            "marker": {"color": colour},
            "hovertext": [hover(point, [label, word], name) for label, name in zip(labels, names, strict=True)],
        }
        traces.append(trace | {"error_x": error_bars(found)})
    layout = bar_chart("GB/s", len(labels)) | {"barmode": "group"}
    layout["height"] += 14 * len(labels) * (len(points) - 1)
    columns = [text_column("checkpoint", [BESIDE.get(str(p.params.get("beside")), ("", ""))[0] for p in points])]
    every = tuple(dict.fromkeys(name for point in points for name in point.metrics))
    table = Table("Checkpoints", (*columns, *point_columns(points, every), *flag_columns(points)))
    note = sentences(flag_note(points, mark="Some are"))
    return Plot("checkpoints", checkpoint_finding(points), tuple(traces), layout, table, note=note)


def _dots(point: Point, names: Sequence[str], colour: str, symbol: str, *, several: bool) -> dict[str, Any]:
    measured = [name for name in names if value_of(point, name) is not None]
    labels, word = [metric_label(name) for name in measured], str(point.params.get("page_cache") or "as found")
    return {
        "type": "scatter",
        "mode": "markers",
        "name": word,
        "x": [value_of(point, name) for name in measured],
        "y": labels,
        "error_x": error_bars([point.metrics[name] for name in measured]),
        "marker": {"color": colour, "size": 12, "symbol": symbol + "-open" * bool(point.flags)},
        "hovertext": [hover(point, [label, word], name) for label, name in zip(labels, measured, strict=True)],
        **({} if several else {"showlegend": False}),
    }


def _operations(point: Point) -> list[str]:
    """The operations that were measured, by the names of their rates."""
    return [name for name in point.metrics if name.endswith(PER_S) and value_of(point, name)]


def _names_table(points: Sequence[Point], names: Sequence[str]) -> Table:
    """A row for each operation: what is measured of each is the same."""
    columns = [text_column("operation", [metric_label(name) for name in names])]
    for point in points:
        state = str(point.params.get("page_cache") or "as found")
        columns.append(metric_column(f"per second, {state}", [point.metrics.get(name) for name in names]))
        tails = [point.metrics.get(f"{name.removesuffix(PER_S)}_p99_us") for name in names]
        columns.append(metric_column(f"99th percentile, {state}", tails))
    return Table("Operations on files", tuple(columns))


def names_finding(point: Point) -> str:
    """The slowest operation on names, and its tail; "" where none was measured."""
    if not _operations(point):
        return ""
    slowest = min(_operations(point), key=lambda name: value_of(point, name) or 0)
    tail = point.metrics.get(f"{slowest.removesuffix(PER_S)}_p99_us")
    told = f", one in a hundred takes over {quantity(tail)}" if tail is not None and tail.value is not None else ""
    size, threads = point.params.get("file_bytes"), point.params.get("threads")
    files = f"files of {binary_size(size)}" if isinstance(size, int) else "small files"
    rate = quantity(point.metrics[slowest])
    load = counted(threads, "thread") if isinstance(threads, int) else f"{threads} threads"
    return f"{metric_label(slowest)}: {rate}, the least of all operations{told} ({files}, {load})"


def checkpoint_finding(points: Sequence[Point]) -> str:
    """How fast checkpoints are written, and what they cost those who read; "" where none was written."""
    if value_of(points[0], "write_gbps") is None:
        return ""
    alone, size = points[0], points[0].params.get("checkpoint_bytes")
    what = f"A checkpoint of {amount(size, 'bytes')}" if isinstance(size, int) else "A checkpoint"
    told = f"{what} is written at {quantity(alone.metrics['write_gbps'])}"
    lost = points[-1].metrics.get("read_gbps_ratio")
    if lost is None or lost.value is None:
        return told
    return f"{told}; readers beside it keep {percent(lost.value)} of their rate (ratio {interval_text(lost)})"
