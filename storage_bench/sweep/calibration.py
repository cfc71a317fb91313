"""What this program reaches by itself: the same threads doing the same reads, with no storage behind them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from ...loaders.buffers import Buffer
from ...loaders.readers import BufferedReader
from ..ranks import SingleRank
from ..workload import DataFile, WorkloadError
from .block import open_way, read_slots, write_slots
from .drive import Timing, drive
from .points import SweepPoint
from .streams import Batches, open_stream
from .writing import ScratchFile, Writes

CALIBRATION_BYTES = 64 << 20
TIMING = Timing(ramp_s=0.05, seconds=0.25)
WARMING_S = 60.0


def calibrate(point: SweepPoint, files: Sequence[DataFile]) -> float:
    """What the harness itself reaches in GB/s: reads of page-cached data (of the largest file), writes into memory."""
    if point.operation == "write":
        return _calibrate_writes(point)
    return _calibrate_reads(point, max(files, key=lambda file: file.size_bytes))


def _calibrate_reads(point: SweepPoint, sample: DataFile) -> float:
    size = min(sample.size_bytes, CALIBRATION_BYTES)
    part = DataFile(sample.path, max(size, min(sample.size_bytes, point.block_bytes)))
    engine = "buffered" if point.engine == "direct" else point.engine
    ceiling = replace(point, engine=engine, access="sequential", page_cache="warm")
    _warm_part(part)

    def streams(stream: int, num_streams: int) -> Batches:
        return open_stream(
            [part], access="sequential", block_bytes=point.block_bytes, stream=stream, num_streams=num_streams, seed=0
        )

    way = open_way(ceiling)
    try:
        slots = read_slots(ceiling, streams, SingleRank())
        driven = drive(slots, way, TIMING, place=sample.path)
    finally:
        way.close()
    return driven.timeline.window_bytes / TIMING.seconds / 1e9


def _calibrate_writes(point: SweepPoint) -> float:
    """Into a file in memory for each thread, without a sync."""
    size = max(CALIBRATION_BYTES // point.threads, point.block_bytes * point.queue_depth)
    size -= size % point.block_bytes
    files: list[ScratchFile] = []
    try:
        for number in range(point.threads):
            fd = os.memfd_create(f"iobench-{number}", os.MFD_CLOEXEC)
            files.append(ScratchFile(Path(f"/proc/self/fd/{fd}"), size, fd, fd))
        way = Writes(files, engine="direct")
        slots = write_slots(replace(point, engine="direct"), files, seed=0)
        driven = drive(slots, way, TIMING, place=files[0].path)
    finally:
        for file in files:
            os.close(file.buffered)
    return driven.timeline.window_bytes / TIMING.seconds / 1e9


def _warm_part(part: DataFile) -> None:
    buffer = Buffer(1 << 20)
    reader = BufferedReader()
    deadline = perf_counter() + WARMING_S
    for offset in range(0, part.size_bytes, 1 << 20):
        if perf_counter() > deadline:
            raise WorkloadError(f"{part.path}: reading {part.size_bytes} bytes took over a minute; the storage hangs")
        reader.read(part.path, offset, buffer.memory, need=min(1 << 20, part.size_bytes - offset))
    reader.close()
