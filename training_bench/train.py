"""`iobench train`: ranks that compute on batches from each source, in interleaved blocks of one launch.

TrainRun (what to run) -> RankPlan (what ranks are told) -> launch -> logs -> points
train_run.py              budget.py                                   piles.py, summary.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..loaders.evidence import Counter, background_rate
from ..results.record import Point
from ..storage_bench.launching.launch import launch_ranks
from ..storage_bench.launching.placing import Placing
from .budget import check_memory, make_plan, search_seconds
from .energy import energy_counters, idle_watts
from .images import ImagesTold, told_of_images
from .placed import place_warnings
from .plan import RankPlan, Rung, Source
from .summary import summarise_ranks
from .train_run import TrainRun

RANK_MODULE = "iobench.training_bench.loop"
START_S = 60.0


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
    images: ImagesTold
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
    limit = START_S + run.budget_s + search_seconds(run) + sum(block.limit_s for block in plan.blocks)
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
        warnings=(*_warnings(plan, rounds, run.config.rounds), *place_warnings(results)),
        trials=tuple({name: trial[name] for name in ("num_ranks", "au_mlperf")} for trial in results[0]["trials"]),
        images=told_of_images(results, num_threads=plan.reader_threads),
        logs=tuple(results),
        block_labels=tuple(f"{block.source}, {block.num_ranks} ranks" for block in plan.blocks),
    )


def _background(counters: Mapping[str, Counter]) -> dict[str, float]:
    """What others read from the devices under each source, in bytes per second; a device is watched once."""
    rates = {counter: background_rate(counter) or 0.0 for counter in set(counters.values())}
    return {source: rates[counter] for source, counter in counters.items()}


def _warnings(plan: RankPlan, rounds: int, wanted: int) -> tuple[str, ...]:
    if rounds >= wanted:
        return ()
    return (f"train: {rounds} of {wanted} rounds fitted into {plan.budget_s:.0f} s",)
