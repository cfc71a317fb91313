"""One time block at one point, from a clean start.

    read    evict | warm -> residency -> [ramp | window | drain] -> residency
    write   synced and evicted        -> [ramp | window | drain]          direct
                                      -> [window, then synced]            buffered: its rate is over both

Device counters are compared with what was moved over the whole block, ramp and drain included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter_ns
from typing import TypeVar

from ...loaders.destinations.device import Device
from ...loaders.engines.readers import BufferedReader, DirectReader
from ...loaders.evidence import CounterSet, moved, process_read_bytes
from ...loaders.page_cache import cache_fraction, evict, warm
from ..launching.ranks import Ranks, SingleRank
from ..workload import DataFile, WorkloadError
from .drive import Driven, Slot, Timing, drive
from .mapped import MappedReads
from .points import BlockResult, SweepPoint
from .streams import SharedBatches, Streams
from .ways import FileReads, Way
from .writing import ScratchFile, ScratchFiles, Writes, WriteSource, written_bytes

Done = TypeVar("Done")


class PeerFailedError(WorkloadError):
    """Another client could not go on: a consequence, never the cause."""


def measure_reads(
    point: SweepPoint,
    files: Sequence[DataFile],
    streams: Streams,
    counter: CounterSet,
    timing: Timing,
    *,
    ranks: Ranks | None = None,
    device: Device | None = None,
) -> BlockResult:
    """One time block of reads; several ranks begin it together, each with streams of its own.

    Reads into a GPU go to `device`, else to the one that torch has chosen.
    """
    ranks = ranks or SingleRank()
    paths = [file.path for file in files]
    first = ranks.local_rank == 0  # of its host: it cleans and counts

    def prepare() -> tuple[float | None, list[Slot], Way]:
        if first:
            _clean(point, paths)
        resident = cache_fraction(paths) if first else None
        return resident, read_slots(point, streams, ranks), open_way(point, device=device)

    resident, slots, way = _together(ranks, prepare)
    try:
        before, mine, own = counter.snapshot(), process_read_bytes(), way.counters()
        driven = _together(ranks, lambda: drive(slots, way, timing, place=paths[0].parent))
        after, mine_after, own_after = counter.snapshot(), process_read_bytes(), way.counters()
    finally:
        way.close()
    went = moved(before, after)
    return block_result(
        driven,
        device_bytes=went.pop(counter.name, None),
        process_bytes=None if mine is None or mine_after is None else mine_after - mine,
        beside=went | {name: count - own.get(name, 0) for name, count in own_after.items()},
        residency=(resident, cache_fraction(paths) if first else None),
    )


def measure_writes(
    point: SweepPoint,
    scratch: ScratchFiles,
    counter: CounterSet,
    timing: Timing,
    *,
    seed: int,
    ranks: Ranks | None = None,
) -> BlockResult:
    """One time block of writes into `scratch`."""
    ranks = ranks or SingleRank()
    files = scratch.files[: point.threads]
    through_cache = point.engine != "direct"
    timing = replace(timing, ramp_s=0.0) if through_cache else timing

    def prepare() -> tuple[list[Slot], Way]:
        scratch.drop()
        return write_slots(point, files, seed=seed), Writes(files, engine=point.engine)

    def run() -> tuple[Driven, float]:
        begin = perf_counter_ns()
        driven = drive(slots, way, timing, place=scratch.folder)
        scratch.sync()
        return driven, (perf_counter_ns() - begin) / 1e9

    slots, way = _together(ranks, prepare)
    before = written_bytes(counter.leaves)
    driven, synced_s = _together(ranks, run)
    after = written_bytes(counter.leaves)
    return block_result(
        driven,
        device_bytes=None if before is None or after is None else after - before,
        process_bytes=None,
        beside={},
        residency=(None, None),
        over_s=synced_s if through_cache else None,
    )


def _together(ranks: Ranks, act: Callable[[], Done]) -> Done:
    """Act on every rank, and meet; where one of them failed, all of them raise."""
    done: Done | None = None
    error: Exception | None = None
    try:
        done = act()
    except Exception as raised:
        error = raised
    if ranks.any_true(error is not None, ranks.size):
        raise error or PeerFailedError("another client failed at this point")
    assert done is not None
    return done


def block_result(
    driven: Driven,
    *,
    device_bytes: int | None,
    process_bytes: int | None,
    beside: dict[str, int],
    residency: tuple[float | None, float | None],
    over_s: float | None = None,
) -> BlockResult:
    """What the threads did as a result; `over_s`: rates are of everything they did, over these seconds."""
    timeline = driven.timeline
    payload = int(timeline.needs.sum())
    return BlockResult(
        gbps=(timeline.window_bytes / timeline.window_s if over_s is None else payload / over_s) / 1e9,
        iops=timeline.window_reads / timeline.window_s if over_s is None else len(timeline.ends_ns) / over_s,
        latencies=timeline.latencies,
        delivered_bytes=int(timeline.counts.sum()),
        payload_bytes=payload,
        device_bytes=device_bytes,
        process_bytes=process_bytes,
        beside=beside,
        seconds=timeline.total_s,
        cache_fraction=residency[0],
        cache_fraction_after=residency[1],
        tail=timeline.tail(),
        slow=driven.slow,
        lock_waits=driven.lock_waits,
    )


def open_way(point: SweepPoint, *, device: Device | None = None) -> Way:
    """How the point's engine reads, and brings it to a GPU; cold reads put it out of the page cache again."""
    cold = point.page_cache == "cold"
    if point.destination == "gpu":
        return _way_to_gpu(point, device, cold=cold)
    if point.engine == "kvikio":
        from .device import KvikioHostReads

        return KvikioHostReads(evicts=cold, load=point.load)
    return _way_to_host(point, cold=cold)


def _way_to_gpu(point: SweepPoint, device: Device | None, *, cold: bool) -> Way:
    from .copied import CopiedReads, own_gpu

    if point.engine == "kvikio":
        from .device import KvikioDeviceReads

        return KvikioDeviceReads(device, evicts=cold, load=point.load, size_bytes=point.block_bytes)
    device = own_gpu() if device is None else device
    return CopiedReads(_way_to_host(point, cold=cold), device, size_bytes=point.block_bytes)


def _way_to_host(point: SweepPoint, *, cold: bool) -> FileReads | MappedReads:
    if point.engine == "direct":
        return FileReads(DirectReader())
    if point.engine == "buffered":
        reader = BufferedReader(evict_behind=cold, random_access=point.access == "random")
        return FileReads(reader, evicts=cold)
    if point.engine == "mmap":
        return MappedReads(cold=cold)
    raise WorkloadError(f"engine {point.engine!r} has no way to read")


def read_slots(point: SweepPoint, streams: Streams, ranks: Ranks) -> list[Slot]:
    """The threads of all streams of this rank; the streams of all ranks are numbered through."""
    slots = []
    for stream in range(point.threads):
        batches = SharedBatches(streams(ranks.rank * point.threads + stream, ranks.size * point.threads))
        slots += [Slot(stream, batches)] * point.queue_depth
    return slots


def write_slots(point: SweepPoint, files: Sequence[ScratchFile], *, seed: int) -> list[Slot]:
    """The threads of all streams, each with blocks of its own in its stream's file."""
    return [
        Slot(
            stream,
            WriteSource(
                file,
                engine=point.engine,
                access=point.access,
                block_bytes=point.block_bytes,
                slot=slot,
                depth=point.queue_depth,
                seed=seed * 257 + stream,
            ),
        )
        for stream, file in enumerate(files)
        for slot in range(point.queue_depth)
    ]


def _clean(point: SweepPoint, paths: Sequence[Path]) -> None:
    if point.page_cache == "cold":
        evict(paths)
    elif (cache_fraction(paths) or 0.0) < 1.0:
        warm(paths)
