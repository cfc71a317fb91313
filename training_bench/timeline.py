"""Where a step's time goes: marks of a clock, one additive table for each timeline, and who kept whom waiting.

    host    asked |- data wait -| got |- compute -| computed |- allreduce -| met |- optimiser -| updated |- overhead -|
    stream  the same marks as events on the compute stream, read when the loop is over

A step runs from asking for its batch to asking for the next one, so that the parts of a table add up to its wall time.
On the compute stream `data_wait` is the time it had nothing to do but wait for the batch, and the stretch called
compute runs to the end of the backward pass.

Who comes last to an allreduce waits for nobody, so the shortest wait of a step is what communication costs, and what
the others waited beyond it is what the last one cost them:

    rank 0   | data | compute |---- waits for rank 1 ----|-- communication --|
    rank 1   | data -------------------- | compute ------|-- communication --|
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.int64]

EMULATED_PARTS = ("data_wait_s", "compute_s", "sync_wait_s")
TRAINING_PARTS = ("data_wait_s", "compute_s", "sync_wait_s", "optimizer_s")
OVERHEAD = "overhead_s"
NUM_EMPTY_PAIRS = 33
KEPT_EVENTS = 4096


class TimelineError(ValueError):
    """Marks that do not make a timeline: more than there is room for, or of ranks that made other steps."""

    exit_status: ClassVar[int] = 3


class Marks(Protocol):
    """What a loop tells where it is: once at the start of a step, and once at the end of each of its parts."""

    def mark(self) -> int:
        """The loop is here now; returns the host's time in ns."""


class StepClock:
    """The host's timeline of at most `num_steps` steps of these parts.

    The memory is there before the loop begins, and a mark is one reading of the clock and one store.
    """

    __slots__ = ("_at", "_cells", "_times")

    def __init__(self, num_steps: int, parts: Sequence[str] = EMULATED_PARTS) -> None:
        self._times: Times = np.zeros((num_steps, len(parts) + 1), dtype=np.int64)
        self._cells = self._times.reshape(-1).data  # stores a plain int three times as fast as the array does
        self._at = 0

    def mark(self) -> int:
        """The next mark of this step; after the last one, the first of the next step.  Returns its time in ns."""
        now = perf_counter_ns()
        self._cells[self._at] = now
        self._at += 1
        return now

    @property
    def times(self) -> Times:
        """The marks of the steps that were finished, (steps, parts + 1) in ns; a step that was cut short is none."""
        return self._times[: self._at // self._times.shape[1]]


class Event(Protocol):
    """What is needed of torch.cuda.Event."""

    def record(self, stream: Any) -> None:
        """Mark the place that `stream` has come to."""

    def synchronize(self) -> None:
        """Wait until the device has passed that place."""

    def elapsed_time(self, end: Any) -> float:
        """Milliseconds from this event to `end`."""


class StreamClock:
    """The host's timeline and the compute stream's, from events at the same marks.

    Nothing is waited for inside the loop.  The events are there before it begins and go round; before one is used again
    it is read, which waits for nothing, since the host is never KEPT_EVENTS marks ahead of the device.  Each is read
    against the one before it: an event's float holds a millisecond after hours as well, but no microseconds.
    """

    def __init__(
        self, num_steps: int, parts: Sequence[str], *, new_event: Callable[[], Event], stream: Callable[[], Any]
    ) -> None:
        self.host = StepClock(num_steps, parts)
        self._width = len(parts) + 1
        self._stream = stream
        self._gaps_ns: Times = np.zeros(num_steps * self._width, dtype=np.int64)  # from the mark before to this one
        self._events = [new_event() for _ in range(min(len(self._gaps_ns), KEPT_EVENTS))]
        self._at = 0
        self._read = 1  # marks up to here have their gap; the first has none
        self._empty_ns = _empty_pair_ns(new_event, stream())

    @classmethod
    def of_cuda(cls, num_steps: int, parts: Sequence[str] = TRAINING_PARTS) -> StreamClock:
        """For the current CUDA stream of this thread."""
        import torch

        new_event: Callable[[], Event] = partial(torch.cuda.Event, enable_timing=True)
        return cls(num_steps, parts, new_event=new_event, stream=torch.cuda.current_stream)

    def mark(self) -> int:
        """The loop is here, and the stream will be once it has done what it was given; returns the host's time."""
        kept = len(self._events)
        if self._at >= kept:
            self._read_gap(self._at - kept + 1)
        self._events[self._at % kept].record(self._stream())
        self._at += 1
        return self.host.mark()

    def _read_gap(self, mark: int) -> None:
        """The time from the mark before `mark` to it, once the device has passed both."""
        before, event = self._events[(mark - 1) % len(self._events)], self._events[mark % len(self._events)]
        event.synchronize()
        self._gaps_ns[mark] = round(before.elapsed_time(event) * 1e6)
        self._read = mark + 1

    @property
    def times(self) -> Times:
        """When the stream passed the marks, (steps, parts + 1) in ns from the first; waits for the device.

        The wait for data is less by what an empty pair of events shows; the time it is less by counts as compute.
        """
        for mark in range(self._read, self._at):
            self._read_gap(mark)
        count = self._at // self._width * self._width
        rows = np.cumsum(self._gaps_ns[:count]).reshape(-1, self._width)
        rows[:, 1] = np.maximum(rows[:, 1] - self._empty_ns, rows[:, 0])
        return rows


def _empty_pair_ns(new_event: Callable[[], Event], stream: Any) -> int:
    """What two events with nothing between them are apart: the median of many."""
    pairs = [(new_event(), new_event()) for _ in range(NUM_EMPTY_PAIRS)]
    for begin, end in pairs:
        begin.record(stream)
        end.record(stream)
    pairs[-1][1].synchronize()
    return round(float(np.median([begin.elapsed_time(end) for begin, end in pairs])) * 1e6)


def step_parts(times: Times, parts: Sequence[str]) -> dict[str, float]:
    """Means per step of each part and of the overhead between steps, in seconds; together they are `step_time_s`.

    `times` are the marks of steps that follow each other.  The last step ends at its last mark: what comes after it is
    not seen.
    """
    count = len(times)
    wall = int(times[-1, -1] - times[0, 0])
    spent = np.diff(times, axis=1).sum(axis=0)
    seconds = {name: float(each) / 1e9 / count for name, each in zip(parts, spent, strict=True)}
    return {**seconds, OVERHEAD: (wall - int(spent.sum())) / 1e9 / count, "step_time_s": wall / 1e9 / count}


@dataclass(frozen=True, slots=True)
class Waiting:
    """Who waited for whom in the allreduces of the same steps, each (ranks, steps) in ns.

    `for_others` is what a rank waited beyond the shortest wait of that step, and `cost` what the last rank cost all
    others together, 0 for every other rank.  `for_data` and `for_compute` are the parts of `for_others` that the last
    rank spent more than this one on waiting for data, and on computing: what is left was spent between steps.  A part
    is negative where the last rank was the faster one in it.
    """

    communication: Times
    for_others: Times
    for_data: Times
    for_compute: Times
    cost: Times


def waiting(times: Sequence[Times], *, sync_part: int = 2) -> Waiting:
    """Tell waiting for other ranks from communication, of the marks of all ranks over the same steps.

    Only durations are compared, never the clocks of two hosts.  `sync_part` is the number of the part that ends in the
    meeting.  Raises TimelineError for ranks that did not make the same number of steps.
    """
    if len({len(rows) for rows in times}) != 1:
        raise TimelineError(
            f"ranks made {sorted({len(rows) for rows in times})} steps; those that meet in each step make equally many"
        )
    spent = np.diff(np.stack(times), axis=2)  # (ranks, steps, parts)
    exposed = spent[:, :, sync_part]
    shortest = exposed.min(axis=0)
    last = exposed.argmin(axis=0)
    beyond = exposed - shortest
    steps = np.arange(exposed.shape[1])
    cost = np.zeros_like(beyond)
    cost[last, steps] = beyond.sum(axis=0)
    late = beyond > 0
    return Waiting(
        communication=np.broadcast_to(shortest, exposed.shape),
        for_others=beyond,
        for_data=np.where(late, spent[last, steps, 0] - spent[:, :, 0], 0),
        for_compute=np.where(late, spent[last, steps, 1] - spent[:, :, 1], 0),
        cost=cost,
    )


def straggler(costs_s: Sequence[float]) -> int | None:
    """The rank that cost the others the most time; None where nobody cost anybody anything."""
    if not costs_s or max(costs_s) <= 0:
        return None
    return int(np.argmax(costs_s))
