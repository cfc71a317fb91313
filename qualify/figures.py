"""The promised figures of a qualification, from its points; what was not measured is null with its reason."""

from __future__ import annotations

from collections.abc import Sequence

from ..results.break_even import CopyChoice
from ..results.fed import Fed
from ..results.record import Metric, Point, not_measured
from .run import Run

RANK_FIGURES = {
    "images_per_s": "images/s",
    "step_time_s": "s",
    "data_wait_s": "s",
    "sync_wait_s": "s",
    "data_stall_fraction": "fraction",
    "au_mlperf": "fraction",
    "au_dlio": "fraction",
}
STORAGE_FIGURES = {"read_gbps": "GB/s", "read_iops": "reads/s", "latency_p50_us": "us", "latency_p99_us": "us"}


def storage_at(points: Sequence[Point], readers: int | None) -> Point | None:
    """The storage point of so many readers, else the last one."""
    rows = [point for point in points if point.params["stage"] == "storage"]
    exact = [point for point in rows if point.params["threads"] == readers]
    return next(iter(exact or rows[-1:]), None)


def promised_figures(
    run: Run,
    predicted: Fed,
    measured: Fed,
    choice: CopyChoice,
    storage: Point | None,
    best: Point | None,
    *,
    unless: str | None = None,
) -> dict[str, Metric]:
    """Every promised figure; `unless` is why those are not there that a job cut short did not come to."""
    no_ranks, blocks = unless or "no valid point of that many ranks", storage.metrics["read_gbps"].n if storage else 0
    steps = best.metrics["au_mlperf"].n if best else 0
    metrics = {name: _take(storage, name, unit, unless or "no storage point") for name, unit in STORAGE_FIGURES.items()}
    metrics |= {name: _take(best, name, unit, no_ranks) for name, unit in RANK_FIGURES.items()}
    metrics["gpus_fed_predicted"] = predicted.as_metric(n=blocks)
    metrics["gpus_fed_measured"] = measured.as_metric(n=steps)
    metrics["stage_time_s"] = _take(_first(run, "stage"), "stage_time_s", "s", unless or choice.sentence)
    metrics["break_even_epochs"] = choice.as_metric(n=steps)
    metrics["cpu_seconds_per_gb"] = _take(
        _first(run, "load"), "cpu_seconds_per_gb", "s/GB", unless or "no loader point"
    )
    metrics["peak_rss_bytes"] = _peak(run, unless or "no ranks were run")
    lasts = unless if unless and run.config.sustain.seconds else "sustained reading was not asked for"
    for name, unit in (("drift_per_hour", "1/h"), ("last_part_gbps", "GB/s")):
        metrics[name] = _take(_first(run, "sustain"), name, unit, lasts)
    metrics["gpu_data_wait_s"] = not_measured("s", "no GPU: accelerators are emulated")
    metrics["scaling_efficiency"] = not_measured("fraction", "qualify does not run the scaling grid")
    metrics["joules_per_image"] = _take(best, "joules_per_image", "J/image", no_ranks)
    return metrics


def _first(run: Run, stage: str) -> Point | None:
    return next((point for point in run.points if point.params["stage"] == stage), None)


def _take(point: Point | None, name: str, unit: str, why: str) -> Metric:
    return not_measured(unit, why) if point is None else point.metrics[name]


def _peak(run: Run, why: str) -> Metric:
    if not run.peak_rss_bytes:
        return not_measured("bytes", why)
    reason = "sum over the ranks of the largest launch"
    return Metric(value=float(run.peak_rss_bytes), unit="bytes", n=1, reason=reason)
