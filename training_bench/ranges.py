"""Steps and their parts as profilers show them, under the names of a trace: NVTX for Nsight, torch.profiler's own.

    Nsight, torch.profiler   |- step 7 -------------------------------------------------|
                             |- data wait -||- compute -||- sync wait -||- optimiser -|

A range stands where the clock has its marks.  Where nobody looks there is nothing in the loop but the clock: NVTX is
told on CUDA only, torch.profiler while it is on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from .timeline import Marks


class Ranges(Protocol):
    """Where ranges of this thread are shown; they nest."""

    def push(self, name: str) -> None:
        """A range begins."""

    def pop(self) -> None:
        """The range that began last ends."""


class NvtxRanges:
    """Ranges of NVTX, which Nsight Systems shows."""

    def push(self, name: str) -> None:
        """See Ranges."""
        torch.cuda.nvtx.range_push(name)  # type: ignore[no-untyped-call]

    def pop(self) -> None:
        """See Ranges."""
        torch.cuda.nvtx.range_pop()  # type: ignore[no-untyped-call]


class ProfilerRanges:
    """Ranges of torch.profiler."""

    def __init__(self) -> None:
        self._open: list[Any] = []

    def push(self, name: str) -> None:
        """See Ranges."""
        self._open.append(torch.profiler.record_function(name))
        self._open[-1].__enter__()

    def pop(self) -> None:
        """See Ranges."""
        self._open.pop().__exit__(None, None, None)


class ShownMarks:
    """Marks of a clock, between which ranges begin and end: one for the step, and one for each of its `parts`."""

    def __init__(self, clock: Marks, ranges: Sequence[Ranges], *, parts: Sequence[str], first_step: int) -> None:
        self._clock, self._ranges, self._parts = clock, ranges, parts
        self._step, self._at = first_step, 0

    def mark(self) -> int:
        """See Marks: the ranges of what is over end before the clock is read, those of what comes begin after it."""
        at, last = self._at, len(self._parts)
        if at:
            self._pop()
        now = self._clock.mark()
        if at == last:
            self._pop()
            self._step, self._at = self._step + 1, 0
            return now
        if at == 0:
            self._push(f"step {self._step}")
        self._push(self._parts[at])
        self._at = at + 1
        return now

    def close(self) -> None:
        """End what a step that was cut short has begun."""
        if self._at:
            self._pop()
            self._pop()
            self._at = 0

    def _push(self, name: str) -> None:
        for ranges in self._ranges:
            ranges.push(name)

    def _pop(self) -> None:
        for ranges in self._ranges:
            ranges.pop()


@contextmanager
def shown(clock: Marks, *, parts: Sequence[str], first_step: int, cuda: bool) -> Iterator[Marks]:
    """The clock, with ranges at its marks where somebody may look: on CUDA, or where torch.profiler is on now."""
    ranges: list[Ranges] = [NvtxRanges()] if cuda else []
    if torch.autograd.profiler._is_profiler_enabled:
        ranges.append(ProfilerRanges())
    if not ranges:
        yield clock
        return
    marks = ShownMarks(clock, ranges, parts=parts, first_step=first_step)
    try:
        yield marks
    finally:
        marks.close()
