"""Block devices: sectors read, through device mapper and md to the leaves.

    st_dev of the data -> /sys/dev/block/MAJ:MIN -> slaves/ -> ... -> leaf/stat: "ios merges SECTORS ticks ..."

Format: Documentation/block/stat.rst of the kernel.  Sectors are of 512 bytes, whatever the device's own are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .counter import CounterClass, Roots

SECTOR_BYTES = 512


@dataclass(frozen=True)
class DeviceCounter:
    """The block devices under a set of files, and how many bytes they have read since boot."""

    leaves: tuple[str, ...]
    counter_class: CounterClass
    reason: str
    name: str = "block_read_bytes"
    sys: Path = Path("/sys")

    def read_bytes(self) -> int | None:
        """Bytes read by all leaves; None where there is no counter, or a device is gone."""
        if not self.leaves:
            return None
        try:
            sectors = [int((self.sys / "dev/block" / leaf / "stat").read_text().split()[2]) for leaf in self.leaves]
        except OSError:
            return None
        return sum(sectors) * SECTOR_BYTES


def device_counter(numbers: Iterable[str], *, doubt: str | None = None, roots: Roots = Roots()) -> DeviceCounter | None:  # noqa: B008
    """The counter of the leaves under devices "major:minor"; None where one of them is no block device.

    `doubt` says why a file system's bytes may be fewer or more than its devices read: then the counter is bounding.
    """
    nodes = [roots.sys / "dev/block" / number for number in numbers]
    if not nodes or not all(node.exists() for node in nodes):
        return None
    leaves = sorted(set().union(*(leaves_of(node) for node in nodes)))
    names = ", ".join(sorted((roots.sys / "dev/block" / leaf).resolve().name for leaf in leaves))
    if doubt is None:
        return DeviceCounter(tuple(leaves), "exact", f"sectors read by {names}", sys=roots.sys)
    return DeviceCounter(tuple(leaves), "bounding", f"sectors read by {names} ({doubt})", sys=roots.sys)


def merged(counters: Sequence[DeviceCounter]) -> DeviceCounter:
    """One counter over the devices of all; bounding if one of them is."""
    if len(set(counters)) == 1:
        return counters[0]
    leaves = sorted({leaf for counter in counters for leaf in counter.leaves})
    weakest = next((counter for counter in counters if counter.counter_class != "exact"), counters[0])
    reasons = dict.fromkeys(counter.reason for counter in counters)
    return replace(weakest, leaves=tuple(leaves), reason="; ".join(reasons))


def leaves_of(node: Path) -> set[str]:
    """The devices "major:minor" under one of /sys/dev/block that have none under them."""
    slaves = list((node / "slaves").iterdir()) if (node / "slaves").is_dir() else []
    if not slaves:
        return {(node / "dev").read_text().strip()}
    return set().union(*(leaves_of(slave.resolve()) for slave in slaves))
