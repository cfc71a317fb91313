"""What a destination needs of a device: memory, streams, events and copies that run on their own.

    reader thread    ... last read done -> copy_in(copy stream) -> ready.record(copy stream)
    loop's thread    next(): wait(compute stream, ready) -> batch -> work -> dropped -> used.record(compute stream)
    reader thread    the next batch for this memory: wait(copy stream, used) -> copy_in ...

Nobody synchronises the device, and nothing of ours runs on the stream that computes but records and waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..buffers import Buffer
from ..placement import Move

if TYPE_CHECKING:
    import torch


DECODING, SENDING, WAITING = "decode", "batch to device", "wait for a batch"  # as profilers and traces show them


class DestinationError(RuntimeError):
    """Batches cannot be brought to where they are asked for on this machine."""

    exit_status: ClassVar[int] = 4


class DestinationUsageError(ValueError):
    """A destination that is asked for in a way that does not fit."""

    exit_status: ClassVar[int] = 2


class Event(Protocol):
    """A place in a stream, as torch.cuda.Event."""

    def record(self, stream: Any) -> None:
        """Mark the place that `stream` has come to."""

    def query(self) -> bool:
        """Whether the device has passed that place; True where nothing was recorded."""

    def synchronize(self) -> None:
        """Have this thread wait until it has."""

    def elapsed_time(self, end: Any) -> float:
        """Milliseconds from this event to `end`; both were made with `timing`."""


class Memory(Protocol):
    """A piece of device memory, page-aligned; it is given back when nobody refers to it any more."""

    @property
    def address(self) -> int:
        """Where it begins."""

    @property
    def size_bytes(self) -> int:
        """How long it is."""


class Device(Protocol):
    """A device with memory and streams of its own; its methods may be called from any thread."""

    @property
    def name(self) -> str:
        """As torch names it: cuda:0."""

    def allocate(self, size_bytes: int, *, stream: Any, alone: bool = False) -> Memory:
        """Memory that `stream` writes to first, and may at once; who it is shown to works on it behind that.

        `alone` in an allocation of its own, which libraries may register.
        """

    def pin(self, buffer: Buffer) -> None:
        """Lock the buffer's pages, so that copies from it need no other; until it is gone, and its `use` is over."""

    def new_stream(self) -> Any:
        """A stream that waits for no other."""

    def current_stream(self) -> Any:
        """The stream that this thread's work goes to."""

    def new_event(self, *, timing: bool = False) -> Event:
        """An event; one with `timing` can be asked for the time between it and another."""

    def working(self, stream: Any) -> AbstractContextManager[Any]:
        """What this thread has torch and other libraries do on the device meanwhile goes to `stream`."""

    def work(self, stream: Any, memory: Any, kernel: Callable[[torch.Tensor], None]) -> None:
        """Have `kernel` write to device memory, which it is shown as bytes, in `stream`."""

    def wait(self, stream: Any, event: Any) -> None:
        """Have what comes next in `stream` wait until the device has passed `event`."""

    def copy_in(self, stream: Any, memory: Any, at: int, source: memoryview) -> None:
        """Copy page-locked host memory to `at` of device memory, in `stream`; returns before it is done."""

    def copy_within(self, stream: Any, memory: Any, moves: Sequence[Move]) -> None:
        """Make moves inside of device memory, in `stream`; source and target of a move do not overlap."""

    def range(self, name: str) -> AbstractContextManager[None]:
        """What this thread does meanwhile has this name in a profiler's timeline, where one looks."""

    def window(self, memory: Any) -> Any:
        """What a reader of this device fills: has a length, and slices that it can read into."""

    def show(self, memory: Any, *, stream: Any) -> tuple[torch.Tensor, Any]:
        """All of the memory as a tensor of bytes, and an object that lives as long as any view of that tensor.

        `stream` works on it: memory that is given back is others' only behind that work.
        """
