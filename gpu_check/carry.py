"""Threads that carry spans of files: each has hands of its own, which read a span and bring it to where it is to be.

    ReadHands   preadv -> pinned                                              host memory
    SentHands   preadv -> pinned, then a copy on the thread's own stream      the device, two buffers in turn
    SendHands              pinned, then a copy                                the device: what the bus gives
    WayHands    one read of a way of `iobench storage`, which returns when its bytes are there (kvikio's)

A rate is over once the device has all that it was sent.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, Protocol

from ..loaders.roads.road import read_fully
from ..storage_bench.sweep.ways import Way
from .device import Device

BUFFERS = 2  # of each thread


class Span(NamedTuple):
    """One read: `length` bytes of a file from `offset`; `file` is what the hands take, a descriptor mostly."""

    file: Any
    offset: int
    length: int


def spans_of(files: Sequence[tuple[Any, Path]], span_bytes: int) -> list[Span]:
    """All whole spans of so many bytes, file behind file."""
    return [
        Span(file, offset, span_bytes)
        for file, path in files
        for offset in range(0, path.stat().st_size - span_bytes + 1, span_bytes)
    ]


class Hands(Protocol):
    """What one thread carries with."""

    def carry(self, span: Span) -> int:
        """Bring one span on its way; returns its bytes."""

    def finish(self) -> None:
        """Wait for what is on its way."""


def rate_of(hands: Sequence[Hands], spans: Sequence[Span], seconds: float, device: Device) -> float:
    """Bytes per second, round and round the spans, a thread for each pair of hands; one span each at least."""
    coming, done = itertools.cycle(spans), [0] * len(hands)
    lock, errors = threading.Lock(), list[BaseException]()
    device.synchronize()
    begin = perf_counter()

    def work(number: int) -> None:
        mine = hands[number]
        try:
            while not done[number] or perf_counter() - begin < seconds:
                with lock:
                    span = next(coming)
                done[number] += mine.carry(span)
            mine.finish()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(hands))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = perf_counter() - begin
    if errors:
        raise errors[0]
    return sum(done) / took


class ReadHands:
    """Reads into pinned memory, as long as the longest span."""

    def __init__(self, device: Device, most_bytes: int) -> None:
        self._pinned = device.host(most_bytes, pinned=True)

    def carry(self, span: Span) -> int:
        """Read one span."""
        read_fully(span.file, self._pinned[: span.length].numpy().data, span.offset)
        return span.length

    def finish(self) -> None:
        """A read that returned is over."""


class SendHands:
    """Copies from pinned memory in turn, a place on the device, a stream; nothing is read."""

    def __init__(self, device: Device, most_bytes: int) -> None:
        self._device, self._stream = device, device.stream()
        self._turns: Iterator[int] = itertools.cycle(range(BUFFERS))
        self._pinned = [device.host(most_bytes, pinned=True) for _ in range(BUFFERS)]
        self._targets = [device.empty(most_bytes) for _ in range(BUFFERS)]
        self._passed: list[Any] = [None] * BUFFERS

    def carry(self, span: Span) -> int:
        """Fill the buffer whose turn it is, once it is free, and send it."""
        which = next(self._turns)
        if self._passed[which] is not None:
            self._passed[which].synchronize()
        pinned = self._pinned[which][: span.length]
        self._fill(pinned, span)
        with self._device.on(self._stream):
            self._targets[which][: span.length].copy_(pinned, non_blocking=True)
            self._passed[which] = self._device.event()
        return span.length

    def finish(self) -> None:
        """Wait for what is on its way."""
        for passed in self._passed:
            if passed is not None:
                passed.synchronize()

    def _fill(self, pinned: Any, span: Span) -> None:
        """What lies there already is sent."""


class SentHands(SendHands):
    """The same, of what is read first: what no loader can beat at the same threads and the same reads."""

    def _fill(self, pinned: Any, span: Span) -> None:
        read_fully(span.file, pinned.numpy().data, span.offset)


class WayHands:
    """Reads of a way of `iobench storage`: a span is where it is to be when its read returns."""

    def __init__(self, way: Way) -> None:
        self._way, self._targets = way, way.targets()

    def carry(self, span: Span) -> int:
        """One read; a short one is an error, since spans are whole."""
        done = self._way.do(span.file, self._targets(span.length), span.offset)
        if done != span.length:
            raise OSError(5, f"a read of {span.length} bytes at byte {span.offset} gave {done}")
        return done

    def finish(self) -> None:
        """A read that returned is over."""


def opened(paths: Sequence[Path], *, direct: bool = False) -> list[tuple[int, Path]]:
    """Descriptors of files, past the page cache where `direct`; `shut` closes them."""
    flags = os.O_RDONLY | os.O_CLOEXEC | (os.O_DIRECT if direct else 0)
    return [(os.open(path, flags), path) for path in paths]


def shut(files: Sequence[tuple[int, Path]]) -> None:
    """Close what `opened` has opened."""
    for file, _ in files:
        os.close(file)
