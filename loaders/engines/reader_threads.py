"""Reader threads: they carry out the reads of batches, a few at a time, until they are told to end.

    Prefetcher --(batch, some of its reads)--> queue --> a thread reads; the last of a batch moves, and opens its gate
                                                 ^-- (batch, some of its images) --'  or has its images decoded first

Threads serve one epoch, or with persistent workers one after another: what an epoch has queued when it is left is
counted as done without being read.  They hold no reference to their ReaderThreads: dropping it ends them.  So does the
end of the program, which waits for them: a thread that decodes while the interpreter goes takes the process with it.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic, perf_counter_ns
from typing import TYPE_CHECKING

import numpy as np

from ..buffers import Buffer
from ..images.decoding import ImageBatch, Part
from ..placement import Placement, Reads
from ..plan import Indices
from ..remote import ShardPath
from .mapped import Mapping
from .readers import Reader, read_all

if TYPE_CHECKING:
    from ..destinations.destination import Landing
    from ..destinations.memory import DeviceBuffer


class EpochLeftError(Exception):
    """The epoch was left before this batch was read; nobody waits for it."""


@dataclass(slots=True)
class PendingBatch:
    """A batch on its way, into `buffer` or seen in `mapping`; `gate` is held until the last task is done.

    With a `landing` it is on its way to a device when the gate opens.

    `left` is set when its epoch is left; `ready_ns` is when the gate was opened, by perf_counter_ns.  Where there are
    `images` these are decoded after the last read, before the gate opens.  `read_waited_ns` is how long
    its `num_reads` tasks waited for a thread, added up.
    """

    records: Indices
    buffer: Buffer | DeviceBuffer | None
    mapping: Mapping | None
    placement: Placement
    remaining: int
    left: threading.Event
    gate: threading.Lock = field(default_factory=threading.Lock)
    lock: threading.Lock = field(default_factory=threading.Lock)
    delivered: int = 0
    error: BaseException | None = None
    ready_ns: int = 0
    images: ImageBatch | None = None
    read_ns: int = 0
    decoding: bool = False
    landing: Landing | None = None
    queued_ns: int = field(default_factory=perf_counter_ns)
    read_waited_ns: int = 0
    num_reads: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_reads = self.remaining

    def finish(
        self, delivered: int, error: BaseException | None, *, read_ns: int = 0, waited_ns: int = 0
    ) -> Sequence[Part]:
        """Count one task as done; the last one moves what could not be read in place, and opens the gate.

        Where there are images, the last read gives the parts to decode instead, each of which is then a task.
        """
        with self.lock:
            self.delivered += delivered
            self.read_ns += read_ns
            self.read_waited_ns += waited_ns
            self.error = self.error or error
            self.remaining -= 1
            last = self.remaining == 0
        if not last:
            return ()
        opens = True
        try:
            if self.error is None and not self.decoding:
                if isinstance(self.buffer, Buffer):
                    _move(self.buffer, self.placement)
                if self.images is not None:
                    parts = self.images.parts
                    self.images.queued_ns = perf_counter_ns()
                    self.decoding, self.remaining, opens = True, len(parts), False
                    return parts
            if self.error is None and self.landing is not None and not self.left.is_set():
                self.landing.send()
        except BaseException as failure:  # raised again in the caller's next()
            self.error = failure
        finally:
            if opens:
                self.ready_ns = perf_counter_ns()
                self.gate.release()
        return ()


EXIT_TIMEOUT_S = 2.0
READER_NAME = "iobench-reader-"

Work = Reads | Part
_Task = tuple[PendingBatch, Work]


class ReaderThreads:
    """`num_threads` threads that read with `reader`; each calls `on_start` with its number first."""

    def __init__(
        self,
        num_threads: int,
        reader: Reader,
        paths: Sequence[ShardPath],
        *,
        on_start: Callable[[int], None] | None = None,
    ) -> None:
        self._process = os.getpid()
        self._ended = False
        self._queue: SimpleQueue[_Task | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        leaving = threading.Event()
        at_exit = partial(_leave, self._process, leaving, self._queue, self._threads)
        serving = set(range(num_threads))
        done = partial(_count_off, serving, leaving, at_exit)
        if serving:
            atexit.register(at_exit)
        for number in range(num_threads):
            arguments = (number, self._queue, leaving, reader, paths, on_start, done)
            name = f"{READER_NAME}{number}"
            thread = threading.Thread(target=_serve, args=arguments, name=name, daemon=True)
            self._threads.append(thread)  # before it starts: Ctrl-C may come while it does, and it is to be ended then
            thread.start()

    def __len__(self) -> int:
        return len(self._threads)

    @property
    def usable(self) -> bool:
        """Whether they take more work: not after `end`, nor in a forked child."""
        return not self._ended and os.getpid() == self._process

    @property
    def alive(self) -> bool:
        """Whether there is one that may still read."""
        return any(thread.is_alive() for thread in self._threads)

    def submit(self, batch: PendingBatch, tasks: Iterable[Reads]) -> None:
        """Queue the reads of a batch."""
        for reads in tasks:
            self._queue.put((batch, reads))

    def end(self) -> None:
        """Let them end after what is queued; does not wait."""
        if not self._ended:
            self._ended = True
            for _ in self._threads:
                self._queue.put(None)

    def join(self, deadline: float) -> None:
        """Wait until `deadline` (of time.monotonic) for them to end."""
        for thread in self._threads:
            if thread.is_alive():  # one may never have started
                thread.join(max(0.0, deadline - monotonic()))

    def __del__(self) -> None:
        if hasattr(self, "_threads"):
            self.end()


def reader_thread_ids() -> tuple[int, ...]:
    """The native ids of all reader threads of this process that run now, whoever started them."""
    readers = (thread for thread in threading.enumerate() if thread.name.startswith(READER_NAME))
    return tuple(thread.native_id for thread in readers if thread.native_id is not None)


def _serve(
    number: int,
    queue: SimpleQueue[_Task | None],
    leaving: threading.Event,
    reader: Reader,
    paths: Sequence[ShardPath],
    on_start: Callable[[int], None] | None,
    done: Callable[[int], None],
) -> None:
    start_error: BaseException | None = None
    try:
        if on_start is not None:
            on_start(number)
    except BaseException as error:  # raised again in the caller's next(), as are all below
        start_error = error
    while (task := queue.get()) is not None:
        batch, work = task
        try:
            if batch.left.is_set() or leaving.is_set():
                raise EpochLeftError
            if start_error is not None:
                raise start_error
            parts = work_off(reader, paths, batch, work, own_thread=True)
        except BaseException as error:
            batch.finish(0, error)
            parts = ()
        for part in parts:
            queue.put((batch, part))
        del task, batch, work, parts
    _give_up(queue)
    done(number)


def _count_off(serving: set[int], leaving: threading.Event, at_exit: Callable[[], None], number: int) -> None:
    """A thread is done; with the last one nothing is left to be waited for when the program ends."""
    serving.discard(number)
    if not serving and not leaving.is_set():
        atexit.unregister(at_exit)


def _leave(
    process: int,
    leaving: threading.Event,
    queue: SimpleQueue[_Task | None],
    threads: Sequence[threading.Thread],
) -> None:
    """At the end of the program: let the threads end after what they are at, and wait for them for a while."""
    if os.getpid() != process:
        return
    leaving.set()
    for _ in threads:
        queue.put(None)
    deadline = monotonic() + EXIT_TIMEOUT_S
    for thread in threads:
        if thread.is_alive():  # one may never have started
            thread.join(max(0.0, deadline - monotonic()))


def _give_up(queue: SimpleQueue[_Task | None]) -> None:
    """Count what was queued after the end was, as parts of a batch may be, as done; others' ends are left to them."""
    ends = 0
    while True:
        try:
            task = queue.get_nowait()
        except Empty:
            break
        if task is None:
            ends += 1
        else:
            task[0].finish(0, EpochLeftError("an error in another epoch of this loader has ended the reader threads"))
    for _ in range(ends):
        queue.put(None)


def work_off(
    reader: Reader, paths: Sequence[ShardPath], batch: PendingBatch, work: Work, *, own_thread: bool
) -> Sequence[Part]:
    """Do a task of a batch and count it as done; returns what is to be done next.  Raises before it is counted."""
    if isinstance(work, Part):
        assert batch.images is not None  # whose part it is
        batch.images.run(work, own_thread=own_thread)
        return batch.finish(0, None)
    begun = perf_counter_ns()
    delivered = carry_out(reader, paths, batch, work)
    return batch.finish(delivered, None, read_ns=perf_counter_ns() - begun, waited_ns=begun - batch.queued_ns)


def carry_out(reader: Reader, paths: Sequence[ShardPath], batch: PendingBatch, reads: Reads) -> int:
    """Do some reads of a batch; returns the bytes delivered."""
    starts, needs = reads.buffer_offsets.tolist(), reads.needs.tolist()
    if batch.mapping is not None:
        return sum(map(batch.mapping.populate, starts, needs))
    assert batch.buffer is not None  # a batch has the one or the other
    batch.buffer.use.wait()
    memory = batch.buffer.memory
    targets: Iterable[Sequence[memoryview]]
    if reads.parts is None:
        ends = (reads.buffer_offsets + reads.lengths).tolist()
        targets = zip(map(memory.__getitem__, map(slice, starts, ends)), strict=True)
    else:
        targets = ([memory[at : at + size] for at, size in parts] for parts in reads.parts)
    files = map(paths.__getitem__, reads.shards.tolist())  # no Python for each record, up to here
    return read_all(reader, zip(files, reads.file_offsets.tolist(), targets, needs, strict=True))


def _move(buffer: Buffer, placement: Placement) -> None:
    if placement.moves:
        whole = np.frombuffer(buffer.memory, dtype=np.uint8)
        for move in placement.moves:
            whole[move.target : move.target + move.length] = whole[move.source : move.source + move.length]
