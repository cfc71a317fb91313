"""A record's pictures: one function a picture, None where its data are missing.

A title states the finding; an emulated accelerator and a scaled step time say so in titles and axes.  Every picture
has the table of its figures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

from .drawing import (
    BLUE,
    GREEN,
    GREY,
    LINE_COLOURS,
    ORANGE,
    PURPLE,
    RED,
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
    line,
    logarithmic,
    mark_height,
    mark_place,
    value_of,
    write_beside,
)
from .quantities import amount, binary_size, counted, number, percent, quantity, scale_for
from .tables import Column, Table, flag_columns, point_columns, text_column
from .wording import SOURCES, accelerator_name, differing_label, fed_text, metric_label, point_label, points_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .record import Point, RunRecord

PARTS = {
    "compute_s": ("compute", SKY),
    "data_wait_s": ("data wait", RED),
    "sync_wait_s": ("sync wait", PURPLE),
    "overhead_s": ("overhead", GREY),
}
SOURCE_LOOKS = {"direct": (BLUE, "circle"), "staged": (GREEN, "square"), "synthetic": (ORANGE, "diamond")}
LATENCIES = {"latency_p50_us": ("median", "dot"), "latency_p99_us": ("99th percentile", "solid")}
OPEN_MARKERS = "Open markers are"
STARRED = "* is"


@dataclass(frozen=True)
class Sweep:
    """A parameter of a device sweep: its place on the axis, its ticks, and the words for all the others."""

    name: str
    title: str
    x: Callable[[Point], int]
    tick: Callable[[int], str]
    rest: Callable[[Point], str]


def all_plots(record: RunRecord) -> list[Plot]:
    """The pictures a record has data for, in the order of the page."""
    alone = (draw(record) for draw in (step_plot, utilisation_plot, supply_plot, loader_plot, copy_plot))
    return [*(plot for plot in alone if plot), *sweep_plots(record)]


def step_plot(record: RunRecord) -> Plot | None:
    """Where a step's time goes: one bar for each source and number of ranks, its parts stacked."""
    points = [point for point in _trained(record) if any(value_of(point, part) is not None for part in PARTS)]
    if not points:
        return None
    accelerator = accelerator_name(_about(record, points[0]))
    labels = distinct([point_label(point) + " *" * bool(point.flags) for point in points])
    traces = [
        bars(name, points, labels, metric=part, colour=colour, factor=1e3) for part, (name, colour) in PARTS.items()
    ]
    layout = bar_chart(f"ms per step, {accelerator}", len(points))
    used = [point.metrics.get("au_mlperf") for point in points]
    words = ["" if au is None or au.value is None else f"AU {au.value:.2f}" for au in used]
    write_beside(layout, labels, [sum(value_of(point, part) or 0 for part in PARTS) * 1e3 for point in points], words)
    columns = point_columns(points, ("step_time_s", *PARTS, "data_stall_fraction", "images_per_s", "au_mlperf"))
    table = Table("Parts of a step, mean over ranks", (_named(points), *columns, *flag_columns(points)))
    title = _step_finding(record, points, accelerator)
    return Plot("steps", title, tuple(traces), layout, table, note=flag_note(points, mark=STARRED))


def utilisation_plot(record: RunRecord) -> Plot | None:
    """Predicted against measured: utilisation at every number of ranks that ran, beside its threshold."""
    points = [p for p in _trained(record) if value_of(p, "au_mlperf") is not None and "num_ranks" in p.params]
    if not points:
        return None
    traces = []
    for source in dict.fromkeys(_source(point) for point in points):
        colour, symbol = SOURCE_LOOKS.get(source, (GREY, "cross"))
        mine = [point for point in points if _source(point) == source]
        traces.append(line(source, mine, x=_ranks, metric="au_mlperf", colour=colour, symbol=symbol))
    accelerator = accelerator_name(_about(record, points[0]))
    layout = chart(f"ranks, one per {accelerator}", "AU (compute time / wall time)")
    layout["xaxis"] |= _whole_numbers([_ranks(point) for point in points])
    _mark_prediction(layout, record)
    threshold = record.workload.get("au_threshold")
    if isinstance(threshold, int | float):
        mark_height(layout, threshold, f"threshold {threshold:.2f}")
    columns = point_columns(points, ("au_mlperf", "au_predicted", "au_dlio", "data_stall_fraction", "images_per_s"))
    table = Table("Utilisation", (_named(points), *columns, *flag_columns(points)))
    title = _fed_finding(record, accelerator)
    return Plot("utilisation", title, tuple(traces), layout, table, note=flag_note(points, mark=OPEN_MARKERS))


def supply_plot(record: RunRecord) -> Plot | None:
    """What the storage gives to N readers, against what N accelerators need."""
    points, demand = _replayed(record), record.workload.get("demand_gbps")
    if not points or not isinstance(demand, int | float):
        return None
    accelerator, threshold = accelerator_name(record.workload), float(record.workload.get("au_threshold") or 1.0)
    reach = [0, max(_readers(point) for point in points)]
    needs = {f"{u:.2f}": u * demand for u in (1.0, threshold)}
    traces = [line("storage gives, cold", points, x=_readers, metric="read_gbps", colour=BLUE)]
    for (u, need), dash in zip(needs.items(), ("solid", "dash"), strict=False):
        name = f"needed for AU {u} ({accelerator})"
        traces.append(curve(name, reach, [need * readers for readers in reach], colour=RED, dash=dash))
    layout = chart(f"readers, one per {accelerator}", "read rate, GB/s")
    layout["xaxis"] |= _whole_numbers(reach)
    layout["yaxis"] |= {"rangemode": "tozero"}
    _mark_prediction(layout, record)
    readers = text_column("readers", [str(_readers(point)) for point in points], numeric=True)
    needed = [
        text_column(f"needed for AU {u}, GB/s", [f"{need * _readers(p):.3f}" for p in points], numeric=True)
        for u, need in needs.items()
    ]
    columns = (readers, *point_columns(points, ("read_gbps",)), *needed, *flag_columns(points))
    title = _supply_finding(record, points, needs, accelerator)
    table = Table("Supply and demand", columns)
    return Plot("supply", title, tuple(traces), layout, table, note=flag_note(points, mark=OPEN_MARKERS))


def sweep_plots(record: RunRecord) -> list[Plot]:
    """The device's rate and latency, once over block size and once over reads in flight, as far as each was swept."""
    supply = _replayed(record) if isinstance(record.workload.get("demand_gbps"), int | float) else []
    points = [p for p in points_of(record, "storage") if value_of(p, "read_gbps") is not None and p not in supply]
    drawn: list[Plot | None] = []
    for sweep in SWEEPS:
        mine = [point for point in points if _sweep_of(point, points) is sweep]
        if len({sweep.x(point) for point in mine}) > 1:
            drawn += [_rate_plot(mine, sweep), _latency_plot(mine, sweep)]
        elif mine:
            names = ("read_gbps", "read_iops", "latency_p50_us", "latency_p99_us")
            drawn.append(
                _bar_plot(f"rates-{sweep.name}", "Storage gives up to {}", mine, names, axis="read rate, GB/s")
            )
    return [plot for plot in drawn if plot]


def loader_plot(record: RunRecord) -> Plot | None:
    """What the loader hands over, for each way it was run."""
    points = [point for point in points_of(record, "load") if value_of(point, "images_per_s") is not None]
    if not points:
        return None
    names = ("images_per_s", "read_gbps", "data_wait_s", "data_stall_fraction", "cpu_seconds_per_gb", "peak_rss_bytes")
    several = any("road" in point.params for point in points)
    finding = "Loaders hand over up to {}" if several else "The loader hands over up to {}"
    return _bar_plot("loader", finding, points, names, axis="images per second")


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
    layout = chart("epochs done", f"time since the start, {scale.unit}")
    layout["xaxis"] |= _whole_numbers(epochs)
    layout["yaxis"] |= {"rangemode": "tozero"}
    crossing = next((e for e, d, s in zip(epochs, direct, staged, strict=True) if s < d), None)
    if crossing is not None:
        mark_place(layout, crossing, f"the copy pays from epoch {crossing:g}")
    columns = [text_column("epochs", [f"{epoch:g}" for epoch in epochs], numeric=True)]
    for name, (values, _, _) in roads.items():
        columns.append(text_column(f"{name}, s", [number(value) for value in values], numeric=True))
    table = Table("Time since the start", tuple(columns))
    return Plot("copy", str(case.get("sentence") or "Copy or not"), tuple(traces), layout, table)


def _bar_plot(name: str, finding: str, points: Sequence[Point], names: Sequence[str], *, axis: str) -> Plot:
    """One bar for each point, of the first of these metrics; the others stand in the table."""
    metric = names[0]
    words = [differing_label(point, points) for point in points]
    labels = distinct([label + " *" * bool(point.flags) for label, point in zip(words, points, strict=True)])
    trace = bars(metric_label(metric), points, labels, metric=metric, colour=SKY)
    trace |= {"error_x": error_bars([point.metrics[metric] for point in points]), "showlegend": False}
    best = max(points, key=lambda point: value_of(point, metric) or 0)
    title = f"{finding.format(quantity(best.metrics[metric]))}: {differing_label(best, points)}"
    table = Table("Points", (text_column("point", words), *point_columns(points, names), *flag_columns(points)))
    return Plot(name, title, (trace,), bar_chart(axis, len(points)), table, note=flag_note(points, mark=STARRED))


def _rate_plot(points: Sequence[Point], sweep: Sweep) -> Plot:
    best = max(points, key=lambda point: value_of(point, "read_gbps") or 0)
    title = f"{'Fastest: ' if len(points) > 1 else ''}{quantity(best.metrics['read_gbps'])}, {point_label(best)}"
    layout = _sweep_chart(points, sweep, "read rate, GB/s")
    layout["yaxis"] |= {"rangemode": "tozero"}
    traces = [
        line(label, group, x=sweep.x, metric="read_gbps", colour=colour, symbol=symbol)
        for (label, group), colour, symbol in _sweep_lines(points, sweep)
    ]
    note = flag_note(points, mark=OPEN_MARKERS)
    return Plot(f"rates-{sweep.name}", title, tuple(traces), layout, _sweep_table(points), note=note)


def _latency_plot(points: Sequence[Point], sweep: Sweep) -> Plot | None:
    points = [point for point in points if value_of(point, "latency_p99_us")]
    if not points:
        return None
    slow = max(points, key=lambda point: value_of(point, "latency_p99_us") or 0)
    title = f"One read in a hundred takes over {quantity(slow.metrics['latency_p99_us'])} with {point_label(slow)}"
    layout = _sweep_chart(points, sweep, "time per read, ms")
    shown = [value for point in points for name in LATENCIES if (value := value_of(point, name))]
    layout["yaxis"] |= logarithmic([value * 1e-3 for value in shown])
    traces = []
    for (label, group), colour, symbol in _sweep_lines(points, sweep):
        for metric, (word, dash) in LATENCIES.items():
            look: dict[str, Any] = {"colour": colour, "dash": dash, "symbol": symbol, "factor": 1e-3}
            traces.append(line(f"{label}, {word}", group, x=sweep.x, metric=metric, **look))
    note = flag_note(points, mark=OPEN_MARKERS)
    return Plot(f"latencies-{sweep.name}", title, tuple(traces), layout, _sweep_table(points), note=note)


def _sweep_of(point: Point, points: Sequence[Point]) -> Sweep:
    """What was swept for this point's kind of access: the parameter that took more values."""
    same = [other for other in points if other.params.get("access") == point.params.get("access")]
    return max(SWEEPS, key=lambda sweep: len({sweep.x(other) for other in same}))


def _sweep_lines(points: Sequence[Point], sweep: Sweep) -> Iterable[tuple[tuple[str, list[Point]], str, str]]:
    """One line for each combination of the parameters that were not swept, with a colour and a symbol."""
    groups: dict[str, list[Point]] = {}
    for point in sorted(points, key=sweep.x):
        groups.setdefault(sweep.rest(point), []).append(point)
    return zip(groups.items(), cycle(LINE_COLOURS), cycle(SYMBOLS), strict=False)


def _sweep_chart(points: Sequence[Point], sweep: Sweep, axis: str) -> dict[str, Any]:
    layout = chart(sweep.title, axis)
    places = sorted({sweep.x(point) for point in points})
    layout["xaxis"] |= {"type": "log", "tickvals": places, "ticktext": [sweep.tick(place) for place in places]}
    return layout


def _sweep_table(points: Sequence[Point]) -> Table:
    columns = point_columns(points, ("read_gbps", "read_iops", "latency_p50_us", "latency_p99_us"))
    return Table("Sweep", (_named(points), *columns, *flag_columns(points)))


def _step_finding(record: RunRecord, points: Sequence[Point], accelerator: str) -> str:
    """How long ranks that read directly wait: at the number that is fed, and at the most that ran."""
    fed = record.metrics.get("gpus_fed_measured")
    direct = [point for point in points if _source(point) == "direct"] or [points[-1]]
    chosen = [point for point in direct if fed is not None and _ranks(point) == fed.value]
    told = []
    for point in chosen if chosen == direct[-1:] else [*chosen, direct[-1]]:
        wait, step = value_of(point, "data_wait_s"), value_of(point, "step_time_s")
        if wait is not None and step:
            told.append(f"{percent(wait / step)} of a step with {counted(_ranks(point), 'rank')}")
    if not told:
        return f"Where a step's time goes ({accelerator})"
    reading = {"direct": "Read directly", "staged": "Read from the copy"}.get(_source(direct[-1]), _source(direct[-1]))
    return f"{reading}, waiting for data takes {' and '.join(told)} ({accelerator})"


def _fed_finding(record: RunRecord, accelerator: str) -> str:
    """Predicted against measured in one line."""
    predicted, measured = (record.metrics.get(f"gpus_fed_{name}") for name in ("predicted", "measured"))
    if measured is not None and measured.value is not None:
        told = "" if predicted is None or predicted.value is None else f", {fed_text(predicted)} predicted"
        return f"{fed_text(measured)} {accelerator} fed when measured{told}"
    if predicted is not None and predicted.value is not None:
        return f"{fed_text(predicted)} {accelerator} fed as predicted, not confirmed by a run"
    return f"Utilisation at each number of ranks ({accelerator})"


def _supply_finding(record: RunRecord, points: Sequence[Point], needs: Mapping[str, float], accelerator: str) -> str:
    predicted = record.metrics.get("gpus_fed_predicted")
    at = next((point for point in points if predicted and _readers(point) == predicted.value), points[-1])
    u, need = list(needs.items())[-1]
    return (
        f"{counted(_readers(at), 'reader')} get {quantity(at.metrics['read_gbps'])} from storage; "
        f"{_readers(at)} {accelerator} need {amount(need * _readers(at), 'GB/s')} for AU {u}"
    )


def _mark_prediction(layout: dict[str, Any], record: RunRecord) -> None:
    """Mark the predicted number and, where it differs, the measured one."""
    found = {name: record.metrics.get(f"gpus_fed_{name}") for name in ("predicted", "measured")}
    marks: dict[float, list[str]] = {}
    for name, metric in found.items():
        if metric is not None and metric.value:
            marks.setdefault(metric.value, []).append(f"{name} {fed_text(metric)}")
    for value, texts in marks.items():
        mark_place(layout, value, *texts)


def _trained(record: RunRecord) -> list[Point]:
    """The points that ran ranks, by number of ranks, the control first."""

    def order(point: Point) -> tuple[int, int]:
        return _ranks(point), SOURCES.index(_source(point)) if _source(point) in SOURCES else 0

    return sorted((point for stage in ("train", "infer", "scale") for point in points_of(record, stage)), key=order)


def _replayed(record: RunRecord) -> list[Point]:
    """Cold points in the loader's own access pattern, the fastest for each number of readers."""
    fastest: dict[int, Point] = {}
    for point in points_of(record, "storage"):
        replay = point.params.get("access") == "shard-replay" and point.params.get("page_cache") != "warm"
        rate = value_of(point, "read_gbps")
        if not replay or rate is None:
            continue
        other = fastest.get(_readers(point))
        if other is None or rate > (value_of(other, "read_gbps") or 0):
            fastest[_readers(point)] = point
    return [fastest[readers] for readers in sorted(fastest)]


def _about(record: RunRecord, point: Point) -> dict[str, Any]:
    """What is known of the accelerator: the point's own word before the workload's."""
    return {**record.workload, **{name: value for name, value in point.params.items() if value is not None}}


def _named(points: Sequence[Point]) -> Column:
    return text_column("point", [point_label(point) for point in points])


def _whole_numbers(values: Sequence[float]) -> dict[str, Any]:
    """An axis over these numbers, with a tick at each where there is room."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.5
    ticks = {"dtick": 1} if high - low <= 16 else {}
    return {"range": [low - margin * (low != 0), high + margin], **ticks}


def _source(point: Point) -> str:
    return str(point.params.get("source", "direct"))


def _ranks(point: Point) -> int:
    return _whole(point.params.get("num_ranks"))


def _readers(point: Point) -> int:
    """How many readers were at work: one stands for one accelerator."""
    return _whole(point.params.get("num_readers") or point.params.get("threads"))


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int | float) and value else 1


def _in_flight(point: Point) -> int:
    return _whole(point.params.get("threads")) * _whole(point.params.get("queue_depth"))


def _block(point: Point) -> int:
    return _whole(point.params.get("block_size_bytes"))


def _kind_of_reads(point: Point, rest: str) -> str:
    words = [str(point.params.get(name, "")) for name in ("access", "engine")]
    words += [rest, "warm" if point.params.get("page_cache") == "warm" else ""]
    return ", ".join(word for word in words if word)


SWEEPS = (
    Sweep(
        name="size",
        title="block size",
        x=_block,
        tick=binary_size,
        rest=lambda point: _kind_of_reads(point, f"{_in_flight(point)} in flight"),
    ),
    Sweep(
        name="depth",
        title="reads in flight (threads × queue depth)",
        x=_in_flight,
        tick=str,
        rest=lambda point: _kind_of_reads(point, binary_size(_block(point))),
    ),
)
