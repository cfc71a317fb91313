"""Reads with kvikio: into host memory, or into a GPU's.

    host    the loader's KvikioReader          POSIX reads by kvikio's threads, as many as reads are in flight
    gpu     CuFile.pread into CUDA memory      by GPUDirect Storage, or through a bounce buffer where kvikio has none

Which of the two a read into the GPU took is kvikio's own count, by backend; it knows better than any setting.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from ...loaders.destinations.device import Device
from ...loaders.destinations.memory import DeviceBuffer
from ...loaders.engines.kvikio_memory import RegisteredMemory
from ...loaders.engines.kvikio_probe import probe_kvikio
from ...loaders.engines.kvikio_reader import KvikioReader, KvikioUnavailableError
from ...loaders.engines.kvikio_sources import FAILURES, told
from ...loaders.engines.readers import ReadError
from ...loaders.page_cache import evict_range
from .copied import own_gpu
from .ways import HostMemory, HostTargets


def gpu_refused() -> str | None:
    """Why nothing can be read into GPU memory here, or None; says so within two seconds where there is no driver."""
    found = probe_kvikio()
    if found.missing:
        return found.missing
    if found.cuda_error:
        return f"there is no GPU to read into: cuInit answers {found.cuda_error}; use --destination host"
    import torch

    return None if torch.cuda.is_available() else "torch sees no CUDA device; use --destination host"


def _use_threads(count: int) -> None:
    """Have as many threads in kvikio's pool as reads will be in flight; before any of them begins."""
    import kvikio.defaults

    if kvikio.defaults.get("num_threads") < count:
        kvikio.defaults.set("num_threads", count)


class KvikioHostReads:
    """The loader's kvikio reader, into host memory."""

    after = None

    def __init__(self, *, evicts: bool, load: int) -> None:
        self._reader = KvikioReader(evict_behind=evicts)
        self._memory = HostMemory()
        _use_threads(load)

    def handle(self, path: Path) -> tuple[Path, object]:
        """The path itself: the reader keeps its files."""
        return path, None

    def targets(self) -> HostTargets:
        """Host memory."""
        return HostTargets(self._memory)

    def do(self, path: Path, target: list[memoryview], offset: int) -> int:
        """One read; errors are left to `complete`."""
        return self._reader.read(path, offset, target[0], need=0)

    def complete(self, path: Path, offset: int, target: list[memoryview], need: int) -> int:
        """Read again: the reader says what is wrong."""
        return self._reader.read(path, offset, target[0], need=need)

    def counters(self) -> dict[str, int]:
        """What kvikio counted, by backend."""
        return self._reader.counters()

    def close(self) -> None:
        """Close every file."""
        self._reader.close()


class KvikioDeviceReads:
    """kvikio's CuFile into memory of `device`, else of the GPU that torch has chosen."""

    def __init__(self, device: Device | None, *, evicts: bool, load: int, size_bytes: int) -> None:
        import kvikio

        if device is None and (refused := gpu_refused()) is not None:
            raise KvikioUnavailableError(refused)
        self._device = own_gpu() if device is None else device
        _use_threads(load)
        self._size_bytes = size_bytes
        self._kvikio = kvikio
        self._monitor = kvikio.SummaryMonitor()
        self._registered = RegisteredMemory()
        self._files: dict[Path, Any] = {}
        self.after = self._evict if evicts else None

    def handle(self, path: Path) -> tuple[Any, object]:
        """kvikio's open file."""
        if path not in self._files:
            try:
                opened = self._kvikio.CuFile(path)
            except FAILURES as error:
                number, text = told(error, path)
                raise ReadError(number, f"cannot be opened: {text}", str(path)) from error
            self._files.setdefault(path, opened)
        file = self._files[path]
        return file, file

    def targets(self) -> Any:
        """Device memory of one thread, registered with cuFile: a function from a length to a window on it."""
        device, stream = self._device, self._device.new_stream()
        memory = DeviceBuffer(device, device.allocate(self._size_bytes, stream=stream, alone=True))
        self._registered.add(memory, memory.memory)

        def target(length: int) -> Any:
            nonlocal memory
            if length > memory.size_bytes:
                memory = DeviceBuffer(device, device.allocate(length, stream=stream, alone=True))
                self._registered.add(memory, memory.memory)
            return memory.memory[:length]

        return target

    @staticmethod
    def do(file: Any, target: Any, offset: int) -> int:
        """One read, waited for."""
        try:
            return int(file.pread(target, len(target), offset).get())
        except FAILURES as error:
            raise OSError(errno.EIO, str(error)) from error

    def complete(self, path: Path, offset: int, target: Any, need: int) -> int:
        """The aligned superset of a file's end comes up short; anything else is an error."""
        size = path.stat().st_size
        if offset + need > size:
            text = f"the file ends at byte {size}, {offset + need - size} bytes before this read does"
            raise ReadError(errno.EIO, text, str(path))
        try:
            return int(self.handle(path)[0].pread(target[:need], need, offset).get())
        except FAILURES as error:
            number, text = told(error, path)
            raise ReadError(number, f"read of {need} bytes at byte {offset} failed: {text}", str(path)) from error

    def counters(self) -> dict[str, int]:
        """What kvikio counted, by backend, and what memory was registered."""
        totals = self._monitor.get().by_backend
        counted = {
            f"kvikio_{backend.lower()}_bytes": int(each["bytes_transferred"]) for backend, each in totals.items()
        }
        return counted | self._registered.counters()

    def close(self) -> None:
        """Close every file."""
        self._files.clear()

    @staticmethod
    def _evict(file: Any, _target: Any, offset: int, count: int) -> None:
        evict_range(file.fileno(), offset, count)
