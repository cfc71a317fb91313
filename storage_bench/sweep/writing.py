"""Writes: into files of iobench's own below the path, never over anybody's data.

    folder of PATH / .iobench-write-XXXX / one file for each thread        unlinked as soon as they are open: whatever
                                                                           happens, their space comes back by itself
    laid out    written whole once, so that blocks overwrite space that is allocated
    direct      O_DIRECT; counts as written when the device says so (its own cache is not flushed)
    buffered    through the page cache; each thread syncs its file (fdatasync) before it writes a block a second time,
                and all files are synced within the measured time: every byte counted has gone to the device

What is written cannot be compressed, and no 4 KiB page is like another, so that nothing is saved by deduplication.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...loaders.engines.readers import ReadError
from ...results.quantities import amount
from ..workload import Access, DataFile, WorkloadError
from .streams import BATCH_READS, Blocks, ReadRequest
from .ways import HostMemory

SECTOR_BYTES = 512
WORDS_PER_PAGE = 512
SPARE_SHARE = 0.05  # of a file system stays free
LAYOUT_BYTES = 4 << 20


class WriteError(ReadError):
    """A write failed, or there is no room for it."""


@dataclass(frozen=True, slots=True)
class ScratchFile:
    """A file that has no name any more: its name for messages, and two descriptors."""

    path: Path
    size_bytes: int
    buffered: int
    direct: int | None

    def fd(self, engine: str) -> int:
        """The descriptor an engine writes through."""
        if engine != "direct":
            return self.buffered
        if self.direct is None:
            raise WriteError(22, "the file system refuses O_DIRECT; use --engine buffered", str(self.path.parent))
        return self.direct


class ScratchFiles:
    """Files to write into, as many as there are threads at most."""

    def __init__(self, folder: Path, *, num_files: int, file_bytes: int) -> None:
        self.folder = folder
        _require_space(folder, num_files * file_bytes)
        self._place = Path(tempfile.mkdtemp(prefix=".iobench-write-", dir=folder))
        self.files: list[ScratchFile] = []
        try:
            for number in range(num_files):
                self.files.append(_create(self._place / f"{number}.bin", file_bytes))
        except BaseException:
            self.close()
            raise
        with suppress(OSError):  # NFS keeps the files' names until they are closed
            self._place.rmdir()

    def sync(self) -> None:
        """Have everything on the device."""
        for file in self.files:
            os.fdatasync(file.buffered)

    def drop(self) -> None:
        """Put what was written out of the page cache, which else would answer for the device."""
        for file in self.files:
            os.fdatasync(file.buffered)
            os.posix_fadvise(file.buffered, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close the files, which are gone then."""
        for file in self.files:
            _close(file.buffered, file.direct)
        self.files.clear()
        shutil.rmtree(self._place, ignore_errors=True)


@contextmanager
def scratch_files(folder: Path, *, num_files: int, file_bytes: int) -> Iterator[ScratchFiles]:
    """Files below `folder` that are gone afterwards, whatever happens."""
    files = ScratchFiles(folder, num_files=num_files, file_bytes=file_bytes)
    try:
        yield files
    finally:
        files.close()


class WriteSource:
    """The writes of one thread: its own blocks of its stream's file, again and again, in order or shuffled.

    Before it begins again a thread that writes through the page cache syncs what it wrote.
    """

    def __init__(
        self, file: ScratchFile, *, engine: str, access: Access, block_bytes: int, slot: int, depth: int, seed: int
    ) -> None:
        blocks = Blocks([DataFile(file.path, file.size_bytes)], block_bytes)
        self._file = file
        self._syncs = engine != "direct"
        self._numbers = np.arange(slot, blocks.total, depth)
        self._blocks = blocks
        self._random = np.random.Generator(np.random.PCG64DXSM([seed, slot])) if access == "random" else None
        self._at = 0
        self._begin_pass()

    def following(self, batch: Iterator[ReadRequest] | None) -> Iterator[ReadRequest]:  # noqa: ARG002
        """The next blocks; at the end of the file the first ones again."""
        if self._at >= len(self._numbers):
            if self._syncs:
                os.fdatasync(self._file.buffered)
            self._begin_pass()
        numbers = self._numbers[self._at : self._at + BATCH_READS]
        self._at += len(numbers)
        return iter(self._blocks.requests(numbers))

    def _begin_pass(self) -> None:
        self._at = 0
        if self._random is not None:
            self._random.shuffle(self._numbers)


class Writes:
    """pwritev into scratch files."""

    do = staticmethod(os.pwritev)

    def __init__(self, files: Sequence[ScratchFile], *, engine: str) -> None:
        self._fds = {file.path: file.fd(engine) for file in files}
        self._memory = HostMemory()
        self.after = self._change

    def handle(self, path: Path) -> tuple[int, object]:
        """The file's descriptor."""
        return self._fds[path], None

    def targets(self) -> PageStamps:
        """Bytes of one thread."""
        return PageStamps(self._memory)

    def complete(self, path: Path, offset: int, target: list[memoryview], need: int) -> int:
        """Write again what was not written, or say what is wrong."""
        try:
            count = os.pwritev(self._fds[path], target, offset)
        except OSError as error:
            text = f"write of {need} bytes at byte {offset} failed: {error.strerror}"
            raise WriteError(error.errno, text, str(path)) from error
        if count < need:
            raise WriteError(5, f"write of {need} bytes at byte {offset} took only {count}", str(path))
        return count

    def counters(self) -> dict[str, int]:
        """Nothing: the kernel counts."""
        return {}

    def close(self) -> None:
        """Nothing: the files are closed by who made them."""

    @staticmethod
    def _change(_fd: int, target: list[memoryview], _offset: int, _count: int) -> None:
        np.frombuffer(target[0], dtype=np.uint64)[::WORDS_PER_PAGE] += np.uint64(1)


class PageStamps:
    """Random bytes; the first word of each page is changed after each write, so that no page is written twice."""

    def __init__(self, memory: HostMemory) -> None:
        self._shared = memory
        self._made: dict[int, list[memoryview]] = {}

    def __call__(self, length: int) -> list[memoryview]:
        """`length` bytes, as pwritev takes them."""
        if length not in self._made:
            memory = self._shared.take(length)
            memory[:] = np.random.default_rng().bytes(length)
            self._made[length] = [memory]
        return self._made[length]


def written_bytes(leaves: Sequence[str], *, sys: Path = Path("/sys")) -> int | None:
    """Bytes written to block devices "major:minor" since boot; None where there are none, or one does not tell.

    The seventh figure of their stat files, in sectors of 512 bytes (Documentation/block/stat.rst of the kernel).
    """
    if not leaves:
        return None
    try:
        sectors = [int((sys / "dev/block" / leaf / "stat").read_text().split()[6]) for leaf in leaves]
    except (OSError, IndexError):
        return None
    return sum(sectors) * SECTOR_BYTES


def _create(path: Path, size_bytes: int) -> ScratchFile:
    """A laid out file without a name."""
    buffered = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    direct = None
    try:
        with suppress(OSError):
            direct = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_DIRECT)
        path.unlink()
        bytes_ = memoryview(np.random.default_rng().bytes(LAYOUT_BYTES))
        for offset in range(0, size_bytes, LAYOUT_BYTES):
            os.pwrite(buffered, bytes_[: min(LAYOUT_BYTES, size_bytes - offset)], offset)
        os.fdatasync(buffered)
        os.posix_fadvise(buffered, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        _close(buffered, direct)
        raise WriteError(error.errno, f"cannot be written: {error.strerror}", str(path)) from error
    return ScratchFile(path, size_bytes, buffered, direct)


def _close(*fds: int | None) -> None:
    for fd in fds:
        if fd is not None:
            with suppress(OSError):
                os.close(fd)


def _require_space(folder: Path, num_bytes: int) -> None:
    """Raise WorkloadError where files of `num_bytes` would leave less than a twentieth of the file system free."""
    usage = os.statvfs(folder)
    free = usage.f_bavail * usage.f_frsize
    spare = round(SPARE_SHARE * usage.f_blocks * usage.f_frsize)
    if num_bytes > free - spare:
        raise WorkloadError(
            f"{folder}: writes need files of {amount(num_bytes, 'bytes')}, {amount(free, 'bytes')} are free and "
            f"{amount(spare, 'bytes')} stay so; use --set write_bytes=SIZE, or fewer --threads"
        )
