"""Files as a source: the shards of a local data set, read cold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...loaders.discovery import find_shards
from ...loaders.engines.readers import BufferedReader, DirectReader, Reader, direct_refused
from ...loaders.evidence import RouteEvidence
from ...loaders.formats.tensors import DESCRIPTION_NAME
from ...loaders.remote import local_files
from ..evidence import cold_scope_of
from .place import StagingError
from .source import SourceShard
from .watch import ColdWatch


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
            raise StagingError(f"{error.filename}: cannot be read ({error.strerror}); see its permissions") from error

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


def cold_reader(paths: Sequence[Path]) -> Reader:
    """A reader that leaves the page cache out: O_DIRECT where every file system of `paths` does it; raises OSError."""
    one_of_each = {path.stat().st_dev: path for path in paths if path.stat().st_size}
    refused = any(direct_refused(path) for path in one_of_each.values())
    return BufferedReader(evict_behind=True) if refused else DirectReader()


def _look_at(path: Path) -> SourceShard:
    status = path.stat()
    return SourceShard(path.name, status.st_size, path, f"mtime {status.st_mtime_ns} ns")
