"""What is copied: shards of a data set, with what tells one version of a shard from another.

opening.py   folder | glob | file -> local.LocalSource        s3://bucket/prefix | one object -> objects.RemoteSource
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...loaders.evidence import RouteEvidence
from ...loaders.remote import RemotePath
from ...results.record import ColdScope
from .place import StagingError


@dataclass(frozen=True, slots=True)
class SourceShard:
    """One file or object: its size, and a version that changes when its bytes do (None where nobody tells)."""

    name: str
    size_bytes: int
    place: Path | RemotePath
    version: str | None


class Source(Protocol):
    """Shards that can be read from many threads at once, and the counters of their way."""

    @property
    def name(self) -> str:
        """The source as it was named, without credentials."""

    @property
    def folder(self) -> Path | None:
        """Where the shards lie, if on this machine."""

    @property
    def shards(self) -> Sequence[SourceShard]:
        """What is to be copied, in order."""

    @property
    def description(self) -> bytes | None:
        """The content of dataset.json beside the shards, if there is one."""

    @property
    def is_set(self) -> bool:
        """Whether a whole folder or prefix was named, so that its description is the copy's too."""

    @property
    def cold_scope(self) -> ColdScope:
        """How far reading cold reaches here."""

    def read(self, shard: SourceShard, offset: int, memory: memoryview) -> memoryview:
        """The bytes of `shard` from `offset` on, as many as `memory` holds, there or elsewhere in memory.

        Raises OSError, with the shard's name, where they cannot be read or the shard is not the one listed any more.
        """

    def require_unchanged(self, shard: SourceShard) -> None:
        """Raise StagingError where the shard is another one than when it was listed."""

    def begin(self, shards: Sequence[SourceShard]) -> None:
        """Make the shards cold and take the counters; to be called before the first read."""

    def evidence(self, payload_bytes: int) -> RouteEvidence:
        """Which way the bytes took since `begin`."""

    def close(self) -> None:
        """Close every file and connection."""


def promised_digests(description: bytes | None, where: str) -> dict[str, str]:
    """The digests that dataset.json promises; none where there is no such file."""
    if description is None:
        return {}
    try:
        return {str(row["name"]): str(row["xxh3_128"]) for row in json.loads(description)["shards"]}
    except (ValueError, KeyError, TypeError) as error:
        raise StagingError(
            f"{where}: no digest of every shard ({type(error).__name__}: {error}); generate the data again"
        ) from error
