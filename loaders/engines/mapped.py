"""The mmap engine: a batch of one run is a view on the page cache itself, for local files.

    one run of records     file pages --mapped--> view          no read, no copy, no buffer
    several runs           file pages --preadv--> slots of a pool buffer, as the buffered engine does

A data set of at most a quarter of memory stays mapped from epoch to epoch (`kept`), so that its page tables are set up
once; of a larger one each batch has a mapping of its own, which lives as long as somebody looks at the batch, and
memory stays bounded.  Either way writing to a batch changes neither the file nor what a later epoch sees.

Reader threads populate a mapping ahead of the loop (MADV_POPULATE_READ, Linux 5.14): its pages come in and its page
tables are set up there, so that the loop does not fault.  An I/O error or a file cut short then is a ReadError of
that range; a page lost later is SIGBUS, as with every mapping, so a file's size is checked before each epoch.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterable, Sequence
from typing import Any

from ..page_cache import PAGE_BYTES
from ..remote import ShardPath, local_files
from .kept import KeptFiles
from .readers import BufferedReader, ReadError, Request

_MADV_POPULATE_READ = 22
_MAP_NORESERVE = 0x4000
KEPT_RAM_SHARE = 0.25

_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Mapping:
    """A range of a file, mapped: `memory` shows it, and keeps it mapped."""

    __slots__ = ("_address", "_kept", "_offset", "_path", "memory")

    def __init__(
        self, memory: memoryview, address: int, path: ShardPath, offset: int, *, kept: KeptFiles | None = None
    ) -> None:
        self.memory = memory
        self._address = address
        self._path = path
        self._offset = offset
        self._kept = kept

    def populate(self, start: int, length: int) -> int:
        """Bring in `length` bytes from `start` of the mapping; returns `length`.  ReadError where that fails."""
        address = self._address + start
        if self._kept is not None:
            self._kept.look_after()
            if self._kept.is_present(address, length):
                return length
        skew = address % PAGE_BYTES
        if _libc.madvise(address - skew, length + skew, _MADV_POPULATE_READ) != 0:
            number = ctypes.get_errno()
            if number != errno.EINVAL:  # EINVAL: a kernel older than 5.14; the loop then faults page by page
                place = f"reading {length} bytes at byte {self._offset + start} through a mapping failed"
                text = f"{place} ({os.strerror(number)}): an I/O error, or the file was cut short"
                raise ReadError(errno.EIO, text, str(self._path))
            _libc.madvise(address - skew, length + skew, mmap.MADV_WILLNEED)
        return length


class MappedReader(BufferedReader):
    """The buffered reader, which can also map what it would read.

    With `keep` files stay mapped from epoch to epoch where the whole set takes at most a quarter of memory.
    """

    engine = "mmap"

    def __init__(self, *, evict_behind: bool = False, keep: bool = True) -> None:
        super().__init__(evict_behind=evict_behind)
        self._keeps = keep and not evict_behind
        self._kept: dict[int, KeptFiles] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_kept": {}}

    def map(self, path: ShardPath, offset: int, length: int) -> Mapping:
        """A private mapping of `length` bytes of the file from `offset`; raises ReadError where they are not there."""
        file = self.opened(path)  # kept until it is mapped: others may be opened meanwhile, and this one let go
        kept = self._kept.get(os.getpid())
        if kept is not None and (found := kept.view(file.fd, path, offset, length)) is not None:
            memory, address = found
            return Mapping(memory, address, path, offset, kept=kept)
        return _map_range(file.fd, path, offset, length)

    def read_many(self, requests: Iterable[Request]) -> int:
        """Read (path, offset, targets, need) one after the other, from kept pages where there are any."""
        kept = self._kept.get(os.getpid())
        if kept is None or not kept.keeps:
            return super().read_many(requests)
        copied, others = kept.copy(requests, self.opened)
        self.count(copied)
        return copied + super().read_many(others)

    def count(self, num_bytes: int) -> None:
        """Count bytes that were delivered by a mapping."""
        with self._here().lock:
            self.delivered_bytes += num_bytes

    def check_sizes(self, paths: Sequence[ShardPath], sizes: Sequence[int]) -> None:
        """Raise where a file is no longer as long as it was indexed: touching what is gone would be SIGBUS."""
        for path, size in zip(local_files(paths, user="engine mmap"), sizes, strict=True):
            if (found := path.stat().st_size) != size:
                raise _cut(path, 0, size, found)
        if self._keeps and sum(sizes) <= KEPT_RAM_SHARE * os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES:
            self._kept.setdefault(os.getpid(), KeptFiles())

    def close(self) -> None:
        """Close every file and let go of what is kept mapped; batches in the user's hands stay valid."""
        super().close()
        self._kept.pop(os.getpid(), None)


def _map_range(fd: int, path: ShardPath, offset: int, length: int) -> Mapping:
    skew = offset % PAGE_BYTES
    flags, access = mmap.MAP_PRIVATE | _MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
    try:
        pages = mmap.mmap(fd, skew + length, flags=flags, prot=access, offset=offset - skew)
    except ValueError as error:  # the file ends before the range does
        raise _cut(path, offset, length, os.fstat(fd).st_size) from error
    except OSError as error:
        text = f"cannot be mapped ({error.strerror}); use --engine buffered"
        raise ReadError(error.errno, text, str(path)) from error
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages)) + skew
    return Mapping(memoryview(pages)[skew : skew + length], address, path, offset)


def _cut(path: ShardPath, offset: int, need: int, size: int) -> ReadError:
    return ReadError(
        errno.EIO,
        f"the file ends at byte {size}, and {need} bytes from byte {offset} were to be mapped; it is not as long as "
        f"when it was indexed: copy or create it again, then run `iobench index`",
        str(path),
    )
