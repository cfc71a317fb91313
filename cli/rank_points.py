"""What ranks came to on the terminal: emulated and real steps, and what the flags of points mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..terminal import figure, say, table

if TYPE_CHECKING:
    from ..results.record import Point


def show_ranks(points: Sequence[Point]) -> None:
    """Emulated steps: one row for each source and number of ranks; what was predicted, where anything was."""
    from ..results.wording import flag_text

    heads = ("source", "ranks", "step ms", "compute", "data wait", "sync wait", "other", "images/s", "AU")
    predicted = [point.metrics.get("au_predicted") for point in points]
    known = any(metric is not None and metric.value is not None for metric in predicted)
    parts = ("step_time_s", "compute_s", "data_wait_s", "sync_wait_s", "overhead_s")
    rows = [
        (
            str(point.params["source"]),
            str(point.params["num_ranks"]),
            *(_scaled(point, name, 1e3) for name in parts),
            figure(point.metrics["images_per_s"], digits=0),
            figure(point.metrics["au_mlperf"]),
            *((figure(metric),) if known else ()),
            flag_text(point.flags),
        )
        for point, metric in zip(points, predicted, strict=True)
    ]
    title = f"Ranks on {points[0].params['accelerator']}" + (" (emulated)" if points[0].params["emulated"] else "")
    table((*heads, *(("predicted",) if known else ()), ""), rows, title=title, keys=2)


def show_trainings(points: Sequence[Point]) -> None:
    """Steps of networks that really train: one row for each."""
    heads = ("network", "ranks", "source", "step ms", "compute", "data wait", "allreduce", "optimiser")
    parts = ("step_time_s", "compute_s", "data_wait_s", "sync_wait_s", "optimizer_s")
    rows = [
        (
            f"{point.params['model']} {point.params['precision']}",
            str(point.params["num_ranks"]),
            str(point.params["source"]),
            *(_scaled(point, name, 1e3) for name in parts),
            figure(point.metrics["images_per_s"], digits=0),
            *(_scaled(point, name, 100) for name in ("train_accuracy", "validation_accuracy")),
        )
        for point in points
    ]
    table(
        (*heads, "images/s", "right %", "validation %"),
        rows,
        title=f"Training on {points[0].params['accelerator']} (mean and 95 % interval over time blocks; right: of the "
        "last images, and of all of the validation data)",
    )


def show_flags(points: Sequence[Point]) -> None:
    """What the flags of these points mean, a line each."""
    from ..results.wording import FLAGS, flag_text

    for flag in dict.fromkeys(flag for point in points for flag in point.flags if flag in FLAGS):
        say(f"  {flag_text([flag])}: {FLAGS[flag]}")


def _scaled(point: Point, name: str, factor: float) -> str:
    """A figure to a tenth, a dash where it was not measured."""
    metric = point.metrics.get(name)
    return "-" if metric is None or metric.value is None else f"{metric.value * factor:.1f}"
