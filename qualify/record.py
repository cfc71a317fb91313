"""The record of a qualification: its verdict and what it rests on; of one that was cut short what it came to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..results.break_even import CopyChoice
from ..results.environment import collect
from ..results.fed import Fed, predict_fed
from ..results.lasting import Lasting
from ..results.privacy import public_path, public_text
from ..results.quantities import amount, counted
from ..results.record import (
    INTERRUPTED,
    INVALID_MARK,
    RunRecord,
    merge_warnings,
    new_run_id,
    stopped_early,
    utc_now,
)
from ..results.verdict import compose_verdict, judge_requirement
from ..storage_bench.accelerators import MODEL_TITLES
from ..storage_bench.evidence import PROVEN, proof_of, scope_told
from ..training_bench.fed import fed_by_ranks
from ..training_bench.summary import find_point
from .figures import promised_figures, storage_at
from .presets import requirement_text
from .ranks import required_ranks
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
    best = find_point(run.points, "direct", measured.value or required_ranks(run))
    storage = storage_at(run.points, predicted.value)
    paths = [None if point is None else point.read_path for point in (storage, best)]
    proof = proof_of(paths)
    terms = (
        f"Each asks for {amount(run.demand_gbps, 'GB/s')}: a batch of {_sample_words(run)} "
        f"every {accelerator.step_time_s:g} s, AU at least {config.threshold * 100:g} %. "
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
        workload={**_asked(run, preset), **run.images.workload(best), "copy_or_not": choice.as_workload()},
        environment=collect(run.path),
        read_path=None if storage is None else storage.read_path,
        metrics=promised_figures(run, predicted, measured, choice, storage, best),
        ranks=() if best is None else best.ranks,
        points=tuple(run.points),
        verdict=verdict,
        warnings=merge_warnings(
            [f"{INVALID_MARK}{text}" for text in run.invalid],
            [f"scaled: {text}" for text in run.scaled],
            run.warnings,
            run.images.warnings,
            [] if proof == PROVEN else [f"{proof.rstrip('.').lower()}: no exact counter decides here"],
        ),
    )


def unfinished_record(
    run: Run, error: BaseException, *, preset: str | None, command: Sequence[str], started: str
) -> RunRecord:
    """What was measured before a part failed or somebody interrupted it: points, their figures, and no verdict."""
    why = INTERRUPTED if isinstance(error, KeyboardInterrupt) else public_text(str(error))
    unless = f"the job ended before it was measured ({why})"
    predicted, measured = Fed(None, reason=unless), Fed(None, reason=unless)
    if run.measured_rates:
        predicted = predict_fed(run.measured_rates, demand_gbps=run.demand_gbps, threshold=run.config.threshold)
    if any(point.params["stage"] == "train" for point in run.points):
        measured = fed_by_ranks(run.points, threshold=run.config.threshold)
    asked = required_ranks(run)
    storage, best = storage_at(run.points, predicted.value), find_point(run.points, "direct", measured.value or asked)
    choice = CopyChoice("not distinguishable", f"Not decided: {unless}.", None)
    return RunRecord(
        run_id=new_run_id("qualify"),
        kind="qualify",
        started_at=started,
        finished_at=utc_now(),
        command=tuple(command),
        workload={**_asked(run, preset), **run.images.workload(best), "failed": why},
        environment=collect(run.path),
        read_path=None if storage is None else storage.read_path,
        metrics=promised_figures(run, predicted, measured, choice, storage, best, unless=unless),
        ranks=() if best is None else best.ranks,
        points=tuple(run.points),
        warnings=merge_warnings(
            [stopped_early(why)],
            [f"{INVALID_MARK}{text}" for text in run.invalid],
            [f"scaled: {text}" for text in run.scaled],
            run.warnings,
            run.images.warnings,
        ),
    )


def _sample_words(run: Run) -> str:
    """`400 samples of 114,660 bytes of resnet50 (scaled: 0.03 of its samples)`."""
    label = f" of {run.data_label}" if run.data_label else ""
    about = "about " if run.layout is not None and run.layout.ragged else ""
    what = counted(run.accelerator.batch_size, "sample" if label else "image")
    return f"{what} of {about}{counted(run.record_bytes, 'byte')}{label}"


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


def _asked(run: Run, preset: str | None) -> dict[str, Any]:
    accelerator = run.accelerator
    return {
        "path": public_path(run.path),
        "target": public_path(run.path.resolve()),
        "preset": preset,
        "requirement": requirement_text(run.config, record_bytes=run.record_bytes),
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
