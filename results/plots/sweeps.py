"""Pictures of a device: its rate and its latency over what was swept, knee and demand marked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

from ..labels import point_label
from ..quantities import amount, binary_size, quantity, sentences
from ..tables import MOST_ROWS, Table, flag_columns, named_column, out_of, point_columns, thinned
from ..wording import accelerator_name, points_of, whole
from .drawing import (
    LINE_COLOURS,
    MOST_LINES,
    SYMBOLS,
    Plot,
    chart,
    flag_note,
    keep_in_view,
    line,
    logarithmic,
    mark_height,
    value_of,
    write_at,
)
from .fed import replayed
from .loaders import bar_plot

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..record import Point, RunRecord

MOST_FED = 10_000  # more accelerators than that are a mistake in the demand
OPERATIONS = ("read", "write")
PREFIXES = {"read": "", "write": "write-"}  # of a picture's name
LATENCIES = {"latency_p99_us": "solid", "latency_p50_us": "dot"}


@dataclass(frozen=True)
class Sweep:
    """A parameter of a device sweep: its place on the axis, its ticks, and the words for all the others."""

    name: str
    title: str
    x: Callable[[Point], int]
    tick: Callable[[int], str]
    rest: Callable[[Point], str]


def sweep_plots(record: RunRecord) -> list[Plot]:
    """Rate and latency of reads and of writes, over block size or operations in flight, as far as they were swept."""
    supply = replayed(record) if isinstance(record.workload.get("demand_gbps"), int | float) else []
    points = [point for point in points_of(record, "storage") if point not in supply]
    drawn = list[Plot | None]()
    for operation in OPERATIONS:
        done = [point for point in points if value_of(point, f"{operation}_gbps") is not None]
        swept = _sweeps_of(done)
        for sweep in SWEEPS:
            mine = [point for point in done if swept[point.params.get("access")] is sweep]
            if len({sweep.x(point) for point in mine}) > 1:
                drawn += [_rate_plot(record, mine, sweep, operation), _latency_plot(mine, sweep, operation)]
            elif mine:
                drawn.append(_unswept_plot(mine, sweep, operation))
    return [plot for plot in drawn if plot]


def _unswept_plot(points: Sequence[Point], sweep: Sweep, operation: str) -> Plot:
    finding = "Storage gives up to" if operation == "read" else "Storage takes up to"
    name, axis = f"{PREFIXES[operation]}rates-{sweep.name}", f"{operation} rate, GB/s"
    return bar_plot(name, finding, points, _metrics_of(operation), axis=axis)


def _rate_plot(record: RunRecord, points: Sequence[Point], sweep: Sweep, operation: str) -> Plot:
    metric = f"{operation}_gbps"
    best = max(points, key=lambda point: value_of(point, metric) or 0)
    fastest = {"read": "Fastest: ", "write": "Fastest write: "}[operation]
    title = f"{fastest if len(points) > 1 else ''}{quantity(best.metrics[metric])}, {point_label(best)}"
    layout = _sweep_chart(points, sweep, f"{operation} rate, GB/s")
    layout["yaxis"] |= {"rangemode": "tozero"}
    traces = [
        line(label, group, x=sweep.x, metric=metric, colour=colour, symbol=symbol)
        for (label, group), colour, symbol in _sweep_lines(points, sweep, metric)
    ]
    for knee in (point for point in points if "knee" in point.flags):
        write_at(layout, sweep.x(knee), value_of(knee, metric) or 0, "knee")
        title = f"{title}; the knee is at {point_label(knee)}"
    note = sentences(flag_note(points, mark="Open markers are"), keep_in_view(layout, traces, axis="y"))
    if operation == "read":
        _mark_demand(layout, record, [value_of(point, metric) or 0 for point in points])
    table = _sweep_table(points, operation)
    return Plot(f"{PREFIXES[operation]}rates-{sweep.name}", title, tuple(traces), layout, table, note=note)


def _mark_demand(layout: dict[str, Any], record: RunRecord, rates: Sequence[float]) -> None:
    """Lines at what as many accelerators need as the best rate feeds, and at what one more would need."""
    demand, threshold = record.workload.get("demand_gbps"), record.workload.get("au_threshold") or 1.0
    if not isinstance(demand, int | float) or demand <= 0 or not isinstance(threshold, int | float):
        return
    need, accelerator = demand * threshold, accelerator_name(record.workload)
    if need <= 0 or max(rates) > MOST_FED * need:
        return
    fed = int(max(rates) / need)
    if need * (fed + 1) > 4 * max(rates):  # one accelerator alone is far above the picture
        return
    for count in (fed, fed + 1)[not fed :]:
        mark_height(layout, need * count, f"{count} {accelerator}: {amount(need * count, 'GB/s')}")
    layout["yaxis"] |= {"range": [0, 1.08 * max(need * (fed + 1), *rates)]}


def _latency_plot(points: Sequence[Point], sweep: Sweep, operation: str) -> Plot | None:
    points = [point for point in points if value_of(point, "latency_p99_us")]
    if not points:
        return None
    slow = max(points, key=lambda point: value_of(point, "latency_p99_us") or 0)
    tail = quantity(slow.metrics["latency_p99_us"])
    title = f"One {operation} in a hundred takes over {tail} with {point_label(slow)}"
    layout = _sweep_chart(points, sweep, f"time per {operation}, ms (solid: 99th percentile, dotted: median)")
    shown = [value for point in points for name in LATENCIES if (value := value_of(point, name))]
    layout["yaxis"] |= logarithmic([value * 1e-3 for value in shown])
    traces = []
    for (label, group), colour, symbol in _sweep_lines(points, sweep, f"{operation}_gbps"):
        for metric, dash in LATENCIES.items():
            look: dict[str, Any] = {"colour": colour, "dash": dash, "symbol": symbol, "factor": 1e-3}
            traces.append(line(label, group, x=sweep.x, metric=metric, **look) | {"showlegend": dash == "solid"})
    note, table = flag_note(points, mark="Open markers are"), _sweep_table(points, operation)
    return Plot(f"{PREFIXES[operation]}latencies-{sweep.name}", title, tuple(traces), layout, table, note=note)


def _sweeps_of(points: Sequence[Point]) -> dict[object, Sweep]:
    """What was swept for each kind of access: the parameter that took more values."""
    kinds: dict[object, list[Point]] = {}
    for point in points:
        kinds.setdefault(point.params.get("access"), []).append(point)
    return {
        kind: max(SWEEPS, key=lambda sweep: len({sweep.x(point) for point in same})) for kind, same in kinds.items()
    }


def _sweep_lines(
    points: Sequence[Point], sweep: Sweep, metric: str
) -> Iterable[tuple[tuple[str, list[Point]], str, str]]:
    """One line for each combination of the parameters that were not swept, with a colour and a symbol."""
    groups: dict[str, list[Point]] = {}
    for point in sorted(points, key=sweep.x):
        groups.setdefault(sweep.rest(point), []).append(point)
    fastest = sorted(groups, key=lambda name: max(value_of(p, metric) or 0 for p in groups[name]), reverse=True)
    groups = {name: group for name, group in groups.items() if name in fastest[:MOST_LINES]}
    return zip(groups.items(), cycle(LINE_COLOURS), cycle(SYMBOLS), strict=False)


def _sweep_chart(points: Sequence[Point], sweep: Sweep, axis: str) -> dict[str, Any]:
    layout = chart(sweep.title, axis)
    places = sorted({sweep.x(point) for point in points})
    layout["xaxis"] |= {"type": "log", "tickvals": places, "ticktext": [sweep.tick(place) for place in places]}
    return layout


def _metrics_of(operation: str) -> tuple[str, ...]:
    return (f"{operation}_gbps", f"{operation}_iops", "latency_p50_us", "latency_p99_us")


def _sweep_table(points: Sequence[Point], operation: str) -> Table:
    shown = thinned(points, MOST_ROWS)
    columns = point_columns(shown, _metrics_of(operation))
    return Table("Sweep", (named_column(shown), *columns, *flag_columns(shown)), left_out=out_of(points, shown))


def _in_flight(point: Point) -> int:
    return whole(point.params.get("threads")) * whole(point.params.get("queue_depth"))


def _block(point: Point) -> int:
    return whole(point.params.get("block_size_bytes"))


def _kind_of_reads(point: Point, rest: str) -> str:
    words = [str(point.params.get(name, "")) for name in ("access", "engine")]
    words += ["into the GPU" if point.params.get("destination") == "gpu" else ""]
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
