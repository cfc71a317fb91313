"""Threads that read files from end to end, again and again and cold, beside something else that is measured."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from time import perf_counter_ns
from types import TracebackType
from typing import Self

from ...loaders.buffers import Buffer
from ...loaders.engines.readers import BufferedReader, DirectReader
from ...loaders.page_cache import evict
from ..sweep.streams import open_stream
from ..sweep.timeline import SlotLog, timeline_of
from ..workload import DataFile, WorkloadError

STOPS_WITHIN_S = 60.0


class ReadLoad:
    """`threads` readers of `files` from entering to leaving, each from a place of its own, in blocks."""

    def __init__(self, files: Sequence[DataFile], *, engine: str, threads: int, block_bytes: int) -> None:
        self._files = files
        self._engine = engine
        self._block_bytes = block_bytes
        self._stop: list[bool] = []
        self._errors: list[Exception] = []
        self._logs = [SlotLog(number) for number in range(threads)]
        self._reader = DirectReader() if engine == "direct" else BufferedReader(evict_behind=True)
        self._threads = [threading.Thread(target=self._read, args=(log,), daemon=True) for log in self._logs]

    def __enter__(self) -> Self:
        if self._engine != "direct":
            evict(file.path for file in self._files)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.append(True)
        if kind is not None:
            return
        for thread in self._threads:
            thread.join(STOPS_WITHIN_S)
        if any(thread.is_alive() for thread in self._threads):
            place = self._files[0].path.parent
            raise WorkloadError(f"{place}: reads have not come back within {STOPS_WITHIN_S:.0f} s; the storage hangs")
        self._reader.close()
        if self._errors:
            raise self._errors[0]

    def gbps(self, begin_ns: int, end_ns: int) -> float:
        """What all readers together got between two times of perf_counter_ns, in decimal GB/s; ask after leaving."""
        timeline = timeline_of(self._logs, (begin_ns, end_ns))
        return timeline.window_bytes / timeline.window_s / 1e9

    @property
    def delivered_bytes(self) -> int:
        """What all reads returned."""
        return self._reader.delivered_bytes

    def _read(self, log: SlotLog) -> None:
        try:
            memory = Buffer(self._block_bytes).memory
            batches = open_stream(
                self._files,
                access="sequential",
                block_bytes=self._block_bytes,
                stream=log.stream,
                num_streams=len(self._logs),
                seed=0,
            )
            for batch in batches:
                for request in batch:
                    if self._stop:
                        return
                    start = perf_counter_ns()
                    count = self._reader.read(request.path, request.offset, memory[: request.length], need=request.need)
                    log.starts.append(start)
                    log.ends.append(perf_counter_ns())
                    log.counts.append(count)
                    log.needs.append(request.need)
        except Exception as error:  # raised again by who started it
            self._errors.append(error)
