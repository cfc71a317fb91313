"""From the ranks' logs of inference to points: throughput, data wait, latency and how full the queue was.

    logs --summary.py--> rate, parts of a step, evidence, ranks        shared with training
         --here-->       latency of a batch, occupancy of the queue, the highest rate within a bound

Occupancy needs no sampling: each batch says since when it lies ready.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...loaders.evidence import Counter
from ...results.record import Metric, Point, not_measured
from ...results.stats import summarise
from ...storage_bench.accelerators import Accelerator
from ..plan import RankPlan
from ..summary import summarise_ranks
from ..timeline import Times
from .plan import InferPlan
from .rate import PERCENT, percentiles

LATENCIES = ("latency_p50_s", "latency_p90_s", "latency_p99_s", "latency_max_s")
P99_NEEDS = 100
NO_STEP = "no counted batch within the time allowed"
NO_QUEUE = "synthetic batches come from no queue"
Logs = Sequence[Mapping[str, Any]]


def infer_points(
    plan: InferPlan,
    accelerators: Sequence[Accelerator],
    results: Sequence[dict[str, Any]],
    *,
    counters: Mapping[str, Counter],
    background_bps: Mapping[str, float],
) -> tuple[list[Point], tuple[str, ...]]:
    """One point for each batch size and source, the synthetic control included, and what is not valid and why.

    `accelerators` stand beside the plan's batch sizes; where one was measured, its step time is that of the control.
    """
    points: list[Point] = []
    invalid: list[str] = []
    for size, (told, accelerator) in enumerate(zip(plan.sizes, accelerators, strict=True)):
        mine = [{**result, "blocks": [log for log in result["logs"] if log["size"] == size]} for result in results]
        step_time_s = accelerator.step_time_s if accelerator.emulated else control_step_s(told, mine)
        known = told.model_copy(update={"step_time_s": step_time_s})
        shown = replace(accelerator, step_time_s=step_time_s)
        found, wrong = summarise_ranks(known, shown, mine, counters=counters, background_bps=background_bps)
        points += [_as_inference(point, known, mine) for point in found]
        invalid += [f"batch {told.batch_size}, {text}" for _, text in wrong]
    return points, tuple(invalid)


def control_step_s(plan: RankPlan, results: Sequence[Mapping[str, Any]]) -> float:
    """The mean time that computing a batch took on synthetic ones, over all ranks; 0 where none was counted."""
    spent = [
        (times[:, 2] - times[:, 1]) / 1e9
        for block in _blocks(plan, "synthetic")
        for result in results
        for _, times, _ in _counted(plan, result["blocks"], block)
    ]
    return float(np.mean(np.concatenate(spent))) if spent and sum(map(len, spent)) else 0.0


def _as_inference(point: Point, plan: RankPlan, results: Sequence[Mapping[str, Any]]) -> Point:
    """A point of the shared meter with what inference has beside it."""
    source = str(point.params["source"])
    per_round: dict[int, list[tuple[Times, Times]]] = {}
    for which in _blocks(plan, source):
        for result in results:
            for number, times, ready in _counted(plan, result["blocks"], which):
                per_round.setdefault(number, []).append((times, ready))
    rounds = [each for _, each in sorted(per_round.items())]
    return point.model_copy(
        update={
            "params": {**point.params, "stage": "infer", "queue_depth": plan.prefetch_depth},
            "metrics": {
                **_kept(point.metrics),
                **_latencies(rounds),
                **_occupancy(rounds, depth=None if source == "synthetic" else plan.prefetch_depth),
            },
        }
    )


def _kept(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """All but what only ranks that meet have."""
    meeting = ("sync_wait_s", "communication_s", "straggler_wait_s", "straggler_data_s", "straggler_cost_s")
    return {name: metric for name, metric in metrics.items() if name not in meeting}


def _blocks(plan: RankPlan, source: str) -> list[int]:
    return [which for which, block in enumerate(plan.blocks) if block.source == source]


def _counted(plan: RankPlan, logs: Logs, which: int) -> list[tuple[int, Times, Times]]:
    """(round, times, ready) of the counted steps of one block, in ns; `ready` is empty without a queue."""
    drop = plan.blocks[which].drop_steps
    return [
        (
            int(log["round"]),
            np.array(log["steps_ns"], dtype=np.int64)[drop:],
            np.array(log["ready_ns"], dtype=np.int64)[drop:],
        )
        for log in logs
        if log["block"] == which and len(log["steps_ns"]) > drop
    ]


def _latencies(rounds: Sequence[Sequence[tuple[Times, Times]]]) -> dict[str, Metric]:
    """From asking for a batch to its answer: percentiles of each round over all ranks, and their mean.

    Where a round has fewer than 100 batches, all rounds together give one p99, without an interval.
    """
    each = [np.concatenate([times[:, 2] - times[:, 0] for times, _ in logs]) / 1e9 for logs in rounds]
    if not each:
        return {name: not_measured("s", NO_STEP) for name in LATENCIES}
    rows = list(zip(*map(percentiles, each), strict=True))
    together = percentiles(np.concatenate(each))
    found = {name: summarise(row, unit="s") for name, row in zip(LATENCIES[:2], rows, strict=False)}
    if min(map(len, each)) >= P99_NEEDS:
        found["latency_p99_s"] = summarise(rows[2], unit="s")
    else:
        few = f"p{PERCENT} of {sum(map(len, each))} batches of all rounds together: a round has fewer than {P99_NEEDS}"
        found["latency_p99_s"] = Metric(value=together[2], unit="s", n=1, samples=(together[2],), reason=few)
    found["latency_max_s"] = Metric(value=together[3], unit="s", n=len(each), samples=rows[3])
    return found


def _occupancy(rounds: Sequence[Sequence[tuple[Times, Times]]], *, depth: int | None) -> dict[str, Metric]:
    """Batches that lay ready, as a mean over time; and the share of batches that were asked for before they were."""
    if depth is None:
        return {
            "queue_batches": not_measured("batches", NO_QUEUE),
            "queue_empty_fraction": not_measured("fraction", NO_QUEUE),
        }
    means = [float(np.mean([mean_queue(times, ready, depth=depth) for times, ready in logs])) for logs in rounds]
    empty = [float(np.mean([np.mean(ready > times[:, 0]) for times, ready in logs])) for logs in rounds]
    return {
        "queue_batches": summarise(means, unit="batches", reason=NO_STEP),
        "queue_empty_fraction": summarise(empty, unit="fraction", reason=NO_STEP),
    }


def mean_queue(times: Times, ready: Times, *, depth: int) -> float:
    """The time-weighted mean number of batches that lay ready while these steps were made: the rate at which batches
    were taken, times how long one lay there on average, from `ready` to the mark `got` (Little 1961).

    Those that lay there when the first step began stand for those that the last one left behind.  Of few steps that is
    rough, and a slow one before them would fill the queue beyond its `depth`: it never holds more.
    """
    wall = int(times[-1, 2] - times[0, 0])
    lain = np.maximum(times[:, 1] - ready, 0)
    return min(float(lain.sum()) / wall, float(depth)) if wall > 0 else 0.0
