"""Which counters see a set of files: by the mount that holds each of them.

    ext4, xfs ...            sectors of its block devices                                exact
    nfs, lustre              what the server sent for this mount                         exact
    btrfs, squashfs ...      sectors; extents may be compressed                          bounding
    overlay                  as the files below, where they are to be seen
    other network and FUSE   what came in over the network and over loopback             bounding
    tmpfs, 9p, zfs ...       nothing

A network client that passes the kernel by (DPDK, RDMA of its own) is seen by no interface: its route is not proven.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from stat import S_ISDIR

from .block import DeviceCounter, device_counter, merged
from .counter import Counter, CounterSet, NoCounter, Roots, SumCounter
from .layers import btrfs_devices, layers_of
from .lustre import lustre_counters
from .mounts import Mount, mount_of
from .network import loopback_counter, network_counter
from .nfs import nfs_counters
from .nvidia_fs import nvidia_fs_counter

COMPRESSING = ("btrfs", "squashfs", "erofs", "cramfs", "f2fs", "bcachefs", "ntfs", "ntfs3")
NETWORKED = ("cifs", "smb3", "ceph", "beegfs", "gpfs", "afs", "orangefs", "pvfs2", "panfs", "quobyte", "wekafs")
IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs", "proc", "sysfs", "hugetlbfs")


def counter_for(paths: Iterable[Path], *, roots: Roots = Roots()) -> CounterSet:  # noqa: B008
    """All counters that see what is read of `paths` (files or folders); the deciding one is as weak as the weakest.

    Raises OSError where a path is not there.
    """
    places = {(status.st_dev, path if S_ISDIR(status.st_mode) else path.parent): path for path, status in _seen(paths)}
    groups: list[tuple[Counter, ...]] = []
    seen: set[Mount | None] = set()
    for path in places.values():
        mount = mount_of(path, roots=roots)
        if mount not in seen or (mount is not None and mount.fstype == "overlay"):
            groups.append(counters_of_mount(mount, path, roots=roots))
        seen.add(mount)
    return _together(groups, roots)


def counter_for_objects(*, roots: Roots = Roots()) -> CounterSet:  # noqa: B008
    """Nothing decides about objects on a server: they lie on no device here.  Network and loopback stand beside it."""
    ways = (network_counter(roots=roots), loopback_counter(roots=roots))
    decides = NoCounter("objects on a server lie on no device of this machine")
    return CounterSet(decides, tuple(way for way in ways if way.read_bytes() is not None))


def _seen(paths: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    return ((path, os.stat(path)) for path in paths)


def counters_of_mount(mount: Mount | None, path: Path, *, roots: Roots = Roots()) -> tuple[Counter, ...]:  # noqa: B008
    """The deciding counter of a mount, and those beside it."""
    if mount is None:
        return (NoCounter(f"the mount that holds {path.name} is not to be seen from here"),)
    if mount.fstype.startswith("nfs"):
        return nfs_counters(mount, roots=roots)
    if mount.fstype == "overlay":
        return (_below(path, mount, roots),)
    if mount.fstype == "lustre":
        return (*lustre_counters(mount, roots=roots), *_network(mount, roots))
    if mount.fstype in NETWORKED or mount.fstype.startswith("fuse.") or mount.fstype == "fuse" or _is_9p_by_tcp(mount):
        return _network(mount, roots)
    return (_on_this_machine(mount, roots),)


def _is_9p_by_tcp(mount: Mount) -> bool:
    return mount.fstype == "9p" and mount.settings.get("trans") == "tcp"


def _on_this_machine(mount: Mount, roots: Roots) -> Counter:
    if mount.fstype in IN_MEMORY:
        return NoCounter(f"{mount.fstype} is a file system in memory: no device is read")
    if mount.fstype.startswith("fuseblk"):
        return NoCounter("a program (FUSE) reads the block device, and may keep what it has read")
    return _on_devices(mount, roots)


def _on_devices(mount: Mount, roots: Roots) -> Counter:
    numbers = (btrfs_devices(mount, roots=roots) or []) if mount.fstype == "btrfs" else [mount.device]
    found = device_counter(numbers, doubt=_doubt(mount), roots=roots)
    if found is None:
        return NoCounter(f"device {mount.device} is anonymous, and nothing counts what {mount.fstype} reads")
    return found


def _doubt(mount: Mount) -> str | None:
    """Why the sectors read need not be the bytes read, or None."""
    if mount.fstype in COMPRESSING:
        return f"{mount.fstype} may hold the data compressed"
    if mount.settings.get("dax", "never") in ("", "always"):
        return "mounted with dax: reads pass the device's counter by"
    if "rtdev" in mount.settings:
        return "files may lie on the real-time device"
    return None


def _network(mount: Mount, roots: Roots) -> tuple[Counter, ...]:
    """What came over the network, from another machine or from a server on this one."""
    outside, inside = network_counter(roots=roots), loopback_counter(roots=roots)
    together = replace(outside, interfaces=(*outside.interfaces, *inside.interfaces), name="received_bytes")
    if together.read_bytes() is None:
        return (NoCounter(f"device {mount.device} is anonymous ({mount.fstype}), and no network interface counts"),)
    return together, *(way for way in (outside, inside) if way.read_bytes() is not None)


def _below(path: Path, mount: Mount, roots: Roots) -> Counter:
    """The counters of the folders that an overlay's folder really is."""
    folders = layers_of(path, mount)
    mounts = [mount_of(folder, roots=roots) for folder in folders or ()]
    if not folders or any(below is None or below.fstype == "overlay" for below in mounts):
        return NoCounter(f"device {mount.device} is anonymous: an overlay whose layers are not to be seen from here")
    pairs = zip(mounts, folders, strict=True)
    return _sum([counters_of_mount(below, folder, roots=roots)[0] for below, folder in pairs])


def _together(groups: list[tuple[Counter, ...]], roots: Roots) -> CounterSet:
    deciding = _sum([group[0] for group in groups]) if groups else NoCounter("no files")
    beside = [counter for group in groups for counter in group[1:]]
    gds = nvidia_fs_counter(roots=roots)
    if gds.read_bytes() is not None:
        beside.append(gds)
    return CounterSet(deciding, tuple(dict.fromkeys(beside)))


def _sum(counters: list[Counter]) -> Counter:
    """Each counter once, and each block device once: several mounts may share a disk."""
    blocks = [counter for counter in counters if isinstance(counter, DeviceCounter)]
    others = list(dict.fromkeys(counter for counter in counters if not isinstance(counter, DeviceCounter)))
    parts = [*([merged(blocks)] if blocks else []), *others]
    return parts[0] if len(parts) == 1 else SumCounter(tuple(parts))
