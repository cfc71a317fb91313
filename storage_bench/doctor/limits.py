"""Limits of the cgroup this process is in: cores, memory, bytes and operations of devices.

    /proc/self/cgroup   0::/a/b             version 2: one tree, cpu.max, memory.max, io.max in each folder
                        4:memory:/a/b       version 1: a tree for each controller, each with files of its own

A limit of any folder on the way up holds, so all are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .finding import text_of

ROOT = Path("/sys/fs/cgroup")
NO_LIMIT_BYTES = 1 << 60  # version 1 writes a huge number where there is none
DEVICE_FILES = ("read_bps_device", "write_bps_device", "read_iops_device", "write_iops_device")


def cgroup_limits(*, groups: str | None = None, root: Path = ROOT) -> list[str]:
    """Every limit that holds for this process, in words; `groups` is the text of /proc/self/cgroup."""
    told = groups if groups is not None else text_of("/proc/self/cgroup") or ""
    found: dict[str, None] = {}
    for line in told.splitlines():
        number, controllers, folder = line.split(":", 2)
        for place in _upwards(folder):
            if number == "0" and not controllers:
                found.update(dict.fromkeys(_of_version_2(root / place)))
                found.update(dict.fromkeys(_of_version_2(root / "unified" / place)))
            for controller in controllers.split(","):
                found.update(dict.fromkeys(_of_version_1(controller, root / controller / place)))
    return list(found)


def _upwards(folder: str) -> Iterator[str]:
    parts = [part for part in folder.split("/") if part]
    for length in range(len(parts), -1, -1):
        yield "/".join(parts[:length])


def _of_version_2(folder: Path) -> Iterator[str]:
    if (quota := text_of(folder / "cpu.max")) and not quota.startswith("max"):
        most, period = quota.split()
        yield f"{int(most) / int(period):g} cores"
    if (limit := text_of(folder / "memory.max")) and limit.isdigit():
        yield f"{int(limit) / 1e9:.1f} GB of memory, page cache included"
    for line in (text_of(folder / "io.max") or "").splitlines():
        device, *limits = line.split()
        if held := [limit for limit in limits if not limit.endswith("=max")]:
            yield f"device {device}: {', '.join(held)}"


def _of_version_1(controller: str, folder: Path) -> Iterator[str]:
    if controller == "cpu":
        quota, period = text_of(folder / "cpu.cfs_quota_us"), text_of(folder / "cpu.cfs_period_us")
        if quota and period and int(quota) > 0:
            yield f"{int(quota) / int(period):g} cores"
    elif controller == "memory":
        limit = text_of(folder / "memory.limit_in_bytes")
        if limit and int(limit) < NO_LIMIT_BYTES:
            yield f"{int(limit) / 1e9:.1f} GB of memory, page cache included"
    elif controller == "blkio":
        for name in DEVICE_FILES:
            for line in (text_of(folder / f"blkio.throttle.{name}") or "").splitlines():
                device, limit = line.split()
                yield f"device {device}: {name.removesuffix('_device')}={limit}"
