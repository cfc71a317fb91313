r"""NFS: what the client has read from the server, of one mount.

    device server:/export mounted on /mnt/nfs with fstype nfs4 statvers=1.1
            bytes:  normal-read normal-written direct-read direct-written SERVER-READ server-written ...
            per-op statistics
                    READ: ops transmissions timeouts bytes-sent BYTES-RECEIVED queue-ms rtt-ms execute-ms errors

The fifth figure of `bytes:` is the payload of READ replies, whoever asked for it: what the page cache answered is not
in it, read-ahead is.  The replies with their headers stand beside it.  Formats: nfs_show_stats() in fs/nfs/super.c
and rpc_clnt_show_stats() in net/sunrpc/stats.c of the kernel, explained in mountstats(8) of nfs-utils.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .counter import Counter, CounterClass, Roots
from .mounts import Mount, unescape

SERVER_READ = 4  # index in `bytes:`
RECEIVED = 4  # index in an operation's row, without its name
READ_OPERATIONS = ("READ:", "READ_PLUS:")


@dataclass(frozen=True)
class NfsCounter:
    """Payload that the server has sent for one mount."""

    point: Path
    source: str
    mountstats: Path
    name: str = "nfs_server_read_bytes"
    counter_class: CounterClass = "exact"
    leaves: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Which server's replies."""
        return f"bytes that {self.source} sent for NFS reads (mountstats)"

    def read_bytes(self) -> int | None:
        """Payload of all READ replies since the mount; None where the kernel shows none for it."""
        rows = [row for row in _rows(self.mountstats, self.point) if row[0] == "bytes:"]
        return int(rows[0][1 + SERVER_READ]) if rows else None


@dataclass(frozen=True)
class NfsReplyCounter:
    """READ replies of one mount with their headers, as the RPC layer received them."""

    point: Path
    mountstats: Path
    name: str = "nfs_read_replies_bytes"
    counter_class: CounterClass = "bounding"
    reason: str = "bytes of NFS READ replies, headers included"
    leaves: tuple[str, ...] = ()

    def read_bytes(self) -> int | None:
        """Bytes of all replies to READ and READ_PLUS; None where the kernel shows none for this mount."""
        rows = [row for row in _rows(self.mountstats, self.point) if row[0] in READ_OPERATIONS]
        return sum(int(row[1 + RECEIVED]) for row in rows) if rows else None


def nfs_counters(mount: Mount, *, roots: Roots = Roots()) -> tuple[Counter, ...]:  # noqa: B008
    """The deciding counter of an NFS mount, and the one beside it."""
    mountstats = roots.proc / "self/mountstats"
    return NfsCounter(mount.point, mount.source, mountstats), NfsReplyCounter(mount.point, mountstats)


def _rows(mountstats: Path, point: Path) -> Iterable[list[str]]:
    """The rows of the mount at `point`, as words; of two mounted there the later one is above."""
    found: list[list[str]] = []
    inside = False
    for line in mountstats.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        words = line.split()
        if line.startswith(("device ", "no device ")):
            at = words.index("mounted") + 2  # ... mounted on POINT with fstype TYPE
            inside = Path(unescape(words[at])) == point and words[at + 3].startswith("nfs")
            found = [] if inside else found
        elif inside and words:
            found.append(words)
    return found
