r"""Lustre: what the object storage targets of one file system have sent to this client.

    osc/scratch-OST0003-osc-ffff9c64a0b2c800/stats    read_bytes   1029 samples [bytes] 4096 1048576 1073762304 ...
    mdc/scratch-MDT0000-mdc-ffff9c64a0b2c800/stats    the same, of files whose beginning lies on a metadata target
    llite/scratch-ffff9c64a0b2c800/stats              read_bytes   1025 samples [bytes] 0 1048576 1073741824
                                                      osc_read     1029 samples [bytes] 4096 1048576 1073762304

The figures are calls, unit, smallest, largest, SUM.  `read_bytes` of llite is what programs asked for, page cache and
all: it proves nothing and only stands beside.  The sum over osc and mdc is what came from the targets; llite of older
releases shows the sum over osc as `osc_read`.  In newer ones these stats lie in debugfs, which only root may read.
Source: LUDOC-220 of the Lustre issue tracker, and llite_opcode_table and ptlrpc_lprocfs_brw() of Lustre.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .counter import Counter, CounterClass, NoCounter, Roots
from .mounts import Mount

PLACES = ("kernel/debug/lustre", "fs/lustre")  # of /sys; /proc has fs/lustre too


@dataclass(frozen=True)
class LustreCounter:
    """One row of several stats files, summed."""

    stats: tuple[Path, ...]
    row: str
    reason: str
    name: str
    counter_class: CounterClass = "exact"
    leaves: tuple[str, ...] = ()

    def read_bytes(self) -> int | None:
        """The sum; a target that has sent nothing yet has no row.  None where a file is gone or may not be read."""
        try:
            return sum(_sum_of(path, self.row) or 0 for path in self.stats)
        except OSError:
            return None


def lustre_counters(mount: Mount, *, roots: Roots = Roots()) -> tuple[Counter, ...]:  # noqa: B008
    """The deciding counter of a Lustre mount (10.0.0.1@o2ib:/scratch), and those beside it."""
    fsname = mount.source.rpartition(":/")[2].split("/")[0]
    llite = _stats_files(roots, "llite", f"{fsname}-*")
    asked = LustreCounter(
        llite, "read_bytes", "bytes that programs asked Lustre for", "lustre_llite_read_bytes", "client-own"
    )
    objects, metadata = (_stats_files(roots, kind, f"{fsname}-*-{kind}-*") for kind in ("osc", "mdc"))
    targets = (*objects, *metadata)
    sent = f"bytes that {len(targets)} targets of Lustre's {fsname} sent (osc, mdc)"
    if objects:
        return LustreCounter(targets, "read_bytes", sent, "lustre_osc_read_bytes"), *([asked] if llite else [])
    if llite and any(_sum_of(path, "osc_read") is not None for path in llite):
        told = f"bytes that the targets of Lustre's {fsname} sent (osc_read of llite)"
        return LustreCounter(llite, "osc_read", told, "lustre_osc_read_bytes"), asked
    why = f"the counters of Lustre's {fsname} (osc stats) are not here or only root may read them"
    return NoCounter(why), *([asked] if llite else [])


def _stats_files(roots: Roots, kind: str, pattern: str) -> tuple[Path, ...]:
    """The readable stats files in the first place that has any."""
    for base in (*(roots.sys / place for place in PLACES), roots.proc / "fs/lustre"):
        found = [path for path in _glob(base / kind, f"{pattern}/stats") if _may_read(path)]
        if found:
            return tuple(sorted(found))
    return ()


def _glob(folder: Path, pattern: str) -> Iterable[Path]:
    try:
        return list(folder.glob(pattern))
    except OSError:  # debugfs shows itself to root only
        return []


def _may_read(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


def _sum_of(path: Path, name: str) -> int | None:
    for line in path.read_text().splitlines():
        words = line.split()
        if words[:1] == [name] and "[bytes]" in words:
            return int(words[words.index("[bytes]") + 3])  # smallest, largest, sum
    return None
