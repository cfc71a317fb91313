"""An NVIDIA GPU as a destination, through torch.

Memory is torch's own, so that its allocator knows of it, or the driver's where a reader registers it.  Either way each
hand-out is foreign to torch: a fresh object with `__cuda_array_interface__`, which every view keeps alive, tells when
the last of them is gone.  Host buffers are registered with cudaHostRegister where they are, huge pages and all.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch

from ..buffers import ALIGNMENT_BYTES, Buffer, Use
from ..placement import Move
from .device import DestinationError, Event
from .driver_memory import driver_of

COPY_PRIORITY = -1  # the higher of two
_REGISTER_PORTABLE = 1  # cudaHostRegisterPortable: page-locked for every context of this process


class TorchCuda:
    """The GPU `number`, as torch counts them."""

    def __init__(self, number: int) -> None:
        self._device = torch.device("cuda", number)

    @property
    def name(self) -> str:
        """As torch names it: cuda:0."""
        return str(self._device)

    def allocate(self, size_bytes: int, *, stream: Any, alone: bool = False) -> CudaMemory:
        """See Device: torch's block is one of `stream`, so that what came before works on it in that stream's order.

        A block of the stream that computes may still be read there when torch gives it out again.  Should ours be let
        go while it is used, the allocator keeps it until that is done (`show` tells by whom).  Memory of its own comes
        from the driver, and is waited for with the device when it is let go.
        """
        if alone:
            whole = driver_of(self._device.index).allocate(size_bytes)
            return CudaMemory(torch.as_tensor(whole, device=self._device), size_bytes, stream)
        try:
            with torch.cuda.stream(stream):
                block = torch.empty(size_bytes + ALIGNMENT_BYTES, dtype=torch.uint8, device=self._device)
        except torch.OutOfMemoryError as error:
            raise DestinationError(
                f"CUDA out of memory. A batch of {size_bytes} bytes finds no room on {self.name}; use smaller batches, "
                f"a smaller prefetch_factor, or hold fewer batches"
            ) from error
        return CudaMemory(block, size_bytes, stream)

    def pin(self, buffer: Buffer) -> None:
        """See Device."""
        runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        with torch.cuda.device(self._device):
            code = int(runtime.cudaHostRegister(buffer.address, buffer.size_bytes, _REGISTER_PORTABLE))
        if code:
            raise DestinationError(
                f"{buffer.size_bytes} bytes of host memory cannot be page-locked (cudaHostRegister answers {code}): "
                f"use smaller batches or a smaller prefetch_factor, or raise the limit on locked memory (ulimit -l)"
            )
        weakref.finalize(buffer, _unregister, runtime, buffer.address, buffer.use, keep=buffer.memory).atexit = False

    def new_stream(self) -> torch.cuda.Stream:
        """See Device; torch's streams of this kind do not wait for the default stream.

        torch has 32 of each priority and gives them out in turn, so that after a while two names are one stream.  Of
        the high ones a loop computes, or captures, on none: nobody's work is held up behind copies, or in a capture.
        """
        return torch.cuda.Stream(self._device, priority=COPY_PRIORITY)  # type: ignore[no-untyped-call]

    def current_stream(self) -> torch.cuda.Stream:
        """See Device."""
        return torch.cuda.current_stream(self._device)

    def new_event(self, *, timing: bool = False) -> Event:
        """See Device; a thread that waits for one sleeps, and does not spin."""
        event: Event = torch.cuda.Event(enable_timing=timing, blocking=True)  # type: ignore[no-untyped-call]
        return event

    def working(self, stream: torch.cuda.Stream) -> AbstractContextManager[Any]:
        """See Device."""
        found: AbstractContextManager[Any] = torch.cuda.stream(stream)
        return found

    def work(self, stream: torch.cuda.Stream, memory: CudaMemory, kernel: Callable[[torch.Tensor], None]) -> None:
        """See Device."""
        with torch.cuda.stream(stream):
            kernel(memory.bytes)

    def wait(self, stream: torch.cuda.Stream, event: Any) -> None:
        """See Device."""
        stream.wait_event(event)

    def copy_in(self, stream: torch.cuda.Stream, memory: CudaMemory, at: int, source: memoryview) -> None:
        """See Device: one cudaMemcpyAsync."""
        with torch.cuda.stream(stream):
            host = torch.frombuffer(source, dtype=torch.uint8)
            memory.bytes[at : at + len(source)].copy_(host, non_blocking=True)

    def copy_within(self, stream: torch.cuda.Stream, memory: CudaMemory, moves: Sequence[Move]) -> None:
        """See Device: one kernel where all moves are of one length, else a copy for each."""
        if not moves:
            return
        lengths = {move.length for move in moves}
        with torch.cuda.stream(stream):
            if len(lengths) == 1 and _gathered(memory.bytes, moves, lengths.pop()):
                return
            for move in moves:
                source = memory.bytes[move.source : move.source + move.length]
                memory.bytes[move.target : move.target + move.length].copy_(source, non_blocking=True)

    @contextmanager
    def range(self, name: str) -> Iterator[None]:
        """See Device: NVTX for Nsight, which costs next to nothing where it is not there, and torch.profiler's own."""
        with ExitStack() as stack:
            stack.enter_context(torch.cuda.nvtx.range(name))
            if torch.autograd.profiler._is_profiler_enabled:
                stack.enter_context(torch.profiler.record_function(name))
            yield

    def window(self, memory: CudaMemory) -> CudaWindow:
        """See Device."""
        return CudaWindow(memory, 0, memory.size_bytes)

    def show(self, memory: CudaMemory, *, stream: torch.cuda.Stream) -> tuple[torch.Tensor, CudaWindow]:
        """See Device: the block itself is torch's, whose allocator knows by this which streams to wait for."""
        memory.bytes.record_stream(stream)
        owner = CudaWindow(memory, 0, memory.size_bytes)
        return torch.as_tensor(owner, device=self._device), owner


class CudaMemory:
    """A page-aligned piece of a block of torch's allocator, as `bytes`, and the stream that fills it."""

    def __init__(self, block: torch.Tensor, size_bytes: int, stream: Any) -> None:
        skip = -block.data_ptr() % ALIGNMENT_BYTES
        self.bytes = block[skip : skip + size_bytes]
        self.address = self.bytes.data_ptr()
        self.size_bytes = size_bytes
        self.stream = stream


class CudaWindow:
    """A range of device memory, as libraries take it (CUDA array interface, version 3); slices are windows too."""

    readonly = False

    def __init__(self, memory: CudaMemory, start: int, length: int) -> None:
        self._memory = memory
        self._start = start
        self._length = length

    def __len__(self) -> int:
        return self._length

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        address = self._memory.address + self._start
        return {"shape": (self._length,), "typestr": "|u1", "data": (address, False), "strides": None, "version": 3}

    def __getitem__(self, place: slice | int) -> Any:
        """A window on a part, or the value of one byte, for which the stream that fills the memory is waited for."""
        if isinstance(place, slice):
            start, stop, _ = place.indices(self._length)
            return CudaWindow(self._memory, self._start + start, max(0, stop - start))
        with torch.cuda.stream(self._memory.stream):
            return int(self._memory.bytes[self._at(place)].item())

    def __setitem__(self, place: int, value: int) -> None:
        """Write one byte, and wait until it is written."""
        with torch.cuda.stream(self._memory.stream):
            self._memory.bytes[self._at(place)] = value
        self._memory.stream.synchronize()

    def _at(self, place: int) -> int:
        return self._start + (place if place >= 0 else self._length + place)


def _gathered(memory: torch.Tensor, moves: Sequence[Move], length: int) -> bool:
    """Make moves of one length to places at one distance by one kernel; False where their targets are not so."""
    targets = [move.target for move in moves]
    order = sorted(range(len(moves)), key=targets.__getitem__)
    first = targets[order[0]]
    step = targets[order[1]] - first if len(order) > 1 else length
    if any(targets[number] != first + place * step for place, number in enumerate(order)):
        return False
    sources = torch.tensor([moves[number].source for number in order], pin_memory=memory.is_cuda)
    windows = memory.as_strided((len(memory) - length + 1, length), (1, 1), memory.storage_offset())
    slots = memory.as_strided((len(moves), length), (step, 1), memory.storage_offset() + first)
    slots.copy_(windows[sources.to(memory.device, non_blocking=True)])
    return True


def _unregister(runtime: Any, address: int, use: Use, *, keep: memoryview) -> None:
    use.wait()  # a copy may still read from there
    runtime.cudaHostUnregister(address)
    del keep  # the pages are there until here
