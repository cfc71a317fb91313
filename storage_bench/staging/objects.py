"""Objects on servers as a source: the shards under an S3 prefix, or one object by its address, read by ranges.

Every range must be of the object that was listed: of the same size and, where the server has one, the same etag.
Credentials come from the AWS_* variables or the address, and are shown nowhere (`loaders/remote.py`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from ...loaders.discovery import find_shards
from ...loaders.evidence import RouteEvidence
from ...loaders.formats.tensors import DESCRIPTION_NAME
from ...loaders.objects import Objects, in_parallel, read_beside
from ...loaders.remote import RemotePath, shown_address
from ...results.record import ColdScope
from .place import StagingError
from .source import SourceShard

ENGINE = "obstore"


class RemoteSource:
    """Objects as a Source; see there."""

    folder: Path | None = None
    cold_scope: ColdScope = "client"

    def __init__(self, address: str) -> None:
        self.name = shown_address(address).rstrip("/")
        self._objects = Objects()
        self._lock = threading.Lock()
        self._delivered = self._requests = 0
        paths = [path for path in find_shards(address) if isinstance(path, RemotePath)]
        self.is_set = shown_address(address) != str(paths[0])
        self.shards: Sequence[SourceShard] = in_parallel(self._look_at, paths)
        beside = read_beside(paths[0], DESCRIPTION_NAME)
        self.description = beside if beside is not None and (self.is_set or _is_json(beside)) else None

    def read(self, shard: SourceShard, offset: int, memory: memoryview) -> memoryview:
        """See Source; the bytes stay in memory of obstore's."""
        assert isinstance(shard.place, RemotePath)
        need = min(len(memory), shard.size_bytes - offset)
        piece = self._objects.get(shard.place, offset, offset + need)
        with self._lock:
            self._delivered += len(piece.content)
            self._requests += 1
        etag = None if shard.version is None else shard.version.removeprefix("etag ")
        if piece.size_bytes != shard.size_bytes or (piece.etag and _bare(piece.etag) != etag):
            raise _changed(shard)
        return piece.content

    def require_unchanged(self, shard: SourceShard) -> None:
        """See Source; where there is an etag every range was held against it already."""
        assert isinstance(shard.place, RemotePath)
        if not (shard.version or "").startswith("etag ") and self._look_at(shard.place) != shard:
            raise _changed(shard)

    def begin(self, shards: Sequence[SourceShard]) -> None:  # noqa: ARG002  # as in Source
        """See Source; nothing on this machine keeps objects."""
        self._delivered = self._requests = 0

    def evidence(self, payload_bytes: int) -> RouteEvidence:
        """See Source; what the client itself counted."""
        return RouteEvidence(
            engine=ENGINE,
            page_cache="cold",
            requested_route="remote",
            observed_route="remote",
            route_evidence=f"{ENGINE} received {self._delivered} bytes of objects, by this program's count",
            counter_class="client-own",
            cache_fraction=None,
            delivered_bytes=self._delivered,
            payload_bytes=payload_bytes,
            device_bytes=None,
            read_amplification=None,
            counters={f"{ENGINE}_remote_bytes": self._delivered, f"{ENGINE}_remote_requests": self._requests},
        )

    def close(self) -> None:
        """See Source; connections close themselves."""

    def _look_at(self, path: RemotePath) -> SourceShard:
        """Size and version of an object; a presigned address is good for GET alone."""
        if path.is_presigned:
            piece = self._objects.get(path, 0, 1)
            return SourceShard(_name(path), piece.size_bytes, path, _version(piece.etag, 0))
        stat = self._objects.stat(path)
        return SourceShard(_name(path), stat.size_bytes, path, _version(stat.etag, stat.mtime_ns))


def _name(path: RemotePath) -> str:
    return path.name if path.scheme == "s3" else unquote(path.name)


def _version(etag: str, mtime_ns: int) -> str | None:
    return f"etag {_bare(etag)}" if etag else f"changed {mtime_ns} ns" if mtime_ns else None


def _bare(etag: str) -> str:
    return etag.strip('"')


def _changed(shard: SourceShard) -> StagingError:
    return StagingError(f"{shard.place}: changed while it was copied; stage it again when nobody writes to it")


def _is_json(content: bytes) -> bool:
    """Whether this is a description; some web servers have a page for every address."""
    try:
        return isinstance(json.loads(content), dict)
    except ValueError:
        return False
