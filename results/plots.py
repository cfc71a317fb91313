"""A record's pictures: one function a picture, None where its data are missing.

A title states the finding; an emulated accelerator and a scaled step time say so in titles and axes.  Every picture
has the table of its figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

from .drawing import (
    BLUE,
    GREEN,
    GREY,
    LINE_COLOURS,
    MOST_BARS,
    MOST_LINES,
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
    keep_in_view,
    line,
    logarithmic,
    mark_height,
    mark_place,
    value_of,
    whole_numbers,
    write_at,
    write_beside,
)
from .limit_plots import energy_plot, percentile_plot, roofline_plot
from .quantities import amount, binary_size, counted, number, percent, quantity, scale_for, sentences
from .scaling_plots import scaling_plots
from .step_plots import hop_plot, rank_plot
from .tables import MOST_ROWS, Column, Table, flag_columns, out_of, point_columns, text_column, thinned
from .wording import (
    SOURCES,
    about,
    accelerator_name,
    differing_label,
    doubts,
    fed_text,
    metric_label,
    point_label,
    points_of,
    ranks_of,
    source_of,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .record import Point, RunRecord

PARTS = {
    "compute_s": ("compute", SKY),
    "forward_backward_s": ("forward and backward", SKY),
    "optimizer_s": ("optimiser", GREEN),
    "data_wait_s": ("data wait", RED),
    "sync_wait_s": ("sync wait", PURPLE),
    "exposed_allreduce_s": ("exposed allreduce", PURPLE),
    "communication_s": ("communication", PURPLE),
    "straggler_wait_s": ("wait for the last rank", ORANGE),
    "overhead_s": ("overhead", GREY),
}
FINER = {  # a part that is drawn as these where every point has all of them, so that nothing is counted twice
    "sync_wait_s": ("communication_s", "straggler_wait_s"),
    "compute_s": ("forward_backward_s",),
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
    alone = (draw(record) for draw in (step_plot, hop_plot, utilisation_plot, supply_plot, loader_plot, copy_plot))
    rest = (draw(record) for draw in (rank_plot, percentile_plot, roofline_plot, energy_plot))
    drawn = [*alone, *sweep_plots(record), *scaling_plots([record]), *rest]
    return [plot for plot in drawn if plot]


def step_plot(record: RunRecord) -> Plot | None:
    """Where a step's time goes: one bar for each source and number of ranks, its parts stacked."""
    found = [point for point in _trained(record) if any(value_of(point, part) is not None for part in PARTS)]
    if not found:
        return None
    points, parts = thinned(found, MOST_BARS), _parts_of(found)
    accelerator = accelerator_name(about(record, points[0]))
    labels = distinct([point_label(point) + " *" * bool(doubts(point)) for point in points])
    traces = [
        bars(name, points, labels, metric=part, colour=colour, factor=1e3) for part, (name, colour) in parts.items()
    ]
    layout = bar_chart(f"ms per step, {accelerator}", len(points))
    used = [point.metrics.get("au_mlperf") for point in points]
    words = ["" if au is None or au.value is None else f"AU {au.value:.2f}" for au in used]
    write_beside(layout, labels, [sum(value_of(point, part) or 0 for part in parts) * 1e3 for point in points], words)
    columns = point_columns(points, ("step_time_s", *PARTS, "data_stall_fraction", "images_per_s", "au_mlperf"))
    columns = [_named(points), *columns, *flag_columns(points)]
    table = Table("Parts of a step, mean over ranks", tuple(columns), left_out=out_of(found, points))
    title = _step_finding(record, found, accelerator)
    return Plot("steps", title, tuple(traces), layout, table, note=flag_note(points, mark=STARRED))


def utilisation_plot(record: RunRecord) -> Plot | None:
    """Predicted against measured: utilisation at every number of ranks that ran, beside its threshold."""
    points = [p for p in _trained(record) if value_of(p, "au_mlperf") is not None and "num_ranks" in p.params]
    if not points:
        return None
    traces = []
    for source in dict.fromkeys(source_of(point) for point in points):
        colour, symbol = SOURCE_LOOKS.get(source, (GREY, "cross"))
        mine = [point for point in points if source_of(point) == source]
        traces.append(line(source, mine, x=ranks_of, metric="au_mlperf", colour=colour, symbol=symbol))
    accelerator = accelerator_name(about(record, points[0]))
    layout = chart(f"ranks, one per {accelerator}", "AU (compute time / wall time)")
    layout["xaxis"] |= whole_numbers([ranks_of(point) for point in points])
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
        name = f"needed for AU {u}"
        traces.append(curve(name, reach, [need * readers for readers in reach], colour=RED, dash=dash))
    layout = chart(f"readers, one per {accelerator}", "read rate, GB/s")
    layout["xaxis"] |= whole_numbers(reach)
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
    drawn, swept = list[Plot | None](), _sweeps_of(points)
    for sweep in SWEEPS:
        mine = [point for point in points if swept[point.params.get("access")] is sweep]
        if len({sweep.x(point) for point in mine}) > 1:
            drawn += [_rate_plot(record, mine, sweep), _latency_plot(mine, sweep)]
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


def _bar_plot(name: str, finding: str, points: Sequence[Point], names: Sequence[str], *, axis: str) -> Plot:
    """One bar for each point, of the first of these metrics; the others stand in the table."""
    metric = names[0]
    shown, found = thinned(points, MOST_BARS), len(points)
    words = [differing_label(point, points) for point in shown]
    labels = distinct([label + " *" * bool(doubts(point)) for label, point in zip(words, shown, strict=True)])
    trace = bars(metric_label(metric), shown, labels, metric=metric, colour=SKY)
    trace |= {"error_x": error_bars([point.metrics[metric] for point in shown]), "showlegend": False}
    best = max(points, key=lambda point: value_of(point, metric) or 0)
    title = f"{finding.format(quantity(best.metrics[metric]))}: {differing_label(best, points)}"
    columns = (text_column("point", words), *point_columns(shown, names), *flag_columns(shown))
    table = Table("Points", columns, left_out=found - len(shown))
    layout = bar_chart(axis, len(shown))
    note = sentences(flag_note(shown, mark=STARRED), keep_in_view(layout, [trace], axis="x"))
    return Plot(name, title, (trace,), layout, table, note=note)


def _rate_plot(record: RunRecord, points: Sequence[Point], sweep: Sweep) -> Plot:
    best = max(points, key=lambda point: value_of(point, "read_gbps") or 0)
    title = f"{'Fastest: ' if len(points) > 1 else ''}{quantity(best.metrics['read_gbps'])}, {point_label(best)}"
    layout = _sweep_chart(points, sweep, "read rate, GB/s")
    layout["yaxis"] |= {"rangemode": "tozero"}
    traces = [
        line(label, group, x=sweep.x, metric="read_gbps", colour=colour, symbol=symbol)
        for (label, group), colour, symbol in _sweep_lines(points, sweep)
    ]
    for knee in (point for point in points if "knee" in point.flags):
        write_at(layout, math.log10(sweep.x(knee)), value_of(knee, "read_gbps") or 0, "knee")
        title = f"{title}; the knee is at {point_label(knee)}"
    note = sentences(flag_note(points, mark=OPEN_MARKERS), keep_in_view(layout, traces, axis="y"))
    _mark_demand(layout, record, [value_of(point, "read_gbps") or 0 for point in points])
    return Plot(f"rates-{sweep.name}", title, tuple(traces), layout, _sweep_table(points), note=note)


def _mark_demand(layout: dict[str, Any], record: RunRecord, rates: Sequence[float]) -> None:
    """Lines at what as many accelerators need as the best rate feeds, and at what one more would need."""
    demand, threshold = record.workload.get("demand_gbps"), record.workload.get("au_threshold") or 1.0
    if not isinstance(demand, int | float) or demand <= 0 or not isinstance(threshold, int | float):
        return
    need, accelerator = demand * threshold, accelerator_name(record.workload)
    fed = int(max(rates) / need)
    if need * (fed + 1) > 4 * max(rates):  # one accelerator alone is far above the picture
        return
    for count in (fed, fed + 1)[not fed :]:
        mark_height(layout, need * count, f"{count} {accelerator}: {amount(need * count, 'GB/s')}")
    layout["yaxis"] |= {"range": [0, 1.08 * max(need * (fed + 1), *rates)]}


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


def _sweeps_of(points: Sequence[Point]) -> dict[object, Sweep]:
    """What was swept for each kind of access: the parameter that took more values."""
    kinds: dict[object, list[Point]] = {}
    for point in points:
        kinds.setdefault(point.params.get("access"), []).append(point)
    return {
        kind: max(SWEEPS, key=lambda sweep: len({sweep.x(point) for point in same})) for kind, same in kinds.items()
    }


def _sweep_lines(points: Sequence[Point], sweep: Sweep) -> Iterable[tuple[tuple[str, list[Point]], str, str]]:
    """One line for each combination of the parameters that were not swept, with a colour and a symbol."""
    groups: dict[str, list[Point]] = {}
    for point in sorted(points, key=sweep.x):
        groups.setdefault(sweep.rest(point), []).append(point)
    fastest = sorted(groups, key=lambda name: max(value_of(p, "read_gbps") or 0 for p in groups[name]), reverse=True)
    groups = {name: group for name, group in groups.items() if name in fastest[:MOST_LINES]}
    return zip(groups.items(), cycle(LINE_COLOURS), cycle(SYMBOLS), strict=False)


def _sweep_chart(points: Sequence[Point], sweep: Sweep, axis: str) -> dict[str, Any]:
    layout = chart(sweep.title, axis)
    places = sorted({sweep.x(point) for point in points})
    layout["xaxis"] |= {"type": "log", "tickvals": places, "ticktext": [sweep.tick(place) for place in places]}
    return layout


def _sweep_table(points: Sequence[Point]) -> Table:
    shown = thinned(points, MOST_ROWS)
    columns = point_columns(shown, ("read_gbps", "read_iops", "latency_p50_us", "latency_p99_us"))
    return Table("Sweep", (_named(shown), *columns, *flag_columns(shown)), left_out=out_of(points, shown))


def _parts_of(points: Sequence[Point]) -> dict[str, tuple[str, str]]:
    """The parts to stack: the finer ones where every point has them, and nothing twice."""
    has = {part: all(value_of(point, part) is not None for point in points) for part in PARTS}
    left = set()
    for coarse, finer in FINER.items():
        whole_part = any(value_of(point, coarse) is not None for point in points)
        left |= {coarse} if whole_part and all(has[part] for part in finer) else set(finer) if whole_part else set()
    measured = {part for part in PARTS if any(part in point.metrics for point in points)}
    return {part: look for part, look in PARTS.items() if part in measured - left}


def _step_finding(record: RunRecord, points: Sequence[Point], accelerator: str) -> str:
    """How long ranks that read directly wait: at the number that is fed, and at the most that ran."""
    fed = record.metrics.get("gpus_fed_measured")
    direct = [point for point in points if source_of(point) == "direct"] or [points[-1]]
    chosen = [point for point in direct if fed is not None and ranks_of(point) == fed.value]
    told = []
    for point in chosen if chosen == direct[-1:] else [*chosen, direct[-1]]:
        wait, step = value_of(point, "data_wait_s"), value_of(point, "step_time_s")
        if wait is not None and step:
            told.append(f"{percent(wait / step)} of a step with {counted(ranks_of(point), 'rank')}")
    if not told:
        return f"Where a step's time goes ({accelerator})"
    source = source_of(direct[-1])
    reading = {"direct": "Read directly", "staged": "Read from the copy"}.get(source, source)
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
        return ranks_of(point), SOURCES.index(source_of(point)) if source_of(point) in SOURCES else 0

    ran = (point for stage in ("train", "real", "infer", "scale") for point in points_of(record, stage))
    return sorted(ran, key=order)


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


def _named(points: Sequence[Point]) -> Column:
    return text_column("point", [point_label(point) for point in points])


def _readers(point: Point) -> int:
    """How many readers were at work: one stands for one accelerator."""
    return whole(point.params.get("num_readers") or point.params.get("threads"))


def _in_flight(point: Point) -> int:
    return whole(point.params.get("threads")) * whole(point.params.get("queue_depth"))


def _block(point: Point) -> int:
    return whole(point.params.get("block_size_bytes"))


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
