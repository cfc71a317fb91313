"""Pictures of accelerators fed: what was predicted from the storage's rate, and what ranks then measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..quantities import amount, counted, quantity
from ..tables import Table, flag_columns, named_column, point_columns, text_column
from ..wording import about, accelerator_name, fed_text, points_of, ranks_of, scaled_words, source_of, trained, whole
from .drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    Plot,
    chart,
    curve,
    flag_note,
    line,
    mark_height,
    mark_place,
    value_of,
    whole_numbers,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..record import Point, RunRecord

SOURCE_LOOKS = {
    "direct": (BLUE, "circle"),
    "staged": (GREEN, "square"),
    "synthetic": (ORANGE, "diamond"),
    "warm": (PURPLE, "triangle-up"),
    "host": (SKY, "cross"),
}


def utilisation_plot(record: RunRecord) -> Plot | None:
    """Predicted against measured: utilisation at every number of ranks that ran, beside its threshold.

    One number of ranks alone is no picture where nothing was predicted: the picture of steps has its utilisation.
    """
    points = [p for p in trained(record) if value_of(p, "au_mlperf") is not None and "num_ranks" in p.params]
    found = (record.metrics.get(f"gpus_fed_{how}") for how in ("predicted", "measured"))
    asked = any(metric is not None and metric.value is not None for metric in found)
    if not points or (len({ranks_of(point) for point in points}) < 2 and not asked):
        return None
    traces = []
    for source in dict.fromkeys(source_of(point) for point in points):
        colour, symbol = SOURCE_LOOKS.get(source, (GREY, "cross"))
        mine = [point for point in points if source_of(point) == source]
        traces.append(line(source, mine, x=ranks_of, metric="au_mlperf", colour=colour, symbol=symbol))
    accelerator = accelerator_name(about(record, points[0]))
    layout = chart(f"ranks, one per {accelerator}{scaled_words(record)}", "AU (compute time / wall time)")
    layout["xaxis"] |= whole_numbers([ranks_of(point) for point in points])
    _mark_prediction(layout, record)
    threshold = record.workload.get("au_threshold")
    if isinstance(threshold, int | float):
        mark_height(layout, threshold, f"threshold {threshold:.2f}")
    columns = point_columns(points, ("au_mlperf", "au_predicted", "au_dlio", "data_stall_fraction", "images_per_s"))
    table = Table("Utilisation", (named_column(points), *columns, *flag_columns(points)))
    title = _fed_finding(record, accelerator)
    return Plot("utilisation", title, tuple(traces), layout, table, note=flag_note(points, mark="Open markers are"))


def supply_plot(record: RunRecord) -> Plot | None:
    """What the storage gives to N readers, against what N accelerators need."""
    points, demand = replayed(record), record.workload.get("demand_gbps")
    if not points or not isinstance(demand, int | float):
        return None
    accelerator, asked = accelerator_name(record.workload), record.workload.get("au_threshold")
    threshold = float(asked) if isinstance(asked, int | float) and asked else 1.0
    reach = [0, max(_readers(point) for point in points)]
    needs = {f"{u:.2f}": u * demand for u in (1.0, threshold)}
    traces = [line("storage gives, cold", points, x=_readers, metric="read_gbps", colour=BLUE)]
    for (u, need), dash in zip(needs.items(), ("solid", "dash"), strict=False):
        name = f"needed for AU {u}"
        traces.append(curve(name, reach, [need * readers for readers in reach], colour=RED, dash=dash))
    layout = chart(f"readers, one per {accelerator}{scaled_words(record)}", "read rate, GB/s")
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
    return Plot("supply", title, tuple(traces), layout, table, note=flag_note(points, mark="Open markers are"))


def replayed(record: RunRecord) -> list[Point]:
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


def _readers(point: Point) -> int:
    """How many readers were at work: one stands for one accelerator."""
    return whole(point.params.get("num_readers") or point.params.get("threads"))
