"""One source under N ranks, beside its control: what `iobench train` runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ..loaders.discovery import find_shards
from ..loaders.shards import ShardSet
from ..results.record import Point, new_run_id
from ..storage_bench.accelerators import resolve_accelerator
from ..storage_bench.launch import require_ranks
from ..storage_bench.staging import remove_stage, stage
from ..storage_bench.sweep import choose_engine
from .loop import Source
from .summary import find_point
from .train import TrainConfig, TrainError, TrainRun, train


@dataclass(frozen=True, slots=True)
class TrainOutcome:
    """The points, the one that was asked for, and what the record says about the run."""

    points: list[Point]
    best: Point
    workload: dict[str, Any]
    warnings: tuple[str, ...]
    invalid: tuple[str, ...]


class TrainUsageError(TrainError):
    """A source or size that does not exist."""

    exit_status = 2


def run_train(
    path: Path,
    config: TrainConfig,
    *,
    num_ranks: int,
    accelerator: str,
    batch_size: int | None,
    steps: int,
    source: str,
    engine: str,
    local: Path,
    seconds: float,
    show: Callable[[str, float, str], None],
) -> TrainOutcome:
    """Run `num_ranks` ranks on one source; a staged copy is made first and removed afterwards."""
    if source not in get_args(Source):
        raise TrainUsageError(f"--source {source}: choose {', '.join(get_args(Source))}")
    require_ranks(num_ranks)
    chosen = resolve_accelerator(accelerator, batch_size=batch_size)
    asked: Source = source  # type: ignore[assignment]  # checked above
    shards = ShardSet.open(path)
    if len(shards) < num_ranks:
        raise TrainError(f"{path}: {len(shards)} images do not give work to {num_ranks} ranks; use fewer, or more data")
    folder = local / f"staged-{new_run_id('stage')}" if asked == "staged" else path
    try:
        if asked == "staged":
            stage(path, folder, progress=lambda phase, done, total: show("stage", done / total, f"{done / 1e9:.2f} GB"))
        used, reason = choose_engine(engine, find_shards(folder)[0])
        run = TrainRun(
            folders={} if asked == "synthetic" else {asked: folder},
            engines={} if asked == "synthetic" else {asked: used},
            cells=((asked, num_ranks),),
            accelerator=chosen,
            config=config,
            budget_s=seconds,
            steps=steps,
            layout=shards.index.layout,
        )
        result = train(
            run, on_progress=lambda seen: show("ranks", seen["round"] / seen["rounds"], f"round {seen['round']}")
        )
    finally:
        if asked == "staged":
            remove_stage(folder)
    best = find_point(result.points, asked, num_ranks)
    if best is None:
        raise TrainError("no block was run within the time allowed; raise --seconds")
    workload = {
        "accelerator": chosen.name,
        "accelerator_source": chosen.source,
        "emulated": chosen.emulated,
        "scaled": chosen.scaled,
        "batch_size": chosen.batch_size,
        "step_time_s": chosen.step_time_s,
        "source": asked,
        "engine": used,
        "engine_reason": reason,
        "record_bytes": sum(stamp.size_bytes for stamp in shards.index.stamps) // len(shards),
    }
    return TrainOutcome(result.points, best, workload, result.warnings, tuple(text for _, text in result.invalid))
