"""A batch's way to a device: expected when its reads begin, sent when they are done, received by the loop.

    pinned host buffer   |skew|slot 0|slot 1|...|slot n-1|labels|      one contiguous span, so that the strided view
                              `----------- one copy -----------'       on the device is the one on the host
    device buffer        |at |slot 0|slot 1|...|slot n-1|labels|

A reader that fills device memory itself needs no copy: moves that are left, and the labels, follow it in the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..buffers import Buffer, Use
from ..placement import Move, rounded_up
from .device import DECODING, SENDING, Device, Event
from .memory import DeviceBuffer, DevicePool, PinnedPool

if TYPE_CHECKING:
    import torch

VECTOR_BYTES = 64  # elements of the first record begin at a multiple of this on the device
LABEL_BYTES = 8

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Cargo:
    """`length` bytes from `start` of a host buffer (or, read in place, of the device's), and the labels behind them.

    `moves` are still to be made on the device; `made` writes what is not read there at all, but made there.
    """

    start: int
    length: int
    labels: Labels
    moves: Sequence[Move] = ()
    made: Callable[[torch.Tensor], None] | None = None


class Landing:
    """One batch under way to `target`; `settle` says what it is once all of it is read.

    Where a reader fills `target` itself, or a kernel does, `source` holds the labels alone, and `in_place` is set.
    """

    __slots__ = ("_destination", "_settle", "at", "cargo", "in_place", "ready", "sent", "source", "target")

    def __init__(
        self,
        destination: Destination,
        settle: Callable[[], Cargo],
        *,
        target: DeviceBuffer,
        source: Buffer,
        at: int,
        in_place: bool,
    ) -> None:
        self._destination = destination
        self._settle = settle
        self.target = target
        self.source = source
        self.at = at
        self.in_place = in_place
        self.ready: Event = destination.device.new_event()
        self.cargo: Cargo | None = None
        self.sent = False

    def send(self) -> None:
        """Queue what brings the batch to the device; called by the thread that has done its last task."""
        with self._destination.device.range(SENDING):
            self.cargo = self._settle()
            self._destination.send(self, self.cargo)

    def place_behind(self, cargo: Cargo) -> int:
        """Where the labels lie in `target`."""
        return rounded_up(self.at + cargo.length, LABEL_BYTES)


class Destination:
    """Where one loader's batches go: a device, a stream for copies to it, and the buffers for both ends.

    `expect`, `receive` and `give_up` are called from the loop's thread, `send` from reader threads.
    """

    def __init__(self, device: Device, *, num_free_kept: int) -> None:
        self.device = device
        self._copy = device.new_stream()
        self._num_free_kept = num_free_kept
        self.pool = DevicePool(0, num_free_kept=num_free_kept, device=device, copy_stream=self._copy)
        self._labels = self.pinned_pool(0)

    def pinned_pool(self, size_bytes: int) -> PinnedPool:
        """Page-locked host buffers, as many as this destination keeps."""
        return PinnedPool(size_bytes, num_free_kept=self._num_free_kept, device=self.device)

    def expect(
        self, source: Buffer, settle: Callable[[], Cargo], *, length: int, num_records: int, first_element: int = 0
    ) -> Landing:
        """Room for what will lie in a pinned buffer, of which elements begin at `first_element` of the cargo."""
        at = -first_element % VECTOR_BYTES
        target = self.pool.acquire(at + length + room_bytes(num_records))
        return Landing(self, settle, target=target, source=source, at=at, in_place=False)

    def expect_in_place(
        self, target: DeviceBuffer, settle: Callable[[], Cargo], *, start: int, num_records: int
    ) -> Landing:
        """The same for a batch that is read to `start` of device memory itself."""
        source = self._labels.acquire(num_records * LABEL_BYTES)
        return Landing(self, settle, target=target, source=source, at=start, in_place=True)

    def expect_made(self, settle: Callable[[], Cargo], *, length: int, num_records: int) -> Landing:
        """The same for a batch that is made on the device, in the stream that copies."""
        target = self.pool.acquire(length + room_bytes(num_records))
        return self.expect_in_place(target, settle, start=0, num_records=num_records)

    @contextmanager
    def working(self, use: Use) -> Iterator[None]:
        """What this thread does on the device meanwhile goes to the stream that copies, and reads what `use` is of."""
        with self.device.range(DECODING), self.device.working(self._copy):
            try:
                yield
            finally:
                use.event = self.device.new_event()
                use.event.record(self._copy)

    def send(self, landing: Landing, cargo: Cargo) -> None:
        """Queue the copy of what has been read, or of its labels; one stream keeps the order of both ends' buffers."""
        device, copy, target, source, labels = self.device, self._copy, landing.target, landing.source, cargo.labels
        behind = landing.place_behind(cargo)
        if not len(labels):
            pass  # no image of the batch is left
        elif landing.in_place:
            source.use.wait()
            source.memory[: labels.nbytes] = labels.tobytes()
            if cargo.made is not None:
                if target.use.event is not None:
                    device.wait(copy, target.use.event)
                device.work(copy, target.piece, cargo.made)
            device.copy_within(copy, target.piece, cargo.moves)
            device.copy_in(copy, target.piece, behind, source.memory[: labels.nbytes])
        else:
            if target.use.event is not None:
                device.wait(copy, target.use.event)
            on_host = cargo.start + behind - landing.at
            source.memory[on_host : on_host + labels.nbytes] = labels.tobytes()
            device.copy_in(copy, target.piece, landing.at, source.memory[cargo.start : on_host + labels.nbytes])
        landing.ready.record(copy)
        source.use.event = landing.ready
        landing.sent = True

    def receive(self, landing: Landing) -> tuple[torch.Tensor, torch.Tensor]:
        """The bytes of `target` and the labels in it, once the stream that computes was told to wait for them."""
        import torch

        assert landing.cargo is not None  # who receives has seen the gate open, and no error
        compute = self.device.current_stream()
        self.device.wait(compute, landing.ready)
        if landing.in_place:
            self._labels.release(landing.source)
        memory = self.pool.hand_out(landing.target, stream=compute)
        behind = landing.place_behind(landing.cargo)
        return memory, memory[behind : behind + landing.cargo.labels.nbytes].view(torch.int64)

    def give_up(self, landing: Landing) -> None:
        """Take back the buffers of a batch that nobody will receive; no thread writes to them any more."""
        if landing.sent:
            landing.target.use.event = landing.ready
        if landing.in_place:
            self._labels.release(landing.source)
        self.pool.release(landing.target)


def room_bytes(num_records: int) -> int:
    """What a buffer must hold beyond a batch's own bytes."""
    return 2 * VECTOR_BYTES + num_records * LABEL_BYTES
