"""What kvikio reads from: an open file or a remote object, filled into host memory.

    LocalFile      its size is asked at each read       one pread, which kvikio spreads over its own threads
    RemoteObject   its size is asked once, at opening   one ranged request for each piece of `task_size` bytes

Both raise ReadError where they cannot be opened; `fill` raises what kvikio raises (FAILURES), `told` makes it readable.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any, Protocol

from ..page_cache import evict_range
from ..remote import ANSWERS, RemotePath, ShardPath
from .readers import ReadError

FAILURES = (ArithmeticError, LookupError, OSError, RuntimeError, ValueError)  # what C++ exceptions come as

_PLACE_IN_SOURCE = re.compile(r"[^:\[]*\bat: \S+:\d+: ")
_STATUS = re.compile(r"returned error: (\d{3})")
_UNTOUCHED = 0xA5


class Source(Protocol):
    """An open file or object."""

    def size_bytes(self) -> int:
        """How far it can be read."""

    def fill(self, offset: int, target: memoryview) -> None:
        """Fill all of `target`, which ends no later than the source does."""


class LocalFile:
    """A file of this machine's file systems, through CuFile."""

    def __init__(self, path: Path, *, evict_behind: bool) -> None:
        import kvikio

        try:
            self._handle = kvikio.CuFile(path)
        except FAILURES as error:
            raise _not_opened(path, error) from error
        self._evict_behind = evict_behind
        if evict_behind:
            os.posix_fadvise(self._handle.fileno(), 0, 0, os.POSIX_FADV_RANDOM)

    def size_bytes(self) -> int:
        """The file's size now: it may be cut while it is open."""
        return os.fstat(self._handle.fileno()).st_size

    def fill(self, offset: int, target: memoryview) -> None:
        """Fill all of `target`; with `evict_behind` the pages go out of the page cache again."""
        self._handle.pread(target, len(target), offset).get()
        if self._evict_behind:
            evict_range(self._handle.fileno(), offset, len(target))


class RemoteObject:
    """An object on a server, through RemoteFile."""

    def __init__(self, path: RemotePath) -> None:
        import kvikio.defaults

        try:
            self._handle = _open_remote(path)
        except FAILURES as error:
            number, text = told(error, path)
            raise ReadError(number, f"cannot be opened: {text}", str(path)) from None  # its text may show a signature
        self._path = path
        self._size_bytes = int(self._handle.nbytes())
        self._piece_bytes = int(kvikio.defaults.get("task_size"))

    def size_bytes(self) -> int:
        """The object's size when it was opened."""
        return self._size_bytes

    def fill(self, offset: int, target: memoryview) -> None:
        """Fill all of `target`, and see that each request's last byte came.

        kvikio takes a short answer, as of an object replaced by a smaller one, for a whole one.  Bytes come in order,
        so a last byte that looks as if nobody had written it is asked for alone.
        """
        for start in range(0, len(target), self._piece_bytes):
            piece = target[start : start + self._piece_bytes]
            piece[-1] = _UNTOUCHED
            self._handle.pread(piece, len(piece), offset + start).get()
            if piece[-1] == _UNTOUCHED:
                self._see_last_byte(offset + start + len(piece) - 1)

    def _see_last_byte(self, offset: int) -> None:
        """The server must refuse this byte, or send just the one that looked untouched."""
        last = bytearray([_UNTOUCHED ^ 0xFF])
        self._handle.pread(memoryview(last), 1, offset).get()
        if last[0] != _UNTOUCHED:
            raise ReadError(
                errno.EIO,
                f"byte {offset} did not come, though the object had {self._size_bytes} bytes when it was opened; "
                f"it has been replaced: open the data set again",
                str(self._path),
            )


def told(error: Exception, path: ShardPath) -> tuple[int, str]:
    """An errno, and what kvikio said without places in its source and without credentials."""
    text = _PLACE_IN_SOURCE.sub("", str(error)).strip()
    if isinstance(path, RemotePath):
        if (status := _STATUS.search(text)) and status[1] in ANSWERS:
            return ANSWERS[status[1]]
        text = text.replace(path.url, str(path))
    return errno.EIO, text


def _not_opened(path: Path, error: Exception) -> ReadError:
    """Why a file cannot be opened; kvikio's error carries no number, opening it plainly gives one."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as plain:
        return ReadError(plain.errno, f"cannot be opened: {plain.strerror}", str(path))
    number, text = told(error, path)
    return ReadError(number, f"cannot be opened: {text}", str(path))


def _open_remote(path: RemotePath) -> Any:
    import kvikio

    if path.scheme == "s3" and "AWS_ACCESS_KEY_ID" in os.environ:
        return kvikio.RemoteFile.open_s3_url(path.encoded_s3_url())
    if path.scheme == "s3":
        return kvikio.RemoteFile.open_http(path.anonymous_url())
    if path.is_presigned:
        return kvikio.RemoteFile.open_s3_presigned_url(path.url)
    return kvikio.RemoteFile.open_http(path.url)
