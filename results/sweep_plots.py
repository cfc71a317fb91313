"""Pictures of a device: its rate and its latency over what was swept, knee and demand marked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

from .bar_plots import bar_plot
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
from .fed_plots import replayed
from .quantities import amount, binary_size, quantity, sentences
from .tables import MOST_ROWS, Table, flag_columns, named_column, out_of, point_columns, thinned
from .wording import accelerator_name, point_label, points_of, whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .record import Point, RunRecord

LATENCIES = {"latency_p50_us": ("median", "dot"), "latency_p99_us": ("99th percentile", "solid")}


@dataclass(frozen=True)
class Sweep:
    """A parameter of a device sweep: its place on the axis, its ticks, and the words for all the others."""

    name: str
    title: str
    x: Callable[[Point], int]
    tick: Callable[[int], str]
    rest: Callable[[Point], str]


def sweep_plots(record: RunRecord) -> list[Plot]:
    """The device's rate and latency, once over block size and once over reads in flight, as far as each was swept."""
    supply = replayed(record) if isinstance(record.workload.get("demand_gbps"), int | float) else []
    points = [p for p in points_of(record, "storage") if value_of(p, "read_gbps") is not None and p not in supply]
    drawn, swept = list[Plot | None](), _sweeps_of(points)
    for sweep in SWEEPS:
        mine = [point for point in points if swept[point.params.get("access")] is sweep]
        if len({sweep.x(point) for point in mine}) > 1:
            drawn += [_rate_plot(record, mine, sweep), _latency_plot(mine, sweep)]
        elif mine:
            names = ("read_gbps", "read_iops", "latency_p50_us", "latency_p99_us")
            drawn.append(bar_plot(f"rates-{sweep.name}", "Storage gives up to {}", mine, names, axis="read rate, GB/s"))
    return [plot for plot in drawn if plot]


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
        write_at(layout, sweep.x(knee), value_of(knee, "read_gbps") or 0, "knee")
        title = f"{title}; the knee is at {point_label(knee)}"
    note = sentences(flag_note(points, mark="Open markers are"), keep_in_view(layout, traces, axis="y"))
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
    note = flag_note(points, mark="Open markers are")
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
    return Table("Sweep", (named_column(shown), *columns, *flag_columns(shown)), left_out=out_of(points, shown))


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
