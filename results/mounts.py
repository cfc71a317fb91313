"""Which file system holds a path, and which disks hold the file system.

path -> mount (/proc/self/mountinfo) -> block device -> through partitions, dm and md -> its leaves (/sys)
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SECTOR_BYTES = 512  # the unit of /sys/block/*/size, whatever the device's own sector


class MountError(RuntimeError):
    """No file system is found under a path."""

    exit_status: ClassVar[int] = 4


@dataclass(frozen=True)
class Mount:
    """One mounted file system, as /proc/self/mountinfo has it; `device` is "major:minor"."""

    mount_point: str
    fstype: str
    source: str
    options: tuple[str, ...]
    device: str


def mount_of(path: Path) -> Mount:
    """The file system that holds `path`, symbolic links followed; the path itself need not exist yet.

    FUSE file systems carry their subtype (fuse.glusterfs).  Waits for as long as the file system does not answer.
    """
    return covering(parse_mountinfo(Path("/proc/self/mountinfo").read_text(encoding="utf-8")), Path(path).resolve())


def parse_mountinfo(text: str) -> list[Mount]:
    """The mounts of /proc/self/mountinfo, in its order (proc_pid_mountinfo(5)).

    27 1 254:0 / /mnt rw,relatime [optional fields] - ext4 /dev/vda1 rw,discard
          device  root  point options               fstype source super options
    """
    return [_parse_mount(line) for line in text.splitlines() if " - " in line]


def covering(mounts: Sequence[Mount], path: Path) -> Mount:
    """The mount with the longest mount point that is a parent of `path`; of two at one point the later, upper one."""
    parents = {str(parent) for parent in (path, *path.parents)}
    held_by = [mount for mount in mounts if mount.mount_point in parents]
    if not held_by:
        raise MountError(f"{path}: no file system in /proc/self/mountinfo holds it; give an absolute path")
    return max(reversed(held_by), key=lambda mount: len(mount.mount_point))


def block_devices(mount: Mount, *, sysfs: Path = Path("/sys")) -> list[dict[str, Any]]:
    """The disks that hold a mount: partitions taken back to their disk, dm and md followed to their leaves.

    Empty for file systems that lie on no block device of this machine (NFS, FUSE, tmpfs, overlay).
    """
    number = _device_number(mount)
    if number is None or not (sysfs / "dev/block" / number).exists():
        return []
    disks = dict.fromkeys(_leaves((sysfs / "dev/block" / number).resolve()))
    return [_describe_disk(disk) for disk in disks]


def text_of(path: Path) -> str | None:
    """The stripped text of a small file of /proc or /sys, None where there is none to read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def _parse_mount(line: str) -> Mount:
    before, _, after = line.partition(" - ")
    _, _, device, _, point, options, *_ = before.split(" ")
    fstype, source, super_options = [*after.split(" "), "", ""][:3]
    merged = dict.fromkeys([*options.split(","), *super_options.split(",")])
    return Mount(
        mount_point=_unescape(point),
        fstype=_unescape(fstype),
        source=_unescape(source),
        options=tuple(_unescape(option) for option in merged if option),
        device=device,
    )


def _unescape(text: str) -> str:
    r"""Blanks and the like are written as octal: \040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _device_number(mount: Mount) -> str | None:
    """The mount's own device number or, where that is anonymous (btrfs), the one of its source in /dev."""
    if not mount.device.startswith("0:"):
        return mount.device
    if not mount.source.startswith("/dev/"):
        return None
    try:
        number = os.stat(mount.source).st_rdev
    except OSError:
        return None
    return f"{os.major(number)}:{os.minor(number)}"


def _leaves(device: Path) -> Iterable[Path]:
    """The disks below one device folder of /sys."""
    if (device / "partition").exists():
        device = device.parent
    below = sorted((device / "slaves").iterdir()) if (device / "slaves").is_dir() else []
    for slave in below:
        yield from _leaves(slave.resolve())
    if not below:
        yield device


def _describe_disk(disk: Path) -> dict[str, Any]:
    sectors = text_of(disk / "size")
    rotational = text_of(disk / "queue/rotational")
    scheduler = re.search(r"\[(.+?)\]", text_of(disk / "queue/scheduler") or "")
    return {
        "name": disk.name,
        "model": text_of(disk / "device/model"),
        "size_bytes": None if sectors is None else int(sectors) * SECTOR_BYTES,
        "rotational": None if rotational is None else rotational == "1",
        "scheduler": scheduler[1] if scheduler else text_of(disk / "queue/scheduler"),
    }
