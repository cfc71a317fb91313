"""Logs of steps piled up: from what ranks wrote down to figures per time block and rank, and bytes and energy beside.

A time block is a stretch of counted steps.  Four parts add up to the step: compute, data wait, sync wait, overhead; of
a network in training the optimiser is a fifth.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..storage_bench.emulate import accelerator_utilisation, dlio_utilisation
from .energy import BlockEnergy, block_energy
from .images import added_up
from .placed import Read
from .plan import Block, RankPlan
from .timeline import EMULATED_PARTS, TRAINING_PARTS, Times, Waiting, step_parts, waiting

PIECES = 2
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
class Pile:
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
    hop_s: dict[str, float] = field(default_factory=dict)
    loading_s: float = 0.0  # from asking for the first batch to having the last one
    energy: list[BlockEnergy] = field(default_factory=list)
    energy_reason: str | None = None
    num_hosts: int = 1


def unit_of(name: str) -> str:
    """The unit of a figure of steps."""
    return "s" if name == OPTIMIZER else UNITS[name]


def by_block(results: Sequence[dict[str, Any]]) -> dict[tuple[int, int], dict[int, dict[str, Any]]]:
    """Logs by (block, round), and in each by rank."""
    found: dict[tuple[int, int], dict[int, dict[str, Any]]] = defaultdict(dict)
    for result in results:
        for log in result["blocks"]:
            found[log["block"], log["round"]][int(result["rank"])] = log
    return found


def add_block(pile: Pile, block: Block, plan: RankPlan, logs: Mapping[int, dict[str, Any]]) -> None:
    """One block of one round, as all its ranks logged it."""
    times = {rank: np.array(log["steps_ns"], dtype=np.int64) for rank, log in sorted(logs.items())}
    counted = [steps[block.drop_steps :] for steps in times.values()]
    together = waiting(counted) if block.meets else None
    _add_energy(pile, logs, images=plan.batch_size * sum(len(steps) for steps in times.values()))
    _add_counters(pile, logs)
    pile.reads.append({rank: Read(log["delivered_bytes"], log["read_s"]) for rank, log in sorted(logs.items())})
    for place, (rank, steps) in enumerate(times.items()):
        _add_bytes(pile, logs[rank], seconds=(steps[-1, -1] - steps[0, 0]) / 1e9)
        pile.loading_s += (steps[-1, 1] - steps[0, 0]) / 1e9
        if together is not None:
            _add_steps(pile, plan, rank, counted[place], together, place)
        else:
            _add_steps(pile, plan, rank, counted[place], waiting([counted[place]]), 0)


def _add_bytes(pile: Pile, log: Mapping[str, Any], *, seconds: float) -> None:
    pile.delivered_bytes += log["delivered_bytes"]
    own = log["process_bytes"]
    pile.process_bytes = None if own is None or pile.process_bytes is None else pile.process_bytes + own
    pile.payload_bytes += log["payload_bytes"]
    pile.seconds += seconds
    pile.hop_s = added_up((pile.hop_s, log.get("hop_s", {})))


def _add_counters(pile: Pile, logs: Mapping[int, dict[str, Any]]) -> None:
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


def _add_energy(pile: Pile, logs: Mapping[int, dict[str, Any]], *, images: int) -> None:
    """What the block took on the hosts of its ranks, dropped steps included, as the first rank of each host read it."""
    told = [log["energy"] for log in logs.values() if log.get("energy") is not None]
    taken, reason = block_energy(told, images=images)
    pile.energy.append(taken)
    pile.energy_reason = reason or pile.energy_reason
    pile.num_hosts = max(1, len(told))


def _add_steps(pile: Pile, plan: RankPlan, rank: int, counted: Times, met: Waiting, place: int) -> None:
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
