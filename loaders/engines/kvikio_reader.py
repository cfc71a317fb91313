"""kvikio as a reader: byte ranges of files and of remote objects into host memory, or into a device's.

    file     CuFile.pread      -> kvikio's own threads, POSIX reads  ->  the caller's memory
    object   RemoteFile.pread  -> ranged requests                    ->  the caller's memory

Into a device's memory a file goes by GPUDirect Storage, or in pieces through kvikio's own bounce buffers where there is
none; which of the two is kvikio's count to tell.  Offsets, lengths and addresses are then multiples of 4096: what is
not leaves the direct way.  A device's memory that is an allocation of its own is registered with cuFile, once.
Such a read first waits for all that was given to CUDA's default stream (kvikio's FileHandle::pread,
sync_default_stream, which its Python lets nobody turn off): who has batches read ahead computes on another stream.

What kvikio leaves to its caller is done here and in `kvikio_sources`: a read stops at the end of a file (kvikio raises
there), a handle lives until its reads are done, a server that sends too little is noticed, and a forked child of a
process that has read is refused (it would wait for ever for threads it does not have).

kvikio is imported at the first read: a process may open a data set, fork its workers, and let them read.
"""

from __future__ import annotations

import errno
import functools
import os
import threading
from collections.abc import Sequence
from typing import Any

from ..buffers import ALIGNMENT_BYTES
from ..read_errors import cut_short
from ..remote import RemotePath, ShardPath
from .kvikio_memory import RegisteredMemory
from .kvikio_probe import probe_kvikio
from .kvikio_sources import FAILURES, LocalFile, RemoteObject, Source, told
from .open_files import OpenFiles
from .readers import MAX_OPEN_FILES, ReadError

POOL_THREADS = 8  # how many reads may be under way at once in a process; kvikio's own default is one
_MAX_OPEN = MAX_OPEN_FILES // 2  # kvikio opens each file twice
_THREADS_VARIABLES = ("KVIKIO_NTHREADS", "KVIKIO_NUM_THREADS")
_COUNTED = {"bytes": "bytes_transferred", "ops": "num_ops", "errors": "num_errors"}


class KvikioUnavailableError(ReadError):
    """kvikio cannot be used on this machine; the message says what is missing."""


class KvikioReader:
    """Reads files and remote objects with kvikio; may be used from many threads, and pickled.

    `evict_behind` puts the pages of a file out again behind each read, with readahead off, as BufferedReader does.
    Raises KvikioUnavailableError where kvikio would fail or hang.  `into_device` asks for aligned reads, as those into
    the memory of a device have to be; targets are then windows on it, but may be host memory as well.
    """

    engine = "kvikio"
    scatters = False

    def __init__(self, *, evict_behind: bool = False, into_device: bool = False) -> None:
        found = probe_kvikio()
        if found.missing:
            raise KvikioUnavailableError(found.missing)
        self.delivered_bytes = 0
        self.into_device = into_device
        self.alignment_bytes = ALIGNMENT_BYTES if into_device else 1
        into = "reads into the device's memory" if into_device else "POSIX reads into host memory"
        self.reason = f"asked for; {into}, cuInit answers {found.cuda_error or 'CUDA_SUCCESS'}"
        self._host_only = found.cuda_error is not None
        self._registered = RegisteredMemory()
        self._evict_behind = evict_behind
        self._session: _Session | None = None
        self._starting = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None, "_starting": None, "_registered": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._starting = threading.Lock()
        self._registered = RegisteredMemory()

    def register(self, owner: object, memory: Any) -> None:
        """Register an allocation of a device's memory that will be read into, for as long as `owner` is there."""
        self._here()
        self._registered.add(owner, memory)

    @property
    def registration(self) -> str:
        """What became of registering; empty where nothing was to be registered."""
        return self._registered.words

    def read(self, path: ShardPath, offset: int, target: memoryview, *, need: int | None = None) -> int:
        """Fill `target` from `offset` of a file or an object; see Reader."""
        return self.scatter(path, offset, [target], need=need)

    def scatter(self, path: ShardPath, offset: int, targets: Sequence[memoryview], *, need: int | None = None) -> int:
        """Fill `targets` from consecutive bytes, by one read for each; see Reader."""
        if any(target.readonly for target in targets):
            raise TypeError("the target of a read must be writable; kvikio would write to it all the same")
        need = sum(map(len, targets)) if need is None else need
        session = self._here()
        source, done = session.sources.opened(path, self._open), 0
        for target in targets:
            done += _fill(source, path, offset + done, target)
        with session.sources.lock:
            self.delivered_bytes += done
        if done < need:
            told = cut_short(came_to=offset + done, size_bytes=source.size_bytes(), stop=offset + need)
            raise ReadError(errno.EIO, told, str(path))
        return done

    def size_bytes(self, path: ShardPath) -> int:
        """The size of a file now, of an object when it was first opened; raises ReadError as `read` does."""
        return self._here().sources.opened(path, self._open).size_bytes()

    def counters(self) -> dict[str, int]:
        """What kvikio counted in this process since this reader's first read; empty before it.

        `kvikio_posix_bytes`, `kvikio_gds_ops`, `kvikio_remote_http_errors` and so on, for each of its backends.  Other
        readers in the process are in it too: kvikio tells backends apart, not callers.  A short answer of a server is
        counted in full.
        """
        if self._session is None or _pool_process() != os.getpid():
            return {}
        summary = self._session.monitor.get()
        counted = {
            f"kvikio_{backend.lower()}_{name}": int(totals[key])
            for backend, totals in summary.by_backend.items()
            for name, key in _COUNTED.items()
        }
        others = {f"kvikio_{name}": int(summary.counters[name]) for name in ("http_retries", "remote_size_probes")}
        registered = self._registered.counters() if self.into_device else {}
        return counted | others | registered

    def close(self) -> None:
        """Close every file; one that is being read just now is closed after that read."""
        if self._session is not None and _pool_process() == os.getpid():
            self._session.sources.close()

    def _here(self) -> _Session:
        if (home := _pool_process()) != os.getpid():
            raise ReadError(
                f"process {home} read with kvikio before it forked this one, and a fork takes none of kvikio's threads "
                f"along, so this read would never end; start workers by spawn (multiprocessing_context='spawn'), or "
                f"let nobody read before they have started"
            )
        with self._starting:
            if self._session is None:
                self._session = _Session(host_only=self._host_only)
            return self._session

    def _open(self, path: ShardPath) -> Source:
        return RemoteObject(path) if isinstance(path, RemotePath) else LocalFile(path, evict_behind=self._evict_behind)


@functools.cache
def _pool_process() -> int:
    """The process that kvikio's threads live in: the first that asks.  A forked child inherits the answer only."""
    return os.getpid()


class _Session:
    """What one process has of kvikio for one reader: the monitor that counts, and what is open."""

    def __init__(self, *, host_only: bool) -> None:
        try:
            import kvikio
            import kvikio.defaults
        except (ImportError, OSError) as error:
            raise KvikioUnavailableError(f"kvikio is installed but cannot be imported: {error}") from error
        if host_only:  # without a GPU the other modes start cuFile, which may spin for ever
            kvikio.defaults.set("compat_mode", kvikio.CompatMode.ON)
        if not any(name in os.environ for name in _THREADS_VARIABLES):
            kvikio.defaults.set("num_threads", max(POOL_THREADS, kvikio.defaults.get("num_threads")))
        self.monitor = kvikio.SummaryMonitor()
        self.sources: OpenFiles[Source] = OpenFiles(_MAX_OPEN)


def _fill(source: Source, path: ShardPath, offset: int, target: memoryview) -> int:
    """Fill `target` as far as the source goes; a file cut in the middle of a read is read again up to its new end."""
    size = source.size_bytes()
    while (count := min(len(target), size - offset)) > 0:
        try:
            source.fill(offset, target[:count])
        except ReadError:
            raise
        except FAILURES as error:
            before, size = size, source.size_bytes()
            if size >= before:
                number, text = told(error, path)
                raise ReadError(number, f"read of {count} bytes at byte {offset} failed: {text}", str(path)) from None
        else:
            return count
    return 0
