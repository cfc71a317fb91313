"""Pools: page-locked host buffers that copies read from, device buffers that batches lie in.

    host buffer     in use until the copy from it is done         a reader thread waits before it writes there
    device buffer   in use until the work on its batch is done    the copy stream waits; the host does not

Buffers are taken in the order in which they came back, so that what is waited for is mostly past.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..buffers import ALIGNMENT_BYTES, Buffer, BufferPool, Use
from ..pool import Pool
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
    """A piece of device memory for one batch; `memory` is what a reader of the device fills.

    `stream` is the one that works on the batch it holds, once that is handed out.
    """

    __slots__ = ("__weakref__", "memory", "piece", "size_bytes", "stream", "use")

    def __init__(self, device: Device, piece: Memory) -> None:
        self.piece = piece
        self.size_bytes = piece.size_bytes
        self.memory = device.window(piece)
        self.use = Use()  # waited for by a reader that fills it: that cannot wait in a stream
        self.stream: Any = None


Register = Callable[[object, Any], None]
"""Registers memory, as a device's `window` shows it, for as long as an object is there."""


class DevicePool(Pool[DeviceBuffer]):
    """Device buffers of one size.

    A batch may be worked on by the stream that was current when it was handed out, or by one that this stream waits
    for before the batch is dropped: what other streams do with foreign memory torch tells nobody.  Of a buffer that is
    released, or acquired, `use` tells what is still under way.
    """

    def __init__(self, size_bytes: int, *, num_free_kept: int, device: Device, copy_stream: Any) -> None:
        super().__init__(size_bytes, num_free_kept=num_free_kept)
        self._device = device
        self._copy_stream = copy_stream
        self._register: Register | None = None

    def register_with(self, register: Register) -> None:
        """Have new buffers be allocations of their own, and registered by who reads into them."""
        if self._register is None:
            self._free.clear()  # what is idle lies among other tensors
        self._register = register

    def hand_out(self, buffer: DeviceBuffer, *, stream: Any) -> torch.Tensor:
        """The buffer's bytes as a tensor that `stream` works on; it comes back when the last view of that is gone."""
        tensor, owner = self._device.show(buffer.piece, stream=stream)
        buffer.stream = stream
        self._lend(buffer, owner)
        return tensor

    def _pick(self) -> DeviceBuffer:
        return self._free.pop(0)

    def _new(self) -> DeviceBuffer:
        size = -(-self.size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        alone = self._register is not None
        buffer = DeviceBuffer(self._device, self._device.allocate(size, stream=self._copy_stream, alone=alone))
        if self._register is not None:
            self._register(buffer, buffer.memory)
        return buffer

    def _came_back(self, buffer: DeviceBuffer) -> None:
        """All work on it was given to its stream before now."""
        buffer.use.event = self._device.new_event()
        buffer.use.event.record(buffer.stream)
        self.release(buffer)
