"""Every read of a reader with its time and thread: a reader around another one, for traces.

    threads --read--> TracedReader --read--> the reader          Recorder: (thread, what, from, to, bytes), so many
                            '--- the time it took ---------------------^

A loader that is not traced has no such reader in its way, and pays nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from time import perf_counter_ns
from typing import Any, NamedTuple

from .readers import Reader
from .remote import ShardPath

MAX_SPANS = 100_000  # about 25 MB while they are kept, 12 MB as a file


class Recorded(NamedTuple):
    """One stretch of time of a thread, in ns of perf_counter_ns."""

    thread: str
    what: str
    start_ns: int
    end_ns: int
    num_bytes: int


class Recorder:
    """Keeps the first `limit` spans of all threads, and counts the others."""

    def __init__(self, limit: int = MAX_SPANS) -> None:
        self.spans: list[Recorded] = []
        self.dropped = 0
        self._limit = limit
        self._lock = threading.Lock()

    def add(self, what: str, start_ns: int, *, num_bytes: int = 0) -> None:
        """A span of the calling thread that ends now."""
        end_ns = perf_counter_ns()
        span = Recorded(threading.current_thread().name, what, start_ns, end_ns, num_bytes)
        with self._lock:
            if len(self.spans) < self._limit:
                self.spans.append(span)
            else:
                self.dropped += 1

    def clear(self) -> None:
        """Forget what was recorded so far."""
        with self._lock:
            self.spans.clear()
            self.dropped = 0


class TracedReader:
    """A reader that notes how long each read took, in which thread."""

    def __init__(self, reader: Reader, recorder: Recorder) -> None:
        self._reader, self._recorder = reader, recorder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)  # what only this engine has

    @property
    def engine(self) -> str:
        """The engine's name."""
        return self._reader.engine

    @property
    def alignment_bytes(self) -> int:
        """What offsets, lengths and addresses must be multiples of."""
        return self._reader.alignment_bytes

    @property
    def scatters(self) -> bool:
        """Whether one read can go to several places."""
        return self._reader.scatters

    @property
    def delivered_bytes(self) -> int:
        """What all read calls returned so far."""
        return self._reader.delivered_bytes

    def read(self, path: ShardPath, offset: int, target: memoryview, *, need: int | None = None) -> int:
        """As the reader's."""
        start_ns = perf_counter_ns()
        delivered = self._reader.read(path, offset, target, need=need)
        self._recorder.add("read", start_ns, num_bytes=delivered)
        return delivered

    def scatter(self, path: ShardPath, offset: int, targets: Sequence[memoryview], *, need: int | None = None) -> int:
        """As the reader's."""
        start_ns = perf_counter_ns()
        delivered = self._reader.scatter(path, offset, targets, need=need)
        self._recorder.add("scatter", start_ns, num_bytes=delivered)
        return delivered

    def close(self) -> None:
        """Close every file."""
        self._reader.close()
