"""Shards side by side: a bounded number of streams, a flag that stops them all, what is done and what is in flight."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Literal, TypeVar

from .place import StagingError

Item = TypeVar("Item")
Result = TypeVar("Result")

Phase = Literal["check", "copy", "verify", "convert"]
Progress = Callable[[Phase, int, int], None]  # phase, what is done, what is to be done: bytes, or images

BLOCK_BYTES = 8 << 20
PATIENCE_S = 2.0  # for reads under way when everything is to stop; a server may not answer for much longer


class Streams:
    """Threads over shards; what they do is counted, and the first error, or an interrupt, stops them."""

    def __init__(self, num_streams: int, progress: Progress | None) -> None:
        self.num_streams = num_streams
        self.peak_in_flight_bytes = 0
        self._progress = progress
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._in_flight = 0
        self._phase: Phase = "copy"
        self._done = self._total = 0

    def run(self, phase: Phase, work: Callable[[Item], Result], items: Sequence[Item], *, total: int) -> list[Result]:
        """Do `work` on all items; results in their order.  Raises an error at once, of several the first item's."""
        self._phase, self._done, self._total = phase, 0, total
        if total:
            self.count(0)  # the time begins
        pool = ThreadPoolExecutor(self.num_streams, thread_name_prefix="iobench-stage")
        futures: list[Future[Result]] = []
        try:
            futures.extend(pool.submit(work, item) for item in items)  # those begun so far are known at an interrupt
            ended = wait(futures, return_when=FIRST_EXCEPTION).done
            for future in futures:
                if future in ended:
                    future.result()
            return [future.result() for future in futures]
        finally:
            self._end(pool, futures)

    def _end(self, pool: ThreadPoolExecutor, futures: Sequence[Future[Result]]) -> None:
        """End the threads; those that wait for a storage that does not answer are left to it."""
        going = [future for future in futures if not (future.done() or future.cancel())]
        if going:
            self._stop.set()
        pool.shutdown(wait=not wait(going, timeout=PATIENCE_S).not_done)

    def require_going(self) -> None:
        """Raise StagingError where another stream has failed: there is no use in going on."""
        if self._stop.is_set():
            raise StagingError("stopped")

    def count(self, number: int) -> None:
        """So many more bytes, or images, are done."""
        with self._lock:
            self._done += number
            if self._progress is not None:
                self._progress(self._phase, self._done, self._total)

    @contextmanager
    def in_flight(self, num_bytes: int) -> Iterator[None]:
        """So many bytes are asked for and not yet written while this lasts."""
        with self._lock:
            self._in_flight += num_bytes
            self.peak_in_flight_bytes = max(self.peak_in_flight_bytes, self._in_flight)
        try:
            yield
        finally:
            with self._lock:
                self._in_flight -= num_bytes
