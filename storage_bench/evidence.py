"""From counters to a record: evidence as ReadPath, with the scope that a cold read can claim."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..loaders.evidence import RouteEvidence
from ..results.mounts import MountError, mount_of
from ..results.record import ColdScope, ReadPath

SHARED_FILE_SYSTEMS = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "wekafs", "9p", "fuse")
LOCAL_FILE_SYSTEMS = ("ext4", "ext3", "ext2", "xfs", "btrfs", "f2fs", "zfs")
RESIDENT_LIMIT = 0.02
PROVEN = "Route proven by counters."


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
        cache_fraction_after=evidence.cache_fraction_after,
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
    if evidence.page_cache == "cold" and evidence.observed_route == "unknown":
        for share, when in ((evidence.cache_fraction, "began"), (evidence.cache_fraction_after, "ended")):
            if (share or 0.0) > RESIDENT_LIMIT:
                found.append(
                    f"{evidence.engine}: asked for cold reads, but {share:.0%} of the data was in memory when they "
                    f"{when}, and no counter tells how much came from there"
                )
    loopback = evidence.counters.get("loopback_received_bytes")
    if (
        evidence.page_cache != "warm"
        and evidence.observed_route != "unknown"
        and _is_most_of(loopback, evidence.device_bytes)
    ):
        found.append(
            f"{evidence.engine}: the bytes came over this machine's own loopback: a server runs here, and what it read "
            f"from which disk or cache is not known"
        )
    return found


def scope_told(path: Path) -> str:
    """A sentence on how cold cold reads of `path` can be, where that is not all the way; else nothing."""
    if cold_scope_of(path) != "client":
        return ""
    mount = mount_of(path)
    return f"Cold for this client only: {mount.fstype} ({mount.source}) may have read from its servers' memory."


def proof_of(paths: Sequence[ReadPath | None]) -> str:
    """How far the route of all of `paths` is proven, as a sentence."""
    if not paths or any(path is None or path.observed_route == "unknown" for path in paths):
        return "Route not proven."
    exact = all(path is not None and path.counter_class == "exact" for path in paths)
    return PROVEN if exact else "Route bounded by counters, not proven."


def _is_most_of(part: float | str | None, whole: int | None) -> bool:
    return isinstance(part, int | float) and whole is not None and part > whole / 2


def cold_scope_of(path: Path) -> ColdScope:
    """What cold can mean here: on a local disk all the way, on a shared file system only this client's caches.

    Behind a loop device lies a file with a page cache of its own.
    """
    try:
        mount = mount_of(path)
    except (OSError, MountError):  # the device is gone, or its mount: what was measured before still counts
        return "unknown"
    if any(mount.fstype == name or mount.fstype.startswith(f"{name}.") for name in SHARED_FILE_SYSTEMS):
        return "client"
    local = mount.fstype in LOCAL_FILE_SYSTEMS and not Path(mount.source).name.startswith("loop")
    return "end_to_end" if local else "unknown"
