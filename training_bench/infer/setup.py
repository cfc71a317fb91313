"""From what the user asks for to what ranks are told: step times, depths of queues, blocks; and what is refused."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...loaders.shards import ShardSet
from ...storage_bench.accelerators import Accelerator, resolve_accelerator
from ...storage_bench.emulate import WORKLOADS
from ...storage_bench.encoded import images_of
from ..feed import image_shape
from ..models import ModelName, check_size, model_info
from ..places import Places
from ..plan import Block, RankPlan, Source
from .plan import Bound, InferConfig, InferError, InferPlan, InferUsageError, Network

CONTROL_BATCHES = 10
LEAST_BATCHES = 2


@dataclass(frozen=True, slots=True)
class InferRun:
    """What is to be answered: which images, how, where, and with which weights (None: random ones)."""

    path: Path
    config: InferConfig
    local: Path = field(default_factory=Path)
    weights: Path | None = None
    places: Places = field(default_factory=Places)


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
            threads=max(1, len(os.sched_getaffinity(0)) // run.places.most_on_a_host(config.num_ranks)),
            seed=config.seed,
            near_gpu=config.placement == "auto",
            weights=None if run.weights is None else str(run.weights.resolve()),
            agreement_batches=config.agreement_batches if config.precision != "fp32" else 0,
        )
    share = 1 / (config.rounds * len(config.batch_sizes) * len(_with_control(config.sources)))
    together = run.places.most_on_a_host(config.num_ranks)
    sizes = tuple(
        _size_plan(config, each, dict(folders), dict(engines), shards, together, limit_s=config.seconds * share)
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


def effective_depth(config: InferConfig, batch_bytes: int, memory_bytes: int, together: int) -> int:
    """The depth of each rank's queue, so that those of `together` ranks of a host fill at most their share of memory.

    Raises InferError where not even one batch fits.
    """
    room = int(config.queue_memory_share * memory_bytes) // (together * batch_bytes)
    if room < 1:
        raise InferError(
            f"one batch of {batch_bytes / 1e6:.0f} MB for each of {together} ranks is more than "
            f"{config.queue_memory_share:.0%} of memory; use a smaller --batch-size"
        )
    return min(config.queue_depth, room)


def _size_plan(
    config: InferConfig,
    accelerator: Accelerator,
    folders: dict[Source, Path],
    engines: dict[Source, str],
    shards: ShardSet,
    together: int,
    *,
    limit_s: float,
) -> RankPlan:
    """The plan of one batch size; its blocks are the sources, and `together` ranks share a host's memory."""
    import psutil

    layout = shards.index.layout
    batch_bytes = accelerator.batch_size * config.sample_bytes(layout)
    depth = effective_depth(config, batch_bytes, psutil.virtual_memory().total, together)
    counted = max(LEAST_BATCHES, math.ceil(config.batches / config.rounds))
    blocks = tuple(_block(source, config, counted, depth, limit_s) for source in _with_control(config.sources))
    return RankPlan(
        num_ranks=config.num_ranks,
        blocks=blocks,
        rounds=config.rounds,
        budget_s=config.seconds,
        folders={source: str(folder.resolve()) for source, folder in folders.items()},
        engines=engines,
        record_bytes=config.sample_bytes(layout),
        image_shape=config.sample_shape(layout),
        accelerator=accelerator.name,
        step_time_s=accelerator.step_time_s,
        batch_size=accelerator.batch_size,
        reader_threads=config.prefetch_threads,
        prefetch_depth=depth,
        shuffle=config.shuffle,
        seed=config.seed,
        images=images_of(config),
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


def check_run(run: InferRun, shards: ShardSet) -> None:
    """Refuse what a rank would notice late."""
    config = run.config
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
    rows, columns, _ = image_shape(shards, path=str(run.path))
    if config.crop is not None and config.crop > min(rows, columns):
        raise InferUsageError(f"crop={config.crop}: the images are {rows}x{columns}; give at most {min(rows, columns)}")
    for name in config.models:
        check_size(name, config.crop or rows, config.crop or columns)
    if not run.places.hosts:
        _check_device(config)


def _check_device(config: InferConfig) -> None:
    if config.accelerator != "cuda":
        return
    import torch

    if (found := torch.cuda.device_count()) < config.num_ranks:
        raise InferError(f"{config.num_ranks} ranks on cuda need a GPU each; this host has {found}; use cpu")
