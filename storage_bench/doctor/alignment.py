"""What O_DIRECT asks of a file's reads: statx(2) with STATX_DIOALIGN, else reads of falling size are tried.

    struct statx (256 bytes)   0  u32 stx_mask      what of the answer is filled in
                             152  u32 stx_dio_mem_align      of the address; 0: no O_DIRECT on this file
                             156  u32 stx_dio_offset_align   of offset and length

The kernel tells since Linux 6.1, for ext4, xfs, f2fs, btrfs and block devices; other file systems leave the bit unset.
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from ...loaders.buffers import ALIGNMENT_BYTES, Buffer

AT_FDCWD = -100
STATX_DIOALIGN = 0x2000
STATX_BYTES = 256
TRIED_BYTES = (512, 1024, 2048, 4096)

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Alignment:
    """Multiples that offsets and lengths, and addresses, must be of; `told_by` the kernel, or found by a trial."""

    offset_bytes: int
    memory_bytes: int | None
    told_by: str

    @property
    def possible(self) -> bool:
        """Whether the file takes O_DIRECT at all."""
        return self.offset_bytes > 0

    @property
    def fits(self) -> bool:
        """Whether reads that are aligned to 4096 bytes, as ours are, satisfy it."""
        memory = self.memory_bytes or 1
        return self.possible and ALIGNMENT_BYTES % self.offset_bytes == 0 and ALIGNMENT_BYTES % memory == 0

    def __str__(self) -> str:
        memory = "" if self.memory_bytes is None else f", addresses {self.memory_bytes}"
        return f"offsets and lengths multiples of {self.offset_bytes} bytes{memory} ({self.told_by})"


def direct_alignment(path: Path) -> Alignment | None:
    """What O_DIRECT asks of reads of `path`; None where neither the kernel nor a trial tells."""
    return _told(path) or _tried(path)


def _told(path: Path) -> Alignment | None:
    answer = ctypes.create_string_buffer(STATX_BYTES)
    if not hasattr(_libc, "statx"):
        return None
    if _libc.statx(AT_FDCWD, os.fsencode(path), 0, STATX_DIOALIGN, answer) != 0:
        return None
    (mask,) = struct.unpack_from("=I", answer, 0)
    if not mask & STATX_DIOALIGN:
        return None
    memory, offset = struct.unpack_from("=II", answer, 152)
    return Alignment(offset, memory, "says the kernel")


def _tried(path: Path) -> Alignment | None:
    """The smallest length at an offset of its own size that O_DIRECT reads; a file too short for it tells nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError:
        return None
    try:
        size = os.fstat(fd).st_size
        memory = Buffer(ALIGNMENT_BYTES).memory
        for length in TRIED_BYTES:
            if size >= 2 * length and _reads(fd, memory[:length]):
                return Alignment(length, None, "tried")
        return None
    finally:
        os.close(fd)


def _reads(fd: int, memory: memoryview) -> bool:
    try:
        return os.preadv(fd, [memory], len(memory)) > 0
    except OSError:
        return False
