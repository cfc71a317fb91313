"""Every read of a block, and the window inside it.

A read's bytes are spread evenly over its duration, so a window's rate does not depend on where large reads end.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..latency import LatencyHistogram
from .points import SlowRead, Tail
from .streams import ReadRequest

Integers = npt.NDArray[np.int64]


@dataclass(slots=True)
class SlotLog:
    """What one thread did: a column each of start, end (ns), bytes moved and bytes asked for."""

    stream: int
    starts: array[int] = field(default_factory=lambda: array("q"))
    ends: array[int] = field(default_factory=lambda: array("q"))
    counts: array[int] = field(default_factory=lambda: array("q"))
    needs: array[int] = field(default_factory=lambda: array("q"))
    slow: list[SlowRead] = field(default_factory=list)
    asked: ReadRequest | None = None  # what it is at
    voluntary_switches: int = 0


@dataclass(frozen=True, slots=True)
class Timeline:
    """All reads of a block, and the measured window (from, to) in ns; `streams` says whose each read was."""

    starts_ns: Integers
    ends_ns: Integers
    counts: Integers
    needs: Integers
    window_ns: tuple[int, int]
    streams: Integers | None = None

    @property
    def inside(self) -> npt.NDArray[np.bool_]:
        """Reads that ended in the window."""
        return (self.ends_ns > self.window_ns[0]) & (self.ends_ns <= self.window_ns[1])

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """The share of each read's duration that lies in the window."""
        overlap = np.minimum(self.ends_ns, self.window_ns[1]) - np.maximum(self.starts_ns, self.window_ns[0])
        shares: npt.NDArray[np.float64] = np.maximum(overlap, 0) / np.maximum(self.ends_ns - self.starts_ns, 1)
        return shares

    @property
    def window_s(self) -> float:
        """How long the window is."""
        return (self.window_ns[1] - self.window_ns[0]) / 1e9

    @property
    def window_bytes(self) -> float:
        """Bytes delivered in the window."""
        return float((self.shares * self.needs).sum())

    @property
    def window_reads(self) -> float:
        """Reads completed in the window, counted by their share."""
        return float(self.shares.sum())

    @property
    def total_s(self) -> float:
        """From the first read's start to the last one's end."""
        return float(self.ends_ns.max(initial=0) - self.starts_ns.min(initial=self.ends_ns.max(initial=0))) / 1e9

    @property
    def latencies(self) -> LatencyHistogram:
        """Of the reads that ended in the window."""
        histogram = LatencyHistogram()
        histogram.add(self.ends_ns[self.inside] - self.starts_ns[self.inside])
        return histogram

    def tail(self) -> Tail | None:
        """When the first and the last stream were done, and how far apart their rates in the window are."""
        if self.streams is None or not len(self.ends_ns):
            return None
        num_streams = int(self.streams.max()) + 1
        rates = np.bincount(self.streams, weights=self.shares * self.needs, minlength=num_streams) / self.window_s / 1e9
        last_ends = np.zeros(num_streams, dtype=np.int64)
        np.maximum.at(last_ends, self.streams, self.ends_ns)
        done_s = np.maximum(last_ends - self.window_ns[1], 0) / 1e9
        return Tail(float(done_s.min()), float(done_s.max()), float(rates.min()), float(rates.max()))


def timeline_of(logs: Sequence[SlotLog], window_ns: tuple[int, int]) -> Timeline:
    """What all threads did, together."""

    def column(name: str) -> Integers:
        return np.concatenate([np.frombuffer(getattr(log, name), dtype=np.int64) for log in logs])

    streams = np.repeat([log.stream for log in logs], [len(log.ends) for log in logs])
    return Timeline(column("starts"), column("ends"), column("counts"), column("needs"), window_ns, streams)
