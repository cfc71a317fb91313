"""What fits: the blocks, rounds and steps of a training within its time, and its ranks within the memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..storage_bench.encoded import images_of
from .plan import Block, RankPlan, Rung, Source
from .search import Search, window
from .sources import resident_batches
from .summary import STEPS_PER_DEPTH
from .train_run import Cell, TrainBudgetError, TrainError, TrainRun

CONTROL_STEPS = 4
MIN_STEPS = 6
PATIENCE = 2.0
FILL_SHARE = 0.8  # of the time may be taken by what steps are expected to take
MEMORY_SHARE = 0.8
PROCESS_BYTES = 300 << 20


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
    return search_seconds(run) + rounds * sum(_cell_s(cell, run, rounds) for cell in cells)


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


def search_seconds(run: TrainRun) -> float:
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
    budget_s = FILL_SHARE * run.budget_s - search_seconds(run)
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
        limit_s=max((run.budget_s - search_seconds(run)) / rounds * share, least),
        fixed=cell in _with_controls(run.cells),
    )
