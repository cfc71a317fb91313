"""Compressed TFRecord files (TensorFlow's GZIP and ZLIB options): read from plain copies in the user's cache.

    data/a.tfrecord.gz --decompressed once--> ~/.cache/iobench/plain/<folder's key>/a.tfrecord.gz.<stamp>.tfrecord

Records inside a compressed stream have no place that could be read by itself.  So each file is decompressed the first
time it is opened, under a temporary name, and kept until its source changes: <stamp> is the source's size and time.
What is read from then on is the copy, and the index's status says so: a measurement is then one of the cache's disk.

Several processes share the work.  The unfinished copy is its own lock: who holds it (flock) writes it, the others take
shards that nobody holds, and wait for the rest at the end.  Where a process dies its lock goes with it, and the next
one begins that copy again.  Objects on a server are not looked at here: whoever walks a compressed one refuses it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, ClassVar, NamedTuple

from ..index_file import cache_folder
from ..locking import locked
from ..remote import RemotePath, ShardPath
from .tfrecord import HEAD_BYTES, masked_crc
from .webdataset import TAR_SUFFIX

_PIECE_BYTES = 4 << 20
_RESERVE_BYTES = 1 << 30  # what is left free on the cache's disk
_EITHER = 47  # zlib's name for: the largest window, and gzip or zlib by what the header says
_ZLIB_STARTS = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")


class CompressedShardError(ValueError):
    """A compressed shard that cannot be made plain: damaged, or no place for the copy."""

    exit_status: ClassVar[int] = 4


def compression(path: Path) -> str | None:
    """ "gzip" or "zlib" by the file's first bytes; None for a plain TFRecord, whose first length has a right crc."""
    with path.open("rb", buffering=0) as file:
        head = file.read(HEAD_BYTES) or b""
    if len(head) == HEAD_BYTES and masked_crc(head[:8]) == int.from_bytes(head[8:], "little"):
        return None
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    return "zlib" if head.startswith(_ZLIB_STARTS) else None


def plain_shards(
    paths: Sequence[ShardPath], *, progress: Callable[[int, int], None] | None = None
) -> tuple[list[ShardPath], str]:
    """The same shards with a plain copy in place of each compressed one, and a sentence on them ("" where none is).

    A set whose first file is plain, and none of which is named .gz, is not looked at further.
    """
    files = [path for path in paths if not isinstance(path, RemotePath)]
    if len(files) < len(paths) or files[0].suffix == TAR_SUFFIX:
        return list(paths), ""
    if compression(files[0]) is None and not any(path.suffix == ".gz" for path in files):
        return list(paths), ""
    kinds = [compression(path) for path in files]
    found = " and ".join(sorted({kind for kind in kinds if kind}))
    if not found:
        return list(paths), ""
    copies = {number: _copy_of(files[number], kind) for number, kind in enumerate(kinds) if kind is not None}
    _make(list(copies.values()), progress)
    plain = [copies[number].copy if number in copies else path for number, path in enumerate(files)]
    folder = next(iter(copies.values())).copy.parent
    return list(plain), f"{len(copies)} of {len(paths)} shards are {found}: read from plain copies in {folder}"


class _Copy(NamedTuple):
    """A compressed file, and where its plain copy is or will be."""

    source: Path
    kind: str
    copy: Path

    @property
    def unfinished(self) -> Path:
        """What it is called while it is written."""
        return self.copy.with_name(f".{self.copy.name}.tmp")


def _copy_of(path: Path, kind: str) -> _Copy:
    status, cache = path.stat(), cache_folder()
    if cache is None:
        raise CompressedShardError(f"{path}: {kind} data, and there is no cache for a plain copy; set XDG_CACHE_HOME")
    key = hashlib.blake2b(os.fsencode(path.parent.resolve()), digest_size=16).hexdigest()
    name = f"{path.name}.{status.st_size}-{status.st_mtime_ns}.tfrecord"
    return _Copy(path, kind, cache / "plain" / key / name)


def _make(copies: Sequence[_Copy], progress: Callable[[int, int], None] | None) -> None:
    """See that every copy is there: first those that nobody is writing, then those that somebody was."""
    left, done = list(copies), 0
    for wait in (False, True):
        busy = []
        for copy in left:
            if copy.copy.is_file() or _make_one(copy, wait=wait):
                done += 1
                if progress is not None:
                    progress(done, len(copies))
            else:
                busy.append(copy)
        left = busy


def _make_one(wanted: _Copy, *, wait: bool) -> bool:
    """Write the copy, or have it written by whoever is at it; False where that is not waited for."""
    path, kind, copy = wanted
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.parent.chmod(0o700)  # who may read the cache need not be who may read the shard
        with locked(wanted.unfinished, wait=wait, doing=f"makes a plain copy of {path}") as fd:
            if fd is None:
                return False
            if not copy.is_file():
                _decompress(wanted, fd)
    except OSError as error:
        raise CompressedShardError(
            f"{path}: {kind} data, and its plain copy {copy} cannot be written ({error.strerror}); decompress it "
            f"yourself, or set XDG_CACHE_HOME to a folder with room"
        ) from error
    for other in copy.parent.glob("*.tfrecord"):  # copies of what this file was before
        if other != copy and other.name.startswith(f"{path.name}.") and _stamp_of(other, path):
            other.unlink(missing_ok=True)
    return True


def _stamp_of(copy: Path, source: Path) -> bool:
    """Whether `copy` is named as a copy of `source` is."""
    middle = copy.name[len(source.name) + 1 : -len(".tfrecord")]
    return middle.replace("-", "").isdigit()


def _decompress(wanted: _Copy, fd: int) -> None:
    """Fill the unfinished copy, open as `fd`, and give it its name."""
    path, kind, copy = wanted
    os.ftruncate(fd, 0)
    with open(fd, "wb", closefd=False) as target, path.open("rb", buffering=0) as source:
        for number, piece in enumerate(_pieces(source, path, kind)):
            if number == 0:
                _check_start(piece, path, kind)
            _check_room(copy.parent, path, kind)
            target.write(piece)
        target.flush()
        os.fsync(fd)
    wanted.unfinished.rename(copy)


def _pieces(source: BinaryIO, path: Path, kind: str) -> Iterator[bytes]:
    """What the stream holds, in pieces of at most _PIECE_BYTES; streams may follow one another, as gzip allows."""
    engine = zlib.decompressobj(wbits=_EITHER)
    try:
        while data := engine.unconsumed_tail or engine.unused_data or source.read(_PIECE_BYTES):
            if engine.eof:
                engine = zlib.decompressobj(wbits=_EITHER)
            if piece := engine.decompress(data, _PIECE_BYTES):
                yield piece
        if rest := engine.flush():
            yield rest
    except zlib.error as error:
        raise CompressedShardError(f"{path}: damaged {kind} data ({error}); copy or create this shard again") from error
    if not engine.eof:
        raise CompressedShardError(f"{path}: {kind} data that is cut at its end; copy or create this shard again")


def _check_start(piece: bytes, path: Path, kind: str) -> None:
    if len(piece) < HEAD_BYTES or masked_crc(piece[:8]) != int.from_bytes(piece[8:HEAD_BYTES], "little"):
        raise CompressedShardError(
            f"{path}: {kind} data, but no TFRecord shard is in it; take it out of the data folder"
        )


def _check_room(folder: Path, path: Path, kind: str) -> None:
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free < _RESERVE_BYTES + _PIECE_BYTES:
        raise CompressedShardError(
            f"{path}: {kind} data, and its plain copy would leave less than {_RESERVE_BYTES} bytes free in {folder}; "
            f"decompress it elsewhere, or set XDG_CACHE_HOME to a folder with room"
        )
