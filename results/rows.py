"""Figures as rows for spreadsheets and data frames: one row a figure of a run, a point or a rank.

    run_id kind started_at host path | stage point params engine route counters flags | rank | metric value unit ...

A figure that was not measured is a row without a value and with its reason.
"""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any, ClassVar

from .wording import stage_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .record import Metric, Point, RankReport, ReadPath, RunRecord

TEXTS = (
    *("run_id", "kind", "started_at", "host", "path", "scope", "stage", "params"),
    *("engine", "observed_route", "counter_class", "flags", "metric", "unit", "reason"),
)
WHOLE = ("point", "rank", "n")
COLUMNS = (
    *("run_id", "kind", "started_at", "host", "path", "scope", "stage", "point", "params"),
    *("engine", "observed_route", "counter_class", "flags", "rank"),
    *("metric", "value", "unit", "ci95_low", "ci95_high", "n", "samples", "reason"),
)


class MissingLibraryError(RuntimeError):
    """A format needs a library that is not installed."""

    exit_status: ClassVar[int] = 4


def rows_of(records: Sequence[RunRecord]) -> Iterator[dict[str, Any]]:
    """The rows of these records, each with the keys COLUMNS; `point` counts from 0 and `params` is a JSON object."""
    for record in records:
        run = {
            "run_id": record.run_id,
            "kind": record.kind,
            "started_at": record.started_at,
            "host": record.environment.get("host"),
            "path": record.workload.get("path"),
        }
        own = {**run, "scope": "run", "stage": record.kind, **_way(record.read_path)}
        yield from _figures(own, record.metrics, record.ranks)
        for place, point in enumerate(record.points):
            yield from _figures({**run, **_place(record, place, point)}, point.metrics, point.ranks)


def csv_of(records: Sequence[RunRecord]) -> str:
    """RFC 4180 with a head; samples stand in one field, separated by spaces."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS)
    writer.writeheader()
    for row in rows_of(records):
        writer.writerow({**row, "samples": " ".join(map(repr, row["samples"]))})
    return file.getvalue()


def parquet_of(records: Sequence[RunRecord]) -> bytes:
    """One Parquet file, zstd-compressed; samples are lists.  Raises MissingLibraryError without pyarrow."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise MissingLibraryError(
            "--format parquet needs pyarrow: pip install -c constraints.txt pyarrow, or take --format csv"
        ) from error
    schema = pa.schema([(name, _arrow_type(pa, name)) for name in COLUMNS])
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(list(rows_of(records)), schema=schema), sink, compression="zstd")
    return bytes(sink.getvalue())


def _arrow_type(pa: Any, name: str) -> Any:
    if name in TEXTS:
        return pa.string()
    if name == "samples":
        return pa.list_(pa.float64())
    return pa.int64() if name in WHOLE else pa.float64()


def _place(record: RunRecord, place: int, point: Point) -> dict[str, Any]:
    return {
        "scope": "point",
        "stage": stage_of(record, point),
        "point": place,
        "params": json.dumps(point.params, sort_keys=True),
        "flags": " ".join(point.flags) or None,
        **_way(point.read_path),
    }


def _way(path: ReadPath | None) -> dict[str, Any]:
    if path is None:
        return {}
    return {"engine": path.engine, "observed_route": path.observed_route, "counter_class": path.counter_class}


def _figures(
    head: Mapping[str, Any], metrics: Mapping[str, Metric], ranks: Sequence[RankReport]
) -> Iterator[dict[str, Any]]:
    for name, metric in metrics.items():
        yield _row(head, name, metric)
    for report in ranks:
        for name, metric in report.metrics.items():
            yield _row({**head, "scope": "rank", "rank": report.rank, "host": report.host}, name, metric)


def _row(head: Mapping[str, Any], name: str, metric: Metric) -> dict[str, Any]:
    low, high = metric.ci95 or (None, None)
    figure = {"metric": name, "value": metric.value, "unit": metric.unit, "ci95_low": low, "ci95_high": high}
    row = {**head, **figure, "n": metric.n, "samples": list(metric.samples), "reason": metric.reason}
    return {column: row.get(column) for column in COLUMNS}
