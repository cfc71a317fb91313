"""The latency-bound mode: arrivals at a rate, and the highest rate whose 99th percentile stays under the bound.

Arrivals do not wait for answers (an open loop): a queue that builds up shows in the latency, as it does for users.
Poisson arrivals are what many independent users send (as in MLPerf Inference's server scenario), even ones a camera.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .plan import Bound

PERCENT = 99
FEWEST = 1 / 16  # of the closed loop's rate: below it nobody looks


class OutOfTimeError(Exception):
    """The next trial would not end within the time that the search has."""


Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Arrived:
    """What batches that arrived at a rate (per second and rank) came to; `kept` is whether they kept the bound.

    Percentiles are None where the trial ended early, because too many batches were late already.
    """

    rate: float
    asked: int
    answered: int
    late: int
    kept: bool
    proof: bool
    p50_s: float | None
    p90_s: float | None
    p99_s: float | None
    max_s: float | None

    @classmethod
    def of(cls, rate: float, latencies_s: Seconds, *, asked: int, bound_s: float, proof: bool) -> Arrived:
        """From the latencies of all ranks together."""
        late = int((latencies_s > bound_s).sum())
        whole = len(latencies_s) == asked
        known = percentiles(latencies_s) if whole else (None,) * 4
        return cls(rate, asked, len(latencies_s), late, whole and late <= allowed_misses(asked), proof, *known)

    def as_json(self) -> dict[str, Any]:
        """For the rank's log."""
        return asdict(self)


def percentiles(latencies_s: Seconds) -> tuple[float, float, float, float]:
    """p50, p90, p99 and the longest: each the least latency that this share of the batches did not exceed."""
    p50, p90, p99 = np.percentile(latencies_s, (50, 90, PERCENT), method="inverted_cdf").tolist()
    return p50, p90, p99, float(latencies_s.max())


def allowed_misses(num_batches: int) -> int:
    """How many batches may be late while the 99th percentile still keeps the bound."""
    return num_batches * (100 - PERCENT) // 100


def arrival_times(bound: Bound, rate: float, *, seed: tuple[int, ...]) -> Seconds:
    """When each batch of a trial is due, in seconds from its start; `rate` in batches per second."""
    count = bound.trial_batches
    if bound.arrivals == "even":
        return np.arange(count, dtype=np.float64) / rate
    return np.random.default_rng(seed).exponential(1 / rate, count).cumsum()


def highest_rate(keeps: Callable[[float], bool], *, capacity: float, resolution: float) -> float | None:
    """Bisect for the highest rate that `keeps` the bound, to `resolution` of itself.

    Nothing above the capacity is tried: there a queue grows for as long as a trial lasts.  None where not even 1/16 of
    the capacity keeps the bound.
    """
    if capacity <= 0:
        return None
    if keeps(capacity):
        return capacity
    low, high = 0.0, capacity
    while high - low > resolution * high:
        if high <= FEWEST * capacity:
            return None
        middle = (low + high) / 2
        if keeps(middle):
            low = middle
        else:
            high = middle
    return low
