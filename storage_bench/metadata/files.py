"""Operations on a folder of many small files, by several threads at once, each operation timed.

    create      open(O_CREAT | O_EXCL), write, [fsync], close       open   open, close
    small_read  open, read whole, close                             stat   stat
    remove      unlink                                              list   every name of the folder

All threads take names from one shared list, so that none is done long before another.
"""

from __future__ import annotations

import itertools
import os
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import ClassVar

import numpy as np

from ..latency import LatencyHistogram

FILL_SLICE = 2000


class FileRateError(OSError):
    """An operation on a small file failed."""

    exit_status: ClassVar[int] = 4


@dataclass(frozen=True, slots=True)
class Timed:
    """One block of one operation: how many, in how long, and each one's latency."""

    count: int
    seconds: float
    latencies: LatencyHistogram

    @property
    def per_s(self) -> float:
        """Operations, or names listed, per second."""
        return self.count / self.seconds


@dataclass(slots=True)
class _Log:
    """What one thread did."""

    starts: array[int] = field(default_factory=lambda: array("q"))
    ends: array[int] = field(default_factory=lambda: array("q"))
    count: int = 0


class SmallFiles:
    """`num_files` files of `file_bytes` in one folder; `threads` threads work on them."""

    def __init__(
        self, folder: Path, *, num_files: int, file_bytes: int, threads: int, fsync: bool = False, seed: int = 0
    ) -> None:
        self.folder = folder
        self.names = [f"{folder}/{number:08d}" for number in range(num_files)]
        self._content = np.random.Generator(np.random.PCG64DXSM(seed)).bytes(file_bytes)
        self._threads = threads
        self._fsync = fsync

    def fill(self, progress: Callable[[int], None] | None = None) -> float:
        """Make all files; returns the seconds it took."""
        begin = perf_counter()
        for start in range(0, len(self.names), FILL_SLICE):
            self.run(self.create, self.names[start : start + FILL_SLICE])
            if progress is not None:
                progress(min(len(self.names), start + FILL_SLICE))
        return perf_counter() - begin

    def create(self, name: str) -> int:
        """Make one file with content."""
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            count = os.write(fd, self._content)
            if count != len(self._content):
                raise FileRateError(f"{name}: only {count} of {len(self._content)} bytes were written; make room")
            if self._fsync:
                os.fsync(fd)
        finally:
            os.close(fd)
        return 1

    @staticmethod
    def remove(name: str) -> int:
        """Unlink one file."""
        os.unlink(name)
        return 1

    @staticmethod
    def stat(name: str) -> int:
        """Ask for one file's size and times."""
        os.stat(name)
        return 1

    @staticmethod
    def open(name: str) -> int:
        """Open and close one file."""
        os.close(os.open(name, os.O_RDONLY | os.O_CLOEXEC))
        return 1

    def list(self, name: str) -> int:
        """Read all names of a folder; how many there are."""
        with os.scandir(name) as entries:
            found = sum(1 for _ in entries)
        if found != len(self.names):
            raise FileRateError(f"{name}: {found} names were listed, {len(self.names)} files are there")
        return found

    def small_read(self, name: str) -> int:
        """Open, read and close one file; a wrong length is an error."""
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            count = len(os.read(fd, len(self._content) + 1))
        finally:
            os.close(fd)
        if count != len(self._content):
            raise FileRateError(f"{name}: {count} bytes were read, {len(self._content)} were written")
        return 1

    def run(
        self,
        operation: Callable[[str], int],
        names: Sequence[str],
        *,
        seconds: float | None = None,
        again: bool = False,
        threads: int | None = None,
    ) -> Timed:
        """Do `operation` on each of `names` once, or `again` and again; not longer than `seconds`.

        Raises FileRateError with the file's name at the first failure.
        """
        source: Iterator[str] = itertools.cycle(names) if again else iter(names)
        logs = [_Log() for _ in range(threads or self._threads)]
        errors: list[FileRateError] = []
        stop: list[bool] = []
        workers = [
            threading.Thread(target=_repeat, args=(operation, source, log, errors, stop), daemon=True) for log in logs
        ]
        try:
            _start_and_wait(workers, seconds, stop)
        finally:
            stop.append(True)
        if errors:
            raise errors[0]
        return _timed(logs)


def _start_and_wait(workers: Iterable[threading.Thread], seconds: float | None, stop: list[bool]) -> None:
    started = []
    for worker in workers:
        worker.start()
        started.append(worker)
    deadline = None if seconds is None else perf_counter() + seconds
    for worker in started:
        worker.join(None if deadline is None else max(0.0, deadline - perf_counter()))
    stop.append(True)
    for worker in started:
        worker.join()


def _repeat(
    operation: Callable[[str], int], source: Iterator[str], log: _Log, errors: list[FileRateError], stop: list[bool]
) -> None:
    """One name after the other; `source` is shared, and taking from it is one step of the interpreter."""
    clock, log_start, log_end = perf_counter_ns, log.starts.append, log.ends.append
    name = ""
    try:
        for name in source:
            start = clock()
            count = operation(name)
            log_end(clock())
            log_start(start)
            log.count += count
            if stop:
                return
    except FileRateError as error:
        errors.append(error)
        stop.append(True)
    except OSError as error:
        errors.append(FileRateError(f"{name}: {error.strerror}; make room, or name another folder"))
        stop.append(True)


def _timed(logs: Sequence[_Log]) -> Timed:
    starts = np.concatenate([np.frombuffer(log.starts, dtype=np.int64) for log in logs])
    ends = np.concatenate([np.frombuffer(log.ends, dtype=np.int64) for log in logs])
    latencies = LatencyHistogram()
    latencies.add(ends - starts)
    seconds = float(ends.max(initial=0) - starts.min(initial=ends.max(initial=0))) / 1e9
    return Timed(sum(log.count for log in logs), max(seconds, 1e-9), latencies)
