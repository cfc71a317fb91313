"""From every rank's log of steps to points: where a step's time went, for each source and number of ranks.

A sample is one time block: a stretch of counted steps, averaged over the ranks that made it.  Four parts add up to the
step: compute, data wait, sync wait, overhead; of a network in training the optimiser is a fifth.  The sync wait is
communication and the wait for whoever came last; what a rank cost all others together is among its own figures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..loaders.evidence import Counter, RouteEvidence, judge, total
from ..results.record import ColdScope, Metric, Point, RankReport
from ..results.stats import summarise
from ..storage_bench.accelerators import Accelerator
from ..storage_bench.evidence import cold_scope_of, read_path
from .energy import energy_metrics
from .images import ImagesTold, hop_metrics, told_of_images
from .piles import UNITS, Pile, add_block, by_block, unit_of
from .placed import CLIENT_RATE, RANK_RATE, client_rate, rank_rates
from .plan import Block, RankPlan, Rung, Source
from .timeline import straggler

CONTROL_MINIMUM = 0.98
STEPS_PER_DEPTH = 10
NOT_COUNTED = "no counted step within the time allowed"


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
    piles: dict[int, Pile] = defaultdict(Pile)
    for (which, _), logs in sorted(by_block(results).items()):
        add_block(piles[which], plan.blocks[which], plan, logs)
    images = told_of_images(results, num_threads=plan.reader_threads)
    points: list[Point] = []
    invalid: list[tuple[Source | Rung, str]] = []
    for which, pile in sorted(piles.items()):
        block = plan.blocks[which]
        evidence = _evidence(plan, block, pile, counters, background_bps)
        points.append(_point(plan, accelerator, block, pile, results, evidence, images, idle_w))
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


def _point(
    plan: RankPlan,
    accelerator: Accelerator,
    block: Block,
    pile: Pile,
    results: Sequence[dict[str, Any]],
    evidence: RouteEvidence | None,
    images: ImagesTold,
    idle_w: float | None,
) -> Point:
    num_pieces = min((len(rows["step_time_s"]) for rows in pile.per_rank.values()), default=0)
    metrics: dict[str, Metric] = {}
    for name in next(iter(pile.per_rank.values()), UNITS):
        table = np.array([rows[name][:num_pieces] for rows in pile.per_rank.values()])  # (ranks, pieces)
        samples = table.sum(axis=0) if name == "images_per_s" else table.mean(axis=0)
        metrics[name] = summarise(samples.tolist(), unit=unit_of(name), reason=NOT_COUNTED)
    metrics |= energy_metrics(
        pile.energy if num_pieces else (),
        idle_w=idle_w,
        reason=pile.energy_reason if num_pieces else NOT_COUNTED,
        num_hosts=pile.num_hosts,
    )
    metrics |= hop_metrics(
        pile.hop_s,
        images,
        wall_s=pile.loading_s,
        waited=metrics["data_stall_fraction"],
        to_gpu=plan.accelerator == "cuda",
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


def _rank_report(result: dict[str, Any], rows: dict[str, list[float]], read: Metric) -> RankReport:
    metrics = {name: summarise(seen, unit=unit_of(name), reason=NOT_COUNTED) for name, seen in rows.items()}
    metrics[RANK_RATE] = read
    return RankReport(
        rank=result["rank"], local_rank=result["local_rank"], pid=result["pid"], host=result["host"], metrics=metrics
    )


def _evidence(
    plan: RankPlan,
    block: Block,
    pile: Pile,
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
