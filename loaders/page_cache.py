"""The page cache: what of a file is resident, and how to put it out.

Residency is asked of the kernel by cachestat(2) (Linux 6.5), else by mincore(2), which since Linux 5.2 tells only the
file's owner or somebody who may write it; where neither answers the result is None, never a guess.

Of a file on an overlay cachestat sees the overlay's own pages, of which there are none: there only mincore is asked.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import Path

from .read_errors import failed, naming

PAGE_BYTES = mmap.PAGESIZE
MANY_FILES = 1024
Progress = Callable[[int, int], None]  # files done, all of them
_CACHESTAT = 451  # the same number on every architecture
_CAP_FOWNER = 3  # linux/capability.h
_MINCORE_WINDOW = 1 << 30
_OVERLAY_MAGIC = 0x794C7630  # OVERLAYFS_SUPER_MAGIC of linux/magic.h
_STATFS_BYTES = 256  # more than struct statfs has anywhere; f_type is its first word

_libc = ctypes.CDLL(None, use_errno=True)


class _CachestatRange(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Cachestat(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("cache", "dirty", "writeback", "evicted", "recently_evicted"))


def resident_bytes(path: Path, *, offset: int = 0, length: int | None = None) -> int | None:
    """Bytes of `path` in the page cache, in whole pages; None where the kernel does not tell."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        length = size - offset if length is None else min(length, size - offset)
        if length <= 0:
            return 0
        pages = None if _is_on_overlay(fd) else _cachestat_pages(fd, offset, length)
        if pages is None:
            pages = _mincore_pages(fd, offset, length)
        return None if pages is None else min(pages * PAGE_BYTES, length)
    finally:
        os.close(fd)


def cache_fraction(paths: Iterable[Path]) -> float | None:
    """The resident share (0..1) of all bytes of `paths`; None where the kernel does not tell for any of them."""
    total = resident = 0
    for path in paths:
        part = resident_bytes(path)
        if part is None:
            return None
        resident += part
        total += path.stat().st_size
    return resident / total if total else None


def evict(paths: Iterable[Path], *, progress: Progress | None = None) -> None:
    """Put the clean pages of `paths` out of the page cache; dirty ones are written first.

    Writing a file back waits for its disk's own cache, too: of many files whole file systems are written instead.
    `progress` is told how far it is where `paths` has a length.
    """
    many = isinstance(paths, Sized) and len(paths) > MANY_FILES
    written: set[int] = set()
    for path in _counted(paths, progress):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with naming(path):
                if not many:
                    _write_back(fd)
                elif (device := os.fstat(fd).st_dev) not in written:
                    _write_file_system(fd)
                    written.add(device)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def evict_range(fd: int, offset: int, count: int) -> None:
    """Put the pages of a range out of the page cache; those that are only partly in the range, too."""
    skew = offset % PAGE_BYTES
    os.posix_fadvise(fd, offset - skew, -(-(skew + count) // PAGE_BYTES) * PAGE_BYTES, os.POSIX_FADV_DONTNEED)


def _counted(paths: Iterable[Path], progress: Progress | None) -> Iterator[Path]:
    """The paths; each that was done is counted, of many files now and then."""
    if progress is None or not isinstance(paths, Sized):
        yield from paths
        return
    total = len(paths)
    step = max(1, total // MANY_FILES)
    for number, path in enumerate(paths, 1):
        yield path
        if number % step == 0 or number == total:
            progress(number, total)


def _write_back(fd: int) -> None:
    try:
        os.fdatasync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EROFS):  # a read-only file system (squashfs) has nothing to write
            raise


def _write_file_system(fd: int) -> None:
    if _libc.syncfs(fd) != 0 and (number := ctypes.get_errno()) not in (errno.EINVAL, errno.EROFS):
        raise OSError(number, os.strerror(number))


def warm(paths: Iterable[Path], *, block_bytes: int = 8 << 20, progress: Progress | None = None) -> int:
    """Read `paths` once so that their pages are resident; returns the bytes read.  `progress` is as in `evict`."""
    buffer = memoryview(mmap.mmap(-1, block_bytes))
    total = 0
    for path in _counted(paths, progress):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            offset = 0
            while count := _fill(fd, path, buffer, offset):
                offset += count
            total += offset
        finally:
            os.close(fd)
    return total


def _fill(fd: int, path: Path, buffer: memoryview, offset: int) -> int:
    try:
        return os.preadv(fd, [buffer], offset)
    except OSError as error:
        raise OSError(error.errno, failed(len(buffer), offset, error), str(path)) from error


def _is_on_overlay(fd: int) -> bool:
    answer = (ctypes.c_long * (_STATFS_BYTES // ctypes.sizeof(ctypes.c_long)))()
    return _libc.fstatfs(fd, ctypes.byref(answer)) == 0 and answer[0] == _OVERLAY_MAGIC


def _cachestat_pages(fd: int, offset: int, length: int) -> int | None:
    wanted = _CachestatRange(offset, length)
    answer = _Cachestat()
    status = _libc.syscall(_CACHESTAT, fd, ctypes.byref(wanted), ctypes.byref(answer), 0)
    return None if status != 0 else int(answer.cache)


def _mincore_pages(fd: int, offset: int, length: int) -> int | None:
    if not _may_see_residency(fd):
        return None
    start = offset - offset % PAGE_BYTES
    end = offset + length
    pages = 0
    while start < end:
        window = min(_MINCORE_WINDOW, end - start)
        count = _mincore_window(fd, start, window)
        if count is None:
            return None
        pages += count
        start += window
    return pages


def _may_see_residency(fd: int) -> bool:
    """Since Linux 5.2 mincore reports every page of somebody else's file as resident; then it is no answer.

    The kernel asks for the owner, CAP_FOWNER, or permission to write (mm/mincore.c): a container's root may have none.
    """
    owned = os.geteuid() == os.fstat(fd).st_uid
    return owned or _has_capability(_CAP_FOWNER) or os.access(f"/proc/self/fd/{fd}", os.W_OK)


def _has_capability(number: int) -> bool:
    """Whether this process has it in effect, as /proc/self/status tells."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def _mincore_window(fd: int, start: int, window: int) -> int | None:
    # A private writable mapping gives ctypes an address without writing anything to the file.
    with mmap.mmap(fd, window, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE, offset=start) as view:
        num_pages = -(-window // PAGE_BYTES)
        flags = (ctypes.c_ubyte * num_pages)()
        anchor = ctypes.c_char.from_buffer(view)
        try:
            address = ctypes.c_void_p(ctypes.addressof(anchor))
            if _libc.mincore(address, ctypes.c_size_t(window), flags) != 0:
                return None
        finally:
            del anchor
        return sum(flag & 1 for flag in flags)
