"""How many accelerators a storage feeds, predicted: B(N) at N concurrent readers with the loader's own reads.

pilot    N = 1, 2, 4, 8 ..., one short block each: where about does B(N) = u * N * d lie
blocks   the numbers of readers around it, interleaved, fresh blocks: the prediction rests on these alone
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..loaders.engines.readers import read_bytes_of
from .sweep.calibration import calibrate
from .sweep.points import PointResult, SweepPoint
from .sweep.run import run_points
from .workload import StorageConfig

PILOT_S = 0.5


def reader_point(engine: str, *, readers: int, reads_in_flight: int) -> SweepPoint:
    """N readers, each with as many reads in flight as a loader has reader threads."""
    return SweepPoint(engine, "shard-replay", read_bytes_of(engine), reads_in_flight, readers, "cold")


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


def new_rates(*, engine: str, reason: str, reads_in_flight: int, readers: Sequence[int]) -> list[PointResult]:
    """A result without blocks for each number of readers, with what the harness itself reaches there."""
    points = [reader_point(engine, readers=count, reads_in_flight=reads_in_flight) for count in readers]
    return [PointResult(point, reason, ceiling_gbps=calibrate(point)) for point in points]
