"""The tables of a record: requirements, the proof of every route, ranks, metrics, copies, and all points by stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .facts import fact_text, head_of
from .labels import labels_of
from .quantities import COUNTS, NOT_MEASURED, amount, counted, interval_text, number, percent
from .record import Metric
from .tables import (
    MOST_RANKS,
    MOST_ROWS,
    Cell,
    Column,
    Table,
    flag_columns,
    metric_column,
    point_columns,
    text_column,
    thinned,
)
from .wording import metric_label, points_of, stage_of, unit_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .record import Point, RankReport, ReadPath, Requirement, RunRecord

COUNTER_CLASSES = {
    "exact": "exact",
    "bounding": "bounding",
    "client-own": "client's own",
    "none": "none",
}
SCOPES = {
    "client": "cold on this client; the server's own cache is not ruled out",
    "end_to_end": "cold from end to end, server cache included",
    "unknown": "how far the cold reaches, this client or the server too, is not known",
}
MOST_RANK_TABLES = 4
RANK_METRICS = (
    "data_wait_s",
    "gpu_data_wait_s",
    "sync_wait_s",
    "data_stall_fraction",
    "au_mlperf",
    "images_per_s",
    "read_gbps",
)


def requirement_table(record: RunRecord) -> Table | None:
    """What the verdict asked for, and what was found."""
    requirements = record.verdict.requirements if record.verdict else ()
    if not requirements:
        return None
    words = {True: Cell("met", mark="good"), False: Cell("missed", mark="bad"), None: Cell("not decided", mark="open")}
    return Table(
        "Requirements",
        (
            text_column("requirement", [item.text for item in requirements]),
            text_column("measured", [_with_interval(item) for item in requirements], numeric=True),
            text_column("required", [_bare(item.required, item.unit) for item in requirements], numeric=True),
            Column("result", tuple(words[item.passed] for item in requirements)),
        ),
    )


def route_table(record: RunRecord) -> Table | None:
    """Which way the bytes of every point took, and what proves it."""
    named = zip(record.points, labels_of(record.points), strict=True)
    proven = [(f"{stage_of(record, point)}: {name}", point.read_path) for point, name in named if point.read_path]
    if not proven and record.read_path:
        proven = [("the run", record.read_path)]
    if not proven:
        return None
    found = len(proven)
    proven = thinned(proven, MOST_ROWS)
    paths = [path for _, path in proven]
    return Table(
        "Route of every point",
        (
            text_column("point", [label for label, _ in proven]),
            text_column("engine", [path.engine for path in paths]),
            text_column("asked", [path.requested_route for path in paths]),
            Column("observed", tuple(_observed(path) for path in paths)),
            Column("counters", tuple(_evidence(path) for path in paths)),
            Column("page cache", tuple(_cache(path) for path in paths)),
            text_column("resident before", [_percent(path.cache_fraction) for path in paths], numeric=True),
            text_column("and after", [_percent(path.cache_fraction_after) for path in paths], numeric=True),
            text_column("delivered", [_size(path.delivered_bytes) for path in paths], numeric=True),
            text_column("from the device", [_size(path.device_bytes) for path in paths], numeric=True),
            text_column("device / delivered", [_ratio(_device_share(path)) for path in paths], numeric=True),
            text_column("amplification", [_ratio(path.read_amplification) for path in paths], numeric=True),
        ),
        left_out=found - len(proven),
    )


def rank_tables(record: RunRecord) -> list[Table]:
    """One table for each of the points that ran as ranks, the most ranks reading directly first."""
    ran = [point for point in sorted(record.points, key=_rank_order) if point.ranks][:MOST_RANK_TABLES]
    reports = [(f"{stage_of(record, p)}: {name}", p.ranks) for p, name in zip(ran, labels_of(ran), strict=True)]
    if not reports and record.ranks:
        reports = [("the run", record.ranks)]
    return [
        Table(
            label,
            (
                text_column("rank", [str(report.rank) for report in ranks], numeric=True),
                text_column("process", [str(report.pid) for report in ranks], numeric=True),
                text_column("host", [report.host for report in ranks]),
                *(
                    metric_column(metric_label(name), [report.metrics.get(name) for report in ranks])
                    for name in RANK_METRICS
                    if any(name in report.metrics for report in ranks)
                ),
            ),
            left_out=rest,
        )
        for label, ranks, rest in (_within(label, ranks) for label, ranks in reports)
    ]


def metrics_table(record: RunRecord) -> Table | None:
    """Every metric of the run as the record has it, in its own unit, with n and reason."""
    if not record.metrics:
        return None
    metrics = record.metrics
    return Table(
        "Metrics",
        (
            text_column("metric", [metric_label(name) for name in metrics]),
            text_column("name in the record", list(metrics)),
            text_column("value", [_own_value(metric) for metric in metrics.values()], numeric=True),
            text_column("unit", [unit_text(metric.unit) for metric in metrics.values()]),
            text_column("95 % interval", [_own_interval(metric) for metric in metrics.values()], numeric=True),
            text_column("blocks", [f"{metric.n}" if metric.n else "" for metric in metrics.values()], numeric=True),
            text_column("reason", [metric.reason or "" for metric in metrics.values()]),
        ),
    )


def hop_table(record: RunRecord) -> Table | None:
    """What each hop of a copy took."""
    hops = [point for point in points_of(record, "stage") if "hop" in point.params]
    if not hops:
        return None
    names = ("stage_time_s", "read_gbps", "verify_time_s", "verify_gbps", "peak_in_flight_bytes")
    places = [text_column(name, [str(point.params.get(name, "")) for point in hops]) for name in ("source", "target")]
    number = text_column("hop", [str(point.params["hop"]) for point in hops], numeric=True)
    return Table("Copy, hop by hop", (number, *places, *point_columns(hops, names)))


def reading_table(record: RunRecord) -> Table | None:
    """How soon data come in place, and by way of a copy."""
    readings = [point for point in points_of(record, "load") if "source" in point.params]
    if not readings:
        return None
    names = ("images_per_s", "first_batch_s", "until_first_batch_s", "until_first_epoch_s", "until_last_epoch_s")
    read = text_column("read", [str(point.params["source"]) for point in readings])
    return Table("In place, and by way of the copy", (read, *point_columns(readings, names)))


def stage_tables(record: RunRecord) -> list[Table]:
    """All points, one table a stage: parameters, every metric, flags."""
    stages = dict.fromkeys(stage_of(record, point) for point in record.points)
    return [_stage_table(stage, points_of(record, stage)) for stage in stages]


def _stage_table(stage: str, points: Sequence[Point]) -> Table:
    found = len(points)
    points = thinned(points, MOST_ROWS)
    names = dict.fromkeys(name for point in points for name in point.metrics)
    params = dict.fromkeys(name for point in points for name in point.params if name != "stage")
    columns = [
        text_column(head_of(name), [_param(name, point.params.get(name)) for point in points]) for name in params
    ]
    return Table(
        f"All {counted(found, f'{stage} point')}",
        (*columns, *point_columns(points, tuple(names)), *flag_columns(points)),
        left_out=found - len(points),
    )


def _own_value(metric: Metric) -> str:
    if metric.value is None:
        return NOT_MEASURED
    return number(metric.value, half_width=_own_half_width(metric))


def _own_interval(metric: Metric) -> str:
    if metric.value is None or metric.ci95 is None:
        return ""
    return " to ".join(number(bound, half_width=_own_half_width(metric)) for bound in metric.ci95)


def _own_half_width(metric: Metric) -> float | None:
    if metric.ci95 is None or metric.unit in COUNTS:
        return None
    return (metric.ci95[1] - metric.ci95[0]) / 2


def _within(label: str, ranks: Sequence[RankReport]) -> tuple[str, list[RankReport], int]:
    shown = thinned(ranks, MOST_RANKS)
    return label, shown, len(ranks) - len(shown)


def _rank_order(point: Point) -> tuple[bool, int]:
    ranks = point.params.get("num_ranks")
    return point.params.get("source") != "direct", -ranks if isinstance(ranks, int) else 0


def _observed(path: ReadPath) -> Cell:
    if path.observed_route == "unknown":
        return Cell("unknown", mark="open")
    return Cell(path.observed_route, mark="good" if path.observed_route == path.requested_route else "bad")


def _evidence(path: ReadPath) -> Cell:
    return Cell(COUNTER_CLASSES[path.counter_class], note=path.route_evidence)


def _cache(path: ReadPath) -> Cell:
    return Cell(path.page_cache or "not set", note=SCOPES[path.cold_scope] if path.page_cache == "cold" else "")


def _device_share(path: ReadPath) -> float | None:
    """What an exact counter judges by: device bytes over delivered bytes."""
    if path.device_bytes is None or not path.delivered_bytes:
        return None
    return path.device_bytes / path.delivered_bytes


def _percent(value: float | None) -> str:
    return NOT_MEASURED if value is None else percent(value)


def _ratio(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.3f}"


def _size(num_bytes: int | None) -> str:
    return NOT_MEASURED if num_bytes is None else amount(num_bytes, "bytes")


def _with_interval(item: Requirement) -> str:
    measured = _bare(item.measured, item.unit)
    if item.measured is None or item.ci95 is None:
        return f"{measured}: {item.reason}" if item.reason else measured
    return f"{measured} ({interval_text(Metric(value=item.measured, unit=item.unit, ci95=item.ci95))})"


def _bare(value: float | None, unit: str) -> str:
    return NOT_MEASURED if value is None else amount(value, unit)


def _param(name: str, value: object) -> str:
    return "" if value is None else fact_text(name, value)
