"""The threads of a block: each does one read after another until the window is over.

    gate  |-- ramp --|------ measured window ------|  stop asking; end what is in flight
          begin      +ramp_s                       +seconds

The loop is all that stands between two reads of a thread, and every thread shares the interpreter's lock with the
others: nothing in it is for convenience.
"""

from __future__ import annotations

import gc
import resource
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, perf_counter_ns

from ..workload import WorkloadError
from .points import SlowRead
from .streams import Source
from .timeline import SlotLog, Timeline, timeline_of
from .ways import Targets, Way

RAMP_SHARE = 0.2
MAX_RAMP_S = 0.5
SLOW_READ_NS = 5_000_000_000
PATIENCE_S = 60.0


class HangError(WorkloadError):
    """The storage does not answer."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a block runs without being counted and is then measured, and how long its last reads may take."""

    ramp_s: float
    seconds: float
    patience_s: float = PATIENCE_S


def timing_of(seconds: float, *, patience_s: float = PATIENCE_S) -> Timing:
    """A window of `seconds` after a fifth of it, at most half a second, of ramp-up."""
    return Timing(min(MAX_RAMP_S, RAMP_SHARE * seconds), seconds, patience_s)


@dataclass(frozen=True, slots=True)
class Slot:
    """One thread: the stream it belongs to, and where its reads come from."""

    stream: int
    source: Source


@dataclass(frozen=True, slots=True)
class Driven:
    """What the threads of a block did."""

    timeline: Timeline
    slow: tuple[SlowRead, ...]
    lock_waits: float | None


def drive(slots: Sequence[Slot], way: Way, timing: Timing, *, place: Path) -> Driven:
    """Run one thread for each slot until ramp and window are over.

    Raises what a thread raised, and HangError where reads have not come back in time after the window.
    """
    logs = [SlotLog(slot.stream) for slot in slots]
    errors: list[BaseException] = []
    stop: list[bool] = []
    woken = threading.Event()
    gate = threading.Barrier(len(slots) + 1)
    threads = [
        threading.Thread(target=_work, args=(slot, way, log, errors, stop, woken, gate), daemon=True)
        for slot, log in zip(slots, logs, strict=True)
    ]
    begin = 0
    with _no_garbage_collection():
        try:
            _start(threads)
            with suppress(threading.BrokenBarrierError):  # a thread failed before it began
                gate.wait()
                begin = perf_counter_ns()
                woken.wait(timing.ramp_s + timing.seconds)  # set early by a thread that failed
        finally:
            stop.append(True)
            gate.abort()  # lets go of who still waits there, where not all could be started
        hanging = _join(threads, logs, timing.patience_s)
    if errors:
        raise errors[0]
    if hanging:
        first = hanging[0].asked
        where = f"{place}" if first is None else f"{first.path}: byte {first.offset}"
        raise HangError(
            f"{where}: {len(hanging)} of {len(threads)} reads have not come back within {timing.patience_s:g} s; the "
            f"storage hangs or is too slow for so many: use fewer --threads, a smaller --queue-depth or --block-size"
        )
    opens = begin + round(timing.ramp_s * 1e9)
    slow = tuple(read for log in logs for read in log.slow)
    return Driven(timeline_of(logs, (opens, opens + round(timing.seconds * 1e9))), slow, _lock_waits(logs))


def _work(
    slot: Slot,
    way: Way,
    log: SlotLog,
    errors: list[BaseException],
    stop: list[bool],
    woken: threading.Event,
    gate: threading.Barrier,
) -> None:
    try:
        targets = way.targets()  # what memory costs is not to be measured
        gate.wait()
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        _repeat(slot.source, way, targets, log, stop)
        log.voluntary_switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before
    except threading.BrokenBarrierError:
        return  # another one could not be started
    except Exception as error:  # raised again by the block that started this thread
        errors.append(error)
        stop.append(True)
        woken.set()
        gate.abort()


def _repeat(source: Source, way: Way, targets: Targets, log: SlotLog, stop: list[bool]) -> None:
    """One read after another until told to stop."""
    do, after, clock = way.do, way.after, perf_counter_ns
    log_start, log_end, log_count, log_need = log.starts.append, log.ends.append, log.counts.append, log.needs.append
    handle = kept = last_path = target = None
    last_length = -1
    batch = source.following(None)
    while not stop:
        for request in batch:
            path, offset, length, need = log.asked = request
            if path is not last_path:
                (handle, kept), last_path = way.handle(path), path
            if length != last_length:
                target, last_length = targets(length), length
            start = clock()
            try:
                count = do(handle, target, offset)
            except OSError:
                count = -1
            end = clock()
            if count < need:
                count = way.complete(path, offset, target, need)
                end = clock()
            log_start(start)
            log_end(end)
            log_count(count)
            log_need(need)
            if end - start > SLOW_READ_NS:
                log.slow.append(SlowRead((end - start) / 1e9, str(path), offset))
            if after is not None:
                after(handle, target, offset, count)
            if stop:
                break
        else:
            batch = source.following(batch)
    del kept


def _lock_waits(logs: Sequence[SlotLog]) -> float | None:
    """How often a read slept beside the once that it waits for the device, on average."""
    num_reads = sum(len(log.ends) for log in logs)
    if not num_reads:
        return None
    return max(0.0, sum(log.voluntary_switches for log in logs) / num_reads - 1)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection stops every thread for as long as it takes."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _start(threads: Sequence[threading.Thread]) -> None:
    try:
        for thread in threads:
            thread.start()
    except RuntimeError as error:
        raise WorkloadError(
            f"{len(threads)} reads in flight take as many threads, and the system gives no more ({error}); use fewer "
            f"--threads or a smaller --queue-depth"
        ) from error


def _join(threads: Sequence[threading.Thread], logs: Sequence[SlotLog], patience_s: float) -> list[SlotLog]:
    """Wait for the reads in flight, but not for ever; the logs of those that have not come back."""
    deadline = perf_counter() + patience_s
    for thread in threads:
        thread.join(max(0.0, deadline - perf_counter()))
    return [log for thread, log in zip(threads, logs, strict=True) if thread.is_alive()]
