"""A swept point in the record's form."""

from __future__ import annotations

from pathlib import Path

from ...results.record import Metric, Point, RankReport, not_measured
from ...results.stats import rate_flags, summarise
from ..evidence import cold_scope_of, read_path
from .points import PointResult, Tail

PERCENTILES = {
    "latency_p50_us": 50.0,
    "latency_p90_us": 90.0,
    "latency_p99_us": 99.0,
    "latency_p99_9_us": 99.9,
    "latency_max_us": 100.0,
}
TAIL = {
    "first_done_s": "s",
    "last_done_s": "s",
    "slowest_thread_gbps": "GB/s",
    "fastest_thread_gbps": "GB/s",
}
NOTHING_MOVED = "its blocks were over before a byte was there"


def storage_point(result: PointResult, path: Path) -> Point:
    """What is recorded of a point: rates, latencies, how evenly its threads ran, and the way of its bytes."""
    point = result.point
    metrics = _metrics(result)
    rate = metrics[f"{point.operation}_gbps"]
    flags = [
        name
        for name, set_ in (
            ("failed", result.error is not None),
            ("harness_limited", result.error is None and result.harness_limited),
        )
        if set_
    ]
    evidence = result.evidence
    return Point(
        params=_params(result),
        read_path=None if evidence is None else read_path(evidence, cold_scope=cold_scope_of(path)),
        metrics=metrics,
        ranks=_ranks(result),
        flags=(*flags, *rate_flags(rate), *result.flags),
    )


def _params(result: PointResult) -> dict[str, str | int | float | bool | None]:
    point = result.point
    return {
        "stage": "storage",
        "engine": point.engine,
        "operation": point.operation,
        "access": point.access,
        "block_size_bytes": point.block_bytes,
        "queue_depth": point.queue_depth,
        "threads": point.threads,
        "page_cache": None if point.operation == "write" else point.page_cache,
        "destination": point.destination,
        "clients": max(1, len(result.clients)),
    }


def _metrics(result: PointResult) -> dict[str, Metric]:
    operation = result.point.operation
    units = {
        f"{operation}_gbps": "GB/s",
        f"{operation}_iops": f"{operation}s/s",
        **dict.fromkeys(PERCENTILES, "us"),
        **TAIL,
    }
    if (missing := result.error or (NOTHING_MOVED if result.moved_nothing else None)) is not None:
        return {name: not_measured(unit, missing) for name, unit in units.items()}
    blocks = result.blocks
    tails = [block.tail for block in blocks if block.tail is not None]
    return {
        f"{operation}_gbps": summarise([block.gbps for block in blocks], unit="GB/s"),
        f"{operation}_iops": summarise([block.iops for block in blocks], unit=f"{operation}s/s"),
        **{name: _latency(result, percent) for name, percent in PERCENTILES.items()},
        **{name: _tail(name, tails) for name in TAIL},
    }


def _tail(name: str, tails: list[Tail]) -> Metric:
    fields = {"slowest_thread_gbps": "slowest_gbps", "fastest_thread_gbps": "fastest_gbps"}
    samples = [float(getattr(tail, fields.get(name, name))) for tail in tails]
    return summarise(samples, unit=TAIL[name], reason="no read ended within a block")


def _latency(result: PointResult, percent: float) -> Metric:
    """A percentile over all blocks' reads; its interval comes from the blocks' own percentiles.

    It needs at least one read beyond it: below a thousand reads the 99.9th percentile would be the slowest one.  The
    slowest one of all has no interval: there is only one.
    """
    overall = result.percentile_us(percent)
    total = sum(block.latencies.total for block in result.blocks)
    needed = round(100 / (100 - percent)) if 99 < percent < 100 else 1
    if overall is not None and total < needed:
        return not_measured("us", f"{total} reads are too few for a percentile of one in {needed}")
    samples = [value for block in result.blocks if (value := block.latencies.percentile_us(percent)) is not None]
    metric = summarise(samples, unit="us", reason="no read ended within a block")
    if overall is None or metric.value is None:
        return metric
    return metric.model_copy(update={"value": overall} | ({"ci95": None} if percent == 100 else {}))


def _ranks(result: PointResult) -> tuple[RankReport, ...]:
    """What each of several clients reached; their sum is the point's."""
    name = f"{result.point.operation}_gbps"
    return tuple(
        RankReport(
            rank=number,
            local_rank=client.local_rank,
            pid=client.pid,
            host=client.host,
            metrics={name: summarise([block.rank_gbps[number] for block in result.blocks], unit="GB/s")},
        )
        for number, client in enumerate(result.clients)
        if result.blocks
    )
