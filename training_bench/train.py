"""`iobench train`: ranks that compute on batches from each source, in interleaved blocks of one launch.

TrainRun (what to run) -> RankPlan (what ranks are told) -> launch -> logs -> points
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from ..loaders.evidence import Counter, background_rate, counter_for
from ..loaders.index import RecordLayout
from ..loaders.plan import ShuffleMode
from ..results.record import Point
from ..storage_bench.accelerators import Accelerator
from ..storage_bench.launch import launch_ranks
from .loop import Block, RankPlan, Source
from .summary import STEPS_PER_DEPTH, summarise_ranks

Cell = tuple[Source, int]

RANK_MODULE = "iobench.training_bench.loop"
START_S = 60.0
CONTROL_STEPS = 4
MIN_STEPS = 6
PATIENCE = 2.0
FILL_SHARE = 0.8  # of the time may be taken by what steps are expected to take
MEMORY_SHARE = 0.8
PROCESS_BYTES = 300 << 20


class TrainError(ValueError):
    """Ranks cannot be run as asked on this host."""

    exit_status: ClassVar[int] = 4


class TrainConfig(BaseModel):
    """How ranks read and how long they run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefetch_depth: Annotated[int, Field(ge=1, le=64)] = 2
    reader_threads: Annotated[int, Field(ge=1, le=64)] = 2
    rounds: Annotated[int, Field(ge=1, le=1000)] = 4
    shuffle: ShuffleMode = "blocks"
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, slots=True)
class TrainRun:
    """One launch: which source is read by how many ranks, and for how long at most.

    `expected_step_s` says of cells how long a step will take where that is known to be more than the step time.
    """

    folders: dict[Source, Path]
    engines: dict[Source, str]
    cells: tuple[Cell, ...]
    accelerator: Accelerator
    config: TrainConfig
    budget_s: float
    layout: RecordLayout
    steps: int | None = None
    expected_step_s: Mapping[Cell, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Points of every cell and its control, what the ranks held, and how long the blocks took."""

    points: list[Point]
    peak_rss_bytes: int
    wall_s: float
    read_bytes: int
    num_rounds: int
    invalid: tuple[tuple[Source, str], ...]
    warnings: tuple[str, ...]


def train(run: TrainRun, *, on_progress: Callable[[dict[str, Any]], None] | None = None) -> TrainResult:
    """Launch the ranks, run the blocks, and put all ranks' logs together.

    Raises TrainError where memory is short, LaunchError where Horovod or a rank fails.
    """
    plan = make_plan(run)
    check_memory(plan)
    counters = {str(source): counter_for([folder]) for source, folder in run.folders.items()}
    background = _background(counters)
    limit = START_S + run.budget_s + sum(block.limit_s for block in plan.blocks)
    with tempfile.TemporaryDirectory(prefix="iobench-ranks-") as folder:
        results = launch_ranks(
            RANK_MODULE,
            plan.model_dump(mode="json"),
            num_ranks=plan.num_ranks,
            folder=Path(folder),
            timeout_s=limit,
            on_progress=on_progress,
        )
    points, invalid = summarise_ranks(plan, run.accelerator, results, counters=counters, background_bps=background)
    rounds = 1 + max((log["round"] for log in results[0]["blocks"]), default=-1)
    return TrainResult(
        points=points,
        peak_rss_bytes=sum(result["peak_rss_bytes"] for result in results),
        wall_s=max(result["wall_s"] for result in results),
        read_bytes=sum(log["delivered_bytes"] for result in results for log in result["blocks"]),
        num_rounds=rounds,
        invalid=invalid,
        warnings=_warnings(plan, rounds, run.config.rounds),
    )


def make_plan(run: TrainRun) -> RankPlan:
    """The ranks' plan: each cell, and a synthetic control for each number of ranks among them.

    Where steps are expected to be long there are fewer rounds: each drops its first steps.
    """
    controls = [("synthetic", count) for count in sorted({count for _, count in run.cells})]
    cells: list[Cell] = [*run.cells, *(cell for cell in controls if cell not in run.cells)]  # type: ignore[list-item]
    rounds = _fitting_rounds(run, cells)
    return RankPlan(
        num_ranks=max(count for _, count in cells),
        blocks=tuple(_block(cell, cells, run, rounds) for cell in cells),
        rounds=rounds,
        budget_s=run.budget_s,
        folders={source: str(folder.resolve()) for source, folder in run.folders.items()},
        engines=run.engines,
        record_bytes=run.layout.slot_bytes,
        image_shape=run.layout.shape,
        accelerator=run.accelerator.name,
        step_time_s=run.accelerator.step_time_s,
        batch_size=run.accelerator.batch_size,
        reader_threads=run.config.reader_threads,
        prefetch_depth=run.config.prefetch_depth,
        shuffle=run.config.shuffle,
        seed=run.config.seed,
    )


def expected_seconds(run: TrainRun) -> float:
    """What the blocks take, if no step takes longer than it is expected to."""
    plan = make_plan(run)
    return plan.rounds * sum(_cell_s((block.source, block.num_ranks), run, plan.rounds) for block in plan.blocks)


def check_memory(plan: RankPlan) -> None:
    """Refuse a launch whose batch buffers do not fit into the memory that is free."""
    batch = plan.batch_size * plan.record_bytes
    if fitting_ranks(plan.num_ranks, batch, plan.prefetch_depth) < plan.num_ranks:
        raise TrainError(
            f"{plan.num_ranks} ranks with batches of {batch / 1e6:.0f} MB need "
            f"{plan.num_ranks * _rank_bytes(batch, plan.prefetch_depth) / 1e9:.1f} GB of memory, more than is free; "
            f"use a smaller --batch-size, --set prefetch_depth=1 or fewer ranks"
        )


def fitting_ranks(wanted: int, batch_bytes: int, prefetch_depth: int) -> int:
    """How many of `wanted` ranks fit into the memory that is free, with a fifth of it left alone."""
    import psutil

    free = int(psutil.virtual_memory().available * MEMORY_SHARE)
    return min(wanted, free // _rank_bytes(batch_bytes, prefetch_depth))


def _rank_bytes(batch_bytes: int, prefetch_depth: int) -> int:
    """Buffers being read, the one computed on, one in exchange and the synthetic one; and the process itself."""
    return batch_bytes * (prefetch_depth + 3) + PROCESS_BYTES


def _fitting_rounds(run: TrainRun, cells: Sequence[Cell]) -> int:
    """As many rounds as fit into the time, at least two."""
    least = min(2, run.config.rounds)
    if run.steps is not None:
        return run.config.rounds
    rounds = run.config.rounds
    while rounds > least and rounds * sum(_cell_s(cell, run, rounds) for cell in cells) > FILL_SHARE * run.budget_s:
        rounds -= 1
    return rounds


def _cell_s(cell: Cell, run: TrainRun, rounds: int) -> float:
    """What one block of a cell is expected to take."""
    return sum(_steps(cell[0], run, rounds)) * max(run.accelerator.step_time_s, run.expected_step_s.get(cell, 0.0))


def _steps(source: Source, run: TrainRun, rounds: int) -> tuple[int, int]:
    """Steps of one block that are dropped, and that are counted."""
    depth = run.config.prefetch_depth
    wanted = run.steps if run.steps is not None else max(MIN_STEPS, math.ceil(STEPS_PER_DEPTH * depth / rounds))
    if source == "synthetic":
        return 1, wanted if run.steps is not None else min(wanted, CONTROL_STEPS)
    return depth + 1, wanted


def _block(cell: Cell, cells: Sequence[Cell], run: TrainRun, rounds: int) -> Block:
    """A block with its share of the time: no cell may eat the others'.

    One that does not wait much is not cut short either: the little that it takes beyond its share decides its verdict.
    """
    drop, count = _steps(cell[0], run, rounds)
    share = _cell_s(cell, run, rounds) / sum(_cell_s(other, run, rounds) for other in cells)
    least = PATIENCE * (drop + count) * run.accelerator.step_time_s
    return Block(
        source=cell[0],
        num_ranks=cell[1],
        drop_steps=drop,
        count_steps=count,
        limit_s=max(run.budget_s / rounds * share, least),
    )


def _background(counters: Mapping[str, Counter]) -> dict[str, float]:
    """What others read from the devices under each source, in bytes per second; a device is watched once."""
    rates = {counter.leaves: background_rate(counter) or 0.0 for counter in counters.values()}
    return {source: rates[counter.leaves] for source, counter in counters.items()}


def _warnings(plan: RankPlan, rounds: int, wanted: int) -> tuple[str, ...]:
    if rounds >= wanted:
        return ()
    return (f"train: {rounds} of {wanted} rounds fitted into {plan.budget_s:.0f} s",)
