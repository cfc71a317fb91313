"""A record's figures as tables: one column, one quantity, one unit; what is missing says why in a note below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from .quantities import (
    COUNTS,
    NOT_MEASURED,
    amount,
    binary_size,
    counted,
    interval_text,
    number,
    percent,
    quantity,
    scale_for,
    value_text,
)
from .wording import flag_text, metric_label, point_label, points_of, stage_of, unit_text

if TYPE_CHECKING:
    from .quantities import Scale
    from .record import Metric, Point, RankReport, ReadPath, RunRecord

Item = TypeVar("Item")

MOST_ROWS = 200  # of one table; the record has them all
MOST_RANKS = 512
MOST_RANK_TABLES = 4
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


KEY_UNITS = {"s": "s", "us": "µs", "gbps": "GB/s"}
SPELLED = {"au": "AU", "cpu": "CPU", "gpus": "GPUs", "os": "operating system", "num": "number of"}


@dataclass(frozen=True)
class Cell:
    """One field: its text, what stands small below it, what a note below the table says, and how it looks."""

    text: str
    small: str = ""
    note: str = ""
    mark: str = ""  # good, bad, open or missing


@dataclass(frozen=True)
class Column:
    """One quantity: its head with the unit, and its cells from top to bottom."""

    head: str
    cells: tuple[Cell, ...]
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """Columns of equal length; a long table shows rows at equal distances, and says how many it left out."""

    title: str
    columns: tuple[Column, ...]
    left_out: int = 0  # rows that the record has beyond these

    @property
    def rows(self) -> list[tuple[Cell, ...]]:
        """The cells row by row."""
        return list(zip(*(column.cells for column in self.columns), strict=True))

    @property
    def notes(self) -> list[str]:
        """What is to be said below the table, once each, in the order of first use."""
        return list(dict.fromkeys(cell.note for column in self.columns for cell in column.cells if cell.note))


def out_of(all_rows: Sequence[object], shown: Sequence[object]) -> int:
    """How many rows a table leaves out."""
    return len(all_rows) - len(shown)


def thinned(items: Sequence[Item], most: int) -> list[Item]:
    """All items, or `most` of them at equal distances, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def text_column(head: str, texts: Sequence[str], *, numeric: bool = False) -> Column:
    """A column of words."""
    cells = tuple(Cell(text, mark="missing" if text == NOT_MEASURED else "") for text in texts)
    return Column(head, cells, numeric=numeric)


def metric_column(head: str, metrics: Sequence[Metric | None]) -> Column:
    """A column of one metric, in one unit if they have one, with intervals beside the values."""
    present = [metric for metric in metrics if metric is not None]
    if len({metric.unit for metric in present}) > 1:
        return Column(head, tuple(_metric_cell(metric, None) for metric in metrics), numeric=True)
    scale = scale_for(present[0].unit if present else "", [metric.value for metric in present])
    cells = tuple(_metric_cell(metric, scale) for metric in metrics)
    return Column(f"{head}, {scale.unit}" if scale.unit else head, cells, numeric=True)


def point_columns(points: Sequence[Point], names: Sequence[str]) -> list[Column]:
    """The named metrics of points, those left out that no point has."""
    return [
        metric_column(metric_label(name), [point.metrics.get(name) for point in points])
        for name in names
        if any(name in point.metrics for point in points)
    ]


def flag_columns(points: Sequence[Point]) -> list[Column]:
    """A column of flags, if any point has one."""
    texts = [flag_text(point.flags) for point in points]
    return [text_column("flags", texts)] if any(texts) else []


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
            text_column("measured", [_bare(item.measured, item.unit) for item in requirements], numeric=True),
            text_column("required", [_bare(item.required, item.unit) for item in requirements], numeric=True),
            Column("result", tuple(words[item.passed] for item in requirements)),
        ),
    )


def route_table(record: RunRecord) -> Table | None:
    """Which way the bytes of every point took, and what proves it."""
    proven = [(_staged_label(record, point), point.read_path) for point in record.points if point.read_path]
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
    reports = [(_staged_label(record, point), point.ranks) for point in ran]
    if not reports and record.ranks:
        reports = [("the run", record.ranks)]
    names = ("data_wait_s", "gpu_data_wait_s", "sync_wait_s", "data_stall_fraction", "au_mlperf", "images_per_s")
    return [
        Table(
            label,
            (
                text_column("rank", [str(report.rank) for report in ranks], numeric=True),
                text_column("process", [str(report.pid) for report in ranks], numeric=True),
                text_column("host", [report.host for report in ranks]),
                *(
                    metric_column(metric_label(name), [report.metrics.get(name) for report in ranks])
                    for name in names
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


def copy_tables(record: RunRecord) -> list[Table]:
    """What each hop of a copy took, and how soon data come in place and by way of the copy."""
    hops = [point for point in points_of(record, "stage") if "hop" in point.params]
    readings = [point for point in points_of(record, "load") if "source" in point.params]
    found = []
    if hops:
        names = ("stage_time_s", "read_gbps", "verify_time_s", "verify_gbps", "peak_in_flight_bytes")
        places = [
            text_column(name, [str(point.params.get(name, "")) for point in hops]) for name in ("source", "target")
        ]
        number = text_column("hop", [str(point.params["hop"]) for point in hops], numeric=True)
        found.append(Table("Copy, hop by hop", (number, *places, *point_columns(hops, names))))
    if readings:
        names = ("images_per_s", "first_batch_s", "until_first_batch_s", "until_first_epoch_s", "until_last_epoch_s")
        read = text_column("read", [str(point.params["source"]) for point in readings])
        found.append(Table("In place, and by way of the copy", (read, *point_columns(readings, names))))
    return found


def stage_tables(record: RunRecord) -> list[Table]:
    """All points, one table a stage: parameters, every metric, flags."""
    stages = dict.fromkeys(stage_of(record, point) for point in record.points)
    return [_stage_table(stage, points_of(record, stage)) for stage in stages]


def facts(mapping: Mapping[str, Any], *, prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as (name, text) pairs; what is not known says so."""
    pairs: list[tuple[str, str]] = []
    for key, value in mapping.items():
        name = f"{prefix}{_head(key)}"
        if value is None and key.endswith("reason"):
            continue
        if isinstance(value, Mapping):
            pairs += facts(value, prefix=f"{name}, ")
        elif isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
            for index, item in enumerate(value):
                pairs += facts(item, prefix=f"{name} {index}, ")
        else:
            pairs.append(
                (name, "not installed" if value is None and prefix.startswith("versions") else _fact(key, value))
            )
    return pairs


def _stage_table(stage: str, points: Sequence[Point]) -> Table:
    found = len(points)
    points = thinned(points, MOST_ROWS)
    names = dict.fromkeys(name for point in points for name in point.metrics)
    params = dict.fromkeys(name for point in points for name in point.params if name != "stage")
    columns = [text_column(_head(name), [_param(name, point.params.get(name)) for point in points]) for name in params]
    return Table(
        f"All {counted(found, f'{stage} point')}",
        (*columns, *point_columns(points, tuple(names)), *flag_columns(points)),
        left_out=found - len(points),
    )


def _metric_cell(metric: Metric | None, scale: Scale | None) -> Cell:
    """A value in the column's unit, else with its own; without a value the reason."""
    if metric is None:
        return Cell("")
    if metric.value is None:
        return Cell(NOT_MEASURED, note=metric.reason or "", mark="missing")
    return Cell(value_text(metric, scale) if scale else quantity(metric), interval_text(metric, scale))


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


def _staged_label(record: RunRecord, point: Point) -> str:
    return f"{stage_of(record, point)}: {point_label(point)}"


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


def _bare(value: float | None, unit: str) -> str:
    return NOT_MEASURED if value is None else amount(value, unit)


def _head(name: str) -> str:
    """A key as the head of its values, its unit behind a comma; sizes carry theirs themselves."""
    words = name.removesuffix("_bytes").split("_")
    unit = KEY_UNITS.get(words[-1]) if len(words) > 1 else None
    text = " ".join(SPELLED.get(word, word) for word in (words[:-1] if unit else words))
    return f"{text}, {unit}" if unit else text


def _param(name: str, value: object) -> str:
    return "" if value is None else _fact(name, value)


def _fact(name: str, value: object) -> str:
    if value is None or value == "":
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _figure(name, value)
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) or "none"
    return str(value)


def _figure(name: str, value: float) -> str:
    """A bare number of the workload or the environment, as its key tells: a block size, bytes, or a number."""
    if name.startswith("block_size"):
        return binary_size(value)
    if name.endswith("bytes"):
        return amount(value, "bytes")
    return str(value) if isinstance(value, int) else number(value)
