"""The main job, on one page: does this storage feed the accelerators, and would a local copy do better?

    data -> storage rate -> loader -> local copy -> ranks -> fed: predicted, measured -> copy or not -> verdict

Each part is a bench of its own; here they are put in a row, given their share of the time, and judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..loaders.shards import ShardSet
from ..results.environment import public_path
from ..results.record import RunRecord, utc_now
from ..storage_bench.accelerators import resolve_accelerator
from ..storage_bench.generate import Generate, generate
from ..storage_bench.launch import require_ranks
from ..storage_bench.staging import on_same_device, remove_stage, require_folder
from ..storage_bench.sweep import choose_engine
from ..training_bench.train import fitting_ranks
from .copying import decide_copy, make_copy
from .ranks import run_ranks
from .record import make_record
from .run import QualifyError, Run, Show
from .settings import QualifyConfig
from .storage import measure_loader, predict


def qualify(
    path: Path, config: QualifyConfig, *, local: Path, preset: str | None, command: Sequence[str], show: Show
) -> RunRecord:
    """Run the whole job on the data in `path` (generated first where it is empty) and return its record.

    Raises the error of the part that failed; each names its way out.
    """
    started = utc_now()
    require_ranks(2)
    accelerator = resolve_accelerator(config.accelerator, batch_size=config.batch_size)
    run = Run(path, local, config, accelerator, show)
    _ensure_data(run)
    _open_data(run)
    if not on_same_device(path, local):
        require_folder(local)
    show("plan", 1.0, announce(run))
    predicted = predict(run)
    measure_loader(run)
    staged, refused = make_copy(run)
    try:
        measured = run_ranks(run, predicted, staged)
        choice = decide_copy(run, staged, refused)
    finally:
        if staged is not None:
            remove_stage(staged.target)
    if measured.contradicts(predicted):
        run.warnings.append(f"predicted {predicted.value} accelerators fed, measured {measured.value}")
    return make_record(run, predicted, measured, choice, preset=preset, command=command, started=started)


def announce(run: Run) -> str:
    """What the job will take, told before it begins."""
    disk = run.total_bytes if not on_same_device(run.path, run.local) else 0
    return (
        f"at most {run.config.measure_seconds:.0f} s of measuring on {run.num_images} images "
        f"({run.total_bytes / 1e9:.2f} GB) with {run.engine} reads ({run.engine_reason}); up to {run.max_ranks} ranks; "
        f"{min(disk, run.config.disk_bytes) / 1e9:.2f} GB for a local copy in {public_path(run.local)}"
    )


def _ensure_data(run: Run) -> None:
    path, data = run.path, run.config.data
    if path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir()):
        return
    if path.exists() and not path.is_dir():
        return
    wanted = Generate(
        num_images=data.num_images, images_per_shard=data.images_per_shard, size=data.size, seed=data.seed
    )
    generate(path, wanted, progress=lambda done, total: run.show("generate", done / total, f"{done / 1e9:.2f} GB"))


def _open_data(run: Run) -> None:
    run.show("index", 0.0, "")
    shards = ShardSet.open(run.path)
    run.layout = shards.index.layout
    run.num_images = len(shards)
    run.num_shards = len(shards.paths)
    run.total_bytes = sum(stamp.size_bytes for stamp in shards.index.stamps)
    run.record_bytes = run.total_bytes // run.num_images
    run.engine, run.engine_reason = choose_engine(run.config.engine, shards.paths[0])
    batch_bytes = run.accelerator.batch_size * run.record_bytes
    run.max_ranks = fitting_ranks(run.config.max_ranks, batch_bytes, run.config.train.prefetch_depth)
    if run.max_ranks < 1:
        raise QualifyError(
            f"a batch of {batch_bytes / 1e6:.0f} MB does not fit into memory; use a smaller --batch-size"
        )
    if run.max_ranks < run.config.max_ranks:
        run.warnings.append(f"memory allows {run.max_ranks} ranks, not the {run.config.max_ranks} of max_ranks")
    if run.num_images < run.max_ranks:
        run.warnings.append(f"{run.num_images} images give work to as many ranks, not to {run.max_ranks}")
        run.max_ranks = run.num_images
    run.show("index", 1.0, shards.index.status)
