"""Small files and checkpoints on the terminal: a row for each operation or figure, a column for each point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..terminal import figure, shortened, table

if TYPE_CHECKING:
    from ..results.record import Metric, Point


def show_names(point: Point) -> None:
    """One row an operation: what is measured of each is the same, how fast they are is not."""
    params, metrics = point.params, point.metrics
    operations = [name.removesuffix("_per_s") for name in metrics if name.endswith("_per_s")]
    table(
        ("operation", "rate", "unit", "p99 us", ""),
        [
            (
                name.replace("_", " "),
                figure(metrics[f"{name}_per_s"], digits=0),
                metrics[f"{name}_per_s"].unit,
                figure(metrics.get(f"{name}_p99_us"), digits=0),
                shortened(metrics[f"{name}_per_s"].reason, 60),
            )
            for name in operations
        ],
        title=f"Folder of {params['files']:,} files, {params['threads']} threads, {params['page_cache']} "
        f"(mean and 95 % interval over time blocks) {' '.join(point.flags)}",
    )


def show_checkpoints(points: Sequence[Point]) -> None:
    """One row a figure, a column for what went on beside it, and the ratio of each pair of rounds."""
    names = dict.fromkeys(name for point in points for name in point.metrics if not name.endswith("_ratio"))
    table(
        ("figure", "unit", *(f"beside {point.params['beside']}" for point in points), "ratio"),
        [
            (
                name.removesuffix("_gbps").removesuffix("_s").replace("_", " "),
                next(point.metrics[name].unit for point in points if name in point.metrics),
                *(figure(point.metrics.get(name)) for point in points),
                _span(points[-1].metrics.get(f"{name}_ratio")),
            )
            for name in names
        ],
        title=f"Checkpoints of {float(points[0].params['checkpoint_bytes'] or 0) / 1e9:.2f} GB "
        f"(mean and 95 % interval over checkpoints) {' '.join(points[0].flags)}",
    )


def _span(metric: Metric | None) -> str:
    """`0.79 (0.65 to 0.93)`: the interval of a ratio is not symmetrical."""
    if metric is None or metric.value is None:
        return "-"
    return f"{metric.value:.2f}" + ("" if metric.ci95 is None else " ({:.2f} to {:.2f})".format(*metric.ci95))
