"""Readers: byte ranges of files into memory the caller owns.

`Reader` is the one seam at which engines differ.  Here: `buffered` (through the page cache) and `direct` (O_DIRECT).
A reader may be used from many threads at once; every read releases the interpreter lock.

    direct: offset, length and address are multiples of `alignment_bytes`, so callers read an aligned superset

        file  ...|----4096----|----4096----|----4096----|...
        wanted         [===============]
        read      [-----------superset-----------]          the skew is carried into the view
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Protocol

from ..buffers import ALIGNMENT_BYTES, Buffer
from ..page_cache import evict_range
from ..read_errors import cut_short
from ..remote import RemotePath, ShardPath
from .open_files import OpenFile, OpenFiles

MAX_OPEN_FILES = 256
READ_BYTES = 4 << 20  # several threads then share a batch, and its pages are still in the processor's cache
DIRECT_READ_BYTES = 32 << 20  # the kernel sends a read to the device in many pieces at once: a large one keeps it busy

Request = tuple[ShardPath, int, Sequence[memoryview], int]  # path, offset, targets, bytes that must come


class ReadError(OSError):
    """A read failed, came up short, or is not possible this way on this file system."""

    exit_status: ClassVar[int] = 4


class DirectRefusedError(ReadError):
    """The file system refuses O_DIRECT."""


class Reader(Protocol):
    """Reads byte ranges of files into a caller's memory."""

    @property
    def engine(self) -> str:
        """The engine's name, as records show it."""

    @property
    def alignment_bytes(self) -> int:
        """What offsets, lengths and addresses must be multiples of; 1 where nothing is asked."""

    @property
    def scatters(self) -> bool:
        """Whether one read can go to several places; without it `scatter` is not called."""

    @property
    def delivered_bytes(self) -> int:
        """What all read calls returned so far, aligned supersets included."""

    def read(self, path: ShardPath, offset: int, target: memoryview, *, need: int | None = None) -> int:
        """Fill `target` from `offset`; returns the bytes delivered, at least `need` (default: all of `target`).

        Raises ReadError with file and offset at an I/O error, or where the file ends before `need` bytes.
        """

    def scatter(self, path: ShardPath, offset: int, targets: Sequence[memoryview], *, need: int | None = None) -> int:
        """Fill `targets`, one behind the other, from consecutive bytes; at most 1024 of them.  Else as `read`."""

    def close(self) -> None:
        """Close every file."""


class _FileReader:
    """What both file engines share: a bounded set of open files, and a loop over short reads.

    It can be pickled, and used in a forked child: neither takes files or a lock that a thread may have held along.
    """

    engine = ""
    alignment_bytes = 1
    scatters = True
    _flags = os.O_RDONLY | os.O_CLOEXEC

    def __init__(self) -> None:
        self.delivered_bytes = 0
        self._by_process: dict[int, OpenFiles[OpenFile]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_by_process": {}}

    def read(self, path: ShardPath, offset: int, target: memoryview, *, need: int | None = None) -> int:
        """Fill `target` from `offset` of `path`; see Reader."""
        return self.scatter(path, offset, [target], need=need)

    def scatter(self, path: ShardPath, offset: int, targets: Sequence[memoryview], *, need: int | None = None) -> int:
        """Fill `targets` from `offset` of `path`; see Reader."""
        wanted = sum(map(len, targets))
        need = wanted if need is None else need
        mine = self._here()
        file = mine.opened(path, self._opened)
        done = self._read_fully(file.fd, path, offset, targets, wanted)
        self._after_read(file.fd, offset, done)
        with mine.lock:
            self.delivered_bytes += done
        if done < need:
            told = cut_short(came_to=offset + done, size_bytes=os.fstat(file.fd).st_size, stop=offset + need)
            raise ReadError(errno.EIO, told, str(path))
        return done

    def read_many(self, requests: Iterable[Request]) -> int:
        """Read (path, offset, targets, need) one after the other; returns the bytes delivered.

        For many small reads: files, counter and lock are seen to once, what goes wrong is left to `scatter`.
        """
        mine, last, fd = self._here(), None, -1
        whole = apart = 0
        for path, offset, targets, need in requests:
            if path is not last:
                file, last = mine.opened(path, self._opened), path
                fd = file.fd
            try:
                count = os.preadv(fd, targets, offset)
            except OSError:
                count = -1
            if count >= need:  # more was wanted where an aligned read reaches over the end of the file
                self._after_read(fd, offset, count)
                whole += count
            else:
                apart += self.scatter(path, offset, targets, need=need)
        with mine.lock:
            self.delivered_bytes += whole
        return whole + apart

    def opened(self, path: ShardPath) -> OpenFile:
        """The open file of `path`; its descriptor is open as long as what is returned here is kept."""
        return self._here().opened(path, self._opened)

    def close(self) -> None:
        """Close every file; one that is being read just now is closed after that read."""
        self._here().close()

    def _here(self) -> OpenFiles[OpenFile]:
        process = os.getpid()
        return self._by_process.get(process) or self._by_process.setdefault(process, OpenFiles(MAX_OPEN_FILES))

    def _read_fully(self, fd: int, path: ShardPath, offset: int, targets: Sequence[memoryview], wanted: int) -> int:
        done = 0
        while done < wanted:
            try:
                count = os.preadv(fd, _rest(targets, done) if done else targets, offset + done)
            except OSError as error:
                text = f"read of {wanted - done} bytes at byte {offset + done} failed: {error.strerror}"
                raise ReadError(error.errno, text, str(path)) from error
            end = done + count
            surplus = end % self.alignment_bytes
            if count == 0 or (surplus and offset + end >= os.fstat(fd).st_size):
                return end  # the end of the file
            if count == surplus:
                text = f"read of {wanted - done} bytes at byte {offset + done} brought only {count}"
                raise ReadError(errno.EIO, text, str(path))
            done = end - surplus  # a read cut short at an odd place goes on from the aligned byte before
        return done

    def _after_read(self, fd: int, offset: int, count: int) -> None:
        """Nothing, unless an engine wants the page cache emptied behind it."""

    def _opened(self, path: ShardPath) -> OpenFile:
        return OpenFile(self._open(path))

    def _open(self, path: ShardPath) -> int:
        if isinstance(path, RemotePath):
            text = f"an object on a server, and engine {self.engine} reads files; use auto, remote or kvikio"
            raise ReadError(errno.EINVAL, text, str(path))
        try:
            return os.open(path, self._flags)
        except OSError as error:
            raise ReadError(error.errno, f"cannot be opened: {error.strerror}", str(path)) from error


class BufferedReader(_FileReader):
    """Reads through the page cache; with `evict_behind` the pages just read are put out again (reads stay cold).

    Eviction needs readahead off: readahead fetches what nobody asked for yet, in large folios that reach over the end
    of a read, and the kernel evicts whole folios only, so that much of what was read would stay resident.
    """

    engine = "buffered"

    def __init__(self, *, evict_behind: bool = False, random_access: bool = False) -> None:
        super().__init__()
        self._evict_behind = evict_behind
        self._readahead = not (random_access or evict_behind)

    def _open(self, path: ShardPath) -> int:
        fd = super()._open(path)
        if not self._readahead:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        return fd

    def _after_read(self, fd: int, offset: int, count: int) -> None:
        if self._evict_behind:
            evict_range(fd, offset, count)


class DirectReader(_FileReader):
    """Reads past the page cache with O_DIRECT; offset, length and address are multiples of 4096."""

    engine = "direct"
    alignment_bytes = ALIGNMENT_BYTES
    scatters = False  # every part would have to be aligned
    _flags = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT

    def _open(self, path: ShardPath) -> int:
        try:
            return super()._open(path)
        except ReadError as error:
            if error.errno == errno.EINVAL:
                raise _refused(path) from error
            raise


def read_bytes_of(engine: str) -> int:
    """How long a loader's reads of consecutive records are at most with this engine."""
    return DIRECT_READ_BYTES if engine == DirectReader.engine else READ_BYTES


def read_all(reader: Reader, requests: Iterable[Request]) -> int:
    """Do several reads with any reader; returns the bytes delivered."""
    many: Callable[[Reader, Iterable[Request]], int] | None = getattr(type(reader), "read_many", None)
    wants_each = isinstance(reader, _FileReader) and type(reader).read is not _FileReader.read  # as a subclass may
    if many is not None and not wants_each:
        return many(reader, requests)
    return sum(
        reader.read(path, offset, targets[0], need=need)
        if len(targets) == 1
        else reader.scatter(path, offset, targets, need=need)
        for path, offset, targets, need in requests
    )


def _rest(targets: Sequence[memoryview], done: int) -> list[memoryview]:
    """What is left of `targets` after the first `done` bytes."""
    left = []
    for target in targets:
        if done < len(target):
            left.append(target[done:])
        done = max(0, done - len(target))
    return left


def direct_refused(sample: ShardPath) -> str | None:
    """Why O_DIRECT does not work on `sample`'s file system, or None; one aligned block is really read."""
    reader = DirectReader()
    buffer = Buffer(ALIGNMENT_BYTES)
    try:
        reader.read(sample, 0, buffer.memory, need=1)
    except DirectRefusedError as error:
        return error.strerror
    except ReadError as error:
        if error.errno == errno.EINVAL:
            return f"an aligned O_DIRECT read fails here ({error.strerror})"
        raise
    finally:
        reader.close()
    return None


def _refused(path: ShardPath) -> DirectRefusedError:
    return DirectRefusedError(errno.EINVAL, "the file system refuses O_DIRECT", str(path))
