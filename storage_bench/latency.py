"""Latency histograms that merge: log-linear buckets, as in HdrHistogram (https://hdrhistogram.org).

A latency of v ns falls into bucket (e, m): e its power of two, m one of 64 equal parts of [2^e, 2^(e+1)), so that a
percentile is off by at most 1/64 = 1.6 % of itself, whatever its size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

PARTS = 64
_PART_BITS = 6
_NUM_BUCKETS = 64 * PARTS

Nanoseconds = npt.NDArray[np.int64]


@dataclass(slots=True)
class LatencyHistogram:
    """Counts of latencies in log-linear buckets."""

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(_NUM_BUCKETS, dtype=np.int64))
    max_ns: int = 0

    def add(self, latencies_ns: Nanoseconds) -> None:
        """Count these latencies (ns, at least 1)."""
        self.max_ns = max(self.max_ns, int(latencies_ns.max(initial=0)))
        self.counts += np.bincount(_bucket(np.maximum(latencies_ns, 1)), minlength=_NUM_BUCKETS)

    @property
    def total(self) -> int:
        """How many latencies were counted."""
        return int(self.counts.sum())

    def percentile_us(self, percent: float) -> float | None:
        """The latency in microseconds that `percent` of the reads did not exceed; None without a read.

        The largest one (100 %) is exact.
        """
        if not self.total:
            return None
        if percent >= 100:
            return self.max_ns / 1e3
        rank = int(np.ceil(self.total * percent / 100))
        bucket = int(np.searchsorted(np.cumsum(self.counts), max(1, rank)))
        return _middle_ns(bucket) / 1e3


def merge(histograms: Iterable[LatencyHistogram]) -> LatencyHistogram:
    """One histogram of everything that was counted in several."""
    merged = LatencyHistogram()
    for histogram in histograms:
        merged.counts += histogram.counts
        merged.max_ns = max(merged.max_ns, histogram.max_ns)
    return merged


def _bucket(values: Nanoseconds) -> Nanoseconds:
    exponent = np.frexp(values.astype(np.float64))[1].astype(np.int64) - 1
    shift = np.maximum(exponent - _PART_BITS, 0)
    part = (values >> shift) - np.where(exponent >= _PART_BITS, PARTS, 1 << np.minimum(exponent, _PART_BITS))
    return exponent * PARTS + part


def _middle_ns(bucket: int) -> float:
    exponent, part = divmod(bucket, PARTS)
    if exponent < _PART_BITS:
        return float((1 << exponent) + part)
    width = 1 << (exponent - _PART_BITS)
    return (PARTS + part) * width + (width - 1) / 2
