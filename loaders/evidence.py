"""Evidence: counters before and after, and which way the bytes took.

    st_dev of the data -> /sys/dev/block/MAJ:MIN -> through dm and md to the leaves -> sectors read

A block device's counter is *exact*, and beside it the kernel counts what one process alone made devices read.  A file
system without a block device (network, FUSE, overlay, tmpfs) has no counter here yet: its class is *none*, its route
`unknown`, and nobody may call it proven.
The validity rule: only an exact counter can make a measurement invalid.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

SECTOR_BYTES = 512  # of /sys/dev/block/*/stat, whatever the device's own sector is
COLD_MINIMUM = 0.98
WARM_MAXIMUM = 0.02
OVER_READ_LIMIT = 1.15
BUSY_SHARE = 0.01  # from this share of the delivered bytes on, what others read makes the subtraction uncertain

CounterClass = Literal["exact", "bounding", "client-own", "none"]
Route = Literal["host", "bounce", "gds", "p2pdma", "remote", "unknown"]
CacheState = Literal["cold", "warm"]


@dataclass(frozen=True)
class DeviceCounter:
    """The block devices under a set of files, and how many bytes they have read since boot."""

    leaves: tuple[str, ...]
    counter_class: CounterClass
    reason: str

    def read_bytes(self) -> int | None:
        """Bytes read by all leaves; None where there is no counter."""
        if not self.leaves:
            return None
        return sum(_sectors_read(Path("/sys/dev/block") / leaf / "stat") for leaf in self.leaves) * SECTOR_BYTES


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
    counters: dict[str, float | int | str | None] = field(default_factory=dict)

    def invalid_reason(self) -> str | None:
        """Why this measurement does not count, or None; the rule of an exact counter."""
        if self.observed_route == "unknown" or self.device_bytes is None or not self.delivered_bytes:
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
        if self.read_amplification is None or self.page_cache == "warm" or self.read_amplification <= OVER_READ_LIMIT:
            return None
        return f"{self.engine}: the device read {self.read_amplification:.2f} bytes for each byte of payload"


def counter_for(paths: Iterable[Path]) -> DeviceCounter:
    """Find the leaf block devices under `paths` (files or folders) through dm and md."""
    leaves: set[str] = set()
    for number in sorted({os.stat(path).st_dev for path in paths}):
        name = f"{os.major(number)}:{os.minor(number)}"
        node = Path("/sys/dev/block") / name
        if not node.exists():
            return DeviceCounter(
                (), "none", f"device {name} is anonymous (network, FUSE, overlay or memory file system)"
            )
        leaves |= _leaves(node)
    names = ", ".join(sorted((Path("/sys/dev/block") / leaf).resolve().name for leaf in leaves))
    return DeviceCounter(tuple(sorted(leaves)), "exact", f"sectors read by {names}")


def background_rate(counter: DeviceCounter, *, seconds: float = 0.5) -> float | None:
    """Bytes per second that others read from the same devices, measured while this program reads nothing."""
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
    counter: DeviceCounter,
    *,
    engine: str,
    page_cache: CacheState | None,
    cache_fraction: float | None,
    delivered_bytes: int,
    payload_bytes: int,
    raw_device_bytes: int | None,
    background_bytes: float,
    process_bytes: int | None = None,
) -> RouteEvidence:
    """Turn counters into evidence: leave out what others read, name the route, give the ratio unclipped.

    Where the kernel also counted what these processes alone made the devices read (`process_bytes`), both counters must
    have seen a byte, and nothing is subtracted; else others' reads are taken to go on as just before.
    """
    if raw_device_bytes is not None and process_bytes is not None:
        device: int | None = min(raw_device_bytes, process_bytes)
        background_bytes = 0.0
    else:
        device = None if raw_device_bytes is None else max(0, round(raw_device_bytes - background_bytes))
    doubt = _doubt(counter, device, delivered_bytes, background_bytes, cold=page_cache == "cold" or engine == "direct")
    return RouteEvidence(
        engine=engine,
        page_cache=page_cache,
        requested_route="host",
        observed_route="unknown" if doubt else "host",
        route_evidence=f"route not proven: {doubt}" if doubt else counter.reason,
        counter_class=counter.counter_class,
        cache_fraction=cache_fraction,
        delivered_bytes=delivered_bytes,
        payload_bytes=payload_bytes,
        device_bytes=device,
        read_amplification=device / payload_bytes if device is not None and payload_bytes else None,
        counters={
            "device_bytes_raw": raw_device_bytes,
            "process_bytes": process_bytes,
            "background_bytes": round(background_bytes),
        },
    )


def _doubt(
    counter: DeviceCounter, device: int | None, delivered_bytes: int, background_bytes: float, *, cold: bool
) -> str | None:
    """Why the counter decides nothing, or None.

    What others read is known only from just before.  Where that is more than a trifle, the difference still proves the
    route if it agrees with what was delivered; if it does not agree, it proves nothing either way.
    """
    if counter.counter_class != "exact" or device is None:
        return counter.reason
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


def _sectors_read(stat: Path) -> int:
    return int(stat.read_text().split()[2])


def _leaves(node: Path) -> set[str]:
    slaves = list((node / "slaves").iterdir()) if (node / "slaves").is_dir() else []
    if not slaves:
        return {(node / "dev").read_text().strip()}
    return set().union(*(_leaves(slave.resolve()) for slave in slaves))


def _resident(fraction: float | None) -> str:
    return "residency unknown" if fraction is None else f"{fraction:.1%} was resident before"
