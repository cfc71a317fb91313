"""What is copied: the shards of a local data set, read cold, with what tells one version of a shard from another.

open_source   folder | glob | file -> LocalSource          s3://bucket/prefix | one object -> objects.RemoteSource
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...loaders.discovery import find_image_folder, find_shards
from ...loaders.engines.readers import BufferedReader, DirectReader, Reader, direct_refused
from ...loaders.evidence import RouteEvidence
from ...loaders.formats.tensors import DESCRIPTION_NAME
from ...loaders.remote import RemotePath, is_remote, local_files
from ...results.record import ColdScope
from ..evidence import cold_scope_of
from .place import StagingError, StagingUsageError
from .watch import ColdWatch


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


class LocalSource:
    """Shards in files, read with O_DIRECT where the file system does it, else evicted before and behind the reader."""

    def __init__(self, source: str | Path) -> None:
        self.name = str(source)
        paths = local_files(find_shards(source), user="a folder's copy")
        self.is_set = Path(source).is_dir()
        try:
            self.shards: Sequence[SourceShard] = [_look_at(path) for path in paths]
            self.folder: Path | None = paths[0].parent
            described = self.folder / DESCRIPTION_NAME
            self.description = described.read_bytes() if described.is_file() else None
        except OSError as error:
            raise StagingError(f"{error.filename}: cannot be read ({error.strerror}); see its permissions") from error
        self.cold_scope = cold_scope_of(paths[0])
        self._reader: Reader | None = None
        self._watch: ColdWatch | None = None

    def read(self, shard: SourceShard, offset: int, memory: memoryview) -> memoryview:
        """See Source; the memory is page-aligned and filled in whole pages, past the shard's end too."""
        assert self._reader is not None
        assert isinstance(shard.place, Path)
        need = min(len(memory), shard.size_bytes - offset)
        self._reader.read(shard.place, offset, memory, need=need)
        return memory[:need]

    def require_unchanged(self, shard: SourceShard) -> None:
        """See Source."""
        assert isinstance(shard.place, Path)
        if _look_at(shard.place) != shard:
            raise StagingError(f"{shard.place}: changed while it was copied; stage it again when nobody writes to it")

    def begin(self, shards: Sequence[SourceShard]) -> None:
        """See Source."""
        paths = [shard.place for shard in shards if isinstance(shard.place, Path)]
        try:
            self._reader, self._watch = cold_reader(paths), ColdWatch(paths)
            self._watch.begin()
        except OSError as error:
            raise StagingError(f"{error.filename}: cannot be read ({error.strerror})") from error

    def evidence(self, payload_bytes: int) -> RouteEvidence:
        """See Source; of all that was read since `begin`."""
        assert self._reader is not None
        assert self._watch is not None
        self._watch.end(delivered_bytes=self._reader.delivered_bytes, payload_bytes=payload_bytes)
        return self._watch.evidence(self._reader.engine)

    def close(self) -> None:
        """See Source."""
        if self._reader is not None:
            self._reader.close()


def open_source(source: str | Path) -> Source:
    """The source under a path, a glob, or an address; raises StagingError, or what finding shards raises."""
    if (root := find_image_folder(source)) is not None:
        raise StagingUsageError(
            f"{root}: folders of images, each a file of its own, which are not copied as they are; write shards of "
            f"them with `iobench convert {root} DST --format tfrecord-jpeg`"
        )
    if is_remote(source):
        from .objects import RemoteSource

        return RemoteSource(str(source))
    return LocalSource(source)


def cold_reader(paths: Sequence[Path]) -> Reader:
    """A reader that leaves the page cache out: O_DIRECT where every file system of `paths` does it; raises OSError."""
    one_of_each = {path.stat().st_dev: path for path in paths if path.stat().st_size}
    refused = any(direct_refused(path) for path in one_of_each.values())
    return BufferedReader(evict_behind=True) if refused else DirectReader()


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


def _look_at(path: Path) -> SourceShard:
    status = path.stat()
    return SourceShard(path.name, status.st_size, path, f"mtime {status.st_mtime_ns} ns")
