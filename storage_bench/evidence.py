"""From counters to a record: evidence as ReadPath, with the scope that a cold read can claim."""

from __future__ import annotations

from pathlib import Path

from ..loaders.evidence import RouteEvidence
from ..results.environment import mount_of
from ..results.record import ColdScope, ReadPath

SHARED_FILE_SYSTEMS = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "wekafs", "9p", "fuse")
LOCAL_FILE_SYSTEMS = ("ext4", "ext3", "ext2", "xfs", "btrfs", "f2fs", "zfs")
RESIDENT_LIMIT = 0.02


def read_path(evidence: RouteEvidence, *, cold_scope: ColdScope = "unknown") -> ReadPath:
    """The record's form of `evidence`."""
    return ReadPath(
        engine=evidence.engine,
        requested_route=evidence.requested_route,
        observed_route=evidence.observed_route,
        route_evidence=evidence.route_evidence,
        counter_class=evidence.counter_class,
        page_cache=evidence.page_cache,
        cache_fraction=evidence.cache_fraction,
        cold_scope=cold_scope,
        delivered_bytes=evidence.delivered_bytes,
        payload_bytes=evidence.payload_bytes,
        device_bytes=evidence.device_bytes,
        read_amplification=evidence.read_amplification,
        counters=evidence.counters,
    )


def doubts(evidence: RouteEvidence) -> list[str]:
    """What must be said of a measurement that counts: reads beyond the payload, cold reads of data in memory."""
    found = [text for text in [evidence.warning()] if text]
    resident = evidence.cache_fraction or 0.0
    if evidence.page_cache == "cold" and evidence.observed_route == "unknown" and resident > RESIDENT_LIMIT:
        found.append(
            f"{evidence.engine}: asked for cold reads, but {resident:.0%} of the data was in memory when they began, "
            f"and no counter tells how much came from there"
        )
    return found


def cold_scope_of(path: Path) -> ColdScope:
    """What cold can mean here: on a local disk all the way, on a shared file system only this client's caches.

    Behind a loop device lies a file with a page cache of its own.
    """
    mount = mount_of(path)
    if any(mount.fstype == name or mount.fstype.startswith(f"{name}.") for name in SHARED_FILE_SYSTEMS):
        return "client"
    local = mount.fstype in LOCAL_FILE_SYSTEMS and not Path(mount.source).name.startswith("loop")
    return "end_to_end" if local else "unknown"
