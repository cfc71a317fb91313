"""Storage rate: time blocks of reads at one point after another, interleaved, with evidence on each.

    round r: the points in a random order
        a block:  evict or warm -> residency -> threads x queue_depth readers -> [ramp | measured window | drain]

A read's bytes are spread evenly over its duration, so a window's rate does not depend on where large reads end.
Device counters are compared with what was delivered over the whole block, ramp and drain included.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Protocol, get_args

import numpy as np
import numpy.typing as npt

from ..loaders.buffers import Buffer
from ..loaders.evidence import Counter, RouteEvidence, background_rate, counter_for, judge, process_read_bytes
from ..loaders.page_cache import cache_fraction, evict, warm
from ..loaders.readers import BufferedReader, DirectReader, Reader, direct_refused
from ..loaders.shards import ShardSet
from .latency import LatencyHistogram, merge
from .workload import (
    Access,
    DataFile,
    Engine,
    PageCache,
    ReadRequest,
    StorageConfig,
    WorkloadError,
    WorkloadUsageError,
    data_files,
    open_stream,
    replay_stream,
)

RAMP_SHARE = 0.2
MAX_RAMP_S = 0.5
CALIBRATION_BYTES = 64 << 20
CALIBRATION_S = 0.25
MAX_READS_IN_FLIGHT = 4096
MEMORY_SHARE = 0.5
DRAIN_S = 60.0
HARNESS_MARGIN = 0.9
WARM_RAM_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One combination: `threads` streams, each with `queue_depth` reads of `block_bytes` in flight."""

    engine: str
    access: Access
    block_bytes: int
    queue_depth: int
    threads: int
    page_cache: PageCache

    @property
    def reads_in_flight(self) -> int:
        """Of all streams together."""
        return self.threads * self.queue_depth


@dataclass(frozen=True, slots=True)
class BlockResult:
    """One time block: rates over the window; bytes, seconds and counters over the whole block."""

    gbps: float
    iops: float
    latencies: LatencyHistogram
    delivered_bytes: int
    payload_bytes: int
    device_bytes: int | None
    seconds: float
    cache_fraction: float | None
    process_bytes: int | None = None


@dataclass(slots=True)
class PointResult:
    """All blocks of one point."""

    point: SweepPoint
    engine_reason: str
    blocks: list[BlockResult] = field(default_factory=list)
    ceiling_gbps: float | None = None
    evidence: RouteEvidence | None = None

    @property
    def harness_limited(self) -> bool:
        """Within 10 % of what this harness does on page-cached data with the same reads."""
        if self.ceiling_gbps is None or not self.blocks:
            return False
        return float(np.median([block.gbps for block in self.blocks])) > HARNESS_MARGIN * self.ceiling_gbps

    def percentile_us(self, percent: float) -> float | None:
        """A latency percentile over all blocks."""
        return merge(block.latencies for block in self.blocks).percentile_us(percent)


OnBlock = Callable[[int, int, SweepPoint, BlockResult], None]


class Streams(Protocol):
    """Makes the endless reads of one stream."""

    def __call__(self, stream: int, num_streams: int) -> Iterator[ReadRequest]:
        """Reads of stream `stream` of `num_streams`."""


def sweep(path: Path, config: StorageConfig, *, on_block: OnBlock | None = None) -> list[PointResult]:
    """Measure every combination of `config` on `path`, `config.blocks` interleaved time blocks each.

    Raises WorkloadError where the data do not fit, ReadError with file and offset where a read fails.
    """
    files = data_files(path)
    points = _points(config, files)
    for point, _ in points:
        _check_size(point, files)  # before anything is read
    results = [_new_result(point, reason, files) for point, reason in points]
    run_points(path, results, config, on_block=on_block)
    return results


def run_points(
    path: Path, results: Sequence[PointResult], config: StorageConfig, *, on_block: OnBlock | None = None
) -> None:
    """Add `config.blocks` interleaved time blocks to each of `results`, and judge their evidence."""
    files = data_files(path)
    for result in results:
        _check_size(result.point, files)
    replayed = any(result.point.access == "shard-replay" for result in results)
    shards = ShardSet.open(path, shuffle_mode="blocks", seed=config.seed) if replayed else None
    counter = counter_for([file.path for file in files])
    background = background_rate(counter) or 0.0
    random = np.random.Generator(np.random.PCG64DXSM(config.seed))
    done, total = 0, config.blocks * len(results)
    for number in range(config.blocks):
        for which in random.permutation(len(results)).tolist():
            result = results[which]
            streams = _streams(result.point, files, shards, config, config.seed * 1_000_003 + number)
            block = measure_block(result.point, files, streams, counter, seconds=config.seconds)
            result.blocks.append(block)
            done += 1
            if on_block is not None:
                on_block(done, total, result.point, block)
    for result in results:
        result.evidence = collect_evidence(result, counter, background)


def measure_block(
    point: SweepPoint, files: Sequence[DataFile], streams: Streams, counter: Counter, *, seconds: float
) -> BlockResult:
    """One time block at one point, from a clean start (evicted, or warm)."""
    paths = [file.path for file in files]
    if point.page_cache == "cold":
        evict(paths)
    elif (cache_fraction(paths) or 0.0) < 1.0:
        warm(paths)
    resident = cache_fraction(paths)
    reader = open_point_reader(point)
    try:
        before, mine = counter.read_bytes(), process_read_bytes()
        ramp_s = min(MAX_RAMP_S, RAMP_SHARE * seconds)
        load = _run(point, reader, streams, ramp_s=ramp_s, seconds=seconds, place=paths[0].parent)
        after, mine_after = counter.read_bytes(), process_read_bytes()
    finally:
        reader.close()
    device = None if before is None or after is None else after - before
    latencies = LatencyHistogram()
    latencies.add(load.ends_ns[load.inside] - load.starts_ns[load.inside])
    return BlockResult(
        gbps=load.window_bytes / seconds / 1e9,
        iops=load.window_reads / seconds,
        latencies=latencies,
        delivered_bytes=int(load.counts.sum()),
        payload_bytes=int(load.needs.sum()),
        device_bytes=device,
        process_bytes=None if mine is None or mine_after is None else mine_after - mine,
        seconds=load.total_s,
        cache_fraction=resident,
    )


def open_point_reader(point: SweepPoint) -> Reader:
    """The reader of a point; cold buffered reads are put out of the page cache behind the reader."""
    if point.engine == "direct":
        return DirectReader()
    return BufferedReader(evict_behind=point.page_cache == "cold", random_access=point.access == "random")


def collect_evidence(result: PointResult, counter: Counter, background_bps: float) -> RouteEvidence:
    """Judge all blocks of a point together."""
    blocks = result.blocks
    devices = [block.device_bytes for block in blocks if block.device_bytes is not None]
    mine = [block.process_bytes for block in blocks if block.process_bytes is not None]
    fractions = [block.cache_fraction for block in blocks if block.cache_fraction is not None]
    return judge(
        counter,
        engine=result.point.engine,
        page_cache=result.point.page_cache,
        cache_fraction=float(np.mean(fractions)) if len(fractions) == len(blocks) else None,
        delivered_bytes=sum(block.delivered_bytes for block in blocks),
        payload_bytes=sum(block.payload_bytes for block in blocks),
        raw_device_bytes=sum(devices) if len(devices) == len(blocks) else None,
        process_bytes=sum(mine) if len(mine) == len(blocks) else None,
        background_bytes=background_bps * sum(block.seconds for block in blocks),
    )


def choose_engine(engine: str, sample: Path, *, page_cache: PageCache = "cold") -> tuple[str, str]:
    """For measuring storage `auto` is direct where the file system does it, else buffered; with the reason.

    Warm reads are buffered ones.  Raises WorkloadUsageError for an engine that is not known or never reads warm.
    """
    if engine not in get_args(Engine):
        raise WorkloadUsageError(f"engine {engine!r} is not known; choose {', '.join(get_args(Engine))}")
    if engine == "direct" and page_cache == "warm":
        raise WorkloadUsageError(
            "engine direct never reads from the page cache; use --engine buffered or auto for warm reads"
        )
    if engine == "buffered":
        return "buffered", "asked for"
    if page_cache == "warm":
        return "buffered", "auto: buffered, warm reads come from the page cache"
    refused = direct_refused(sample)
    if refused is None:
        alone = "auto: direct, the page cache cannot answer for the storage"
        return "direct", "asked for" if engine == "direct" else alone
    if engine == "direct":
        raise WorkloadError(f"{sample}: {refused}; use --engine buffered or auto")
    return "buffered", f"auto: buffered, because {refused}"


def ram_bytes() -> int:
    """Memory of this host."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def require_room_to_warm(total_bytes: int) -> None:
    """Raise WorkloadError where data are too many to stay in the page cache while they are read."""
    limit = WARM_RAM_SHARE * ram_bytes()
    if total_bytes > limit:
        raise WorkloadError(
            f"warm reads need data of at most a quarter of memory ({limit / 1e9:.1f} GB), "
            f"these are {total_bytes / 1e9:.1f} GB; name fewer files"
        )


def calibrate(point: SweepPoint, sample: DataFile) -> float:
    """What the harness itself reaches in GB/s: the same reads, of page-cached data."""
    size = min(sample.size_bytes, CALIBRATION_BYTES)
    part = [DataFile(sample.path, max(size, min(sample.size_bytes, point.block_bytes)))]
    ceiling = SweepPoint("buffered", "sequential", point.block_bytes, point.queue_depth, point.threads, "warm")
    _warm_part(part[0])

    def streams(stream: int, num_streams: int) -> Iterator[ReadRequest]:
        return open_stream(
            part, access="sequential", block_bytes=point.block_bytes, stream=stream, num_streams=num_streams, seed=0
        )

    reader = BufferedReader()
    try:
        load = _run(ceiling, reader, streams, ramp_s=0.05, seconds=CALIBRATION_S, place=sample.path)
    finally:
        reader.close()
    return load.window_bytes / CALIBRATION_S / 1e9


@dataclass(frozen=True, slots=True)
class _Load:
    """Every read of a block, and the window inside it."""

    starts_ns: npt.NDArray[np.int64]
    ends_ns: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    needs: npt.NDArray[np.int64]
    window_ns: tuple[int, int]

    @property
    def inside(self) -> npt.NDArray[np.bool_]:
        """Reads that ended in the window."""
        return (self.ends_ns > self.window_ns[0]) & (self.ends_ns <= self.window_ns[1])

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """The share of each read's duration that lies in the window."""
        overlap = np.minimum(self.ends_ns, self.window_ns[1]) - np.maximum(self.starts_ns, self.window_ns[0])
        shares: npt.NDArray[np.float64] = np.maximum(overlap, 0) / np.maximum(self.ends_ns - self.starts_ns, 1)
        return shares

    @property
    def window_bytes(self) -> float:
        """Bytes delivered in the window."""
        return float((self.shares * self.needs).sum())

    @property
    def window_reads(self) -> float:
        """Reads completed in the window, counted by their share."""
        return float(self.shares.sum())

    @property
    def total_s(self) -> float:
        """From the first read's start to the last one's end."""
        return float(self.ends_ns.max(initial=0) - self.starts_ns.min(initial=self.ends_ns.max(initial=0))) / 1e9


def _run(point: SweepPoint, reader: Reader, streams: Streams, *, ramp_s: float, seconds: float, place: Path) -> _Load:
    """Read with threads x queue_depth operating-system threads until the window is over."""
    logs: list[list[tuple[int, int, int, int]]] = []
    errors: list[BaseException] = []
    stop = threading.Event()
    gate = threading.Barrier(point.reads_in_flight + 1)
    threads = []
    for stream in range(point.threads):
        requests, lock = streams(stream, point.threads), threading.Lock()
        for _ in range(point.queue_depth):
            log: list[tuple[int, int, int, int]] = []
            logs.append(log)
            arguments = (reader, requests, lock, log, errors, stop, gate)
            threads.append(threading.Thread(target=_read_until, args=arguments, daemon=True))
    try:
        _start(threads)
        gate.wait()
        begin = perf_counter_ns()
        stop.wait(ramp_s + seconds)  # set early by a reader that failed
    finally:
        stop.set()
        gate.abort()  # lets go of who still waits there, where not all could be started
    end = begin + round((ramp_s + seconds) * 1e9)
    num_hanging = _join(threads)
    if errors:
        raise errors[0]
    if num_hanging:
        raise WorkloadError(
            f"{place}: {num_hanging} of {len(threads)} reads have not come back within {DRAIN_S:.0f} s; the storage "
            f"hangs or is too slow for so many: use fewer --threads, a smaller --queue-depth or --block-size"
        )
    rows = np.array(list(itertools.chain.from_iterable(logs)), dtype=np.int64).reshape(-1, 4)
    window = (begin + round(ramp_s * 1e9), end)
    return _Load(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3], window)


def _start(threads: Sequence[threading.Thread]) -> None:
    try:
        for thread in threads:
            thread.start()
    except RuntimeError as error:
        raise WorkloadError(
            f"{len(threads)} reads in flight take as many threads, and the system gives no more ({error}); use fewer "
            f"--threads or a smaller --queue-depth"
        ) from error


def _join(threads: Sequence[threading.Thread]) -> int:
    """Wait for the reads in flight, but not for ever; how many have not come back."""
    deadline = perf_counter() + DRAIN_S
    for thread in threads:
        thread.join(max(0.0, deadline - perf_counter()))
    return sum(thread.is_alive() for thread in threads)


def _read_until(
    reader: Reader,
    requests: Iterator[ReadRequest],
    lock: threading.Lock,
    log: list[tuple[int, int, int, int]],
    errors: list[BaseException],
    stop: threading.Event,
    gate: threading.Barrier,
) -> None:
    """One read after another until told to stop."""
    try:
        gate.wait()
        memory = Buffer(1 << 16).memory
        while not stop.is_set():
            with lock:
                request = next(requests)
            if len(memory) < request.length:
                memory = Buffer(request.length).memory
            start = perf_counter_ns()
            count = reader.read(request.path, request.offset, memory[: request.length], need=request.need)
            log.append((start, perf_counter_ns(), count, request.need))
    except threading.BrokenBarrierError:
        return  # another one could not be started
    except Exception as error:  # raised again by the block that started this thread
        errors.append(error)
        stop.set()


def _points(config: StorageConfig, files: Sequence[DataFile]) -> list[tuple[SweepPoint, str]]:
    points: dict[SweepPoint, str] = {}
    for wanted, state in itertools.product(config.engine, config.page_cache):
        engine, reason = choose_engine(wanted, files[0].path, page_cache=state)
        for block, depth, threads in itertools.product(config.block_size, config.queue_depth, config.threads):
            points.setdefault(SweepPoint(engine, config.access, block, depth, threads, state), reason)
    return list(points.items())


def require_memory(num_bytes: int, what: str, *, way_out: str) -> None:
    """Raise WorkloadError where buffers would take more than half of the memory that is free."""
    import psutil

    free = MEMORY_SHARE * psutil.virtual_memory().available
    if num_bytes > free:
        raise WorkloadError(
            f"{what} need {num_bytes / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB may be taken; {way_out}"
        )


def _check_size(point: SweepPoint, files: Sequence[DataFile]) -> None:
    """Refuse what would take more threads or memory than a host has to give."""
    reads = point.reads_in_flight
    if reads > MAX_READS_IN_FLIGHT:
        raise WorkloadUsageError(
            f"{point.threads} threads x queue depth {point.queue_depth} are {reads} reads in flight, each a thread; "
            f"at most {MAX_READS_IN_FLIGHT} are possible"
        )
    require_memory(
        reads * min(point.block_bytes, max(file.size_bytes for file in files)),
        f"{reads} reads of {point.block_bytes >> 10} KiB in flight",
        way_out="use fewer --threads, a smaller --queue-depth or --block-size",
    )
    if point.page_cache == "warm":
        require_room_to_warm(sum(file.size_bytes for file in files))


def _new_result(point: SweepPoint, reason: str, files: Sequence[DataFile]) -> PointResult:
    ceiling = calibrate(point, files[0]) if point.page_cache == "cold" else None
    return PointResult(point, reason, ceiling_gbps=ceiling)


def _streams(
    point: SweepPoint, files: Sequence[DataFile], shards: ShardSet | None, config: StorageConfig, seed: int
) -> Streams:
    def streams(stream: int, num_streams: int) -> Iterator[ReadRequest]:
        if shards is not None:
            return replay_stream(
                shards,
                batch_size=config.batch_size,
                stream=stream,
                num_streams=num_streams,
                alignment=DirectReader.alignment_bytes if point.engine == "direct" else 1,
                read_bytes=point.block_bytes,
            )
        return open_stream(
            files,
            access=point.access,
            block_bytes=point.block_bytes,
            stream=stream,
            num_streams=num_streams,
            seed=seed,
        )

    return streams


def _warm_part(part: DataFile) -> None:
    buffer = Buffer(1 << 20)
    reader = BufferedReader()
    deadline = perf_counter() + 60
    for offset in range(0, part.size_bytes, 1 << 20):
        if perf_counter() > deadline:
            raise WorkloadError(f"{part.path}: reading {part.size_bytes} bytes took over a minute; the storage hangs")
        reader.read(part.path, offset, buffer.memory, need=min(1 << 20, part.size_bytes - offset))
    reader.close()
