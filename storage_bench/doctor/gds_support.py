"""Which file systems NVIDIA's cuFile reads into GPU memory directly, through nvidia-fs or by peer-to-peer DMA.

Sources: the nvidia-fs page of the GPUDirect Storage documentation, "Key Features" (XFS, and ext4 in ordered mode, on
NVMe and NVMe-oF; NFS over RDMA; DDN EXAScaler, WekaFS, VAST, IBM Spectrum Scale, BeeGFS), and what its gdscheck lists
besides (ScaTeFS).  That ext4's mode must stand in the mount table, where it does not stand by default, is the cause of
issue 15 of NVIDIA/gds-nvidia-fs.  Everything else goes through host memory (cuFile's compatibility mode).
"""

from __future__ import annotations

from collections.abc import Sequence

from ...results.mounts import Mount
from .devices import Disk
from .finding import Seen

PARTNERS = {
    "lustre": "Lustre (DDN EXAScaler, FSx)",
    "wekafs": "WekaFS",
    "gpfs": "IBM Spectrum Scale",
    "beegfs": "BeeGFS",
    "scatefs": "ScaTeFS",
}
COMPATIBLE = "cuFile reads it through host memory"


def gds_support(mount: Mount, disks: Sequence[Disk]) -> Seen:
    """Whether cuFile reads files of this mount directly; None where that rests on what the client cannot see."""
    if mount.fstype in ("ext4", "xfs"):
        return _on_disks(mount, disks)
    if mount.fstype in ("nfs", "nfs4"):
        return _over_nfs(mount)
    if mount.fstype in PARTNERS:
        text = f"{PARTNERS[mount.fstype]} is on NVIDIA's list, with its vendor's GDS client over RDMA"
        return Seen(None, text, "see what `gdscheck -p` says of it")
    return Seen(
        False, f"{mount.fstype} is not on NVIDIA's list: {COMPATIBLE}", "ext4 and xfs on NVMe, NFS over RDMA are"
    )


def p2pdma_support(mount: Mount, disks: Sequence[Disk], stack: Sequence[str]) -> Seen:
    """Whether an NVMe disk may send this mount's files to a GPU by itself: one disk alone, neither RAID nor multipath.

    By the "Known Limitations" of the GPUDirect Storage release notes.
    """
    if mount.fstype not in ("ext4", "xfs") or not disks or not all(disk.is_nvme for disk in disks):
        return Seen(False, f"{mount.fstype} not on a local NVMe disk", "put the data on ext4 or xfs on one NVMe disk")
    if len(stack) > 1:
        return Seen(False, f"{' on '.join(stack)}: no RAID, no volumes", "put the data on one NVMe disk, or use gds")
    return Seen(True, f"{mount.fstype} on {disks[0].name}")


def _on_disks(mount: Mount, disks: Sequence[Disk]) -> Seen:
    others = [disk.name for disk in disks if not disk.is_nvme]
    if others or not disks:
        named = ", ".join(others) or "a device that is not shown here"
        return Seen(False, f"{mount.fstype} on {named}, which is no NVMe device: {COMPATIBLE}", "put the data on NVMe")
    if mount.fstype == "xfs":
        return Seen(True, "xfs on NVMe")
    modes = [option for option in mount.options if option.startswith("data=")]
    if modes == ["data=ordered"]:
        return Seen(True, "ext4 with data=ordered on NVMe")
    advice = f"unmount {mount.mount_point} and mount it with -o data=ordered; a remount cannot change that"
    if modes:
        return Seen(False, f"ext4 with {modes[0]}: {COMPATIBLE}", advice)
    return Seen(None, "ext4 on NVMe, but its mode does not stand in the mount table, where cuFile looks for it", advice)


def _over_nfs(mount: Mount) -> Seen:
    if any(option in ("rdma", "proto=rdma") for option in mount.options):
        return Seen(None, "NFS over RDMA is on NVIDIA's list, with MOFED's or VAST's client", "see `gdscheck -p`")
    return Seen(False, f"NFS without RDMA: {COMPATIBLE}", "mount with proto=rdma where server and network have it")
