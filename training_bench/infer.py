"""`iobench infer`: large-batch validation inference, its sources beside each other in interleaved blocks.

InferConfig, a path -> InferPlan -> launch (one for each network) -> logs -> points
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..loaders.evidence import background_rate, counter_for
from ..loaders.shards import ShardSet
from ..results.record import Metric, Point, new_run_id
from ..storage_bench.accelerators import Accelerator, resolve_accelerator
from ..storage_bench.choice import choose_engine
from ..storage_bench.emulate import WORKLOADS
from ..storage_bench.launch import launch_ranks, require_ranks
from ..storage_bench.staging import remove_stage, stage
from . import saved
from .infer_plan import Bound, InferConfig, InferError, InferPlan, InferUsageError, Network
from .infer_points import infer_points
from .infer_search import agreement_metric, rate_metrics
from .models import ModelName, check_size, model_info
from .plan import Block, RankPlan, Source
from .train import START_S, check_memory

RANK_MODULE = "iobench.training_bench.infer_ranks"
CONTROL_BATCHES = 10
LEAST_BATCHES = 2
SEARCH_TRIALS = 16
SLACK_S = 60.0

Show = Callable[[str, float, str], None]


@dataclass(frozen=True, slots=True)
class InferRun:
    """What is to be answered: which images, how, and with which weights (None: random ones)."""

    path: Path
    config: InferConfig
    local: Path = field(default_factory=Path)
    weights: Path | None = None


@dataclass(frozen=True, slots=True)
class InferOutcome:
    """The points, the one that the record leads with, and what it says about the run."""

    points: list[Point]
    best: Point
    workload: dict[str, Any]
    warnings: tuple[str, ...]
    invalid: tuple[str, ...]
    metrics: dict[str, Metric]
    sentence: str


@dataclass(frozen=True, slots=True)
class _Data:
    """Where each source lies, how it is read, and what an image is."""

    folders: dict[Source, Path]
    engines: dict[Source, str]
    reason: str
    shards: ShardSet


def run_infer(run: InferRun, *, show: Show) -> InferOutcome:
    """Answer batches of every network, batch size and source; a staged copy is made first and removed afterwards.

    Raises InferUsageError or ModelError before any rank starts, InferError where memory is short, LaunchError where a
    rank fails.
    """
    config = run.config
    require_ranks(config.num_ranks)
    shards = ShardSet.open(run.path)
    _check(run, shards)
    folder = run.local / f"staged-{new_run_id('stage')}"
    try:
        if "staged" in config.sources:
            stage(run.path, folder, progress=lambda _, done, total: show("stage", done / total, f"{done / 1e9:.2f} GB"))
        places: dict[Source, Path] = {"direct": run.path, "staged": folder}
        folders = {source: place for source, place in places.items() if source in config.sources}
        engine, reason = choose_engine(config.engine, shards.files[0])
        data = _Data(folders, dict.fromkeys(folders, engine), reason, shards)
        found = [_run_model(run, name, data, show) for name in config.models]
    finally:
        if "staged" in config.sources:
            remove_stage(folder)
    return _outcome(run, data, found)


@dataclass(frozen=True, slots=True)
class _Found:
    """What one network's launch came to."""

    points: list[Point]
    plan: InferPlan
    invalid: tuple[str, ...]
    num_rounds: int
    peak_rss_bytes: int
    searches: list[dict[str, Any]]


def checkpoint_of(path: Path) -> Path:
    """The file of the weights: itself, or the last checkpoint of a folder; InferUsageError where there is none."""
    found = saved.found(path)[-1:] if path.is_dir() else [path] if path.is_file() else []
    if not found:
        raise InferUsageError(f"--weights {path}: there is no checkpoint; name one of iobench train, or its folder")
    return found[0]


def _run_model(run: InferRun, name: ModelName, data: _Data, show: Show) -> _Found:
    plan, accelerators = make_plan(run, name, data.folders, data.engines, data.shards)
    for size in plan.sizes:
        check_memory(size)
    counters = {str(source): counter_for([folder]) for source, folder in data.folders.items()}
    rates = {counter: background_rate(counter) or 0.0 for counter in set(counters.values())}

    def on_progress(seen: Mapping[str, Any]) -> None:
        told = f"{seen['rate']:.3g} batches/s" if "rate" in seen else f"round {seen['round']} of {seen['rounds']}"
        show(name, seen["round"] / seen["rounds"], told)

    with TemporaryDirectory(prefix="iobench-ranks-") as folder:
        results = launch_ranks(
            RANK_MODULE,
            plan.model_dump(mode="json"),
            num_ranks=run.config.num_ranks,
            folder=Path(folder),
            timeout_s=_limit_s(run.config, plan),
            emulated=plan.network is None,
            environment=_threads(plan),
            on_progress=on_progress,
        )
    points, invalid = infer_points(
        plan,
        accelerators,
        results,
        counters=counters,
        background_bps={source: rates[counter] for source, counter in counters.items()},
    )
    points = [_finished(point, name, run, plan, results) for point in points]
    return _Found(
        points=points,
        plan=plan,
        invalid=tuple(f"{name}, {text}" for text in invalid),
        num_rounds=1 + max((log["round"] for log in results[0]["logs"]), default=-1),
        peak_rss_bytes=sum(result["peak_rss_bytes"] for result in results),
        searches=results[0]["rates"],
    )


def make_plan(
    run: InferRun,
    name: ModelName,
    folders: Mapping[Source, Path],
    engines: Mapping[Source, str],
    shards: ShardSet,
) -> tuple[InferPlan, list[Accelerator]]:
    """What the ranks are told of one network, and the accelerator of each batch size."""
    config = run.config
    accelerators = [resolve(config, name, size) for size in config.batch_sizes]
    network = None
    if config.real:
        network = Network(
            model=name,
            device=config.accelerator,
            precision=config.precision,
            num_classes=config.num_classes,
            crop=config.crop,
            channels_last=config.channels_last,
            threads=max(1, len(os.sched_getaffinity(0)) // config.num_ranks),
            seed=config.seed,
            weights=None if run.weights is None else str(run.weights.resolve()),
            agreement_batches=config.agreement_batches if config.precision != "fp32" else 0,
        )
    share = 1 / (config.rounds * len(config.batch_sizes) * len(_with_control(config.sources)))
    sizes = tuple(
        _size_plan(config, each, dict(folders), dict(engines), shards, limit_s=config.seconds * share)
        for each in accelerators
    )
    bounds = () if config.latency_bound_s is None else tuple(_bound(config, source) for source in config.sources)
    return InferPlan(sizes=sizes, network=network, bounds=bounds), accelerators


def resolve(config: InferConfig, name: ModelName, batch_size: int) -> Accelerator:
    """What answers: a network on this host, whose step time is measured, or one whose step time is known.

    A published time is of the network that it was published of: InferUsageError for another.
    """
    if config.real:
        source = "measured here: mean compute time of synthetic batches"
        return Accelerator(config.accelerator, 0.0, batch_size, False, source, emulated=False)
    published = {kind for workload in WORKLOADS.values() for kind in workload.step_time_s}
    if config.accelerator in published and name not in WORKLOADS:
        raise InferUsageError(
            f"no step time of {model_info(name).title} on {config.accelerator} is published; give --accelerator "
            f"SECONDS for a batch of {batch_size}, or cpu or cuda to measure it here"
        )
    return resolve_accelerator(config.accelerator, batch_size=batch_size)


def effective_depth(config: InferConfig, batch_bytes: int, memory_bytes: int) -> int:
    """The depth of each rank's queue, so that the queues of all ranks fill at most their share of memory.

    Raises InferError where not even one batch fits.
    """
    room = int(config.queue_memory_share * memory_bytes) // (config.num_ranks * batch_bytes)
    if room < 1:
        raise InferError(
            f"one batch of {batch_bytes / 1e6:.0f} MB for each of {config.num_ranks} ranks is more than "
            f"{config.queue_memory_share:.0%} of memory; use a smaller --batch-size"
        )
    return min(config.queue_depth, room)


def _size_plan(
    config: InferConfig,
    accelerator: Accelerator,
    folders: dict[Source, Path],
    engines: dict[Source, str],
    shards: ShardSet,
    *,
    limit_s: float,
) -> RankPlan:
    """The plan of one batch size; its blocks are the sources."""
    import psutil

    layout = shards.index.layout
    depth = effective_depth(config, accelerator.batch_size * layout.slot_bytes, psutil.virtual_memory().total)
    counted = max(LEAST_BATCHES, math.ceil(config.batches / config.rounds))
    blocks = tuple(_block(source, config, counted, depth, limit_s) for source in _with_control(config.sources))
    return RankPlan(
        num_ranks=config.num_ranks,
        blocks=blocks,
        rounds=config.rounds,
        budget_s=config.seconds,
        folders={source: str(folder.resolve()) for source, folder in folders.items()},
        engines=engines,
        record_bytes=layout.slot_bytes,
        image_shape=layout.shape,
        accelerator=accelerator.name,
        step_time_s=accelerator.step_time_s,
        batch_size=accelerator.batch_size,
        reader_threads=config.prefetch_threads,
        prefetch_depth=depth,
        shuffle=config.shuffle,
        seed=config.seed,
    )


def _block(source: Source, config: InferConfig, counted: int, depth: int, limit_s: float) -> Block:
    """A control that nobody asked for is short; what is asked for drops what filled the queue before the clock ran."""
    control = source == "synthetic" and source not in config.sources
    return Block(
        source=source,
        num_ranks=config.num_ranks,
        drop_steps=1 if source == "synthetic" else max(config.warmup_batches, depth + 1),
        count_steps=min(counted, CONTROL_BATCHES) if control else counted,
        limit_s=limit_s,
        meets=False,
    )


def _with_control(sources: Sequence[Source]) -> tuple[Source, ...]:
    control: Source = "synthetic"
    return tuple(dict.fromkeys((*sources, control)))


def _bound(config: InferConfig, source: Source) -> Bound:
    assert config.latency_bound_s is not None
    return Bound(
        bound_s=config.latency_bound_s,
        arrivals=config.arrivals,
        trial_batches=math.ceil(config.trial_batches / config.num_ranks),
        resolution=config.resolution,
        source=source,
        budget_s=config.seconds,
    )


def _limit_s(config: InferConfig, plan: InferPlan) -> float:
    """The longest that a launch may take; who hangs is told."""
    blocks = 2 * config.seconds + START_S + SLACK_S
    return blocks + len(plan.bounds) * len(plan.sizes) * SEARCH_TRIALS * max(SLACK_S, config.seconds)


def _threads(plan: InferPlan) -> dict[str, str]:
    if plan.network is None:
        return {}
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(plan.network.threads))


def _check(run: InferRun, shards: ShardSet) -> None:
    """Refuse what a rank would notice late."""
    config, layout = run.config, shards.index.layout
    if run.weights is not None and not config.real:
        raise InferUsageError("--weights are of networks that are computed: --accelerator cpu or cuda")
    if run.weights is not None and len(config.models) > 1:
        raise InferUsageError("--weights are of one network; give one --model")
    if config.precision != "fp32" and not config.real:
        raise InferUsageError(
            f"--precision {config.precision} changes nothing of an emulated accelerator; use cpu, cuda"
        )
    if len(shards) < config.num_ranks:
        raise InferError(f"{run.path}: {len(shards)} images do not give work to {config.num_ranks} ranks; use fewer")
    for name in config.models:
        for size in config.batch_sizes:
            resolve(config, name, size)
    if not config.real:
        return
    if len(layout.shape) != 3 or layout.shape[2] != 3 or layout.dtype != "uint8":
        raise InferError(f"{run.path}: networks need RGB images of one size in bytes; these are {layout.shape}")
    rows, columns = layout.shape[:2]
    if config.crop is not None and config.crop > min(rows, columns):
        raise InferUsageError(f"crop={config.crop}: the images are {rows}x{columns}; give at most {min(rows, columns)}")
    for name in config.models:
        check_size(name, config.crop or rows, config.crop or columns)
    _check_device(config)


def _check_device(config: InferConfig) -> None:
    if config.accelerator != "cuda":
        return
    import torch

    if (found := torch.cuda.device_count()) < config.num_ranks:
        raise InferError(f"{config.num_ranks} ranks on cuda need a GPU each; this host has {found}; use cpu")


def _finished(
    point: Point, name: ModelName, run: InferRun, plan: InferPlan, results: Sequence[Mapping[str, Any]]
) -> Point:
    """The point with the network, the rate within the bound, and the agreement with fp32."""
    size = next(n for n, each in enumerate(plan.sizes) if each.batch_size == point.params["batch_size"])
    config = run.config
    block = next(block for block in plan.sizes[size].blocks if block.source == point.params["source"])
    params = {
        **point.params,
        "model": name,
        "precision": config.precision,
        "queue_depth_asked": config.queue_depth,
        "prefetch_threads": config.prefetch_threads,
        "dropped_steps": block.drop_steps,
        "mode": "offline" if config.latency_bound_s is None else "latency",
        "latency_bound_s": config.latency_bound_s,
    }
    metrics = dict(point.metrics)
    if config.latency_bound_s is not None and point.params["source"] in config.sources:
        metrics |= rate_metrics(results[0]["rates"], size, str(point.params["source"]), plan, config)
    if config.real:
        metrics["top1_agreement"] = agreement_metric([result["agreement"] for result in results], config.precision)
    return point.model_copy(update={"params": params, "metrics": metrics})


def _outcome(run: InferRun, data: _Data, found: Sequence[_Found]) -> InferOutcome:
    config = run.config
    points = [point for each in found for point in each.points]
    asked = [point for point in points if point.params["source"] in config.sources]
    known = [point for point in asked if point.metrics["images_per_s"].value is not None]
    if not known:
        raise InferError(f"no batch was counted within {config.seconds:g} s; raise --seconds, or lower --batch-size")
    best = max(known, key=lambda point: point.metrics["images_per_s"].value or 0.0)
    shards = data.shards
    workload = {
        **config.model_dump(mode="json", exclude={"about"}),
        "emulated": not config.real,
        "accelerator_source": resolve(config, config.models[0], config.batch_sizes[0]).source,
        "weights": "random" if run.weights is None else "checkpoint",
        "queue_depths": {str(size.batch_size): size.prefetch_depth for size in found[0].plan.sizes},
        "engine": next(iter(data.engines.values()), None),
        "engine_reason": data.reason,
        "num_images": len(shards),
        "images_per_file": max(shards.index.shard_sizes),
        "scaled_down": config.scaled_down(
            images_per_file=max(shards.index.shard_sizes), side=min(shards.index.layout.shape[:2], default=0)
        ),
        "image_shape": list(shards.index.layout.shape),
        "record_bytes": sum(stamp.size_bytes for stamp in shards.index.stamps) // len(shards),
        "searches": [search for each in found for search in each.searches],
    }
    peak = max(each.peak_rss_bytes for each in found)
    return InferOutcome(
        points=points,
        best=best,
        workload=workload,
        warnings=tuple(_warnings(run, found)),
        invalid=tuple(text for each in found for text in each.invalid),
        metrics={**best.metrics, "peak_rss_bytes": Metric(value=float(peak), unit="bytes", n=1)},
        sentence=_sentence(config, best, scaled_down=bool(workload["scaled_down"])),
    )


def _warnings(run: InferRun, found: Sequence[_Found]) -> list[str]:
    config, warnings = run.config, []
    for size in found[0].plan.sizes:
        if size.prefetch_depth < config.queue_depth:
            held = f"{config.queue_memory_share:.0%} of memory holds no more"
            asked = f"{size.prefetch_depth} batches of {size.batch_size} instead of {config.queue_depth}"
            warnings.append(f"queue: {asked}: {held}")
    for name, each in zip(config.models, found, strict=True):
        if each.num_rounds < config.rounds:
            warnings.append(f"{name}: {each.num_rounds} of {config.rounds} rounds fitted into {config.seconds:.0f} s")
    accelerator = resolve(config, config.models[0], config.batch_sizes[0])
    if accelerator.source.startswith("MLPerf"):
        warnings.append(
            "the step time was published of training, which takes longer than inference: give one that you measured, "
            "as --accelerator SECONDS"
        )
    if config.real and config.precision != "fp32" and run.weights is None:
        warnings.append("the weights are random: agreement with fp32 is that of an untrained network; give --weights")
    return warnings


def _sentence(config: InferConfig, best: Point, *, scaled_down: bool) -> str:
    """`ResNet-50 on emulated H100 (scaled), direct: 1,780 images/s, 3 % of the time waiting for data.`"""
    params, metrics = best.params, best.metrics
    stall = metrics["data_stall_fraction"].value or 0.0
    kind = "emulated " if params["emulated"] else ""
    smaller = ", scaled down from the study" if scaled_down else ""
    text = (
        f"{model_info(str(params['model'])).title}, {params['num_ranks']} x {kind}{params['accelerator']}, batch "
        f"{params['batch_size']}, {params['source']}: {metrics['images_per_s'].value:,.1f} images/s, {stall:.1%} of "
        f"the time waiting for data{smaller}."
    )
    rate = metrics.get("rate_within_bound_images_per_s")
    if rate is None or config.latency_bound_s is None:
        return text
    if rate.value is None:
        return f"{text} No rate keeps p99 under {config.latency_bound_s:g} s: {rate.reason}."
    return f"{text} Up to {rate.value:,.1f} images/s arrive with p99 under {config.latency_bound_s:g} s."
