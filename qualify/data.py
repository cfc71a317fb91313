"""The data of a qualification: generated where there are none, as many as fit, and opened."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..loaders.shards import ShardSet
from ..results.quantities import counted
from ..storage_bench.accelerators import MODEL_TITLES
from ..storage_bench.choice import choose_engine
from ..storage_bench.emulate import WORKLOADS
from ..storage_bench.generate import (
    DESCRIPTION,
    Generate,
    GenerateSamples,
    generate,
    read_dataset,
    record_bytes,
)
from ..storage_bench.limits import ram_bytes
from ..storage_bench.workload import data_files
from ..training_bench.budget import fitting_ranks
from .run import QualifyError, Run
from .settings import QualifyConfig

IMAGES = 6144
IMAGES_PER_SHARD = 256
LEAST_SHARDS = 4  # that a scaled data set still has
DISK_SHARE = 0.8  # of what is free may be taken
QUEUE_SHARE = 0.25  # of memory may hold what is read ahead
UNLIKE = 0.10


def ensure_data(run: Run) -> None:
    """Generate what the settings ask for where the folder is empty, or as much of it as fits."""
    path = run.path
    if path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir()):
        return
    if path.exists() and not path.is_dir():
        return
    wanted, note = planned_data(run.config, free_bytes=_free_bytes(path))
    if note:
        run.scaled.append(note)
    generate(path, wanted, progress=lambda done, total: run.show("generate", done / total, f"{done / 1e9:.2f} GB"))


def planned_data(config: QualifyConfig, *, free_bytes: int) -> tuple[Generate | GenerateSamples, str]:
    """What to generate within `disk_bytes` and the disk's free room, and what that leaves out."""
    full = _full_data(config)
    each = record_bytes(full) if isinstance(full, Generate) else full.sample_bytes
    limit = min(config.disk_bytes, int(DISK_SHARE * free_bytes))
    fitting = max(1, limit // each)
    if fitting >= full.num_images:
        return full, ""
    per_shard = min(full.images_per_shard, max(1, fitting // LEAST_SHARDS))
    what = f"samples of {config.model}" if config.data.workload else "images"
    why = "disk_bytes" if limit == config.disk_bytes else "the disk's free space"
    note = (
        f"data: {fitting:,} of {full.num_images:,} {what}, {per_shard:,} a file: "
        f"{why} has room for {limit / 1e9:.2f} of {full.num_images * each / 1e9:.2f} GB"
    )
    if isinstance(full, Generate):
        return full.model_copy(update={"num_images": fitting, "images_per_shard": per_shard}), note
    return (
        WORKLOADS[config.model].generate_settings(
            num_images=fitting, records_per_file=per_shard, seed=config.data.seed
        ),
        note,
    )


def _full_data(config: QualifyConfig) -> Generate | GenerateSamples:
    data = config.data
    if data.workload:
        return WORKLOADS[config.model].generate_settings(
            num_images=data.num_images, records_per_file=data.images_per_shard, seed=data.seed
        )
    return Generate(
        num_images=data.num_images or IMAGES,
        images_per_shard=data.images_per_shard or IMAGES_PER_SHARD,
        size=data.size,
        seed=data.seed,
        format=data.format,
    )


def open_data(run: Run) -> None:
    """Index the shards, and settle engine, ranks and queue depth by what they are and by this machine's memory."""
    files = data_files(run.path)  # refused before their index takes time, where no storage can be measured with them
    run.show("index", 0.0, "")
    shards = ShardSet.open(run.path)
    run.layout = shards.index.layout
    run.num_images = len(shards)
    run.num_shards = len(shards.paths)
    run.total_bytes = sum(stamp.size_bytes for stamp in shards.index.stamps)
    run.record_bytes = run.total_bytes // run.num_images
    run.engine, run.engine_reason = choose_engine(run.config.engine, files[0].path)
    _note_workload(run)
    batch_bytes = run.accelerator.batch_size * run.record_bytes
    _cap_queue(run, batch_bytes)
    run.max_ranks = fitting_ranks(run.config.max_ranks, batch_bytes, run.config.train.prefetch_depth)
    if run.max_ranks < 1:
        raise QualifyError(
            f"a batch of {batch_bytes / 1e6:.0f} MB does not fit into memory; use a smaller --batch-size"
        )
    if run.max_ranks < run.config.max_ranks:
        run.scaled.append(f"ranks: memory allows {run.max_ranks}, not the {run.config.max_ranks} of max_ranks")
    if run.num_images < run.max_ranks:
        run.warnings.append(f"{run.num_images} images give work to as many ranks, not to {run.max_ranks}")
        run.max_ranks = run.num_images
    if run.max_ranks < run.config.required_gpus:
        run.scaled.append(
            f"the requirement of {run.config.required_gpus} accelerators is asked of {run.max_ranks} ranks, the most "
            f"that run here: they can show that it is missed, not that it is met"
        )
    run.show("index", 1.0, shards.index.status)


def _cap_queue(run: Run, batch_bytes: int) -> None:
    """Read ahead no more than a quarter of memory holds, over the ranks that the requirement needs."""
    config = run.config
    ranks = min(config.max_ranks, config.required_gpus + 1)
    fitting = max(1, int(QUEUE_SHARE * ram_bytes()) // max(1, ranks * batch_bytes))
    asked = config.train.prefetch_depth
    if fitting < asked:
        run.scaled.append(
            f"queue: {fitting} batches deep instead of {asked}: {ranks} ranks with batches of "
            f"{batch_bytes / 1e6:.0f} MB may fill a quarter of memory"
        )
        train = config.train.model_copy(update={"prefetch_depth": fitting})
        run.config = config.model_copy(update={"train": train})


def _note_workload(run: Run) -> None:
    """Which published data set the data are a part of, and whether they are the ones that the model reads."""
    workload = WORKLOADS[run.config.model]
    if (run.path / DESCRIPTION).is_file() and (part := read_dataset(run.path).workload) is not None:
        run.data_label = part.label
        run.data_scaled = part.scaled
        if part.name != run.config.model:
            run.warnings.append(
                f"the data are samples of {part.name}, the step time is that of {run.config.model}; "
                f"the verdict is about neither's published workload"
            )
    off = abs(run.record_bytes / workload.record_bytes - 1)
    if run.config.data.workload and off > UNLIKE:
        run.warnings.append(
            f"{MODEL_TITLES[run.config.model]} reads samples of {counted(workload.record_bytes, 'byte')}, these have "
            f"{run.record_bytes:,} on average: what an accelerator asks for differs as much"
        )


def _free_bytes(path: Path) -> int:
    """Free room of the file system that `path` is on, or will be."""
    there = next(folder for folder in (path, *path.resolve().parents) if folder.exists())
    return shutil.disk_usage(there).free
