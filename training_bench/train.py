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

from pydantic import Field

from ..loaders.evidence import Counter, background_rate
from ..loaders.index import RecordLayout
from ..loaders.plan import ShuffleMode
from ..results.record import Point
from ..storage_bench.accelerators import Accelerator
from ..storage_bench.encoded import EncodedImages, images_of
from ..storage_bench.launching.launch import launch_ranks
from ..storage_bench.launching.placing import Placing
from ..storage_bench.placement import Placement
from .energy import energy_counters, idle_watts
from .placed import strays
from .places import Places
from .plan import Block, RankPlan, Rung, Source
from .search import Search, window
from .sources import resident_batches
from .summary import STEPS_PER_DEPTH, summarise_ranks

Cell = tuple[Source | Rung, int]

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


class TrainBudgetError(TrainError):
    """The time allowed is too short for what is asked."""

    exit_status = 2


class TrainConfig(EncodedImages):
    """How ranks read, what becomes of encoded images, and how long they run.

    At least `warmup_steps` of a block are dropped; `count_steps` are counted in all rounds together, where fewer than
    ten times the depth would do.  `placement` says which cores ranks get (storage_bench/launching/placing.py).
    """

    prefetch_depth: Annotated[int, Field(ge=1, le=64)] = 2
    reader_threads: Annotated[int, Field(ge=1, le=64)] = 2
    rounds: Annotated[int, Field(ge=1, le=1000)] = 4
    warmup_steps: Annotated[int, Field(ge=0, le=10_000)] = 0
    count_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    shuffle: ShuffleMode = "blocks"
    seed: Annotated[int, Field(ge=0)] = 0
    placement: Placement = "auto"


@dataclass(frozen=True, slots=True)
class FindMax:
    """Find the largest number of ranks, up to `high`, whose AU is at least `threshold`; `hint` is where to begin."""

    high: int
    threshold: float
    hint: int | None = None
    low: int = 1

    @property
    def centre(self) -> int:
        """The number of ranks that the answer is expected to be near; without a hint near the most."""
        return min(max(self.high - 1 if self.hint is None else self.hint, self.low), self.high)


@dataclass(frozen=True, slots=True)
class TrainRun:
    """One launch: which source is read by how many ranks, and for how long at most.

    `expected_step_s` says of cells how long a step will take where that is known to be more than the step time.  With
    `find` the numbers of ranks around the largest fed one are run on the direct source, beside `cells`.  For a trace
    each rank notes its first `trace_spans` reads and decodes.
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
    find: FindMax | None = None
    places: Places = field(default_factory=Places)
    trace_spans: int = 0


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Points of every cell and its control, what the ranks held, and how long the blocks took.

    `logs` are the ranks' own, step by step, and `block_labels` what the blocks that they name are.
    """

    points: list[Point]
    peak_rss_bytes: int
    wall_s: float
    read_bytes: int
    num_rounds: int
    invalid: tuple[tuple[Source | Rung, str], ...]
    warnings: tuple[str, ...]
    trials: tuple[dict[str, Any], ...] = ()
    logs: tuple[dict[str, Any], ...] = ()
    block_labels: tuple[str, ...] = ()


def train(run: TrainRun, *, on_progress: Callable[[dict[str, Any]], None] | None = None) -> TrainResult:
    """Launch the ranks, run the blocks, and put all ranks' logs together.

    Raises TrainError where memory is short, LaunchError where Horovod or a rank fails.
    """
    plan = make_plan(run)
    check_memory(plan.model_copy(update={"num_ranks": run.places.most_on_a_host(plan.num_ranks)}))
    counters = run.places.counters(run.folders)
    background, idle = _background(counters), idle_watts(energy_counters())
    limit = START_S + run.budget_s + _search_s(run) + sum(block.limit_s for block in plan.blocks)
    with tempfile.TemporaryDirectory(prefix="iobench-ranks-") as folder:
        results = launch_ranks(
            RANK_MODULE,
            plan.model_dump(mode="json"),
            num_ranks=plan.num_ranks,
            folder=Path(folder),
            timeout_s=limit,
            placing=Placing(run.config.placement),
            hosts=run.places.hosts,
            ssh=run.places.ssh,
            on_progress=on_progress,
        )
    points, invalid = summarise_ranks(
        plan, run.accelerator, results, counters=counters, background_bps=background, idle_w=idle
    )
    rounds = 1 + max((log["round"] for log in results[0]["blocks"]), default=-1)
    return TrainResult(
        points=points,
        peak_rss_bytes=sum(result["peak_rss_bytes"] for result in results),
        wall_s=max(result["wall_s"] for result in results),
        read_bytes=sum(log["delivered_bytes"] for result in results for log in (*result["blocks"], *result["trials"])),
        num_rounds=rounds,
        invalid=invalid,
        warnings=(*_warnings(plan, rounds, run.config.rounds), *strays(results)),
        trials=tuple({name: trial[name] for name in ("num_ranks", "au_mlperf")} for trial in results[0]["trials"]),
        logs=tuple(results),
        block_labels=tuple(f"{block.source}, {block.num_ranks} ranks" for block in plan.blocks),
    )


def make_plan(run: TrainRun) -> RankPlan:
    """The ranks' plan: each cell, and a synthetic control for each number of ranks among them.

    Where steps are expected to be long there are fewer rounds: each drops its first steps.  A search may end at any
    number of ranks, so that each has its blocks; only those around the one that is found are run.
    """
    expected = _expected_cells(run)
    rounds = _fitting_rounds(run, expected)
    return RankPlan(
        num_ranks=max(count for _, count in _possible_cells(run)),
        blocks=tuple(_block(cell, expected, run, rounds) for cell in _possible_cells(run)),
        rounds=rounds,
        budget_s=run.budget_s,
        folders={source: str(folder.resolve()) for source, folder in run.folders.items()},
        engines=run.engines,
        record_bytes=run.config.sample_bytes(run.layout),
        image_shape=run.config.sample_shape(run.layout),
        accelerator=run.accelerator.name,
        step_time_s=run.accelerator.step_time_s,
        batch_size=run.accelerator.batch_size,
        reader_threads=run.config.reader_threads,
        prefetch_depth=run.config.prefetch_depth,
        shuffle=run.config.shuffle,
        seed=run.config.seed,
        images=images_of(run.config),
        search=_search(run),
        trace_spans=run.trace_spans,
    )


def expected_seconds(run: TrainRun) -> float:
    """What the search and the blocks take, if no step takes longer than it is expected to."""
    cells = _expected_cells(run)
    rounds = _fitting_rounds(run, cells)
    return _search_s(run) + rounds * sum(_cell_s(cell, run, rounds) for cell in cells)


def check_time(run: TrainRun) -> None:
    """Refuse a search that has not even the time for the steps that it takes where nobody waits."""
    needed = expected_seconds(run)
    if run.find is not None and needed > run.budget_s:
        raise TrainBudgetError(
            f"finding the largest of up to {run.find.high} ranks with steps of {run.accelerator.step_time_s:g} s takes "
            f"about {needed:.0f} s, more than the {run.budget_s:.0f} s allowed; raise --seconds, or lower --np"
        )


def check_memory(plan: RankPlan) -> None:
    """Refuse a launch whose batch buffers do not fit into the memory that is free."""
    batch = plan.batch_size * plan.record_bytes
    depth = plan.prefetch_depth + resident_batches(plan.prefetch_depth) * _more_sources(plan)
    if fitting_ranks(plan.num_ranks, batch, depth) < plan.num_ranks:
        raise TrainError(
            f"{plan.num_ranks} ranks with batches of {batch / 1e6:.0f} MB need "
            f"{plan.num_ranks * _rank_bytes(batch, depth) / 1e9:.1f} GB of memory, more than is free; "
            f"use a smaller --batch-size, --set prefetch_depth=1 or fewer ranks"
        )


def _more_sources(plan: RankPlan) -> int:
    """How many sources beyond one have batches of their own in memory all the time."""
    return max(0, len({block.source for block in plan.blocks} - {"synthetic"}) - 1)


def fitting_ranks(wanted: int, batch_bytes: int, prefetch_depth: int) -> int:
    """How many of `wanted` ranks fit into the memory that is free, with a fifth of it left alone."""
    import psutil

    free = int(psutil.virtual_memory().available * MEMORY_SHARE)
    return min(wanted, free // _rank_bytes(batch_bytes, prefetch_depth))


def _rank_bytes(batch_bytes: int, prefetch_depth: int) -> int:
    """Buffers being read, the one computed on, one in exchange and the synthetic one; and the process itself."""
    return batch_bytes * (prefetch_depth + 3) + PROCESS_BYTES


def _with_controls(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, and a synthetic one for each number of ranks among them; once each."""
    controls: list[Cell] = [("synthetic", count) for count in sorted({count for _, count in cells})]
    return list(dict.fromkeys([*cells, *controls]))


def _possible_cells(run: TrainRun) -> list[Cell]:
    """Every cell that ranks may be told to run."""
    if run.find is None:
        return _with_controls(run.cells)
    counts = range(run.find.low, run.find.high + 1)
    return _with_controls([*run.cells, *(("direct", count) for count in counts)])


def _expected_cells(run: TrainRun) -> list[Cell]:
    """The cells of a round as they are expected to be."""
    if run.find is None:
        return _with_controls(run.cells)
    counts = window(run.find.centre, low=run.find.low, high=run.find.high)
    return _with_controls([*run.cells, *(("direct", count) for count in counts)])


def _search(run: TrainRun) -> Search | None:
    if run.find is None:
        return None
    return Search(
        low=run.find.low,
        high=run.find.high,
        hint=run.find.hint,
        threshold=run.find.threshold,
        drop_steps=run.config.prefetch_depth + 1,
        count_steps=max(MIN_STEPS, run.config.prefetch_depth + 1),
    )


def _search_s(run: TrainRun) -> float:
    """The longest that the short blocks of a search may take."""
    search = _search(run)
    if search is None:
        return 0.0
    num_trials = search.num_trials if search.hint is None else min(2, search.num_trials)
    return num_trials * search.trial_s(run.accelerator.step_time_s)


def _fitting_rounds(run: TrainRun, cells: Sequence[Cell]) -> int:
    """As many rounds as fit into the time, at least two."""
    least = min(2, run.config.rounds)
    if run.steps is not None:
        return run.config.rounds
    rounds = run.config.rounds
    budget_s = FILL_SHARE * run.budget_s - _search_s(run)
    while rounds > least and rounds * sum(_cell_s(cell, run, rounds) for cell in cells) > budget_s:
        rounds -= 1
    return rounds


def _cell_s(cell: Cell, run: TrainRun, rounds: int) -> float:
    """What one block of a cell is expected to take."""
    return sum(_steps(cell[0], run, rounds)) * max(run.accelerator.step_time_s, run.expected_step_s.get(cell, 0.0))


def _steps(source: Source | Rung, run: TrainRun, rounds: int) -> tuple[int, int]:
    """Steps of one block that are dropped, and that are counted."""
    depth = run.config.prefetch_depth
    least = max(STEPS_PER_DEPTH * depth, run.config.count_steps or 0)
    wanted = run.steps if run.steps is not None else max(MIN_STEPS, math.ceil(least / rounds))
    if source == "synthetic":
        return 1, wanted if run.steps is not None else min(wanted, CONTROL_STEPS)
    return max(depth + 1, run.config.warmup_steps), wanted


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
        limit_s=max((run.budget_s - _search_s(run)) / rounds * share, least),
        fixed=cell in _with_controls(run.cells),
    )


def _background(counters: Mapping[str, Counter]) -> dict[str, float]:
    """What others read from the devices under each source, in bytes per second; a device is watched once."""
    rates = {counter: background_rate(counter) or 0.0 for counter in set(counters.values())}
    return {source: rates[counter] for source, counter in counters.items()}


def _warnings(plan: RankPlan, rounds: int, wanted: int) -> tuple[str, ...]:
    if rounds >= wanted:
        return ()
    return (f"train: {rounds} of {wanted} rounds fitted into {plan.budget_s:.0f} s",)
