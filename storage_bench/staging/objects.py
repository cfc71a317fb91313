"""Objects on servers as a source: the shards under an S3 prefix, or one object by its address, read by ranges.

    s3://bucket/prefix      listed by the rule of a data folder, sizes and etags asked for, ranges through obstore
    s3://bucket/a.tfrecord, https://host/a.tfrecord      one object

Every range must be of the version that was listed: the same etag (without one the time of the last change) and size.
An address shown anywhere is shown without user, password and query, which may be credentials.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from ...loaders.discovery import is_shard_name, remote_shards
from ...loaders.evidence import RouteEvidence
from ...loaders.remote import RemotePath
from ...loaders.tensors import DESCRIPTION_NAME
from ...results.record import ColdScope
from .place import StagingError, StagingUsageError
from .source import SourceShard


class Server(Protocol):
    """Where objects are; every call may raise OSError, FileNotFoundError and PermissionError where it is that."""

    engine: str

    def look_at(self, path: RemotePath) -> SourceShard:
        """Size and version of an object."""

    def read(self, shard: SourceShard, offset: int, memory: memoryview) -> memoryview:
        """A range of an object, in `memory` or elsewhere; raises StagingError where the version is another one."""

    def read_whole(self, path: RemotePath) -> bytes:
        """A small object."""


class RemoteSource:
    """Objects as a Source; see there."""

    folder: Path | None = None
    cold_scope: ColdScope = "client"

    def __init__(self, url: str, *, streams: int) -> None:
        self.name = public_address(url)
        self._server = _server_of(url)
        self._lock = threading.Lock()
        self._delivered = self._requests = 0
        try:
            objects, self.is_set = self._objects(url)
            with ThreadPoolExecutor(streams) as pool:
                self.shards: Sequence[SourceShard] = list(pool.map(self._server.look_at, objects))
            self.description = self._describe(objects[0])
        except OSError as error:
            raise StagingError(f"{error.filename or self.name}: {error.strerror or error}") from error
        if self.is_set and self.description is not None:
            _check_description(self.description, self.name, self.shards)

    def read(self, shard: SourceShard, offset: int, memory: memoryview) -> memoryview:
        """See Source."""
        need = min(len(memory), shard.size_bytes - offset)
        part = self._server.read(shard, offset, memory[:need])
        with self._lock:
            self._delivered += len(part)
            self._requests += 1
        if len(part) != need:
            raise StagingError(f"{shard.place}: {len(part)} bytes came for {need} from byte {offset}; stage it again")
        return part

    def require_unchanged(self, shard: SourceShard) -> None:
        """Nothing: every range was asked for by its version."""

    def begin(self, shards: Sequence[SourceShard]) -> None:  # noqa: ARG002  # as in Source
        """See Source; nothing on this machine keeps objects."""
        self._delivered = self._requests = 0

    def evidence(self, payload_bytes: int) -> RouteEvidence:
        """See Source; what the client itself counted."""
        return RouteEvidence(
            engine=self._server.engine,
            page_cache="cold",
            requested_route="remote",
            observed_route="remote",
            route_evidence=f"{self._server.engine} received {self._delivered} bytes of objects, by its own count",
            counter_class="client-own",
            cache_fraction=None,
            delivered_bytes=self._delivered,
            payload_bytes=payload_bytes,
            device_bytes=None,
            read_amplification=None,
            counters={"remote_bytes": self._delivered, "remote_requests": self._requests},
        )

    def close(self) -> None:
        """See Source; connections close themselves."""

    def _objects(self, url: str) -> tuple[list[RemotePath], bool]:
        """The objects an address names, and whether it is that of a whole set."""
        path = None if url.endswith("/") or self.name.count("/") < 3 else RemotePath(url)
        if path is not None and path.scheme != "s3":
            return [path], False
        if path is not None and is_shard_name(path.name):
            try:
                self._server.look_at(path)
            except FileNotFoundError:
                pass  # a prefix that is named like a shard
            else:
                return [path], False
        return remote_shards(url), True

    def _describe(self, sample: RemotePath) -> bytes | None:
        """dataset.json beside an object; a server that shows none to us has none for us."""
        if sample.is_presigned or "?" in sample.url:
            return None  # the signature is that of the object alone
        try:
            found = self._server.read_whole(RemotePath(f"{sample.url.rpartition('/')[0]}/{DESCRIPTION_NAME}"))
        except (FileNotFoundError, PermissionError):
            return None
        return found if self.is_set or _is_json(found) else None  # some web servers have a page for every address


def public_address(url: str) -> str:
    """An address without user, password and query; of a prefix too."""
    scheme, _, rest = url.partition("://")
    place, _, key = rest.partition("/")
    key = key if scheme.lower() == "s3" else key.partition("#")[0].partition("?")[0]
    return f"{scheme.lower()}://{place.rpartition('@')[2]}/{key}".rstrip("/")


def _server_of(url: str) -> Server:
    if url.partition("://")[0].lower() == "s3":
        from .s3 import S3Server

        bucket = url.partition("://")[2].partition("/")[0]
        if "@" in bucket:
            raise StagingUsageError(f"{public_address(url)}: an s3 address has no user; set AWS_ACCESS_KEY_ID instead")
        return S3Server(bucket)
    from .http import HttpServer

    return HttpServer()


def _check_description(description: bytes, name: str, shards: Sequence[SourceShard]) -> None:
    """The shards that dataset.json promises must be there, whole, and no others."""
    where = f"{name}/{DESCRIPTION_NAME}"
    try:
        promised = {str(row["name"]): int(row["bytes"]) for row in json.loads(description)["shards"]}
    except (ValueError, KeyError, TypeError) as error:
        raise StagingError(f"{where}: not a data set's description ({error}); generate the data again") from error
    present = {shard.name: shard.size_bytes for shard in shards}
    for shard_name in sorted(promised.keys() | present.keys()):
        there, said = present.get(shard_name), promised.get(shard_name)
        if there != said:
            rule = "is not there" if there is None else f"has {there} bytes"
            wish = "does not name it" if said is None else f"promises {said} bytes"
            raise StagingError(f"{name}/{shard_name}: {rule}, and {DESCRIPTION_NAME} {wish}; upload the set again")


def _is_json(content: bytes) -> bool:
    try:
        parsed: Any = json.loads(content)
    except ValueError:
        return False
    return isinstance(parsed, dict)
