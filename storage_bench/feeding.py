"""How many accelerators a storage feeds, predicted: B(N) at N concurrent readers with the loader's own reads.

pilot    N = 1, 2, 4, 8 ..., one short block each: where about does B(N) = u * N * d lie
blocks   the numbers of readers around it, interleaved, fresh blocks: the prediction rests on these alone
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..loaders.prefetch import DEFAULT_READ_BYTES
from ..results.record import Metric, Point
from ..results.stats import is_noisy, summarise
from .evidence import cold_scope_of, read_path
from .sweep import OnBlock, PointResult, SweepPoint, calibrate, run_points
from .workload import StorageConfig, data_files

PILOT_S = 0.5


def reader_point(engine: str, *, readers: int, reads_in_flight: int) -> SweepPoint:
    """N readers, each with as many reads in flight as a loader has reader threads."""
    return SweepPoint(engine, "shard-replay", DEFAULT_READ_BYTES, reads_in_flight, readers, "cold")


def pilot_rates(
    path: Path, config: StorageConfig, *, engine: str, reads_in_flight: int, max_readers: int
) -> dict[int, float]:
    """GB/s at 1, 2, 4 ... max_readers readers, one short block each; only good for choosing what to measure."""
    counts = sorted({min(2**power, max_readers) for power in range(max_readers.bit_length() + 1)})
    results = [
        PointResult(reader_point(engine, readers=count, reads_in_flight=reads_in_flight), "pilot") for count in counts
    ]
    run_points(path, results, config.model_copy(update={"blocks": 1, "seconds": PILOT_S}))
    return {count: result.blocks[0].gbps for count, result in zip(counts, results, strict=True)}


def candidate_readers(
    rates: Mapping[int, float], *, demand_gbps: float, threshold: float, max_readers: int
) -> tuple[int, ...]:
    """The numbers of readers around the largest one that the pilot's rates, interpolated, would feed."""
    counts = np.arange(1, max_readers + 1)
    known = sorted(rates)
    curve = np.interp(counts, known, [rates[count] for count in known])
    fed = counts[curve >= threshold * counts * demand_gbps]
    middle = int(fed.max()) if len(fed) else 0
    return tuple(count for count in (middle - 1, middle, middle + 1) if 1 <= count <= max_readers)


def measure_rates(
    path: Path,
    config: StorageConfig,
    *,
    engine: str,
    reason: str,
    reads_in_flight: int,
    readers: tuple[int, ...],
    on_block: OnBlock | None = None,
) -> list[PointResult]:
    """`config.blocks` interleaved blocks at each number of readers."""
    sample = max(data_files(path), key=lambda file: file.size_bytes)
    results = []
    for count in readers:
        point = reader_point(engine, readers=count, reads_in_flight=reads_in_flight)
        results.append(PointResult(point, reason, ceiling_gbps=calibrate(point, sample)))
    run_points(path, results, config, on_block=on_block)
    return results


def storage_point(result: PointResult, path: Path) -> Point:
    """A swept point in the record's form."""
    point, blocks = result.point, result.blocks
    rate = summarise([block.gbps for block in blocks], unit="GB/s")
    metrics: dict[str, Metric] = {
        "read_gbps": rate,
        "read_iops": summarise([block.iops for block in blocks], unit="reads/s"),
        "latency_p50_us": _latency(result, 50),
        "latency_p99_us": _latency(result, 99),
    }
    flags = [name for name, set_ in (("harness_limited", result.harness_limited), ("noisy", is_noisy(rate))) if set_]
    return Point(
        params={
            "stage": "storage",
            "engine": point.engine,
            "access": point.access,
            "block_size_bytes": point.block_bytes,
            "queue_depth": point.queue_depth,
            "threads": point.threads,
            "page_cache": point.page_cache,
        },
        read_path=None if result.evidence is None else read_path(result.evidence, cold_scope=cold_scope_of(path)),
        metrics=metrics,
        flags=tuple(flags),
    )


def _latency(result: PointResult, percent: float) -> Metric:
    """A percentile over all blocks' reads; its interval comes from the blocks' own percentiles."""
    samples = [value for block in result.blocks if (value := block.latencies.percentile_us(percent)) is not None]
    metric = summarise(samples, unit="us", reason="no read ended within a block")
    overall = result.percentile_us(percent)
    return metric if overall is None or metric.value is None else metric.model_copy(update={"value": overall})
