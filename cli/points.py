"""The points of a record on the terminal: a table for each stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..terminal import figure, table
from .copy_points import show_conversions, show_copies, show_readings
from .folder_points import show_checkpoints, show_names
from .rank_points import show_flags, show_ranks, show_trainings

if TYPE_CHECKING:
    from ..results.record import Point

SPREAD = "mean and 95 % interval over time blocks"


def show_points(points: Sequence[Point]) -> None:
    """The points of each stage as a table of their own."""
    _storage(points)
    _roads(points)
    if copies := _of(points, "stage"):
        show_copies(copies)
    if conversions := _of(points, "convert"):
        show_conversions(conversions)
    if readings := [point for point in _of(points, "load") if "source" in point.params]:
        show_readings(readings)
    _loads(points)
    for point in _of(points, "metadata"):
        show_names(point)
    if checkpoints := _of(points, "checkpoint"):
        show_checkpoints(checkpoints)
    if ranks := _of(points, "train"):
        show_ranks(ranks)
    if trainings := _of(points, "real"):
        show_trainings(trainings)
    show_flags(points)


def _of(points: Sequence[Point], stage: str) -> list[Point]:
    return [point for point in points if point.params["stage"] == stage]


def _storage(points: Sequence[Point]) -> None:
    if found := _of(points, "storage"):
        heads = ("engine", "access", "block KiB", "depth", "threads", "cache", "GB/s", "ops/s", "p50 us", "p99 us")
        table(
            (*heads, "max us", "cached", "route", ""),
            [_storage_row(point) for point in found],
            title=f"Storage rate ({SPREAD})",
            keys=6,
            spare=("max us", "cached", "p50 us", "ops/s", "route"),
        )


def _roads(points: Sequence[Point]) -> None:
    if found := [point for point in points if "road" in point.params]:
        table(
            ("road", "way", "threads", "consumer", "cache", "images/s", "GB/s", "CPU s/GB", "peak MB", "ours/it", ""),
            [_road_row(point) for point in found],
            keys=2,
            spare=("peak MB", "CPU s/GB"),
            title="Loaders side by side (mean and 95 % interval over interleaved time blocks)",
        )


def _loads(points: Sequence[Point]) -> None:
    if found := [point for point in _of(points, "load") if not {"road", "source"} & set(point.params)]:
        table(
            ("engine", "batch", "shuffle", "threads", "cache", "images/s", "GB/s", "CPU s/GB", "route", ""),
            [_load_row(point) for point in found],
            title="Loader",
        )


def _storage_row(point: Point) -> tuple[str, ...]:
    from ..results.wording import flag_text

    params, path = point.params, point.read_path
    cached = "-" if path is None or path.cache_fraction is None else f"{path.cache_fraction:.3f}"
    operation = params.get("operation", "read")
    to = " > gpu" if params.get("destination") == "gpu" else ""
    return (
        f"{params['engine']}{to}",
        f"{params['access']} {operation}",
        f"{int(params['block_size_bytes'] or 0) / 1024:g}",
        str(params["queue_depth"]),
        str(params["threads"]),
        str(params["page_cache"] or "-"),
        figure(point.metrics[f"{operation}_gbps"]),
        figure(point.metrics[f"{operation}_iops"], digits=0),
        figure(point.metrics["latency_p50_us"], digits=0),
        figure(point.metrics["latency_p99_us"], digits=0),
        figure(point.metrics.get("latency_max_us"), digits=0),
        cached,
        "-" if path is None else f"{path.observed_route} ({path.counter_class})",
        flag_text(point.flags),
    )


def _load_row(point: Point) -> tuple[str, ...]:
    from ..results.wording import flag_text

    params, path = point.params, point.read_path
    return (
        str(params["engine"]),
        str(params["batch_size"]),
        str(params["shuffle"]),
        str(params["num_workers"]),
        str(params["page_cache"]),
        figure(point.metrics["images_per_s"], digits=0),
        figure(point.metrics["read_gbps"]),
        figure(point.metrics["cpu_seconds_per_gb"]),
        "-" if path is None else f"{path.observed_route} ({path.counter_class})",
        flag_text(point.flags),
    )


def _road_row(point: Point) -> tuple[str, ...]:
    from ..results.wording import flag_text

    params, metrics = point.params, point.metrics
    peak = metrics["peak_rss_bytes"].value
    missing = metrics["images_per_s"].value is None
    return (
        str(params["road"]),
        str(params.get("engine", "-")),
        str(params.get("threads", "-")),
        str(params["consumer"]),
        str(params["page_cache"]),
        figure(metrics["images_per_s"], digits=0),
        figure(metrics["read_gbps"]),
        figure(metrics["cpu_seconds_per_gb"]),
        "-" if peak is None else f"{peak / 1e6:.0f}",
        figure(metrics.get("images_per_s_ratio"), digits=2),
        "not installed" if missing else flag_text(point.flags),
    )
