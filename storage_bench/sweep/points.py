"""What is measured, and what came of it: points, their time blocks, their errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ...loaders.evidence import RouteEvidence
from ...results.quantities import binary_size
from ..latency import LatencyHistogram, merge
from ..workload import Access, Destination, Operation, PageCache

HARNESS_MARGIN = 0.9
LOCK_WAITS_LIMIT = 0.25  # from there on it costs about a tenth of the rate
SMALL_BLOCK_BYTES = 64 << 10  # larger reads may sleep several times for one answer, and are too few for the lock


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One combination: `threads` streams, each with `queue_depth` reads or writes of `block_bytes` in flight."""

    engine: str
    access: Access
    block_bytes: int
    queue_depth: int
    threads: int
    page_cache: PageCache
    operation: Operation = "read"
    destination: Destination = "host"

    @property
    def load(self) -> int:
        """Reads or writes in flight, of all streams together."""
        return self.threads * self.queue_depth

    @property
    def words(self) -> str:
        """The point as progress and warnings name it."""
        cache = "" if self.operation == "write" else f" {self.page_cache}"
        to = " into the GPU" if self.destination == "gpu" else ""
        return (
            f"{self.engine}{cache} {self.access} {self.operation}{to} {binary_size(self.block_bytes)}, "
            f"{self.threads} x {self.queue_depth}"
        )


@dataclass(frozen=True, slots=True)
class SlowRead:
    """A read or write that took longer than a storage in order ever does."""

    seconds: float
    path: str
    offset: int


@dataclass(frozen=True, slots=True)
class Tail:
    """How evenly the streams of one block ran.

    At the window's end every stream stops asking and only ends what is in flight: `first_done_s` and `last_done_s` are
    when, after that moment, the first and the last stream had nothing in flight any more.
    """

    first_done_s: float
    last_done_s: float
    slowest_gbps: float
    fastest_gbps: float


@dataclass(frozen=True, slots=True)
class BlockResult:
    """One time block: rates over the window; bytes, seconds and counters over the whole block."""

    gbps: float
    iops: float
    latencies: LatencyHistogram
    delivered_bytes: int
    payload_bytes: int
    device_bytes: int | None
    seconds: float
    cache_fraction: float | None
    process_bytes: int | None = None
    cache_fraction_after: float | None = None
    beside: dict[str, int] = field(default_factory=dict)
    tail: Tail | None = None
    slow: tuple[SlowRead, ...] = ()
    lock_waits: float | None = None
    rank_gbps: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Client:
    """One of several processes that ran a point at once."""

    host: str
    pid: int
    local_rank: int


@dataclass(slots=True)
class PointResult:
    """All blocks of one point, or the error that ended it."""

    point: SweepPoint
    engine_reason: str
    blocks: list[BlockResult] = field(default_factory=list)
    ceiling_gbps: float | None = None
    evidence: RouteEvidence | None = None
    error: str | None = None
    peer_failed: bool = False  # the error is another client's
    flags: tuple[str, ...] = ()
    clients: tuple[Client, ...] = ()

    @property
    def harness_limited(self) -> bool:
        """Whether this program, not the storage, set the rate.

        Within 10 % of what the same reads reach on page-cached data; or, for small direct reads, if every fourth one
        waited for the interpreter's lock: such a read sleeps once for the device, so what it sleeps more often is that.
        One that goes on to a GPU sleeps for its copy as well, and tells nothing so.
        """
        if not self.blocks:
            return False
        if self.ceiling_gbps is not None and self._median("gbps") > HARNESS_MARGIN * self.ceiling_gbps:
            return True
        waits = [block.lock_waits for block in self.blocks if block.lock_waits is not None]
        asleep_once = self.point.engine == "direct" and self.point.destination == "host"
        small = asleep_once and self.point.block_bytes <= SMALL_BLOCK_BYTES
        return small and bool(waits) and float(np.median(waits)) > LOCK_WAITS_LIMIT

    @property
    def moved_nothing(self) -> bool:
        """Whether its blocks were over before a byte was there."""
        return bool(self.blocks) and not any(block.gbps for block in self.blocks)

    @property
    def is_judged(self) -> bool:
        """Whether it has blocks, and the counters were asked about them."""
        return bool(self.blocks) and self.evidence is not None

    def percentile_us(self, percent: float) -> float | None:
        """A latency percentile over all blocks."""
        return merge(block.latencies for block in self.blocks).percentile_us(percent)

    def _median(self, name: Literal["gbps", "iops"]) -> float:
        return float(np.median([getattr(block, name) for block in self.blocks]))


OnBlock = Callable[[int, int, SweepPoint, BlockResult], None]
