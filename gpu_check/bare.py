"""The bare loop into the device: n threads, each with preadv into pinned memory and a copy on a stream of its own.

    thread k   | preadv -> pinned 0 | copy 0 ......................
                                    | preadv -> pinned 1 | copy 1 ...      pinned 0 again once its copy has passed

What no loader can beat at the same threads and the same reads, and the limit that ours is held against.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from ..loaders.roads.road import read_fully
from .device import Device

BUFFERS = 2  # of each thread


class Span(NamedTuple):
    """One read: `length` bytes of a file from `offset`."""

    file: int
    offset: int
    length: int


class BareLoop:
    """Reads the files round and round in spans of `span_bytes`; close it to close them."""

    def __init__(self, paths: Sequence[Path], device: Device, *, span_bytes: int, threads: int) -> None:
        self._device, self._threads = device, threads
        self._files = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths]
        self._spans = [
            Span(file, offset, span_bytes)
            for file, path in zip(self._files, paths, strict=True)
            for offset in range(0, path.stat().st_size - span_bytes + 1, span_bytes)
        ]
        self._hands = [_Hands(device, span_bytes) for _ in range(threads)]
        self.label = f"bare loop, {threads} threads"

    def run(self, seconds: float) -> float:
        """Bytes per second over a block, all threads together."""
        spans, done = itertools.cycle(self._spans), [0] * self._threads
        lock, errors = threading.Lock(), []
        self._device.synchronize()
        begin = perf_counter()

        def work(number: int) -> None:
            try:
                hands = self._hands[number]
                while not done[number] or perf_counter() - begin < seconds:
                    with lock:
                        span = next(spans)
                    done[number] += hands.carry(span)
                hands.finish()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(self._threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = perf_counter() - begin
        if errors:
            raise errors[0]
        return sum(done) / took

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            os.close(file)


class _Hands:
    """What one thread has: pinned buffers in turn, a place on the device, a stream."""

    def __init__(self, device: Device, span_bytes: int) -> None:
        self._device, self._stream = device, device.stream()
        self._pairs: Iterator[int] = itertools.cycle(range(BUFFERS))
        self._pinned = [device.host(span_bytes, pinned=True) for _ in range(BUFFERS)]
        self._targets = [device.empty(span_bytes) for _ in range(BUFFERS)]
        self._passed: list[Any] = [None] * BUFFERS

    def carry(self, span: Span) -> int:
        """Read one span and send it on its way."""
        which = next(self._pairs)
        if self._passed[which] is not None:
            self._passed[which].synchronize()
        read_fully(span.file, self._pinned[which].numpy().data, span.offset)
        with self._device.on(self._stream):
            self._targets[which].copy_(self._pinned[which], non_blocking=True)
            self._passed[which] = self._device.event()
        return span.length

    def finish(self) -> None:
        """Wait for what is on its way."""
        for passed in self._passed:
            if passed is not None:
                passed.synchronize()
