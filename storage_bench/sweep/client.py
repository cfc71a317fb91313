"""One of several clients: the same blocks as all others, at the same time, each with streams of its own.

    calibrated together -> round: point: cleaned by the first of its host -> meet -> block -> meet -> counters

Streams are numbered through over all clients, so that they share the data as the threads of one client would.  What a
client measured goes back as JSON; `clients.py` puts it together.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from ..launching.launch import rank_main
from ..launching.ranks import Ranks
from ..workload import StorageConfig
from .calibration import calibrate
from .copied import share_gpus
from .points import BlockResult, PointResult, SweepPoint
from .run import Bench, add_block, block_order, open_bench


class ClientPlan(BaseModel):
    """What every client is told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    config: StorageConfig
    points: tuple[dict[str, Any], ...]


def main(config: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Run all blocks; returns the points' ceilings and blocks, as plain JSON."""
    plan = ClientPlan.model_validate(config)
    results = [PointResult(SweepPoint(**point), "as planned") for point in plan.points]
    if any(result.point.destination == "gpu" for result in results):
        share_gpus(ranks.local_rank)
    with open_bench(Path(plan.path), [result.point for result in results], plan.config, ranks=ranks) as bench:
        for result in results:
            _calibrate(bench, result)
        done, total = 0, plan.config.blocks * len(results)
        for number in range(plan.config.blocks):
            for which in block_order(len(results), plan.config.seed, number):
                add_block(bench, results[which], number, keep_going=True)
                done += 1
                told = {"which": which, "clients": ranks.gather(_newest(results[which], ranks))}
                ranks.report(_progress(results[which], done, total) | told | {"background_bps": bench.background_bps})
    return {"points": [_told(result) for result in results], "background_bps": bench.background_bps}


def _calibrate(bench: Bench, result: PointResult) -> None:
    if result.point.page_cache == "cold":
        bench.ranks.barrier()
        result.ceiling_gbps = calibrate(result.point)


def _progress(result: PointResult, done: int, total: int) -> dict[str, Any]:
    rate = result.blocks[-1].gbps if result.blocks and result.error is None else None
    return {"done": done, "total": total, "words": result.point.words, "gbps": rate}


def _newest(result: PointResult, ranks: Ranks) -> dict[str, Any]:
    """What this client has just measured, for whoever launched: all that is left of it where that is interrupted."""
    about: dict[str, Any] = {"host": ranks.host, "pid": os.getpid(), "local_rank": ranks.local_rank}
    about |= {"error": result.error, "consequence": result.peer_failed, "ceiling_gbps": result.ceiling_gbps}
    return {**about, "block": _block(result.blocks[-1]) if result.error is None else None}


def _told(result: PointResult) -> dict[str, Any]:
    return {
        "error": result.error,
        "consequence": result.peer_failed,
        "ceiling_gbps": result.ceiling_gbps,
        "blocks": [_block(block) for block in result.blocks],
    }


def _block(block: BlockResult) -> dict[str, Any]:
    """A block's fields; of the histogram only the buckets that are not empty."""
    counts = block.latencies.counts
    used = np.flatnonzero(counts)
    fields = asdict(block)
    fields["latencies"] = {
        "buckets": used.tolist(),
        "counts": counts[used].tolist(),
        "max_ns": block.latencies.max_ns,
    }
    return fields


if __name__ == "__main__":
    rank_main(main)
