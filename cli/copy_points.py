"""Copies and conversions on the terminal: a row for each hop, conversion, or source that was read afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..terminal import figure, table

if TYPE_CHECKING:
    from ..results.record import Metric, Point


def show_copies(points: Sequence[Point]) -> None:
    """One row a hop."""
    table(
        ("hop", "from", "to", "files", "GB", "copy s", "GB/s", "verify s", "GB/s", "in flight MB", "route"),
        [_hop_row(point) for point in points],
        title="Copy, hop by hop",
    )


def show_conversions(points: Sequence[Point]) -> None:
    """One row a conversion: what it made, not what was there before."""
    table(
        ("format", "images", "left out", "at once", "s", "images/s", "read GB", "written GB", "written GB/s"),
        [_conversion_row(point) for point in points],
        title="Conversion (what this run made)",
    )


def show_readings(points: Sequence[Point]) -> None:
    """One row a source: in place and the copy, the copy's time counted."""
    last = f"epoch {points[0].params.get('epochs', '-')}"
    table(
        ("read", "images/s", "GB/s", "first batch s", "since start: first batch", "epoch 1", last, "route"),
        [_reading_row(point) for point in points],
        title="Reading, cold (mean and 95 % interval over interleaved time blocks; since start: with the copying)",
    )


def _short(metric: Metric | None, digits: int, factor: float = 1.0) -> str:
    """A figure of which there is one only, and so no interval."""
    return "-" if metric is None or metric.value is None else f"{metric.value * factor:.{digits}f}"


def _conversion_row(point: Point) -> tuple[str, ...]:
    params, metrics = point.params, point.metrics
    return (
        str(params["format"]),
        str(params["images"]),
        str(params["skipped"]),
        str(params["jobs"]),
        _short(metrics["convert_time_s"], 1),
        _short(metrics["images_per_s"], 0),
        _short(metrics["bytes_in"], 3, 1e-9),
        _short(metrics["bytes_out"], 3, 1e-9),
        _short(metrics["write_gbps"], 3),
    )


def _hop_row(point: Point) -> tuple[str, ...]:
    params, metrics = point.params, point.metrics
    return (
        str(params.get("hop", 1)),
        str(params.get("source", "-")),
        str(params.get("target", "-")),
        str(params["files"]),
        f"{float(params['bytes'] or 0) / 1e9:.2f}",
        _short(metrics.get("stage_time_s"), 2),
        _short(metrics.get("read_gbps"), 3),
        _short(metrics.get("verify_time_s"), 2),
        _short(metrics.get("verify_gbps"), 3),
        _short(metrics.get("peak_in_flight_bytes"), 0, 1e-6),
        _route(point),
    )


def _reading_row(point: Point) -> tuple[str, ...]:
    metrics = point.metrics
    return (
        str(point.params["source"]),
        figure(metrics["images_per_s"], digits=0),
        figure(metrics["read_gbps"]),
        figure(metrics["first_batch_s"]),
        figure(metrics["until_first_batch_s"]),
        figure(metrics["until_first_epoch_s"], digits=2),
        figure(metrics["until_last_epoch_s"], digits=2),
        _route(point),
    )


def _route(point: Point) -> str:
    path = point.read_path
    return "-" if path is None else f"{path.observed_route} ({path.counter_class})"
