"""One shard: cold reads -> digest on the way -> temporary name -> fdatasync -> rename; and its digest read back."""

from __future__ import annotations

import os
from pathlib import Path

import xxhash

from ...loaders.buffers import Buffer
from ...loaders.formats.tensors import DESCRIPTION_NAME
from ...loaders.page_cache import evict
from . import streams as streaming
from .local import cold_reader
from .place import StagingError, temporary_of
from .source import Source, SourceShard
from .streams import Streams


def copy_shard(source: Source, shard: SourceShard, target: Path, *, promised: str | None, streams: Streams) -> str:
    """Copy one shard to the file `target`, durable before it gets its name; returns its digest.

    Raises StagingError where it cannot be read or written, or is not what `promised` says; then nothing of it is left.
    """
    temporary = temporary_of(target)
    try:
        streams.require_going()
        digest = _copy_bytes(source, shard, temporary, streams)
        source.require_unchanged(shard)
        if promised and digest != promised:
            raise StagingError(
                f"{shard.place}: its bytes do not have the digest of {DESCRIPTION_NAME}; generate it again"
            )
        streams.require_going()
        os.replace(temporary, target)
    except OSError as error:
        raise StagingError(
            f"{target}: copying {shard.place} failed ({error.strerror}); make room or name another folder, shards that "
            f"are whole are not copied again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return digest


def digest_of(path: Path, *, streams: Streams) -> str:
    """The digest of a copy, read from its device; raises StagingError where it cannot be read."""
    digest = xxhash.xxh3_128()
    buffer, reader = Buffer(streaming.BLOCK_BYTES), None
    try:
        evict([path])
        reader, size = cold_reader([path]), path.stat().st_size
        for offset in range(0, size, streaming.BLOCK_BYTES):
            streams.require_going()
            need = min(streaming.BLOCK_BYTES, size - offset)
            reader.read(path, offset, buffer.memory, need=need)
            digest.update(buffer.memory[:need])
            streams.count(need)
    except OSError as error:
        raise StagingError(f"{path}: the copy cannot be read back ({error.strerror}); name another folder") from error
    finally:
        if reader is not None:
            reader.close()
    return digest.hexdigest()


def _copy_bytes(source: Source, shard: SourceShard, temporary: Path, streams: Streams) -> str:
    digest = xxhash.xxh3_128()
    buffer = Buffer(streaming.BLOCK_BYTES)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        for offset in range(0, shard.size_bytes, streaming.BLOCK_BYTES):
            streams.require_going()
            with streams.in_flight(min(streaming.BLOCK_BYTES, shard.size_bytes - offset)):
                part = _read(source, shard, offset, buffer.memory)
                digest.update(part)
                _write_fully(fd, part)
            streams.count(len(part))
        os.fdatasync(fd)
    finally:
        os.close(fd)
    return digest.hexdigest()


def _read(source: Source, shard: SourceShard, offset: int, memory: memoryview) -> memoryview:
    try:
        return source.read(shard, offset, memory)
    except OSError as error:
        raise StagingError(
            f"{shard.place}: cannot be read ({error.strerror or error}); shards that are whole are not copied again"
        ) from error


def _write_fully(fd: int, part: memoryview) -> None:
    while part:
        part = part[os.write(fd, part) :]
