"""What a real training is asked for, and what is refused before any rank starts.

RealRun: RealConfig, a path, how many ranks -> RealPlan: what each rank is told
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...loaders.traced import MAX_SPANS
from ...results.quantities import counted
from .. import saved
from ..command import TrainUsageError
from ..feed import check_data
from ..models import check_size, model_info
from ..places import Places
from ..plan import Source
from ..train_run import TrainError
from .plan import Device, RealConfig, RealPlan, Scaling

DEFAULT_BATCH = 32
SOURCES = ("direct", "staged", "synthetic")
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
    traced: bool = False
    places: Places = field(default_factory=Places)


def refuse_torchrun(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to be one of several copies that torchrun started: each would start all ranks once more."""
    if any(name in environment for name in _TORCHRUN):
        copies = environment.get("WORLD_SIZE", "several")
        raise TrainUsageError(
            f"torchrun started {copies} copies of this command, and each would start all ranks: iobench train starts "
            f"its ranks itself; run `iobench train ... --np {copies if copies.isdigit() else 'N'}` without torchrun"
        )


def make_plan(run: RealRun) -> RealPlan:
    """What the ranks are told, but for where a staged copy will lie.

    Weak scaling gives each rank `batch_size` images a step, strong scaling shares them out.
    """
    if run.source not in SOURCES:
        raise TrainUsageError(f"--source {run.source}: choose {', '.join(SOURCES)}")
    source: Source = run.source  # type: ignore[assignment]  # checked above
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
    refuse_graphs(run)
    rows, columns = (crop, crop) if crop else shape[:2]
    check_size(run.model, rows, columns, aux_heads=run.config.aux_heads)
    return RealPlan(
        **run.config.model_dump(),
        model=model_info(run.model).name,
        device=run.device,
        num_ranks=run.num_ranks,
        batch_size=batch_size,
        steps=run.steps,
        source=source,
        image_shape=shape,
        threads=max(1, len(os.sched_getaffinity(0)) // run.places.most_on_a_host(run.num_ranks)),
        data=str(run.path.resolve()),
        validate_on=None if run.validate_on is None else str(run.validate_on.resolve()),
        checkpoint_folder=None if run.checkpoint is None else str(run.checkpoint.resolve()),
        resume=run.resume,
        trace_spans=MAX_SPANS // run.num_ranks if run.traced else 0,
    )


def refuse_graphs(run: RealRun) -> None:
    """Raise TrainUsageError where steps cannot be graphs."""
    if not run.config.cuda_graphs:
        return
    if run.device != "cuda":
        raise TrainUsageError(f"cuda_graphs=true needs --accelerator cuda, not {run.device}; leave it out")
    if run.num_ranks > 1:
        raise TrainUsageError(
            f"cuda_graphs=true is for one rank: Horovod averages gradients of {run.num_ranks} from hooks of the "
            f"backward pass, which a graph does not call; leave it out"
        )


def cores_shared(plan: RealPlan) -> tuple[str, ...]:
    """Warnings of reader threads that take their time from the cores that the network computes on.

    Each rank computes on all its share of the cores, so that every reader thread is one too many.
    """
    if plan.device != "cpu" or plan.source == "synthetic" or not plan.reader_threads:
        return ()
    readers, cores = counted(plan.reader_threads, "reader thread"), counted(plan.threads, "core")
    text = (
        f"each rank computes on {cores} and reads with {readers} on the same: what reading and decoding take of them "
        f"shows as longer compute, not as data wait; --hops measures how much"
    )
    return (text,)


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
    shards = config.open(path)
    try:
        return check_data(shards, num_classes=config.num_classes, images_per_step=images_per_step, path=str(path))
    finally:
        shards.close()


def check_places(run: RealRun) -> None:
    """Raise LaunchError or TrainError, before any work is done, where the ranks cannot run."""
    run.places.require(run.num_ranks)
    if not run.places.hosts:
        require_device(run.device, run.num_ranks)


def require_device(device: Device, num_ranks: int) -> None:
    """Raise TrainError where ranks on CUDA would have no GPU each."""
    if device == "cpu":
        return
    import torch

    found = torch.cuda.device_count()
    if found < num_ranks:
        raise TrainError(f"{num_ranks} ranks on cuda need a GPU each; this host has {found}; use --accelerator cpu")


def check_checkpoint(plan: RealPlan, folder: Path) -> tuple[str, ...]:
    """Refuse what would be noticed only on a rank, or at the first checkpoint; warnings of what is gone on with."""
    warnings: tuple[str, ...] = ()
    for data in (plan.data, plan.validate_on):
        if data is not None and folder.resolve().is_relative_to(data):
            raise TrainUsageError(f"--checkpoint {folder}: it would lie among the data in {data}; give another folder")
    if plan.resume:
        path = saved.last(folder)
        document = saved.parse(path.read_bytes(), path=path, settings=plan.settings)
        done, before = document["step"], document["settings"]["steps"]
        if done >= plan.steps:
            raise TrainUsageError(
                f"{path}: this training is at step {done}, and --steps {plan.steps} asks for no more; go on with "
                f"--steps {done + 1} or more"
            )
        warnings = schedule_changed(plan, before=before, done=done)
    elif saved.found(folder):
        raise TrainUsageError(
            f"{folder}: there are checkpoints of another training; go on with --resume, or give another --checkpoint"
        )
    saved.check_writable(folder)
    return warnings


def schedule_changed(plan: RealPlan, *, before: int, done: int) -> tuple[str, ...]:
    """A warning where the `done` steps, of `before` to be, had another learning rate than they have in `plan`."""
    earlier = plan.model_copy(update={"steps": before})
    if all(earlier.learning_rate_at(step) == plan.learning_rate_at(step) for step in range(done)):
        return ()
    text = (
        f"the first {done} steps had the learning rate of a training of {before} (schedule {plan.schedule}), those "
        f"from here on have that of {plan.steps}: it goes from {earlier.learning_rate_at(done - 1):.3g} to "
        f"{plan.learning_rate_at(done):.3g}; a training of {plan.steps} steps from its beginning learns otherwise"
    )
    return (text,)
