"""`iobench train --accelerator cpu|cuda`: a network that really trains on the data, and where its time went.

RealConfig, a path -> RealPlan -> launch -> every rank's clock of steps and losses -> one point
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from ..loaders.evidence import Counter, RouteEvidence, background_rate, counter_for, judge, moved
from ..loaders.page_cache import cache_fraction
from ..loaders.shards import ShardSet
from ..results.record import Metric, Point, RankReport, new_run_id, not_measured
from ..results.stats import summarise
from ..storage_bench.choice import choose_engine
from ..storage_bench.evidence import cold_scope_of, doubts, read_path
from ..storage_bench.launch import launch_ranks, require_ranks
from ..storage_bench.staging import remove_stage, stage
from . import saved
from .command import TrainOutcome, TrainUsageError
from .feed import check_data
from .models import check_size, model_info
from .real_plan import Device, RealConfig, RealPlan, Scaling
from .train import TrainError

RANK_MODULE = "iobench.training_bench.real"
BLOCKS = 8
CURVE_POINTS = 1000
FINAL_SHARE = 0.1
DEFAULT_BATCH = 32
UNITS = {
    "step_time_s": "s",
    "data_wait_s": "s",
    "compute_s": "s",
    "sync_wait_s": "s",
    "optimizer_s": "s",
    "overhead_s": "s",
    "data_stall_fraction": "fraction",
    "images_per_s": "images/s",
}
_TORCHRUN = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")


@dataclass(frozen=True, slots=True)
class RealRun:
    """What is to be trained: by how many ranks, on what, from where to where."""

    path: Path
    config: RealConfig
    model: str
    device: Device
    num_ranks: int
    steps: int
    batch_size: int | None = None
    scaling: Scaling = "weak"
    source: str = "direct"
    engine: str = "auto"
    local: Path = field(default_factory=Path)
    validate_on: Path | None = None
    checkpoint: Path | None = None
    resume: bool = False


def refuse_torchrun(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to be one of several copies that torchrun started: each would start all ranks once more."""
    if any(name in environment for name in _TORCHRUN):
        copies = environment.get("WORLD_SIZE", "several")
        raise TrainUsageError(
            f"torchrun started {copies} copies of this command, and each would start all ranks: iobench train starts "
            f"its ranks itself; run `iobench train ... --np {copies if copies.isdigit() else 'N'}` without torchrun"
        )


def run_real(run: RealRun, *, show: Callable[[str, float, str], None]) -> TrainOutcome:
    """Train; a staged copy is made first and removed afterwards.

    Raises TrainUsageError, ModelError or FeedError before any rank is started, SavedError for a checkpoint that cannot
    be gone on from, LaunchError where a rank fails or dies.
    """
    require_ranks(run.num_ranks)
    _require_device(run.device, run.num_ranks)
    plan = make_plan(run)
    if run.checkpoint is not None:
        _check_checkpoint(plan, run.checkpoint)
    folder = run.local / f"staged-{new_run_id('stage')}" if plan.source == "staged" else run.path
    try:
        if plan.source == "staged":
            stage(run.path, folder, progress=lambda _, done, total: show("stage", done / total, f"{done / 1e9:.2f} GB"))
        files = [] if plan.source == "synthetic" else ShardSet.open(folder).files
        engine, reason = choose_engine(run.engine, files[0]) if files else ("auto", "nothing is read")
        plan = plan.model_copy(update={"data": str(folder.resolve()), "engine": engine})
        watch = _Watch(files)
        results = _launch(plan, show)
        evidence = watch.judge(plan, results)
    finally:
        if plan.source == "staged":
            remove_stage(folder)
    point = summarise_real(plan, results, evidence, folder)
    best = results[0]
    workload = {
        **plan.model_dump(mode="json", exclude={"data", "validate_on", "checkpoint_folder", "num_ranks", "threads"}),
        "accelerator": plan.device,
        "emulated": False,
        "scaling": run.scaling,
        "global_batch": plan.global_batch,
        "engine_reason": reason,
        "parameters": best["parameters"],
        "first_step": best["first_step"],
        "loss_curve": _curve(best["losses"]),
    }
    invalid = evidence.invalid_reason() if evidence is not None else None
    return TrainOutcome(
        points=[point],
        best=point,
        workload=workload,
        warnings=tuple(doubts(evidence)) if evidence is not None else (),
        invalid=(invalid,) if invalid else (),
        metrics=dict(point.metrics),
        sentence=_sentence(plan, point, best),
    )


def make_plan(run: RealRun) -> RealPlan:
    """What the ranks are told, but for where a staged copy will lie.

    Weak scaling gives each rank `batch_size` images a step, strong scaling shares them out.
    """
    if run.source not in ("direct", "staged", "synthetic"):
        raise TrainUsageError(f"--source {run.source}: choose direct, staged, synthetic")
    if run.resume and run.checkpoint is None:
        raise TrainUsageError("--resume needs --checkpoint DIR: the folder of the training that was interrupted")
    batch_size = _rank_batch(run)
    images = batch_size * run.num_ranks
    shape = _checked(run.path, run.config, images_per_step=images if run.source != "synthetic" else 1)
    if run.validate_on is not None and _checked(run.validate_on, run.config, images_per_step=1) != shape:
        raise TrainUsageError(f"--validate {run.validate_on}: its images are not {shape}, as those of {run.path} are")
    crop = run.config.crop
    if crop is not None and crop > min(shape[:2]):
        raise TrainUsageError(f"crop={crop}: the images are {shape[0]}x{shape[1]}; give at most {min(shape[:2])}")
    rows, columns = (crop, crop) if crop else shape[:2]
    check_size(run.model, rows, columns, aux_heads=run.config.aux_heads)
    return RealPlan(
        **run.config.model_dump(),
        model=model_info(run.model).name,
        device=run.device,
        num_ranks=run.num_ranks,
        batch_size=batch_size,
        steps=run.steps,
        source=run.source,  # type: ignore[arg-type]  # checked above
        image_shape=shape,
        threads=max(1, len(os.sched_getaffinity(0)) // run.num_ranks),
        data=str(run.path.resolve()),
        validate_on=None if run.validate_on is None else str(run.validate_on.resolve()),
        checkpoint_folder=None if run.checkpoint is None else str(run.checkpoint.resolve()),
        resume=run.resume,
    )


def _rank_batch(run: RealRun) -> int:
    size = run.batch_size or DEFAULT_BATCH
    if run.scaling == "weak":
        return size
    if size % run.num_ranks:
        raise TrainUsageError(
            f"--scaling strong shares --batch-size {size} among {run.num_ranks} ranks, and it does not divide; give a "
            f"multiple of {run.num_ranks}"
        )
    return size // run.num_ranks


def _checked(path: Path, config: RealConfig, *, images_per_step: int) -> tuple[int, int, int]:
    shards = ShardSet.open(path)
    try:
        return check_data(shards, num_classes=config.num_classes, images_per_step=images_per_step, path=str(path))
    finally:
        shards.close()


def _require_device(device: Device, num_ranks: int) -> None:
    if device == "cpu":
        return
    import torch

    found = torch.cuda.device_count()
    if found < num_ranks:
        raise TrainError(f"{num_ranks} ranks on cuda need a GPU each; this host has {found}; use --accelerator cpu")


def _check_checkpoint(plan: RealPlan, folder: Path) -> None:
    """Refuse what would be noticed only on a rank, or at the first checkpoint."""
    for data in (plan.data, plan.validate_on):
        if data is not None and folder.resolve().is_relative_to(data):
            raise TrainUsageError(f"--checkpoint {folder}: it would lie among the data in {data}; give another folder")
    if plan.resume:
        path = saved.last(folder)
        document = saved.parse(path.read_bytes(), path=path, settings=plan.settings)
        if document["step"] >= plan.steps:
            raise TrainUsageError(f"{path}: all {plan.steps} steps were made; there is nothing to go on with")
    elif saved.found(folder):
        raise TrainUsageError(
            f"{folder}: there are checkpoints of another training; go on with --resume, or give another --checkpoint"
        )


def _launch(plan: RealPlan, show: Callable[[str, float, str], None]) -> list[dict[str, Any]]:
    def on_progress(seen: dict[str, Any]) -> None:
        show("steps", seen["step"] / seen["steps"], f"step {seen['step']} of {seen['steps']}")

    with TemporaryDirectory(prefix="iobench-ranks-") as folder:
        return launch_ranks(
            RANK_MODULE,
            plan.model_dump(mode="json"),
            num_ranks=plan.num_ranks,
            folder=Path(folder),
            timeout_s=plan.max_seconds,
            emulated=False,
            environment={"OMP_NUM_THREADS": str(plan.threads), "MKL_NUM_THREADS": str(plan.threads)},
            on_progress=on_progress,
        )


class _Watch:
    """The counters of what is read, from before the ranks start."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._counter: Counter | None = counter_for(files) if files else None
        if self._counter is not None:
            self._background = background_rate(self._counter) or 0.0
            self._resident = cache_fraction(files)
            self._before = self._counter.snapshot()

    def judge(self, plan: RealPlan, results: Sequence[Mapping[str, Any]]) -> RouteEvidence | None:
        """The way the bytes took of all epochs together; those after the first may come from memory."""
        if self._counter is None:
            return None
        went = moved(self._before, self._counter.snapshot())
        own = [result["process_bytes"] for result in results]
        seconds = max(result["steps_ns"][-1][-1] - result["steps_ns"][0][0] for result in results) / 1e9
        return judge(
            self._counter,
            engine=plan.engine,
            page_cache=None,
            cache_fraction=self._resident,
            cache_fraction_after=cache_fraction(self._files),
            delivered_bytes=sum(result["delivered_bytes"] for result in results),
            payload_bytes=sum(result["payload_bytes"] for result in results),
            raw_device_bytes=went.pop(self._counter.name, None),
            process_bytes=None if None in own else sum(own),
            background_bytes=self._background * seconds,
            beside=went,
        )


def summarise_real(
    plan: RealPlan, results: Sequence[Mapping[str, Any]], evidence: RouteEvidence | None, folder: Path
) -> Point:
    """The one point: parts of a step that add up to it, averaged over ranks, and what the network learned."""
    per_rank = [_blocks(result, plan) for result in results]
    metrics: dict[str, Metric] = {}
    for name, unit in UNITS.items():
        table = np.array([rows[name] for rows in per_rank])
        samples = table.sum(axis=0) if name == "images_per_s" else table.mean(axis=0)
        metrics[name] = summarise(samples.tolist(), unit=unit, reason=_TOO_FEW)
    return Point(
        params={
            "stage": "real",
            "source": plan.source,
            "num_ranks": plan.num_ranks,
            "accelerator": plan.device,
            "emulated": False,
            "model": plan.model,
            "precision": plan.precision,
            "batch_size": plan.batch_size,
            "labels": plan.labels,
            "counted_steps": max(0, len(results[0]["steps_ns"]) - plan.drop_steps),
        },
        read_path=None if evidence is None else read_path(evidence, cold_scope=cold_scope_of(folder)),
        metrics={**metrics, **_learned(plan, results[0])},
        ranks=tuple(_report(result, rows) for result, rows in zip(results, per_rank, strict=True)),
    )


_TOO_FEW = "no step is left to count; raise --steps, or lower drop_steps"


def _blocks(result: Mapping[str, Any], plan: RealPlan) -> dict[str, list[float]]:
    """Each rank's figures by time block: stretches of counted steps."""
    steps = np.array(result["steps_ns"], dtype=np.int64)[plan.drop_steps :]
    pieces = [piece for piece in np.array_split(steps, min(BLOCKS, max(1, len(steps) // 2))) if len(piece)]
    rows = [_figures(piece, plan) for piece in pieces]
    return {name: [row[name] for row in rows] for name in UNITS}


def _figures(steps: npt.NDArray[np.int64], plan: RealPlan) -> dict[str, float]:
    """Means per step in seconds of rows (asked, got, computed, met, stepped); the parts add up to the step."""
    wall = (steps[-1, 4] - steps[0, 0]) / 1e9 / len(steps)
    wait, compute, sync, update = ((steps[:, i + 1] - steps[:, i]).mean() / 1e9 for i in range(4))
    return {
        "step_time_s": wall,
        "data_wait_s": wait,
        "compute_s": compute,
        "sync_wait_s": sync,
        "optimizer_s": update,
        "overhead_s": wall - wait - compute - sync - update,
        "data_stall_fraction": wait / wall,
        "images_per_s": plan.batch_size / wall,
    }


def _learned(plan: RealPlan, result: Mapping[str, Any]) -> dict[str, Metric]:
    """Loss and accuracy of the last tenth of the steps, and of the validation data."""
    last = max(1, round(FINAL_SHARE * plan.steps))
    loss, right = (float(np.mean(result[name][-last:])) for name in ("losses", "accuracies"))
    seen = result["validation"]
    reason = "no validation data were given (--validate)"
    return {
        "train_loss": summarise([loss], unit="nats"),
        "train_accuracy": summarise([right], unit="fraction"),
        "validation_loss": summarise([seen["loss"]], unit="nats") if seen else not_measured("nats", reason),
        "validation_accuracy": (
            summarise([seen["accuracy"]], unit="fraction") if seen else not_measured("fraction", reason)
        ),
    }


def _report(result: Mapping[str, Any], rows: Mapping[str, Sequence[float]]) -> RankReport:
    metrics = {name: summarise(rows[name], unit=unit, reason=_TOO_FEW) for name, unit in UNITS.items()}
    return RankReport(
        rank=result["rank"], local_rank=result["local_rank"], pid=result["pid"], host=result["host"], metrics=metrics
    )


def _curve(losses: Sequence[float]) -> dict[str, Any]:
    """Mean losses of every `steps_per_point` steps: at most CURVE_POINTS of them."""
    stride = -(-len(losses) // CURVE_POINTS)
    means = [float(np.mean(losses[start : start + stride])) for start in range(0, len(losses), stride)]
    return {"steps_per_point": stride, "losses": means}


def _sentence(plan: RealPlan, point: Point, result: Mapping[str, Any]) -> str:
    """`ResNet-18 on 2 cpu ranks, 300 steps of 64 images: loss 2.31 -> 0.05, accuracy 0.99; validation 0.98.`"""
    seen = result["validation"]
    ranks = f"{plan.num_ranks} {plan.device} rank{'s' if plan.num_ranks > 1 else ''}"
    validation = f"; of {seen['num_images']:.0f} validation images {seen['accuracy']:.1%} are right" if seen else ""
    return (
        f"{model_info(plan.model).title} on {ranks}, {plan.steps} steps of {plan.global_batch} images: loss "
        f"{result['losses'][0]:.3f} -> {point.metrics['train_loss'].value:.3f}, "
        f"{point.metrics['train_accuracy'].value:.1%} of the last images right{validation}."
    )
