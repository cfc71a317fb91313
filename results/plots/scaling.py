"""Pictures of grids: how throughput grows with the ranks, of one system or of several in the same axes.

throughput       images/s over ranks, beside the linear line through the smallest cell
efficiency       the same as a share of the linear line
stall            nodes down, accelerators of a node across, one map a source
bandwidth        what the storage gave each cell
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

from ..labels import point_label
from ..quantities import percent, quantity, sentences
from ..tables import MOST_ROWS, Table, flag_columns, out_of, point_columns, text_column, thinned
from ..wording import about, accelerator_name, doubts, points_of, ranks_of, source_of, whole
from .drawing import (
    GREY,
    LINE_COLOURS,
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
    mark_height,
    value_of,
    whole_numbers,
)
from .heat_map import heat_map

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..record import Point, RunRecord

COLUMNS = (
    "images_per_s",
    "images_per_s_predicted",
    "scaling_efficiency",
    "of_synthetic",
    "data_stall_fraction",
    "read_gbps",
)
STALLED = 0.1  # of the time waiting for data: drawn in full colour even where no cell waits longer
OPEN_MARKERS = "Open markers are"


@dataclass(frozen=True)
class Cell:
    """One cell of a grid, and the system it ran on; the system is empty where there is only one."""

    system: str
    about: dict[str, Any]
    point: Point

    @property
    def series(self) -> str:
        """The line this cell is on: system, workload where there are several, and source."""
        return ", ".join(word for word in (self.system, source_of(self.point)) if word)


def scaling_plots(records: Sequence[RunRecord]) -> list[Plot]:
    """The pictures of all grid cells of these records; several records are told apart as systems."""
    cells = _cells(records)
    workloads = list(dict.fromkeys(str(cell.point.params.get("workload", "")) for cell in cells))
    drawn: list[Plot | None] = []
    for place, workload in enumerate(workloads):
        mine = [cell for cell in cells if str(cell.point.params.get("workload", "")) == workload]
        drawn += [draw(mine, f"-{place}" if place else "") for draw in (_throughput, _efficiency, _stalls, _bandwidth)]
    return [plot for plot in drawn if plot]


def system_names(records: Sequence[RunRecord]) -> list[str]:
    """What tells these runs apart: the host, or the run's name where hosts repeat; nothing for a single run."""
    if len(records) == 1:
        return [""]
    hosts = [str(record.environment.get("host") or "") for record in records]
    return hosts if len(set(hosts)) == len(hosts) and all(hosts) else [record.run_id for record in records]


def _cells(records: Sequence[RunRecord]) -> list[Cell]:
    gridded = [record for record in records if points_of(record, "scale")]
    found = [
        Cell(system, about(record, point), point)
        for system, record in zip(system_names(gridded) if gridded else [], gridded, strict=True)
        for point in points_of(record, "scale")
        if value_of(point, "images_per_s") is not None
    ]
    return sorted(found, key=lambda cell: (ranks_of(cell.point), whole(cell.point.params.get("nodes"))))


def _throughput(cells: Sequence[Cell], suffix: str) -> Plot | None:
    if len({ranks_of(cell.point) for cell in cells}) < 2:
        return None
    traces: list[dict[str, Any]] = []
    for system in dict.fromkeys(cell.system for cell in cells):
        base = _base([cell for cell in cells if cell.system == system])
        rate, most = value_of(base, "images_per_s") or 0, max(ranks_of(cell.point) for cell in cells)
        sizes = [ranks_of(base), most]
        name = ", ".join(word for word in (system, "linear") if word)
        traces.append(curve(name, sizes, [rate * size / sizes[0] for size in sizes], colour=GREY, dash="dash"))
    traces += _lines(cells, "images_per_s")
    layout = chart(_ranks_axis(cells), "images per second")
    layout["xaxis"] |= whole_numbers([ranks_of(cell.point) for cell in cells])
    layout["yaxis"] |= {"rangemode": "tozero"}
    reading = [cell for cell in cells if source_of(cell.point) != "synthetic"] or cells
    best = max(reading, key=lambda cell: value_of(cell.point, "images_per_s") or 0)
    share = value_of(best.point, "scaling_efficiency")
    told = "" if share is None else f", {percent(share)} of the linear line"
    title = f"{quantity(best.point.metrics['images_per_s'])} with {_named(best)}{told}"
    note = sentences(_note(cells), keep_in_view(layout, traces, axis="y"))
    return Plot(f"throughput{suffix}", title, tuple(traces), layout, _table(cells), note=note)


def _efficiency(cells: Sequence[Cell], suffix: str) -> Plot | None:
    cells = [cell for cell in cells if value_of(cell.point, "scaling_efficiency") is not None]
    if len({ranks_of(cell.point) for cell in cells}) < 2:
        return None
    layout = chart(_ranks_axis(cells), "share of the linear line", height=230)
    layout["xaxis"] |= whole_numbers([ranks_of(cell.point) for cell in cells])
    layout["yaxis"] |= {"rangemode": "tozero", "tickformat": ".0%"}
    mark_height(layout, 1.0, "linear")
    worst = min(cells, key=lambda cell: value_of(cell.point, "scaling_efficiency") or 0)
    share = value_of(worst.point, "scaling_efficiency") or 0
    title = f"The least efficient cell keeps {percent(share)} of the linear line: {_named(worst)}"
    traces = tuple(_lines(cells, "scaling_efficiency"))
    note = sentences(_note(cells), keep_in_view(layout, traces, axis="y"))
    return Plot(f"efficiency{suffix}", title, traces, layout, _table(cells), note=note)


def _stalls(cells: Sequence[Cell], suffix: str) -> Plot | None:
    """A heat map: one row a source and number of nodes, one column a number of accelerators on each."""
    cells = [cell for cell in cells if value_of(cell.point, "data_stall_fraction") is not None]
    cells = [cell for cell in cells if source_of(cell.point) != "synthetic" and "nodes" in cell.point.params]
    if not cells:
        return None
    across = sorted({whole(cell.point.params.get("gpus_per_node")) for cell in cells})
    rows = list(dict.fromkeys(_row(cell) for cell in sorted(cells, key=lambda cell: cell.series)))
    found = {(_row(cell), whole(cell.point.params.get("gpus_per_node"))): cell for cell in cells}
    values = [[_stall(found.get((row, column))) for column in across] for row in rows]
    accelerator = accelerator_name(cells[0].about)
    traces, layout = heat_map(
        [f"{column:g}" for column in across],
        distinct(rows),
        [[None if value is None else value * 100 for value in line_] for line_ in values],
        x=f"ranks on each node, one per {accelerator}{_simulated(cells)}",
        unit="%",
        full=STALLED * 100,
    )
    worst = max(cells, key=lambda cell: value_of(cell.point, "data_stall_fraction") or 0)
    stall = value_of(worst.point, "data_stall_fraction") or 0
    title = f"Waiting for data takes {percent(stall)} of the time at most: {_named(worst)}"
    return Plot(
        f"stalls{suffix}", title, tuple(traces), layout, _table(cells), note=_note(cells, mark="Some cells are")
    )


def _bandwidth(cells: Sequence[Cell], suffix: str) -> Plot | None:
    cells = [cell for cell in cells if value_of(cell.point, "read_gbps") is not None]
    if not cells:
        return None
    shown = thinned(cells, 48)
    labels = distinct([_named(cell) + " *" * bool(doubts(cell.point)) for cell in shown])
    points = [cell.point for cell in shown]
    trace = bars("read rate", points, labels, metric="read_gbps", colour=SKY, factor=1e3)
    trace |= {"error_x": error_bars([point.metrics["read_gbps"] for point in points], factor=1e3), "showlegend": False}
    axis = f"read rate of all ranks, MB/s, {accelerator_name(cells[0].about)}{_simulated(cells)}"
    layout = bar_chart(axis, len(shown))
    best = max(cells, key=lambda cell: value_of(cell.point, "read_gbps") or 0)
    title = f"The storage gave up to {quantity(best.point.metrics['read_gbps'])}: {_named(best)}"
    note = sentences(_note(cells, mark="* is"), keep_in_view(layout, [trace], axis="x"))
    return Plot(f"bandwidth{suffix}", title, (trace,), layout, _table(cells), note=note)


def _lines(cells: Sequence[Cell], metric: str) -> list[dict[str, Any]]:
    names = list(dict.fromkeys(cell.series for cell in cells))
    looks = zip(names, cycle(LINE_COLOURS), cycle(SYMBOLS), strict=False)
    return [
        line(
            name,
            [cell.point for cell in cells if cell.series == name],
            x=ranks_of,
            metric=metric,
            colour=colour,
            symbol=symbol,
        )
        for name, colour, symbol in looks
    ]


def _base(cells: Sequence[Cell]) -> Point:
    """The cell that the linear line goes through: the fewest ranks, computing on what is there already."""
    fewest = min(ranks_of(cell.point) for cell in cells)
    first = [cell.point for cell in cells if ranks_of(cell.point) == fewest]
    return next((point for point in first if source_of(point) == "synthetic"), first[0])


def _table(cells: Sequence[Cell]) -> Table:
    shown = thinned(cells, MOST_ROWS)
    points = [cell.point for cell in shown]
    systems = [text_column("system", [cell.system for cell in shown])] if any(cell.system for cell in shown) else []
    named = text_column("nodes × ranks, source", [point_label(point) for point in points])
    ranks = text_column("ranks", [str(ranks_of(point)) for point in points], numeric=True)
    columns = (*systems, named, ranks, *point_columns(points, COLUMNS), *flag_columns(points))
    return Table("Cells of the grid", columns, left_out=out_of(cells, shown))


def _named(cell: Cell) -> str:
    return ", ".join(word for word in (cell.system, point_label(cell.point)) if word)


def _row(cell: Cell) -> str:
    nodes = whole(cell.point.params.get("nodes"))
    return f"{cell.series}, {nodes} node{'s' if nodes != 1 else ''}"


def _stall(cell: Cell | None) -> float | None:
    return None if cell is None else value_of(cell.point, "data_stall_fraction")


def _ranks_axis(cells: Sequence[Cell]) -> str:
    names = " or ".join(dict.fromkeys(accelerator_name(cell.about) for cell in cells))
    return f"ranks, one per {names}{_simulated(cells)}"


def _simulated(cells: Sequence[Cell]) -> str:
    """Told in the picture itself: nodes that are processes of one machine."""
    return ", nodes simulated on one machine" if any(cell.about.get("nodes_simulated") for cell in cells) else ""


def _note(cells: Sequence[Cell], *, mark: str = OPEN_MARKERS) -> str:
    return flag_note([cell.point for cell in cells], mark=mark)
