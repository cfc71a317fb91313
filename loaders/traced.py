"""Every read of a reader with its time and thread: a reader around another one, for traces; and a device likewise.

    threads --read--> TracedReader --read--> the reader          Recorder: (thread, what, from, to, bytes), so many
                            '--- the time it took ---------------------^

A loader that is not traced has no such reader in its way, and pays nothing.  The few small reads of one task are one
span.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import length_hint
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NamedTuple

from .destinations.device import WAITING, Device
from .engines.mapped import MappedReader
from .engines.readers import Reader, Request, read_all
from .remote import ShardPath

if TYPE_CHECKING:
    from .shards import ShardSet

MAX_SPANS = 100_000  # about 25 MB while they are kept, 12 MB as a file
MANY = 1 << 62
COST_SPANS = 2000


class Recorded(NamedTuple):
    """One stretch of time of a thread, in ns of perf_counter_ns."""

    thread: str
    what: str
    start_ns: int
    end_ns: int
    num_bytes: int


class Recorder:
    """Keeps the first `limit` spans of all threads, and counts the others.

    There is no lock that threads could wait for each other at: a step of a counter and a list's append cannot be cut in
    two, and the counters are iterators that know how much is left of them.
    """

    def __init__(self, limit: int = MAX_SPANS) -> None:
        self._limit = limit
        self.clear()

    @property
    def spans(self) -> list[Recorded]:
        """What was kept so far."""
        return list(self._kept)

    @property
    def dropped(self) -> int:
        """How many spans there was no room for."""
        return MANY - length_hint(self._late)

    def add(self, what: str, start_ns: int, end_ns: int | None = None, *, num_bytes: int = 0) -> None:
        """A span of the calling thread, which ends now unless it is said when it did."""
        end_ns = end_ns or perf_counter_ns()
        if next(self._places, False):
            self._kept.append(Recorded(threading.current_thread().name, what, start_ns, end_ns, num_bytes))
        else:
            next(self._late)

    def clear(self) -> None:
        """Forget what was recorded so far."""
        self._places, self._late = itertools.repeat(True, self._limit), itertools.repeat(None, MANY)
        self._kept: list[Recorded] = []

    @staticmethod
    def cost_ns() -> float:
        """What noting one span takes a thread here, measured now."""
        scratch = Recorder()
        begun = perf_counter_ns()
        for _ in range(COST_SPANS):
            scratch.add("read", perf_counter_ns(), num_bytes=1)
        return (perf_counter_ns() - begun) / COST_SPANS


def trace_set(shards: ShardSet, recorder: Recorder) -> None:
    """Have every read, decode and sending of a set noted from now on; not what engine mmap has the kernel read.

    A GPU that is named is opened for that; what goes to one that `auto` finds later is not noted.
    """
    from .destinations.choice import open_device

    if not isinstance(shards.reader, MappedReader):
        shards.reader = TracedReader(shards.reader, recorder)
    if shards.device != "auto" and (device := open_device(shards.device)) is not None:
        shards.device = TracedDevice(device, recorder)
    if shards.decoding is not None:
        shards.decoding.note = recorder.add


class TracedDevice:
    """A device that notes what its ranges show: the names in a trace are those that a profiler has.

    Not the loop's waits for batches: whoever traces a loop notes these himself.
    """

    def __init__(self, device: Device, recorder: Recorder) -> None:
        self._device, self._recorder = device, recorder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)  # all else is the device's

    @contextmanager
    def range(self, name: str) -> Iterator[None]:
        """As the device's."""
        start_ns = perf_counter_ns()
        with self._device.range(name):
            yield
        if name != WAITING:
            self._recorder.add(name, start_ns)


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

    def read_many(self, requests: Iterable[Request]) -> int:
        """Several reads with one call of the reader: they are one span, or noting would cost more than reading."""
        start_ns = perf_counter_ns()
        delivered = read_all(self._reader, requests)
        self._recorder.add("reads", start_ns, num_bytes=delivered)
        return delivered

    def close(self) -> None:
        """Close every file."""
        self._reader.close()
