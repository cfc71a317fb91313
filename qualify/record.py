"""The record of a qualification: the promised figures, the verdict, and what they rest on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..results.environment import collect, public_path, public_text
from ..results.quantities import counted
from ..results.record import INVALID_MARK, Metric, Point, RunRecord, merge_warnings, new_run_id, not_measured, utc_now
from ..results.verdict import (
    CopyChoice,
    Fed,
    Lasting,
    compose_verdict,
    judge_requirement,
)
from ..storage_bench.accelerators import MODEL_TITLES
from ..storage_bench.evidence import PROVEN, proof_of, scope_told
from ..training_bench.summary import find_point
from .presets import requirement_text
from .run import Run


def make_record(
    run: Run,
    predicted: Fed,
    measured: Fed,
    choice: CopyChoice,
    lasting: Lasting | None = None,
    *,
    preset: str | None,
    command: Sequence[str],
    started: str,
) -> RunRecord:
    """Everything the run has to say, judged against the requirement."""
    config, accelerator = run.config, run.accelerator
    _require_cold(run)
    doing = f"training {MODEL_TITLES[config.model]}"
    outcome, requirement = judge_requirement(
        measured,
        required=config.required_gpus,
        what=f"{accelerator.label_for(config.required_gpus)} {doing}",
        invalid=run.invalid,
    )
    best = find_point(run.points, "direct", measured.value or min(config.required_gpus, run.max_ranks))
    storage = _storage_at(run.points, predicted.value)
    paths = [None if point is None else point.read_path for point in (storage, best)]
    proof = proof_of(paths)
    terms = (
        f"Each asks for {run.demand_gbps:.3f} GB/s: a batch of {_sample_words(run)} "
        f"every {accelerator.step_time_s:g} s, AU at least {config.threshold:.2f}. "
        + " ".join(filter(None, (proof, scope_told(run.path))))
    )
    verdict = compose_verdict(
        outcome,
        requirement,
        subject=public_path(run.path),
        fed=measured,
        what=f"{accelerator.label_for(measured.high if measured.value is None else measured.value)} {doing}",
        terms=terms,
        reasons=run.invalid,
        measured_seconds=run.measured_s,
        measured_bytes=run.measured_bytes,
        lasting=lasting,
    )
    return RunRecord(
        run_id=new_run_id("qualify"),
        kind="qualify",
        started_at=started,
        finished_at=utc_now(),
        command=tuple(command),
        workload=_workload(run, choice, preset),
        environment=collect(run.path),
        read_path=None if storage is None else storage.read_path,
        metrics=_metrics(run, predicted, measured, choice, storage, best),
        ranks=() if best is None else best.ranks,
        points=tuple(run.points),
        verdict=verdict,
        warnings=merge_warnings(
            [f"{INVALID_MARK}{text}" for text in run.invalid],
            [f"scaled: {text}" for text in run.scaled],
            run.warnings,
            [] if proof == PROVEN else [f"{proof.rstrip('.').lower()}: no exact counter decides here"],
        ),
    )


def unfinished_record(
    run: Run, error: Exception, *, preset: str | None, command: Sequence[str], started: str
) -> RunRecord:
    """What was measured before a part failed: the points, the error as a warning, and no verdict."""
    return RunRecord(
        run_id=new_run_id("qualify"),
        kind="qualify",
        started_at=started,
        finished_at=utc_now(),
        command=tuple(command),
        workload={**_asked(run, preset), "failed": public_text(str(error))},
        environment=collect(run.path),
        points=tuple(run.points),
        warnings=merge_warnings([f"stopped before its end: {public_text(str(error))}"], run.warnings),
    )


def _sample_words(run: Run) -> str:
    """`400 samples of 114660 bytes of resnet50 (scaled: 0.03 of its samples)`."""
    label = f" of {run.data_label}" if run.data_label else ""
    about = "about " if run.layout is not None and run.layout.ragged else ""
    what = counted(run.accelerator.batch_size, "sample" if label else "image")
    return f"{what} of {about}{run.record_bytes} bytes{label}"


def _require_cold(run: Run) -> None:
    """Samples of a scaled set count only where they certainly came from the storage."""
    if not run.data_scaled:
        return
    for point in run.points:
        path = point.read_path
        if path is None or path.page_cache != "cold" or path.engine == "direct":
            continue
        if path.cache_fraction is None and path.counter_class != "exact":
            run.invalid.append(
                f"{point.params['stage']}: the data are a part of the published set, and nothing proves that the reads "
                f"of {path.engine} were cold; use --engine direct, or the whole set"
            )
            return


def _workload(run: Run, choice: CopyChoice, preset: str | None) -> dict[str, Any]:
    return {**_asked(run, preset), "copy_or_not": choice.as_workload()}


def _asked(run: Run, preset: str | None) -> dict[str, Any]:
    accelerator = run.accelerator
    return {
        "path": public_path(run.path),
        "target": public_path(run.path.resolve()),
        "preset": preset,
        "requirement": requirement_text(run.config),
        "model": run.config.model,
        "data_label": run.data_label,
        "scaled_to_fit": run.scaled,
        "prefetch_depth": run.config.train.prefetch_depth,
        "accelerator": accelerator.name,
        "accelerator_source": accelerator.source,
        "emulated": accelerator.emulated,
        "scaled": accelerator.scaled,
        "batch_size": accelerator.batch_size,
        "step_time_s": accelerator.step_time_s,
        "record_bytes": run.record_bytes,
        "demand_gbps": run.demand_gbps,
        "au_threshold": run.config.threshold,
        "engine": run.engine,
        "engine_reason": run.engine_reason,
        "search": run.trials,
        "local": public_path(run.local),
        "dataset": {
            "num_images": run.num_images,
            "num_shards": run.num_shards,
            "bytes": run.total_bytes,
            "shape": None if run.layout is None else list(run.layout.shape),
        },
        "config": run.config.model_dump(mode="json", by_alias=True),
    }


def _storage_at(points: Sequence[Point], readers: int | None) -> Point | None:
    rows = [point for point in points if point.params["stage"] == "storage"]
    exact = [point for point in rows if point.params["threads"] == readers]
    return next(iter(exact or rows[-1:]), None)


def _metrics(
    run: Run, predicted: Fed, measured: Fed, choice: CopyChoice, storage: Point | None, best: Point | None
) -> dict[str, Metric]:
    """The promised figures; what was not measured is null with its reason."""
    load = next((point for point in run.points if point.params["stage"] == "load"), None)
    copied = next((point for point in run.points if point.params["stage"] == "stage"), None)
    blocks = storage.metrics["read_gbps"].n if storage else 0
    steps = best.metrics["au_mlperf"].n if best else 0

    def take(point: Point | None, name: str, unit: str, why: str) -> Metric:
        return not_measured(unit, why) if point is None else point.metrics[name]

    no_ranks = "no valid point of that many ranks"
    metrics = {
        "read_gbps": take(storage, "read_gbps", "GB/s", "no storage point"),
        "read_iops": take(storage, "read_iops", "reads/s", "no storage point"),
        "latency_p50_us": take(storage, "latency_p50_us", "us", "no storage point"),
        "latency_p99_us": take(storage, "latency_p99_us", "us", "no storage point"),
    }
    for name, unit in (
        ("images_per_s", "images/s"),
        ("step_time_s", "s"),
        ("data_wait_s", "s"),
        ("sync_wait_s", "s"),
        ("data_stall_fraction", "fraction"),
        ("au_mlperf", "fraction"),
        ("au_dlio", "fraction"),
    ):
        metrics[name] = take(best, name, unit, no_ranks)
    metrics["gpus_fed_predicted"] = predicted.as_metric(n=blocks)
    metrics["gpus_fed_measured"] = measured.as_metric(n=steps)
    metrics["stage_time_s"] = take(copied, "stage_time_s", "s", choice.sentence)
    metrics["break_even_epochs"] = choice.as_metric(n=steps)
    metrics["cpu_seconds_per_gb"] = take(load, "cpu_seconds_per_gb", "s/GB", "no loader point")
    metrics["peak_rss_bytes"] = (
        Metric(value=float(run.peak_rss_bytes), unit="bytes", n=1, reason="sum over the ranks of the largest launch")
        if run.peak_rss_bytes
        else not_measured("bytes", "no ranks were run")
    )
    lasting = next((point for point in run.points if point.params["stage"] == "sustain"), None)
    for name, unit in (("drift_per_hour", "1/h"), ("last_part_gbps", "GB/s")):
        metrics[name] = take(lasting, name, unit, "sustained reading was not asked for")
    metrics["gpu_data_wait_s"] = not_measured("s", "no GPU: accelerators are emulated")
    metrics["scaling_efficiency"] = not_measured("fraction", "qualify does not run the scaling grid")
    metrics["joules_per_image"] = take(best, "joules_per_image", "J/image", no_ranks)
    return metrics
