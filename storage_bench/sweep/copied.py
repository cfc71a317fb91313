"""The control of reads into a GPU: into page-locked memory by an engine of the host, then copied over by the GPU.

    a thread's own    page-locked memory  --one asynchronous copy, on a stream of its own-->  device memory
    buffered, direct  preadv       -> page-locked memory -> copy -> arrived
    mmap              page cache   -> page-locked memory -> copy -> arrived     a file's pages are not page-locked

A read is over when its bytes have arrived, as kvikio's is: latencies and reads in flight mean the same whichever way
the bytes take.  While one thread waits for its copy, asleep, the others read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...loaders.buffers import Buffer
from ...loaders.destinations.choice import cuda_missing, open_device
from ...loaders.destinations.device import DestinationError, Device
from .mapped import MappedFile, MappedReads
from .ways import FileReads


def copies_refused() -> str | None:
    """Why nothing can be copied to a GPU here, or None."""
    missing = cuda_missing()
    return None if missing is None else f"there is no GPU to copy to: {missing}; use --destination host"


def own_gpu() -> Device:
    """The GPU that torch has chosen for this process; DestinationError where there is none."""
    if (refused := copies_refused()) is not None:
        raise DestinationError(refused)
    device = open_device("cuda")
    assert device is not None  # "cuda" is never the host
    return device


def share_gpus(local_rank: int) -> None:
    """Make a GPU torch's current one: clients of one host take turns over all that are there."""
    import torch

    if count := torch.cuda.device_count():
        torch.cuda.set_device(local_rank % count)


class Place:
    """`length` bytes of one thread's page-locked memory, and as many on the device."""

    def __init__(self, memory: Memories, length: int) -> None:
        self.views = [memory.host.memory[:length]]
        self.length = length
        self._memory = memory

    def arrive(self, count: int) -> int:
        """Copy the first `count` bytes over, and return once they are there."""
        memory = self._memory
        if count > 0:
            memory.device.copy_in(memory.stream, memory.piece, 0, self.views[0][:count])
            memory.arrived.record(memory.stream)
            memory.arrived.synchronize()
        return count


class Memories:
    """Page-locked and device memory of one size, and the stream between them."""

    def __init__(self, device: Device, stream: Any, size_bytes: int) -> None:
        self.device = device
        self.stream = stream
        self.host = Buffer(size_bytes)
        device.pin(self.host)
        self.piece = device.allocate(self.host.size_bytes, stream=stream)
        self.arrived = device.new_event()


class Places:
    """Memory of one thread, as large as its largest read: a function from a length to a place of it."""

    def __init__(self, device: Device, size_bytes: int) -> None:
        self._device = device
        self._stream = device.new_stream()
        self._memory: Memories | None = Memories(device, self._stream, size_bytes)

    def __call__(self, length: int) -> Place:
        """A place of `length` bytes; those that were given before may not be used any more."""
        if self._memory is None or length > self._memory.host.size_bytes:
            self._memory = None  # first: both together need not fit
            self._memory = Memories(self._device, self._stream, length)
        return Place(self._memory, length)


class CopiedReads:
    """Reads of another way, each brought to the device; of `size_bytes` mostly, for which memory is there before."""

    def __init__(self, reads: FileReads | MappedReads, device: Device, *, size_bytes: int) -> None:
        self._reads = reads
        self._size_bytes = size_bytes
        self._device = device
        self._read = _through_mapping if isinstance(reads, MappedReads) else _into_memory
        self.after = reads.after

    def handle(self, path: Path) -> tuple[Any, object]:
        """The other way's."""
        return self._reads.handle(path)

    def targets(self) -> Places:
        """Page-locked and device memory of one thread."""
        return Places(self._device, self._size_bytes)

    def do(self, handle: Any, place: Place, offset: int) -> int:
        """One read and its copy, waited for."""
        return place.arrive(self._read(handle, place, offset))

    def complete(self, path: Path, offset: int, place: Place, need: int) -> int:
        """The other way reads again, or says what is wrong."""
        if isinstance(self._reads, MappedReads):
            return self._reads.complete(path, offset, place.length, need)
        return place.arrive(self._reads.complete(path, offset, place.views, need))

    def counters(self) -> dict[str, int]:
        """Nothing: the kernel counts."""
        return self._reads.counters()

    def close(self) -> None:
        """Close every file."""
        self._reads.close()


def _into_memory(handle: int, place: Place, offset: int) -> int:
    return FileReads.do(handle, place.views, offset)


def _through_mapping(file: MappedFile, place: Place, offset: int) -> int:
    """Have the range present, and copy it out of the page cache; the interpreter's lock is let go meanwhile."""
    count = MappedReads.do(file, place.length, offset)
    np.copyto(np.frombuffer(place.views[0], np.uint8, count), file.shown(offset, count))
    return count
