"""A stand-in for a GPU: memory, streams and events as CUDA has them, without one.

    stream     a thread that does what it is given, in order, `delay_s` after it may; the host does not wait for it
    event      stands where its stream had come to when it was recorded last; recorded never, it has passed
    memory     host memory, poisoned when it is allocated; copies read their source when they run, not when queued;
               what a stream's work let go of is given out again to who allocates for that stream, as torch does it
    race       what torch's own CUDA sanitizer says of the order of all accesses (torch.cuda._sanitizer)

Only the hardware is played: pools, landings, threads and tensors are the ones of the house.
"""

import ctypes
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
from torch.cuda._sanitizer import EventHandler

from iobench.loaders.buffers import Buffer
from iobench.loaders.engines.readers import BufferedReader, Reader
from iobench.loaders.placement import Move

POISON = 0xDB
HOST = 0  # the host's own work, to the sanitizer a stream like others


class Sanitizer:
    """Every access to device and pinned memory, and every wait, told to torch's sanitizer as they are issued."""

    def __init__(self) -> None:
        self._handler = EventHandler()
        self._lock = threading.Lock()
        self._numbers = iter(range(1, 1 << 60))
        self._known: set[int] = set()
        self.races: list[str] = []

    def event(self) -> int:
        """A new event's number."""
        return next(self._numbers)

    def access(self, stream: int, what: str, *, reads: set[int] = frozenset(), writes: set[int] = frozenset()) -> None:
        with self._lock:
            for address in (reads | writes) - self._known:
                self._handler._handle_memory_allocation(address)
            self._known |= reads | writes
            names = {address: [what] for address in reads | writes}
            found = self._handler._handle_kernel_launch(stream, set(reads), set(writes), set(), what, names)
            self.races += [str(error) for error in found]

    def record(self, event: int, stream: int) -> None:
        with self._lock:
            self._handler._handle_event_record(event, stream)

    def wait(self, event: int, stream: int) -> None:
        with self._lock:
            self._handler._handle_event_wait(event, stream)

    def host_saw(self, event: int) -> None:
        with self._lock:
            self._handler._handle_event_synchronization(event)


class FakeStream:
    """Work in order, each piece `delay_s` after it could begin."""

    def __init__(self, number: int, delay_s: float) -> None:
        self.number = number
        self.delay_s = delay_s
        self.errors: list[BaseException] = []
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def put(self, work: Callable[[], None]) -> None:
        self._queue.put(work)

    def slow(self, work: Callable[[], None]) -> None:
        def later() -> None:
            time.sleep(self.delay_s)
            work()

        self._queue.put(later)

    def end(self) -> None:
        self._queue.put(None)
        self.thread.join(20)
        assert not self.thread.is_alive()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            except BaseException as error:  # shown by the test that looks
                self.errors.append(error)
            del work


class FakeEvent:
    """As torch.cuda.Event."""

    def __init__(self, device: "FakeDevice", *, timing: bool) -> None:
        self._device = device
        self._timing = timing
        self.number = device.sanitizer.event()
        self._passed: threading.Event | None = None
        self._at = 0.0

    def record(self, stream: FakeStream) -> None:
        passed = self._passed = threading.Event()
        self._device.sanitizer.record(self.number, stream.number)

        def pass_it() -> None:
            self._at = time.perf_counter()
            passed.set()

        stream.put(pass_it)

    def query(self) -> bool:
        done = self._passed is None or self._passed.is_set()
        if done and self._passed is not None:
            self._device.sanitizer.host_saw(self.number)
        return done

    def synchronize(self) -> None:
        self._device.host_waits.append(threading.current_thread().name)
        if self._passed is not None:
            assert self._passed.wait(20)
            self._device.sanitizer.host_saw(self.number)

    def elapsed_time(self, end: "FakeEvent") -> float:
        assert self._timing
        assert end._timing
        assert end.query()
        return (end._at - self._at) * 1e3


class FakeMemory:
    """Device memory."""

    def __init__(self, size_bytes: int, *, alone: bool = False) -> None:
        self.alone = alone
        self.buffer = Buffer(size_bytes)
        self.bytes = np.frombuffer(self.buffer.memory, np.uint8)
        self.bytes[:] = POISON
        self.address = self.buffer.address
        self.size_bytes = size_bytes


class Shown(np.ndarray):
    """An array that keeps its memory."""

    memory: FakeMemory


class FakeWindow:
    """A range of device memory as readers are given it; what kvikio is shown has a host address, as the stub wants."""

    readonly = False

    def __init__(self, device: "FakeDevice", memory: FakeMemory, start: int, length: int) -> None:
        self.device, self.memory, self.start, self.length = device, memory, start, length

    def __len__(self) -> int:
        return self.length

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        self.device.sanitizer.access(HOST, "read into device memory", writes={self.memory.address})
        address = self.memory.address + self.start
        return {"shape": (self.length,), "typestr": "|u1", "data": (address, False), "strides": None, "version": 3}

    def __getitem__(self, place: slice | int) -> Any:
        if isinstance(place, slice):
            start, stop, _ = place.indices(self.length)
            return FakeWindow(self.device, self.memory, self.start + start, max(0, stop - start))
        return int(self.memory.bytes[self.start + place % self.length])

    def __setitem__(self, place: int, value: int) -> None:
        self.memory.bytes[self.start + place % self.length] = value

    @property
    def host(self) -> memoryview:
        """The memory itself, for a reader of this device that is no kvikio."""
        self.device.sanitizer.access(HOST, "read into device memory", writes={self.memory.address})
        return memoryview(self.memory.bytes[self.start : self.start + self.length])


class FakeDevice:
    """See the module.  `forgets` makes it a device that does not do one kind of wait."""

    name = "fake:0"

    def __init__(self, *, copy_delay_s: float = 0.0, compute_delay_s: float = 0.0, forgets: str = "") -> None:
        self.sanitizer = Sanitizer()
        self.streams: list[FakeStream] = []
        self.copy_delay_s = copy_delay_s
        self.compute = self._stream(compute_delay_s)
        self.host_waits: list[str] = []
        self.pinned: list[tuple[int, int, weakref.ref[Buffer]]] = []
        self.copies: list[int] = []
        self.ranges: list[tuple[str, str]] = []
        self.pieces: list[weakref.ref[FakeMemory]] = []
        self._let_go: dict[int, list[FakeMemory]] = {}
        self._forgets = forgets

    def _stream(self, delay_s: float) -> FakeStream:
        stream = FakeStream(len(self.streams) + 1, delay_s)
        self.streams.append(stream)
        return stream

    def allocate(self, size_bytes: int, *, stream: FakeStream, alone: bool = False) -> FakeMemory:
        assert stream in self.streams
        again = [] if alone else self._let_go.get(stream.number, [])
        memory = again.pop() if again else FakeMemory(size_bytes, alone=alone)
        assert memory.size_bytes >= size_bytes
        self.pieces.append(weakref.ref(memory))
        return memory

    def let_go(self, memory: FakeMemory, *, stream: FakeStream) -> None:
        """Somebody's memory of this stream, which may still work on it, is given out again in that stream's order."""
        self._let_go.setdefault(stream.number, []).append(memory)

    def pin(self, buffer: Buffer) -> None:
        self.pinned.append((buffer.address, buffer.size_bytes, weakref.ref(buffer)))

    def new_stream(self) -> FakeStream:
        return self._stream(self.copy_delay_s)

    def current_stream(self) -> FakeStream:
        return self.compute

    def new_event(self, *, timing: bool = False) -> FakeEvent:
        return FakeEvent(self, timing=timing)

    def wait(self, stream: FakeStream, event: FakeEvent) -> None:
        if self._forgets == ("compute" if stream is self.compute else "copy"):
            return
        self.sanitizer.wait(event.number, stream.number)
        passed = event._passed
        if passed is not None:
            stream.put(lambda: None if passed.wait(20) else pytest.fail("a stream waits for ever"))

    def copy_in(self, stream: FakeStream, memory: FakeMemory, at: int, source: memoryview) -> None:
        buffer = self.pinned_at(np.frombuffer(source, np.uint8).ctypes.data, len(source))
        issued = self.sanitizer.event()  # what is queued comes after what the host has done before
        self.sanitizer.record(issued, HOST)
        self.sanitizer.wait(issued, stream.number)
        self.sanitizer.access(stream.number, "copy", reads={buffer}, writes={memory.address})
        self.copies.append(len(source))

        def copy() -> None:
            memory.bytes[at : at + len(source)] = np.frombuffer(source, np.uint8)

        assert at >= 0
        assert at + len(source) <= memory.size_bytes
        stream.slow(copy)

    def copy_within(self, stream: FakeStream, memory: FakeMemory, moves: Sequence[Move]) -> None:
        issued = self.sanitizer.event()
        self.sanitizer.record(issued, HOST)
        self.sanitizer.wait(issued, stream.number)
        self.sanitizer.access(stream.number, "moves", writes={memory.address})

        def move() -> None:
            for each in moves:
                piece = memory.bytes[each.source : each.source + each.length].copy()
                memory.bytes[each.target : each.target + each.length] = piece

        stream.slow(move)

    def working(self, stream: FakeStream) -> AbstractContextManager[None]:
        assert stream in self.streams
        return nullcontext()  # the CPU's libraries do all at once

    def work(self, stream: FakeStream, memory: FakeMemory, kernel: Callable[[torch.Tensor], None]) -> None:
        issued = self.sanitizer.event()
        self.sanitizer.record(issued, HOST)
        self.sanitizer.wait(issued, stream.number)
        self.sanitizer.access(stream.number, "kernel", writes={memory.address})
        stream.slow(lambda: kernel(torch.from_numpy(memory.bytes)))

    @contextmanager
    def range(self, name: str) -> Iterator[None]:
        yield
        self.ranges.append((threading.current_thread().name, name))

    def window(self, memory: FakeMemory) -> FakeWindow:
        return FakeWindow(self, memory, 0, memory.size_bytes)

    def show(self, memory: FakeMemory, *, stream: FakeStream) -> tuple[torch.Tensor, Any]:
        assert stream is self.compute
        owner = memory.bytes.view(Shown)
        owner.memory = memory
        return torch.from_numpy(owner), owner

    def pinned_at(self, address: int, length: int) -> int:
        """The pinned buffer that holds this range."""
        for start, size, alive in self.pinned:
            if alive() is not None and start <= address and address + length <= start + size:
                return start
        raise AssertionError("a copy from memory that is not page-locked")

    def run(self, tensors: Sequence[torch.Tensor], work: Callable[..., None]) -> None:
        """A kernel on the compute stream that reads `tensors`.  It is shown bytes, and keeps nothing alive."""
        views = [_bare(tensor) for tensor in tensors]
        pieces = [self._piece(tensor) for tensor in tensors]
        self.sanitizer.access(self.compute.number, "step", reads={piece.address for piece in pieces})
        mapped = [piece.buffer for piece in pieces]  # as torch's allocator: what is let go is others' behind this work

        def step() -> None:
            work(*views)
            mapped.clear()

        self.compute.slow(step)

    def piece_of(self, tensor: torch.Tensor) -> int:
        """Where the memory begins that this tensor is in."""
        return self._piece(tensor).address

    def _piece(self, tensor: torch.Tensor) -> FakeMemory:
        alive = [piece for made in self.pieces if (piece := made()) is not None]
        at = tensor.data_ptr()
        return next(piece for piece in alive if piece.address <= at < piece.address + piece.size_bytes)

    def end(self) -> None:
        """Let every stream end once it has done what it was given."""
        for stream in self.streams:
            stream.end()

    def settle(self) -> None:
        """Wait until every stream has done what it was given, the last of it; raises what a kernel raised."""
        self.end()
        for stream in self.streams:
            if stream.errors:
                raise stream.errors[0]


def _bare(tensor: torch.Tensor) -> torch.Tensor:
    """The same bytes by their address alone."""
    item = tensor.element_size()
    span = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    raw = (ctypes.c_ubyte * (span * item)).from_address(tensor.data_ptr())
    return torch.frombuffer(raw, dtype=tensor.dtype).as_strided(tensor.shape, tensor.stride())


class WatchedReader(BufferedReader):
    """The buffered reader, whose writes to pinned memory the sanitizer is told of."""

    def __init__(self, device: FakeDevice) -> None:
        super().__init__()
        self._device = device

    def scatter(self, path: Any, offset: int, targets: Sequence[memoryview], *, need: int | None = None) -> int:
        for target in targets:
            address = np.frombuffer(target, np.uint8).ctypes.data
            self._device.sanitizer.access(HOST, "read", writes={self._device.pinned_at(address, len(target))})
        return super().scatter(path, offset, targets, need=need)

    def read(self, path: Any, offset: int, target: memoryview, *, need: int | None = None) -> int:
        return self.scatter(path, offset, [target], need=need)


class IntoDevice:
    """A reader that fills device memory, by aligned reads."""

    engine = "buffered"
    scatters = False
    into_device = True

    def __init__(self, alignment_bytes: int = 4096) -> None:
        self.alignment_bytes = alignment_bytes
        self._reader: Reader = BufferedReader()

    @property
    def delivered_bytes(self) -> int:
        return self._reader.delivered_bytes

    def read(self, path: Any, offset: int, target: Any, *, need: int | None = None) -> int:
        assert offset % self.alignment_bytes == 0
        assert len(target) % self.alignment_bytes == 0
        memory = target.host if isinstance(target, FakeWindow) else target
        assert np.frombuffer(memory, np.uint8).ctypes.data % self.alignment_bytes == 0
        return self._reader.read(path, offset, memory, need=need)

    def scatter(self, path: Any, offset: int, targets: Sequence[Any], *, need: int | None = None) -> int:
        raise AssertionError("never asked for")

    def close(self) -> None:
        self._reader.close()
