"""File systems over others: where the bytes of an overlay's file really lie, and the disks of a btrfs.

    overlay   rw,lowerdir=/b:/a,upperdir=/c,workdir=/w      a file x is the first of c/x, b/x, a/x that there is
    btrfs     /sys/fs/btrfs/UUID/devices/NAME               links to its disks (Documentation/ABI sysfs-fs-btrfs)

Formats: Documentation/filesystems/overlayfs.rst.  In a container the layers are paths of the host and not to be seen.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from .counter import Roots
from .mounts import Mount


def layers_of(path: Path, mount: Mount) -> list[Path] | None:
    """The folders in which the bytes of `path` (a file, or what is in a folder) on the overlay `mount` can lie.

    None where that cannot be told for certain: layers that are not to be seen from here, or data under another name
    (which the size and times of one file of it show).
    """
    folder = path if path.is_dir() else path.parent
    sample = path if path.is_file() else next((entry for entry in sorted(folder.iterdir()) if entry.is_file()), None)
    inside = mount.root.relative_to("/") / folder.resolve().relative_to(mount.point)
    found = [layer / inside for layer in _layers(mount.settings) if (layer / inside).is_dir()]
    if sample is not None:
        below = next((place / sample.name for place in found if (place / sample.name).exists()), None)
        if below is None or not _is_same(sample, below):
            return None
    return found or None


def btrfs_devices(mount: Mount, *, roots: Roots = Roots()) -> list[str] | None:  # noqa: B008
    """All disks "major:minor" of the btrfs that lies on the mount's source; None where they cannot be found."""
    source = Path(mount.source).resolve().name
    for devices in (roots.sys / "fs/btrfs").glob("*/devices"):
        if (devices / source).exists():
            return [(disk / "dev").read_text().strip() for disk in sorted(devices.iterdir())]
    return None


def _layers(settings: dict[str, str]) -> list[Path]:
    """The upper layer and the lower ones from top to bottom; a colon in a name has a backslash before it."""
    lower = [part for part in re.split(r"(?<!\\):", settings.get("lowerdir", "")) if part]
    names = [name for name in (settings.get("upperdir", ""), *lower) if name]
    return [Path(name.replace("\\:", ":")) for name in names if name.startswith("/")]


def _is_same(seen: Path, below: Path) -> bool:
    """Size, blocks, time and owner are those of the file below; the numbers of inodes need not be."""
    above, real = os.stat(seen), os.stat(below)
    keys = ("st_size", "st_blocks", "st_mtime_ns", "st_mode", "st_uid", "st_gid")
    return all(getattr(above, key) == getattr(real, key) for key in keys)
