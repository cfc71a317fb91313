"""The storage rate at N concurrent readers, what it predicts, and what the loader delivers by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..results.fed import Fed, predict_fed
from ..results.quantities import counted
from ..results.record import Metric, Point
from ..storage_bench.encoded import EncodedImages
from ..storage_bench.evidence import doubts
from ..storage_bench.feeding import candidate_readers, new_rates, pilot_rates
from ..storage_bench.limits import WARM_RAM_SHARE, ram_bytes
from ..storage_bench.load import LoadResult, measure_load
from ..storage_bench.load_setup import LoadConfig
from ..storage_bench.staging import on_same_device
from ..storage_bench.sweep.drive import RAMP_SHARE
from ..storage_bench.sweep.points import BlockResult, PointResult, SweepPoint
from ..storage_bench.sweep.recorded import storage_point
from ..storage_bench.sweep.run import run_points
from ..storage_bench.workload import StorageConfig
from .run import Run

STORAGE_SHARE, LOAD_SHARE = 0.35, 0.12  # of the time that is not reserved for ranks
WINDOW = 3  # numbers of readers around the prediction
LOAD_BLOCKS, LOAD_SECONDS = 8, 0.75
LEAST_BLOCK_S = 0.1


def predict(run: Run) -> Fed:
    """The storage rate at the numbers of readers around the largest one it feeds."""
    config = run.config
    seconds = _block_seconds(config.storage.seconds, run.share_s(STORAGE_SHARE) / (WINDOW * config.storage.blocks))
    if seconds < config.storage.seconds:
        run.scaled.append(
            f"storage: blocks of {seconds:.2g} s, not {config.storage.seconds:g} s: {config.measure_seconds:g} s of "
            f"measuring are to leave time for the required number of ranks"
        )
    rates = StorageConfig(
        access="shard-replay",
        seconds=seconds,
        blocks=config.storage.blocks,
        batch_size=run.accelerator.batch_size,
    )
    with run.measuring():
        run.show("storage", 0.0, "pilot")
        known = pilot_rates(
            run.path,
            rates,
            engine=run.engine,
            reads_in_flight=config.train.reader_threads,
            max_readers=run.max_ranks,
        )
    measured: dict[int, Metric] = {}
    while True:
        readers = candidate_readers(
            known, demand_gbps=run.demand_gbps, threshold=config.threshold, max_readers=run.max_ranks
        )
        points = _measure_readers(run, rates, [count for count in readers if count not in measured])
        measured |= {int(point.params["threads"] or 0): point.metrics["read_gbps"] for point in points}
        run.measured_rates = measured
        known |= {count: rate.value or 0.0 for count, rate in measured.items()}
        run.rates = dict(sorted(known.items()))
        fed = predict_fed(measured, demand_gbps=run.demand_gbps, threshold=config.threshold)
        bracketed = fed.value is not None and not fed.is_at_least
        if bracketed or not points or run.left_s < config.measure_seconds / 2:
            return fed


def _block_seconds(wanted: float, affordable: float) -> float:
    """The length of a time block that the time allows, its ramp counted."""
    return max(LEAST_BLOCK_S, min(wanted, affordable / (1 + RAMP_SHARE)))


def _measure_readers(run: Run, rates: StorageConfig, readers: Sequence[int]) -> list[Point]:
    """Blocks at these numbers of readers; notes what counters say against them."""
    if not readers:
        return []
    with run.measuring():
        results = new_rates(
            engine=run.engine,
            reason=run.engine_reason,
            reads_in_flight=run.config.train.reader_threads,
            readers=readers,
        )

    def tell(done: int, total: int, point: SweepPoint, block: BlockResult) -> None:
        run.show("storage", done / total, f"{counted(point.threads, 'reader')} {block.gbps:.2f} GB/s")

    try:
        with run.measuring():
            run_points(run.path, results, rates, on_block=tell)
    finally:  # whatever ends it: blocks that are measured are kept
        points = _note(run, [result for result in results if result.blocks])
    return points


def _note(run: Run, results: Sequence[PointResult]) -> list[Point]:
    """Put these results among the run's points, with what counters say against them."""
    for result in results:
        run.measured_bytes += sum(block.delivered_bytes for block in result.blocks)
        if result.evidence is not None:
            run.invalid += [f"storage: {text}" for text in [result.evidence.invalid_reason()] if text]
            run.warnings += [f"storage: {text}" for text in doubts(result.evidence)]
        if result.harness_limited:
            run.warnings.append(
                f"storage: {counted(result.point.threads, 'reader')} came within 10 % of what this host reads from its "
                f"page cache; the storage may give more"
            )
    points = [storage_point(result, run.path) for result in results]
    run.points += points
    return points


def _images_asked(run: Run) -> dict[str, Any]:
    """What the settings of ranks say of encoded images, for the loader to do the same with them."""
    return run.config.train.model_dump(include=set(EncodedImages.model_fields), exclude_unset=True)


def measure_loader(run: Run) -> None:
    """What the loader delivers by itself: cold, and warm where later epochs would be."""

    def measure(page_cache: str, blocks: int) -> LoadResult:
        load = LoadConfig.model_validate(
            {
                **_images_asked(run),
                "engine": "buffered" if page_cache == "warm" else run.engine,
                "batch_size": min(run.accelerator.batch_size, 64),
                "num_workers": run.config.train.reader_threads,
                "page_cache": page_cache,
                "blocks": blocks,
                "seconds": _block_seconds(LOAD_SECONDS, run.share_s(LOAD_SHARE) / (1.5 * LOAD_BLOCKS)),
            }
        )
        with run.measuring():
            result = measure_load(
                run.path,
                load,
                on_block=lambda done, total, rate: run.show(
                    f"load, {page_cache}", done / total, f"{rate:.0f} images/s"
                ),
            )
        run.points.append(result.point)
        path = result.point.read_path
        run.measured_bytes += (path.delivered_bytes or 0) if path else 0
        run.warnings += [f"load: {text}" for text in result.warnings]
        return result

    if text := measure("cold", LOAD_BLOCKS).invalid:
        run.invalid.append(f"load: {text}")
    if run.cache_holds and not on_same_device(run.path, run.local) and run.total_bytes <= WARM_RAM_SHARE * ram_bytes():
        result = measure("warm", LOAD_BLOCKS // 2)
        if result.invalid:  # the verdict does not rest on it
            run.warnings.append(f"load: {result.invalid}")
        else:
            run.warm_rate = result.point.metrics["images_per_s"]
