"""From every rank's log of steps to points: where a step's time went, for each source and number of ranks.

A sample is one time block: a stretch of counted steps, averaged over the ranks that made it.  Four parts add up to the
step: compute, data wait, sync wait, overhead; of a network in training the optimiser is a fifth.  The sync wait is
communication and the wait for whoever came last; what a rank cost all others together is among its own figures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..loaders.evidence import Counter, RouteEvidence, judge, total
from ..results.record import ColdScope, Metric, Point, RankReport
from ..results.stats import summarise
from ..storage_bench.accelerators import Accelerator
from ..storage_bench.emulate import accelerator_utilisation, dlio_utilisation
from ..storage_bench.evidence import cold_scope_of, read_path
from .energy import BlockEnergy, block_energy, energy_metrics
from .placed import CLIENT_RATE, RANK_RATE, Read, client_rate, rank_rates
from .plan import Block, RankPlan, Rung, Source
from .timeline import EMULATED_PARTS, TRAINING_PARTS, Times, Waiting, step_parts, straggler, waiting

CONTROL_MINIMUM = 0.98
STEPS_PER_DEPTH = 10
PIECES = 2
NOT_COUNTED = "no counted step within the time allowed"
UNITS = {
    "step_time_s": "s",
    "compute_s": "s",
    "data_wait_s": "s",
    "sync_wait_s": "s",
    "overhead_s": "s",
    "communication_s": "s",
    "straggler_wait_s": "s",
    "straggler_data_s": "s",
    "straggler_cost_s": "s",
    "images_per_s": "images/s",
    "data_stall_fraction": "fraction",
    "au_mlperf": "fraction",
    "au_dlio": "fraction",
}
OPTIMIZER = "optimizer_s"  # of networks in training


@dataclass(slots=True)
class _Pile:
    """All logs of one kind of block: per time block and rank the same figures."""

    per_rank: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    num_steps: int = 0
    delivered_bytes: int = 0
    payload_bytes: int = 0
    device_bytes: int = 0
    process_bytes: int | None = 0
    resident: list[float | None] = field(default_factory=list)
    resident_after: list[float | None] = field(default_factory=list)
    beside: list[dict[str, int]] = field(default_factory=list)
    seconds: float = 0.0
    counted: bool = True
    reads: list[dict[int, Read]] = field(default_factory=list)
    energy: list[BlockEnergy] = field(default_factory=list)
    energy_reason: str | None = None
    num_hosts: int = 1


def summarise_ranks(
    plan: RankPlan,
    accelerator: Accelerator,
    results: Sequence[dict[str, Any]],
    *,
    counters: Mapping[str, Counter],
    background_bps: Mapping[str, float],
    idle_w: float | None = None,
) -> tuple[list[Point], tuple[tuple[Source | Rung, str], ...]]:
    """One point per (source, number of ranks), controls included, and which sources are not valid and why.

    A point's flags say what it is not good for.  `counters` and `background_bps` are by source; `idle_w` is what a host
    takes when it does nothing.
    """
    piles: dict[int, _Pile] = defaultdict(_Pile)
    for (which, _), logs in sorted(_by_block(results).items()):
        _add(piles[which], plan.blocks[which], plan, logs)
    points: list[Point] = []
    invalid: list[tuple[Source | Rung, str]] = []
    for which, pile in sorted(piles.items()):
        block = plan.blocks[which]
        evidence = _evidence(plan, block, pile, counters, background_bps)
        points.append(_point(plan, accelerator, block, pile, results, evidence, idle_w))
        if evidence is not None and (reason := evidence.invalid_reason()):
            invalid.append((block.source, f"{block.source}, {block.num_ranks} ranks: {reason}"))
    return [_flag(point, points) for point in points], tuple(invalid)


def find_point(points: Sequence[Point], source: str, num_ranks: int) -> Point | None:
    """The point of this source and number of ranks, if it was run."""
    wanted = (source, num_ranks)
    return next(
        (point for point in points if (point.params.get("source"), point.params.get("num_ranks")) == wanted), None
    )


@dataclass(frozen=True, slots=True)
class Straggler:
    """The rank that cost the others the most: what each of them waited for it per step, and as a share of the step.

    `for_data` is the share of all waiting of ranks for each other in which the last one waited for data longer.
    """

    rank: int
    host: str
    cost_s: float
    share: float
    for_data: float


def find_straggler(point: Point) -> Straggler | None:
    """Who kept the other ranks of a point waiting; None for one rank, or where nobody waited."""
    costs = [report.metrics["straggler_cost_s"].value or 0.0 for report in point.ranks]
    which, step = straggler(costs), point.metrics["step_time_s"].value
    if which is None or not step:
        return None
    each = costs[which] / (len(costs) - 1)
    for_data, waited = (point.metrics[name].value or 0.0 for name in ("straggler_data_s", "straggler_wait_s"))
    return Straggler(point.ranks[which].rank, point.ranks[which].host, each, each / step, for_data / waited)


def _by_block(results: Sequence[dict[str, Any]]) -> dict[tuple[int, int], dict[int, dict[str, Any]]]:
    """Logs by (block, round), and in each by rank."""
    found: dict[tuple[int, int], dict[int, dict[str, Any]]] = defaultdict(dict)
    for result in results:
        for log in result["blocks"]:
            found[log["block"], log["round"]][int(result["rank"])] = log
    return found


def _add(pile: _Pile, block: Block, plan: RankPlan, logs: Mapping[int, dict[str, Any]]) -> None:
    """One block of one round, as all its ranks logged it."""
    times = {rank: np.array(log["steps_ns"], dtype=np.int64) for rank, log in sorted(logs.items())}
    counted = [steps[block.drop_steps :] for steps in times.values()]
    together = waiting(counted) if block.meets else None
    _add_energy(pile, logs, images=plan.batch_size * sum(len(steps) for steps in times.values()))
    _add_counters(pile, logs)
    pile.reads.append({rank: Read(log["delivered_bytes"], log["read_s"]) for rank, log in sorted(logs.items())})
    for place, (rank, steps) in enumerate(times.items()):
        _add_bytes(pile, logs[rank], seconds=(steps[-1, -1] - steps[0, 0]) / 1e9)
        if together is not None:
            _add_steps(pile, plan, rank, counted[place], together, place)
        else:
            _add_steps(pile, plan, rank, counted[place], waiting([counted[place]]), 0)


def _add_bytes(pile: _Pile, log: Mapping[str, Any], *, seconds: float) -> None:
    pile.delivered_bytes += log["delivered_bytes"]
    own = log["process_bytes"]
    pile.process_bytes = None if own is None or pile.process_bytes is None else pile.process_bytes + own
    pile.payload_bytes += log["payload_bytes"]
    pile.seconds += seconds


def _add_counters(pile: _Pile, logs: Mapping[int, dict[str, Any]]) -> None:
    """What the counters of each machine saw, once each: as rank 0 read them, and the first rank of every other."""
    machines: set[str | None] = set()
    for rank, log in sorted(logs.items()):
        machine = log.get("machine")
        if machine in machines or (rank and machine is None):
            continue
        machines.add(machine)
        pile.resident.append(log["cache_fraction"])
        pile.resident_after.append(log.get("cache_fraction_after"))
        pile.beside.append(log.get("beside", {}))
        if log["device_bytes"] is None:
            pile.counted = False
        else:
            pile.device_bytes += log["device_bytes"]


def _add_energy(pile: _Pile, logs: Mapping[int, dict[str, Any]], *, images: int) -> None:
    """What the block took on the hosts of its ranks, dropped steps included, as the first rank of each host read it."""
    told = [log["energy"] for log in logs.values() if log.get("energy") is not None]
    taken, reason = block_energy(told, images=images)
    pile.energy.append(taken)
    pile.energy_reason = reason or pile.energy_reason
    pile.num_hosts = max(1, len(told))


def _add_steps(pile: _Pile, plan: RankPlan, rank: int, counted: Times, met: Waiting, place: int) -> None:
    """The counted steps of one rank, in pieces; `place` is its row in `met`."""
    if rank == 0:
        pile.num_steps += len(counted)
    figures = pile.per_rank.setdefault(rank, {name: [] for name in _names(counted)})
    for piece in np.array_split(np.arange(len(counted)), min(PIECES, max(1, len(counted) // 2))):
        if len(piece):
            found = _figures(counted[piece], plan) | _waits(met, place, piece)
            for name, value in found.items():
                figures[name].append(value)


def _waits(met: Waiting, place: int, piece: Times) -> dict[str, float]:
    """Means per step of what one rank's sync wait was for, and of what it cost the others, in seconds."""
    rows = {
        "communication_s": met.communication,
        "straggler_wait_s": met.for_others,
        "straggler_data_s": met.for_data,
        "straggler_cost_s": met.cost,
    }
    return {name: float(row[place, piece].mean()) / 1e9 for name, row in rows.items()}


def _figures(steps: Times, plan: RankPlan) -> dict[str, float]:
    """Means per step of a stretch of rows of marks, in seconds; the parts add up to the step."""
    parts = step_parts(steps, _parts(steps))
    wall, wait, compute = parts["step_time_s"], parts["data_wait_s"], parts["compute_s"]
    return {
        **parts,
        "images_per_s": plan.batch_size / wall,
        "data_stall_fraction": wait / wall,
        "au_mlperf": accelerator_utilisation(1, plan.step_time_s, wall),
        "au_dlio": dlio_utilisation(compute, wall),
    }


def _parts(steps: Times) -> tuple[str, ...]:
    """What lies between the marks of a step: asked, got, computed, met, and of a network in training updated."""
    return TRAINING_PARTS if steps.shape[-1] == len(TRAINING_PARTS) + 1 else EMULATED_PARTS


def _names(steps: Times) -> list[str]:
    return [*UNITS, *(name for name in _parts(steps) if name not in UNITS)]


def _point(
    plan: RankPlan,
    accelerator: Accelerator,
    block: Block,
    pile: _Pile,
    results: Sequence[dict[str, Any]],
    evidence: RouteEvidence | None,
    idle_w: float | None,
) -> Point:
    num_pieces = min((len(rows["step_time_s"]) for rows in pile.per_rank.values()), default=0)
    metrics: dict[str, Metric] = {}
    for name in next(iter(pile.per_rank.values()), UNITS):
        table = np.array([rows[name][:num_pieces] for rows in pile.per_rank.values()])  # (ranks, pieces)
        samples = table.sum(axis=0) if name == "images_per_s" else table.mean(axis=0)
        metrics[name] = summarise(samples.tolist(), unit=_unit(name), reason=NOT_COUNTED)
    metrics |= energy_metrics(
        pile.energy if num_pieces else (),
        idle_w=idle_w,
        reason=pile.energy_reason if num_pieces else NOT_COUNTED,
        num_hosts=pile.num_hosts,
    )
    metrics[CLIENT_RATE] = client_rate(pile.reads, {result["rank"]: result["machine"] for result in results})
    own_rates = rank_rates(pile.reads)
    enough = pile.num_steps >= (STEPS_PER_DEPTH * plan.prefetch_depth if block.source != "synthetic" else 1)
    return Point(
        params={
            "stage": "train",
            "source": block.source,
            "num_ranks": block.num_ranks,
            "accelerator": accelerator.name,
            "emulated": accelerator.emulated,
            "scaled": accelerator.scaled,
            "batch_size": plan.batch_size,
            "step_time_s": plan.step_time_s,
            "counted_steps": pile.num_steps,
        },
        read_path=None if evidence is None else read_path(evidence, cold_scope=_cold_scope(plan, block.source)),
        metrics=metrics,
        ranks=tuple(_rank_report(results[rank], rows, own_rates[rank]) for rank, rows in sorted(pile.per_rank.items())),
        flags=() if enough else ("insufficient",),
    )


def _data_of(source: Source | Rung) -> Source:
    """The source whose files a block's bytes are read from."""
    match source:
        case "host" | "warm":
            return "direct"
        case _:
            return source


def _cold_scope(plan: RankPlan, source: Source | Rung) -> ColdScope:
    return cold_scope_of(Path(plan.folders[_data_of(source)])) if source != "warm" else "unknown"


def _unit(name: str) -> str:
    return "s" if name == OPTIMIZER else UNITS[name]


def _rank_report(result: dict[str, Any], rows: dict[str, list[float]], read: Metric) -> RankReport:
    metrics = {name: summarise(seen, unit=_unit(name), reason=NOT_COUNTED) for name, seen in rows.items()}
    metrics[RANK_RATE] = read
    return RankReport(
        rank=result["rank"], local_rank=result["local_rank"], pid=result["pid"], host=result["host"], metrics=metrics
    )


def _evidence(
    plan: RankPlan,
    block: Block,
    pile: _Pile,
    counters: Mapping[str, Counter],
    background_bps: Mapping[str, float],
) -> RouteEvidence | None:
    data = _data_of(block.source)
    counter = counters.get(data)
    if counter is None or block.source == "host":
        return None
    return judge(
        counter,
        engine=plan.engines[data],
        page_cache="warm" if block.source == "warm" else "cold",
        cache_fraction=_mean(pile.resident),
        cache_fraction_after=_mean(pile.resident_after),
        beside=total(pile.beside),
        delivered_bytes=pile.delivered_bytes,
        payload_bytes=pile.payload_bytes,
        raw_device_bytes=pile.device_bytes if pile.counted else None,
        process_bytes=pile.process_bytes,
        background_bytes=background_bps.get(data, 0.0) * pile.seconds / block.num_ranks,
    )


def _mean(shares: Sequence[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return float(np.mean(known)) if known and len(known) == len(shares) else None


def _flag(point: Point, points: Sequence[Point]) -> Point:
    """A point whose synthetic control is not fed either says nothing about the storage."""
    control = find_point(points, "synthetic", int(point.params["num_ranks"] or 0))
    if control is None or control.metrics["au_mlperf"].value is None:
        limited = point.metrics["au_mlperf"].value is not None
    else:
        limited = control.metrics["au_mlperf"].value < CONTROL_MINIMUM
    return point.model_copy(update={"flags": (*point.flags, "harness_limited")}) if limited else point
