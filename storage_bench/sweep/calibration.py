"""What this program reaches by itself: the same threads doing the same work, on files in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..launching.ranks import SingleRank
from ..workload import DataFile
from .block import open_way, read_slots, write_slots
from .drive import Timing, drive
from .points import SweepPoint
from .streams import Batches, open_stream
from .writing import ScratchFile, Writes

CALIBRATION_BYTES = 64 << 20
PIECE_BYTES = 4 << 20
TIMING = Timing(ramp_s=0.05, seconds=0.25)


def calibrate(point: SweepPoint) -> float:
    """What the harness itself reaches in GB/s: reads of data in memory, or writes into memory."""
    return _calibrate_writes(point) if point.operation == "write" else _calibrate_reads(point)


def _calibrate_reads(point: SweepPoint) -> float:
    engine = "buffered" if point.engine == "direct" else point.engine
    ceiling = replace(point, engine=engine, access="sequential", page_cache="warm", destination="host")
    with _file_in_memory(max(CALIBRATION_BYTES, point.block_bytes)) as file:
        _fill(file)
        files = [DataFile(file.path, file.size_bytes)]

        def streams(stream: int, num_streams: int) -> Batches:
            return open_stream(
                files,
                access="sequential",
                block_bytes=point.block_bytes,
                stream=stream,
                num_streams=num_streams,
                seed=0,
            )

        way = open_way(ceiling)
        try:
            driven = drive(read_slots(ceiling, streams, SingleRank()), way, TIMING, place=file.path)
        finally:
            way.close()
    return driven.timeline.window_bytes / TIMING.seconds / 1e9


def _calibrate_writes(point: SweepPoint) -> float:
    """All threads into one file, each into blocks of its own, without a sync."""
    size = max(CALIBRATION_BYTES, point.block_bytes * point.load)
    with _file_in_memory(size - size % point.block_bytes) as file:
        slots = write_slots(replace(point, engine="direct", threads=1, queue_depth=point.load), [file], seed=0)
        driven = drive(slots, Writes([file], engine="direct"), TIMING, place=file.path)
    return driven.timeline.window_bytes / TIMING.seconds / 1e9


def _fill(file: ScratchFile) -> None:
    """Really write it: what was never written reads as one page of zeros, faster than any data."""
    piece = memoryview(bytearray(PIECE_BYTES))
    for offset in range(0, file.size_bytes, PIECE_BYTES):
        os.pwrite(file.buffered, piece[: file.size_bytes - offset], offset)


@contextmanager
def _file_in_memory(size_bytes: int) -> Iterator[ScratchFile]:
    fd = os.memfd_create("iobench-calibration", os.MFD_CLOEXEC)
    try:
        os.truncate(fd, size_bytes)
        yield ScratchFile(Path(f"/proc/self/fd/{fd}"), size_bytes, fd, fd)
    finally:
        os.close(fd)
