"""Whether the rate lasts: reading on and on, block after block, and the slope of what it gave against time."""

from __future__ import annotations

from time import perf_counter

from ..results.lasting import Lasting, judge_lasting
from ..results.record import Metric, Point, not_measured
from ..results.stats import DRIFT_BLOCKS, StatisticsError, drift, summarise
from ..storage_bench.evidence import doubts
from ..storage_bench.feeding import reader_point
from ..storage_bench.sweep.drive import timing_of
from ..storage_bench.sweep.points import BlockResult, PointResult, SweepPoint
from ..storage_bench.sweep.recorded import storage_point
from ..storage_bench.sweep.run import run_points
from ..storage_bench.workload import StorageConfig
from .ranks import required_ranks
from .run import Run

HOUR_S = 3600.0
LAST_PART = 4  # the last quarter of the time says what is left in the end


def sustain(run: Run) -> Lasting | None:
    """Read with the required number of readers for `sustain.seconds`; None where none are asked for."""
    asked = run.config.sustain
    if not asked.seconds:
        return None
    readers = required_ranks(run)
    timing = timing_of(asked.block_seconds)
    num_blocks = max(DRIFT_BLOCKS, int(asked.seconds / (timing.ramp_s + asked.block_seconds)))
    config = StorageConfig(
        access="shard-replay",
        seconds=asked.block_seconds,
        blocks=num_blocks,
        batch_size=run.accelerator.batch_size,
    )
    point = reader_point(run.engine, readers=readers, reads_in_flight=run.config.train.reader_threads)
    result = PointResult(point, run.engine_reason)
    ends_s: list[float] = []

    def note(done: int, total: int, _: SweepPoint, block: BlockResult) -> None:
        ends_s.append(perf_counter())
        run.show("sustain", done / total, f"{readers} readers {block.gbps:.3f} GB/s")

    try:
        with run.measuring(within_budget=False):
            run_points(run.path, [result], config, on_block=note)
    finally:  # whatever ends it: blocks that are measured are kept
        if ends_s:
            recorded = _note(run, result, ends_s)
    return judge_lasting(
        recorded.metrics["drift_per_hour"],
        last=recorded.metrics["last_part_gbps"],
        seconds=ends_s[-1] - ends_s[0] + asked.block_seconds,
        needed_gbps=run.config.threshold * readers * run.demand_gbps,
        readers=readers,
    )


def _note(run: Run, result: PointResult, ends_s: list[float]) -> Point:
    """Put the row of blocks among the run's points, with what counters say against it."""
    run.measured_bytes += sum(block.delivered_bytes for block in result.blocks)
    if result.evidence is not None:
        run.invalid += [f"sustain: {text}" for text in [result.evidence.invalid_reason()] if text]
        run.warnings += [f"sustain: {text}" for text in doubts(result.evidence)]
    rates = [block.gbps for block in result.blocks[: len(ends_s)]]
    recorded = with_drift(storage_point(result, run.path), ends_s, rates)
    run.points.append(recorded)
    return recorded


def with_drift(point: Point, ends_s: list[float], rates: list[float]) -> Point:
    """The point as one of its own stage, with the slope of its blocks and what the last of them gave."""
    last = rates[-max(2, len(rates) // LAST_PART) :]
    metrics = {
        **point.metrics,
        "drift_per_hour": drift_per_hour(ends_s, rates),
        "last_part_gbps": summarise(last, unit="GB/s"),
    }
    return point.model_copy(update={"params": {**point.params, "stage": "sustain"}, "metrics": metrics})


def drift_per_hour(ends_s: list[float], rates: list[float]) -> Metric:
    """The slope as a share of the mean rate per hour; `n` counts the blocks."""
    mean = sum(rates) / len(rates) if rates else 0.0
    if mean <= 0:
        return not_measured("1/h", "nothing was read")
    try:
        slope, low, high = (value * HOUR_S / mean for value in drift(ends_s, rates))
    except StatisticsError as error:
        return not_measured("1/h", str(error))
    return Metric(value=slope, unit="1/h", ci95=(low, high), n=len(rates))
