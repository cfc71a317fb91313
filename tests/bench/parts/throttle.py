"""Storage held to a rate: what is measured there must come out as that rate."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


class Throttle:
    """A control group whose processes read from one disk at a rate at most; cgroup v1 or v2."""

    def __init__(self, path: Path, rate_bps: int) -> None:
        number = path.stat().st_dev
        node = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
        if not node.exists():
            raise OSError(f"{path} is on no block device that could be throttled")
        disk = ((node.resolve().parent if (node / "partition").exists() else node) / "dev").read_text().strip()
        v1 = Path("/sys/fs/cgroup/blkio")
        root = v1 if v1.is_dir() else Path("/sys/fs/cgroup")
        self._home = root / _own_group("blkio" if v1.is_dir() else "").lstrip("/")
        self._group = root / f"iobench-bench-{uuid.uuid4().hex[:8]}"
        if not v1.is_dir():
            (root / "cgroup.subtree_control").write_text("+io")
        self._group.mkdir()
        name = "blkio.throttle.read_bps_device" if v1.is_dir() else "io.max"
        (self._group / name).write_text(f"{disk} {rate_bps}" if v1.is_dir() else f"{disk} rbps={rate_bps}")

    def __enter__(self) -> None:
        (self._group / "cgroup.procs").write_text(str(os.getpid()))

    def __exit__(self, *_: object) -> None:
        (self._home / "cgroup.procs").write_text(str(os.getpid()))
        self._group.rmdir()


def _own_group(controller: str) -> str:
    """The path of this process's control group, of a controller of v1 or, without a name, of v2 (cgroups(7))."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return "/"
