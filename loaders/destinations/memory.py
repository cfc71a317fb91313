"""Pools: page-locked host buffers that copies read from, device buffers that batches lie in.

    host buffer     in use until the copy from it is done         a reader thread waits before it writes there
    device buffer   in use until the work on its batch is done    the copy stream waits; the host does not

Buffers are taken in the order in which they came back, so that what is waited for is mostly past.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..buffers import ALIGNMENT_BYTES, Buffer, BufferPool, Use
from .device import Device, Memory

if TYPE_CHECKING:
    import torch


class PinnedPool(BufferPool):
    """Host buffers of one size, page-locked once for as long as they are there."""

    def __init__(self, size_bytes: int, *, num_free_kept: int, device: Device) -> None:
        super().__init__(size_bytes, num_free_kept=num_free_kept)
        self._device = device

    def _pick(self) -> Buffer:
        """The first that no copy reads from any more, else the oldest, which is waited for before it is written to."""
        for number, buffer in enumerate(self._free):
            if buffer.use.event is None or buffer.use.event.query():
                buffer.use.event = None
                return self._free.pop(number)
        return self._free.pop(0)

    def _new(self) -> Buffer:
        buffer = Buffer(self.size_bytes)
        self._device.pin(buffer)
        return buffer


class DeviceBuffer:
    """A piece of device memory for one batch; `memory` is what a reader of the device fills."""

    __slots__ = ("__weakref__", "memory", "piece", "size_bytes", "use")

    def __init__(self, device: Device, piece: Memory) -> None:
        self.piece = piece
        self.size_bytes = piece.size_bytes
        self.memory = device.window(piece)
        self.use = Use()  # waited for by a reader that fills it: that cannot wait in a stream


Register = Callable[[object, Any], None]
"""Registers memory, as a device's `window` shows it, for as long as an object is there."""


class DevicePool:
    """Device buffers of one size.  Those the user holds are his; a loader needs only its own few.

    A batch may be worked on by the stream that was current when it was handed out, or by one that this stream waits
    for before the batch is dropped: what other streams do with foreign memory torch tells nobody.
    All methods are called from the loader's own thread.
    """

    def __init__(self, size_bytes: int, *, num_free_kept: int, device: Device, copy_stream: Any) -> None:
        self.size_bytes = size_bytes
        self._num_free_kept = num_free_kept
        self._device = device
        self._copy_stream = copy_stream
        self._register: Register | None = None
        self._free: deque[DeviceBuffer] = deque()
        self._returned: deque[weakref.ref[Any]] = deque()
        self._handed_out: dict[int, tuple[weakref.ref[Any], DeviceBuffer, Any]] = {}
        self._made: list[weakref.ref[DeviceBuffer]] = []

    @property
    def num_allocated(self) -> int:
        """How many buffers there are: idle, being filled, and held by the user."""
        return sum(made() is not None for made in self._made)

    def acquire(self, size_bytes: int = 0) -> DeviceBuffer:
        """A buffer that no view shows; work on what it held may still be under way, which its `use` tells.

        Where `size_bytes` is more than the pool's size the pool grows: smaller buffers are let go as they come back.
        """
        if size_bytes > self.size_bytes:
            self.size_bytes = size_bytes
            self._free.clear()
        self._take_back()
        if self._free:
            return self._free.popleft()
        size = -(-self.size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        alone = self._register is not None
        buffer = DeviceBuffer(self._device, self._device.allocate(size, stream=self._copy_stream, alone=alone))
        if self._register is not None:
            self._register(buffer, buffer.memory)
        self._made = [made for made in self._made if made() is not None] + [weakref.ref(buffer)]
        return buffer

    def register_with(self, register: Register) -> None:
        """Have new buffers be allocations of their own, and registered by who reads into them."""
        if self._register is None:
            self._free.clear()  # what is idle lies among other tensors
        self._register = register

    def release(self, buffer: DeviceBuffer) -> None:
        """Give back a buffer that was never handed out; what is under way to it is its `use`."""
        self._keep(buffer)

    def hand_out(self, buffer: DeviceBuffer, *, stream: Any) -> torch.Tensor:
        """The buffer's bytes as a tensor that `stream` works on; it comes back when the last view of that is gone."""
        tensor, owner = self._device.show(buffer.piece, stream=stream)
        reference = weakref.ref(owner, self._returned.append)
        self._handed_out[id(reference)] = reference, buffer, stream
        return tensor

    def _take_back(self) -> None:
        """What nobody looks at any more: all work on it was given to its stream before now."""
        while self._returned:
            returned = self._returned.popleft()
            if id(returned) not in self._handed_out:  # Ctrl-C came in the middle of hand_out
                continue
            _, buffer, stream = self._handed_out.pop(id(returned))
            buffer.use.event = self._device.new_event()
            buffer.use.event.record(stream)
            self._keep(buffer)

    def _keep(self, buffer: DeviceBuffer) -> None:
        if len(self._free) < self._num_free_kept and buffer.size_bytes >= self.size_bytes:
            self._free.append(buffer)
