"""The compute stream's wait for data, from event pairs that nobody waits for inside the loop.

    compute stream  ... step i ...| A |   idle until the batch is there   | B |... step i+1 ...
    host            next() ------------------------> batch
    copy stream                                       [host -> device] ready
                                                      B comes behind wait(ready)

elapsed(A, B), less that of an empty pair, is how long the compute stream had nothing to do but wait.  A pair is read
once the device has passed it, so the loop is never synchronised.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol, Self, TypeVar

import torch

T = TypeVar("T")
NUM_EMPTY_PAIRS = 33


class Event(Protocol):
    """What is needed of torch.cuda.Event."""

    def record(self, stream: Any) -> None:
        """Mark the place that `stream` has come to."""

    def query(self) -> bool:
        """Whether the device has passed that place."""

    def synchronize(self) -> None:
        """Wait until it has."""

    def elapsed_time(self, end: Any) -> float:
        """Milliseconds from this event to `end`."""


class DeviceWaits:
    """Pairs of events around each hand-over, on the stream that computes.

    `empty_ms` is what a pair with nothing between them shows; it is measured, which waits for the device, unless given.
    `number` is the GPU's, where batches on another one would be another stream's.
    """

    def __init__(
        self,
        new_event: Callable[[], Event],
        compute_stream: Callable[[], Any],
        *,
        empty_ms: float | None = None,
        number: int | None = None,
    ) -> None:
        self.number = number
        self._new_event = new_event
        self._compute_stream = compute_stream
        self._open: deque[tuple[Event, Event]] = deque()
        self._spare: list[tuple[Event, Event]] = []
        self._waited_ms = 0.0
        self.num_steps = 0
        self.empty_ms = self._measure_empty() if empty_ms is None else empty_ms

    @classmethod
    def of(cls, device: torch.device | str | None) -> Self:
        """For the current stream of `device`; None is the current device."""
        new_event: Callable[[], Event] = partial(torch.cuda.Event, enable_timing=True)
        number = None if device is None else torch.device(device).index
        number = torch.cuda.current_device() if number is None else number
        return cls(new_event, lambda: torch.cuda.current_stream(number), number=number)

    def ask(self) -> tuple[Event, Event]:
        """Before a batch is asked for."""
        pair = self._spare.pop() if self._spare else (self._new_event(), self._new_event())
        pair[0].record(self._compute_stream())
        return pair

    def receive(self, pair: tuple[Event, Event]) -> None:
        """After the compute stream was told to wait for the batch."""
        pair[1].record(self._compute_stream())
        self._open.append(pair)
        self.num_steps += 1
        while self._open[0][1].query():
            self._read(self._open.popleft())
            if not self._open:
                break

    def total_s(self) -> float:
        """Seconds waited so far, the cost of an empty pair taken off each step; waits for the device."""
        if self._open:
            self._open[-1][1].synchronize()
        while self._open:
            self._read(self._open.popleft())
        return (self._waited_ms - self.num_steps * self.empty_ms) / 1e3

    def _read(self, pair: tuple[Event, Event]) -> None:
        self._waited_ms += pair[0].elapsed_time(pair[1])
        self._spare.append(pair)

    def _measure_empty(self) -> float:
        pairs = [(self._new_event(), self._new_event()) for _ in range(NUM_EMPTY_PAIRS)]
        for begin, end in pairs:
            begin.record(self._compute_stream())
            end.record(self._compute_stream())
        pairs[-1][1].synchronize()
        return statistics.median(begin.elapsed_time(end) for begin, end in pairs)


def watch_device(
    fetch: Callable[[], T],
    waits: DeviceWaits,
    device: torch.device | str | None,
    *,
    on_host_batch: Callable[[], None],
    on_gpu: Callable[[int], DeviceWaits],
) -> Callable[[], T]:
    """`fetch` between two events; with a `device` the batch is moved there on a stream of its own.

    Without one `on_host_batch` is called for a batch in host memory, whose wait then is not counted; nor is that of the
    first batch on another GPU than `waits` are of: who measures there is asked of `on_gpu`.
    """
    copy = None if device is None else CopyStream(device)
    there = waits

    def fetch_and_wait() -> T:
        nonlocal there
        pair = there.ask()
        batch = fetch()
        if copy is not None:
            batch = copy.move(batch)
        elif (number := next((each.get_device() for each in tensors_of(batch) if each.is_cuda), None)) is None:
            on_host_batch()
            return batch
        elif there.number not in (None, number):
            there = on_gpu(number)
            return batch
        there.receive(pair)
        return batch

    return fetch_and_wait


class CopyStream:
    """Moves batches to a CUDA device beside the compute stream, which then waits for them."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        # of the higher priority: of the others, which torch gives out in turn, the loop may compute on the same one
        self._stream = torch.cuda.Stream(self._device, priority=-1)  # type: ignore[no-untyped-call]
        self._under_way: deque[tuple[Any, Any]] = deque()

    def move(self, batch: T) -> T:
        """`batch` on the device; the compute stream waits for it, the host does not."""
        compute = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            moved: T = moved_to(batch, self._device)
            ready = self._stream.record_event()
        compute.wait_event(ready)
        for tensor in tensors_of(moved):
            if tensor.is_cuda:
                tensor.record_stream(compute)  # its memory came from the copy stream
        self._under_way.append((ready, batch))  # host memory must not be used again before it has been read
        while self._under_way and self._under_way[0][0].query():
            self._under_way.popleft()
        return moved


def moved_to(batch: Any, device: torch.device | str) -> Any:
    """`batch` with every tensor in it (in tuples, lists, mappings) on `device`; what has a `to` is asked itself."""
    if hasattr(batch, "to"):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: moved_to(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(moved_to(value, device) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(moved_to(value, device) for value in batch)
    return batch


def tensors_of(batch: Any) -> Iterator[torch.Tensor]:
    """Every tensor in `batch`."""
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors_of(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from tensors_of(value)
