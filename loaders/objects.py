"""What there is on a server: objects listed, described and fetched, through obstore (extra `s3`).

    s3://bucket/prefix    list     -> the shards right under it, by the rule of a data folder
    an object's address   HEAD     -> size, etag, time of change: what tells it from a changed one
                          ranges   -> its bytes, each answer held against the object's size

Each question is asked of a store that stays open (object_stores.py).
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from .object_stores import Stores, asked, first_line, way_out
from .remote import ObjectError, RemoteListError, RemotePath, RemotePathError

FETCH_BYTES = 4 << 20
REQUESTS_AT_ONCE = 16

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_Answer = TypeVar("_Answer")


class ObjectStat(NamedTuple):
    """What tells an object from a changed one; `etag` is "" and `mtime_ns` 0 where the server does not say."""

    size_bytes: int
    etag: str
    mtime_ns: int


class Piece(NamedTuple):
    """A range of an object, shorter than asked for only at its end; `size_bytes` and `etag` are the object's."""

    content: memoryview
    size_bytes: int
    etag: str


class Listing(NamedTuple):
    """The sizes of the objects right under a prefix by their keys, and the prefixes below it."""

    sizes: dict[str, int]
    prefixes: list[str]


class Objects:
    """Asks servers for objects; may be used from many threads, and keeps connections open between requests."""

    def __init__(self) -> None:
        self._stores = Stores()

    def stat(self, path: RemotePath) -> ObjectStat:
        """Size, etag and time of change; ObjectError where there is no such object or nobody may see it."""
        place = self._stores.place(path)
        import obstore

        if "?" in path.url and path.scheme != "s3":  # a query may sign a GET, and nothing else
            meta = asked(path, lambda: obstore.get(place.store, place.key, options={"range": (0, 1)}).meta)
        else:
            meta = asked(path, lambda: obstore.head(place.store, place.key))
        since = meta["last_modified"] - _EPOCH
        return ObjectStat(int(meta["size"]), meta["e_tag"] or "", since // timedelta(microseconds=1) * 1000)

    def get(self, path: RemotePath, start: int, stop: int) -> Piece:
        """Bytes `start` to `stop` of an object; ObjectError where it ends before `start` or less comes than it has."""
        place = self._stores.place(path)
        import obstore

        def ask() -> Piece:
            found = obstore.get(place.store, place.key, options={"range": (start, stop)})
            return Piece(memoryview(found.bytes()), int(found.meta["size"]), found.meta["e_tag"] or "")

        piece = asked(path, ask)
        if len(piece.content) != min(stop, piece.size_bytes) - start:
            text = f"{len(piece.content)} bytes came from byte {start} on, not {min(stop, piece.size_bytes) - start}"
            raise ObjectError(errno.EIO, f"{text}, of an object of {piece.size_bytes} bytes; read it again", str(path))
        return piece

    def whole(self, path: RemotePath) -> bytes:
        """All of a small object."""
        place = self._stores.place(path)
        import obstore

        return asked(path, lambda: bytes(obstore.get(place.store, place.key).bytes()))

    def list(self, bucket: str, prefix: str) -> Listing:
        """What is right under an S3 prefix."""
        at = f"s3://{bucket}/{prefix}"
        if not bucket:
            raise RemotePathError(f"{at}: names no bucket; write s3://bucket/prefix")
        store = self._stores.bucket(bucket, at)
        import obstore

        try:
            found = obstore.list_with_delimiter(store, prefix or None)
        except Exception as error:
            text = f"cannot be listed: {first_line(error)}; {way_out(error, bucket)}"
            raise RemoteListError(errno.EIO, text, at) from None
        sizes = {entry["path"]: int(entry["size"]) for entry in found["objects"]}
        return Listing(dict(sorted(sizes.items())), sorted(found["common_prefixes"]))


def stat_objects(paths: Sequence[RemotePath]) -> list[ObjectStat]:
    """What tells each object from a changed one; several servers' answers are awaited at once."""
    objects = Objects()
    return in_parallel(objects.stat, paths)


def list_objects(bucket: str, prefix: str) -> Listing:
    """What is right under an S3 prefix; ObjectError where it cannot be listed."""
    objects = Objects()
    return in_parallel(lambda at: objects.list(bucket, at), [prefix])[0]


def read_beside(path: RemotePath, name: str) -> bytes | None:
    """A small object beside another; None where there is none, or none that is shown to us."""
    try:
        return in_parallel(Objects().whole, [path.sibling(name)])[0]
    except ObjectError as error:
        if error.errno in (errno.ENOENT, errno.EACCES):
            return None
        raise


@contextmanager
def fetched(path: RemotePath, stat: ObjectStat) -> Iterator[int]:
    """A file descriptor of a copy of a whole object, for who walks all of it once; the copy goes with the block."""
    objects = Objects()

    def fetch(offset: int) -> None:
        piece = objects.get(path, offset, min(offset + FETCH_BYTES, stat.size_bytes))
        if (piece.size_bytes, piece.etag) != stat[:2]:
            raise ObjectError(errno.EIO, "has been replaced while it was read; open the data set again", str(path))
        _write_fully(copy.fileno(), piece.content, offset)

    try:
        with tempfile.TemporaryFile(prefix="iobench-") as copy:
            in_parallel(fetch, range(0, stat.size_bytes, FETCH_BYTES))
            yield copy.fileno()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        text = f"no room for a copy of {stat.size_bytes} bytes in {tempfile.gettempdir()}; set TMPDIR to a larger disk"
        raise ObjectError(errno.ENOSPC, text, str(path)) from error


def in_parallel(function: Callable[[Any], _Answer], items: Sequence[Any]) -> list[_Answer]:
    """`function` of each item, several at once; the first error, or an interrupt, leaves out those not yet begun."""
    pool = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="iobench-objects")
    try:
        return [future.result() for future in [pool.submit(function, item) for item in items]]
    finally:
        pool.shutdown(cancel_futures=True)


def _write_fully(fd: int, content: memoryview, offset: int) -> None:
    while content:
        done = os.pwrite(fd, content, offset)
        content, offset = content[done:], offset + done
