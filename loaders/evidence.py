"""Evidence: counters before and after, and which way the bytes took.

    files -> counters (counters/) -> [before] reads [after] -> less what others read -> judge -> RouteEvidence

What may be concluded depends on the class of the counter that decides:

    exact        it counts these bytes and no fewer: it proves the way, and alone can make a measurement invalid
    bounding     what it counts holds these bytes and headers: between 1.0 and 1.15 of them the way is "bounded"
    client-own   the storage client's word, taken as bounding
    none         nothing counts: the route is `unknown`, and nobody may call it proven
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .counters.block import DeviceCounter
from .counters.choice import counter_for
from .counters.counter import Counter, CounterClass, CounterSet, moved, total

__all__ = [
    "CacheState",
    "Counter",
    "CounterClass",
    "CounterSet",
    "DeviceCounter",
    "Route",
    "RouteEvidence",
    "background_rate",
    "counter_for",
    "judge",
    "moved",
    "process_read_bytes",
    "total",
]

COLD_MINIMUM = 0.98
WARM_MAXIMUM = 0.02
OVER_READ_LIMIT = 1.15
BOUND = (1.0, 1.15)  # what a bounding counter may show for each delivered byte
BUSY_SHARE = 0.01  # from this share of the delivered bytes on, what others read makes the subtraction uncertain

Route = Literal["host", "bounce", "gds", "p2pdma", "remote", "unknown"]
CacheState = Literal["cold", "warm"]


@dataclass(frozen=True)
class RouteEvidence:
    """What was asked, and what the counters saw, over one or more measured blocks."""

    engine: str
    page_cache: CacheState | None
    requested_route: Route
    observed_route: Route
    route_evidence: str
    counter_class: CounterClass
    cache_fraction: float | None
    delivered_bytes: int
    payload_bytes: int
    device_bytes: int | None
    read_amplification: float | None
    cache_fraction_after: float | None = None
    counters: dict[str, float | int | str | None] = field(default_factory=dict)

    def invalid_reason(self) -> str | None:
        """Why this measurement does not count, or None; the rule of an exact counter."""
        if self.counter_class != "exact" or self.observed_route == "unknown":
            return None
        if self.device_bytes is None or not self.delivered_bytes:
            return None
        share = self.device_bytes / self.delivered_bytes
        if (self.page_cache == "cold" or self.engine == "direct") and share < COLD_MINIMUM:
            return (
                f"asked for cold reads, but the device gave only {share:.1%} of the bytes delivered "
                f"({_resident(self.cache_fraction)}): the rest came from a cache or from holes in the files"
            )
        if self.page_cache == "warm" and self.engine != "direct" and share > WARM_MAXIMUM:
            return (
                f"asked for warm reads, but the device gave {share:.1%} of the bytes delivered: the data did not stay "
                f"in the page cache; use fewer bytes or more memory"
            )
        return None

    def warning(self) -> str | None:
        """Over-read beyond 15 % is told, with its ratio, and does not make a point invalid."""
        if self.counter_class != "exact" or self.read_amplification is None or self.page_cache == "warm":
            return None
        if self.read_amplification <= OVER_READ_LIMIT:
            return None
        return f"{self.engine}: the device read {self.read_amplification:.2f} bytes for each byte of payload"


def background_rate(counter: Counter, *, seconds: float = 0.5) -> float | None:
    """Bytes per second that others have the same counter count, measured while this program reads nothing."""
    before = counter.read_bytes()
    if before is None:
        return None
    start = time.perf_counter()
    time.sleep(seconds)
    after = counter.read_bytes()
    return None if after is None else (after - before) / (time.perf_counter() - start)


def process_read_bytes() -> int | None:
    """Bytes this process has made storage read, all threads (proc_pid_io(5)); None where the kernel does not count."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))
    except (OSError, StopIteration):
        return None


def judge(
    counter: Counter,
    *,
    engine: str,
    page_cache: CacheState | None,
    cache_fraction: float | None,
    delivered_bytes: int,
    payload_bytes: int,
    raw_device_bytes: int | None,
    background_bytes: float,
    process_bytes: int | None = None,
    cache_fraction_after: float | None = None,
    beside: Mapping[str, int] | None = None,
) -> RouteEvidence:
    """Turn counters into evidence: leave out what others read, name the route, give the ratio unclipped.

    Where the kernel also counted what these processes alone made block devices read (`process_bytes`), both counters
    must have seen a byte, and nothing is subtracted; else others' reads are taken to go on as just before.
    `beside` is how far the counters that do not decide have moved; the record keeps them.
    """
    if raw_device_bytes is not None and process_bytes is not None and counter.leaves:
        count: int | None = min(raw_device_bytes, process_bytes)
        background_bytes = 0.0
    else:
        count = None if raw_device_bytes is None else max(0, round(raw_device_bytes - background_bytes))
    cold = page_cache == "cold" or engine == "direct"
    if count is None:
        doubt: str | None = counter.reason if counter.counter_class == "none" else f"no answer from: {counter.reason}"
    elif counter.counter_class == "exact":
        doubt = _doubt(count, delivered_bytes, background_bytes, cold=cold)
    else:
        resident = page_cache == "warm" and cache_fraction is not None and cache_fraction >= COLD_MINIMUM
        bound = (0.0, WARM_MAXIMUM) if resident and not cold else BOUND
        doubt = _out_of_bounds(counter, count, delivered_bytes, background_bytes, bound=bound)
    device = None if doubt and counter.counter_class != "exact" else count  # what bounds nothing is no measurement
    return RouteEvidence(
        engine=engine,
        page_cache=page_cache,
        requested_route="host",
        observed_route="unknown" if doubt else "host",
        route_evidence=f"route not proven: {doubt}" if doubt else _proof(counter, device, delivered_bytes),
        counter_class=counter.counter_class,
        cache_fraction=cache_fraction,
        cache_fraction_after=cache_fraction_after,
        delivered_bytes=delivered_bytes,
        payload_bytes=payload_bytes,
        device_bytes=device,
        read_amplification=device / payload_bytes if device is not None and payload_bytes else None,
        counters={
            **(beside or {}),
            "device_bytes_raw": raw_device_bytes,
            "process_bytes": process_bytes,
            "background_bytes": None if raw_device_bytes is None else round(background_bytes),
        },
    )


def _proof(counter: Counter, device: int | None, delivered_bytes: int) -> str:
    if counter.counter_class == "exact" or device is None:
        return counter.reason
    share = device / delivered_bytes if delivered_bytes else 0.0
    return f"bounded, not proven: {counter.reason} were {share:.2f} of the bytes delivered"


def _doubt(device: int, delivered_bytes: int, background_bytes: float, *, cold: bool) -> str | None:
    """Why an exact counter decides nothing, or None.

    What others read is known only from just before.  Where that is more than a trifle, the difference still proves the
    route if it agrees with what was delivered; if it does not agree, it proves nothing either way.
    """
    if background_bytes <= BUSY_SHARE * delivered_bytes:
        return None
    share = device / delivered_bytes if delivered_bytes else 0.0
    agrees = COLD_MINIMUM <= share <= OVER_READ_LIMIT if cold else share <= WARM_MAXIMUM
    if agrees:
        return None
    others = background_bytes / max(1, delivered_bytes)
    return (
        f"just before this run others read {others:.0%} as much as it did from this device, so its own share cannot "
        f"be told; run it while the device is quiet"
    )


def _out_of_bounds(
    counter: Counter, received: int, delivered_bytes: int, background_bytes: float, *, bound: tuple[float, float]
) -> str | None:
    """Why a bounding counter does not even bound the way, or None.

    That it saw next to nothing tells of the page cache only where the data are known to be resident.
    """
    if not delivered_bytes:
        return "nothing was delivered"
    share, others = received / delivered_bytes, background_bytes / delivered_bytes
    if others > BOUND[1] - BOUND[0]:
        return f"just before this run others moved {others:.0%} as much as it did; {counter.reason} bound nothing"
    least, most = bound
    if least <= share <= most:
        return None
    return f"{counter.reason} were {share:.2f} of the bytes delivered, not {least:g} to {most:g}"


def _resident(fraction: float | None) -> str:
    return "residency unknown" if fraction is None else f"{fraction:.1%} was resident before"
