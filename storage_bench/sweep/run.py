"""The page: every combination of the settings as interleaved time blocks, each point judged by the counters.

    settings -> points (refused where they cannot be) -> calibration -> rounds of blocks -> evidence

Where the caller wants to keep going, a point whose read fails or hangs ends there with its error, and the others go on.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...loaders.destinations.device import Device
from ...loaders.engines.readers import DirectReader
from ...loaders.evidence import CounterSet, background_rate, counter_for
from ...loaders.shards import ShardSet
from ..launching.ranks import Ranks, SingleRank
from ..workload import DataFile, StorageConfig, WorkloadError, WorkloadUsageError, data_files, folder_of
from .block import PeerFailedError, measure_reads, measure_writes
from .calibration import calibrate
from .drive import HangError, timing_of
from .points import BlockResult, OnBlock, PointResult, SweepPoint
from .proof import collect_evidence
from .refusals import check_size, choose_way
from .streams import Batches, Streams, open_stream, replay_stream
from .writing import ScratchFiles, scratch_files

ROUND_SEEDS = 1_000_003
BACKGROUND_S = 0.5
LEAST_BLOCKS = 4  # that a thread writes before it begins again


def sweep(
    path: Path,
    config: StorageConfig,
    *,
    on_block: OnBlock | None = None,
    keep_going: bool = False,
    device: Device | None = None,
    results: list[PointResult] | None = None,
) -> list[PointResult]:
    """Measure every combination of `config` on `path`, `config.blocks` interleaved time blocks each.

    Reads into a GPU go to the one that torch has chosen, or to a `device` that is handed in.  Who is interrupted finds
    the blocks so far in the list `results`, where that is handed in.

    Raises WorkloadError where the data do not fit; ReadError with file and offset where a read fails, unless it is to
    `keep_going`: then the point has the error.
    """
    files = files_of(path, config)
    results = [] if results is None else results
    results += new_results(planned_points(path, config, files, device=device))
    run_points(path, results, config, on_block=on_block, keep_going=keep_going, device=device)
    return results


def planned_points(
    path: Path, config: StorageConfig, files: Sequence[DataFile], *, device: Device | None = None
) -> list[tuple[SweepPoint, str]]:
    """Every combination once, with the reason for its engine; refused here where it cannot be measured."""
    points: dict[SweepPoint, str] = {}
    ways = itertools.product(config.engine, config.operation, config.page_cache, config.destination)
    for wanted, operation, state, destination in ways:
        if operation == "write" and config.access == "shard-replay":
            raise WorkloadUsageError("a loader's reads cannot be replayed as writes; use --access sequential or random")
        sample = files[0].path if operation == "read" else folder_of(path)
        engine, reason = choose_way(
            wanted, sample, page_cache=state, operation=operation, destination=destination, device=device
        )
        sizes = itertools.product(config.block_size, config.queue_depth, config.threads)
        for block, depth, threads in sizes:
            cache = "cold" if operation == "write" else state
            point = SweepPoint(engine, config.access, block, depth, threads, cache, operation, destination)
            check_size(point, files)
            points.setdefault(point, reason)
    return list(points.items())


def new_results(points: Sequence[tuple[SweepPoint, str]]) -> list[PointResult]:
    """Empty results, with what the harness itself reaches at each point."""
    return [
        PointResult(point, reason, ceiling_gbps=calibrate(point) if point.page_cache == "cold" else None)
        for point, reason in points
    ]


def run_points(
    path: Path,
    results: Sequence[PointResult],
    config: StorageConfig,
    *,
    on_block: OnBlock | None = None,
    keep_going: bool = False,
    device: Device | None = None,
) -> None:
    """Add `config.blocks` interleaved time blocks to each of `results`, and judge their evidence."""
    with open_bench(path, [result.point for result in results], config, device=device) as bench:
        done, total = 0, config.blocks * len(results)
        try:
            for number in range(config.blocks):
                for which in block_order(len(results), config.seed, number):
                    result = results[which]
                    add_block(bench, result, number, keep_going=keep_going)
                    done += 1
                    if on_block is not None and result.error is None:
                        on_block(done, total, result.point, result.blocks[-1])
        finally:  # whoever is interrupted may keep the blocks so far
            judge_all(bench, results)


def block_order(num_points: int, seed: int, number: int) -> list[int]:
    """The points of round `number` in an order of its own, the same for every client."""
    order: list[int] = np.random.default_rng([seed, number]).permutation(num_points).tolist()
    return order


@dataclass
class Bench:
    """What blocks of one run share: files, shards, counters, files to write into."""

    files: Sequence[DataFile]
    config: StorageConfig
    counter: CounterSet
    background_bps: float
    shards: ShardSet | None
    scratch: ScratchFiles | None
    ranks: Ranks
    device: Device | None = None

    def measure(self, point: SweepPoint, number: int) -> BlockResult:
        """One time block, of round `number`."""
        timing = timing_of(self.config.seconds, patience_s=self.config.patience_s)
        seed = self.config.seed * ROUND_SEEDS + number
        if point.operation == "write":
            assert self.scratch is not None  # made where a point writes
            return measure_writes(point, self.scratch, self.counter, timing, seed=seed, ranks=self.ranks)
        streams = self._streams(point, seed)
        return measure_reads(point, self.files, streams, self.counter, timing, ranks=self.ranks, device=self.device)

    def _streams(self, point: SweepPoint, seed: int) -> Streams:
        def streams(stream: int, num_streams: int) -> Batches:
            if point.access == "shard-replay":
                assert self.shards is not None  # opened where a point replays
                return replay_stream(
                    self.shards,
                    batch_size=self.config.batch_size,
                    stream=stream,
                    num_streams=num_streams,
                    alignment=1 if point.engine != "direct" else DirectReader.alignment_bytes,
                    read_bytes=point.block_bytes,
                )
            return open_stream(
                self.files,
                access=point.access,
                block_bytes=point.block_bytes,
                stream=stream,
                num_streams=num_streams,
                seed=seed,
            )

        return streams


@contextmanager
def open_bench(
    path: Path,
    points: Sequence[SweepPoint],
    config: StorageConfig,
    *,
    ranks: Ranks | None = None,
    device: Device | None = None,
) -> Iterator[Bench]:
    """What these points need on `path`; files that are written into are gone afterwards."""
    ranks = ranks or SingleRank()
    writes = [point for point in points if point.operation == "write"]
    files = files_of(path, config)
    for point in points:
        check_size(point, files)
    replayed = any(point.access == "shard-replay" for point in points)
    shards = ShardSet.open(path, shuffle_mode="blocks", seed=config.seed) if replayed else None
    counter = counter_for([file.path for file in files] or [folder_of(path)])
    background = (background_rate(counter, seconds=BACKGROUND_S) or 0.0) if ranks.rank == 0 else 0.0
    with ExitStack() as stack:
        scratch = None
        if writes:
            scratch = stack.enter_context(scratch_files(folder_of(path), **scratch_size(writes, config.write_bytes)))
        yield Bench(files, config, counter, background, shards, scratch, ranks, device)


def files_of(path: Path, config: StorageConfig) -> list[DataFile]:
    """The files to read; none are needed where there are only writes."""
    if "read" in config.operation:
        return data_files(path)
    if not path.exists():
        raise WorkloadError(f"{path}: no such folder; writes need one to put their own files into")
    return []


def scratch_size(writes: Sequence[SweepPoint], write_bytes: int) -> dict[str, int]:
    """A file for each thread of the largest point, of whole blocks, each slot having several to write."""
    num_files = max(point.threads for point in writes)
    least = max(LEAST_BLOCKS * point.block_bytes * point.queue_depth for point in writes)
    unit = max(point.block_bytes for point in writes)
    return {"num_files": num_files, "file_bytes": -(-max(write_bytes // num_files, least) // unit) * unit}


def add_block(bench: Bench, result: PointResult, number: int, *, keep_going: bool) -> None:
    """One more block of a point, unless it has failed; an error of the storage is the point's where that is wanted."""
    if result.error is not None:
        return
    try:
        result.blocks.append(bench.measure(result.point, number))
    except (OSError, HangError, PeerFailedError) as error:
        if not keep_going:
            raise
        result.error = _said(error)
        result.peer_failed = isinstance(error, PeerFailedError)


def _said(error: Exception) -> str:
    """The error with the file it is about."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def judge_all(bench: Bench, results: Sequence[PointResult]) -> None:
    """The evidence of every point that has blocks."""
    for result in results:
        if result.blocks:
            result.evidence = collect_evidence(result, bench.counter, bench.background_bps)
