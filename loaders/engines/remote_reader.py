"""The remote engine: byte ranges of objects on a server into host memory, without a GPU or its driver.

    runs of records  --one request for each 8 MiB-->  obstore's memory  --copied once-->  the buffers of the pool

Every answer must be of the object that was seen first: the same size and, where the server has one, the same etag.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from typing import Any

from ..objects import Objects, Piece
from ..remote import ObjectError, RemotePath, ShardPath
from .readers import ReadError

PIECE_BYTES = 8 << 20


class RemoteReader:
    """Reads objects with obstore; may be used from many threads, and pickled.

    Each reader thread waits for one request at a time, so more threads are more requests under way.
    """

    engine = "remote"
    alignment_bytes = 1
    scatters = True

    def __init__(self) -> None:
        self.delivered_bytes = 0
        self._requests = 0
        self._lock = threading.Lock()
        self._objects = Objects()
        self._seen: dict[RemotePath, tuple[int, str]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"delivered": self.delivered_bytes, "requests": self._requests, "seen": self._seen}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]  # locks and connections are this process's own
        self.delivered_bytes, self._requests, self._seen = state["delivered"], state["requests"], state["seen"]

    def read(self, path: ShardPath, offset: int, target: memoryview, *, need: int | None = None) -> int:
        """Fill `target` from `offset` of an object; see Reader."""
        return self.scatter(path, offset, [target], need=need)

    def scatter(self, path: ShardPath, offset: int, targets: Sequence[memoryview], *, need: int | None = None) -> int:
        """Fill `targets` from consecutive bytes of an object; see Reader."""
        if not isinstance(path, RemotePath):
            raise ReadError(errno.EINVAL, "a file, and engine remote reads objects on servers; use auto", str(path))
        wanted = sum(map(len, targets))
        done = 0
        while done < wanted:
            length = min(PIECE_BYTES, wanted - done)
            piece = self._get(path, offset + done, length)
            _copy(piece.content, targets, done)
            done += len(piece.content)
            if len(piece.content) < length:
                break
        if done < (wanted if need is None else need):
            raise ReadError(
                errno.EIO,
                f"the object ends at byte {offset + done}, {(wanted if need is None else need) - done} bytes before "
                f"this read does; it is shorter than when it was indexed: open the data set again",
                str(path),
            )
        return done

    def counters(self) -> dict[str, int]:
        """What came as answers of servers, by this reader's own count, and how many answers those were."""
        return {"obstore_remote_bytes": self.delivered_bytes, "obstore_remote_requests": self._requests}

    def close(self) -> None:
        """Let connections go; what is being read keeps its own."""
        self._objects = Objects()

    def _get(self, path: RemotePath, offset: int, length: int) -> Piece:
        try:
            piece = self._objects.get(path, offset, offset + length)
        except ObjectError as error:
            text = f"read of {length} bytes at byte {offset} failed: {error.strerror}"
            raise ReadError(error.errno, text, str(path)) from None
        with self._lock:
            self.delivered_bytes += len(piece.content)
            self._requests += 1
            seen = self._seen.setdefault(path, (piece.size_bytes, piece.etag))
        if seen != (piece.size_bytes, piece.etag):
            text = "the object has been replaced since it was first read; open the data set again"
            raise ReadError(errno.EIO, text, str(path))
        return piece


def _copy(content: memoryview, targets: Sequence[memoryview], start: int) -> None:
    """Put `content` to where it belongs in `targets`, taken as one, from `start` on."""
    done = 0
    for target in targets:
        if start < len(target) and done < len(content):
            count = min(len(target) - start, len(content) - done)
            target[start : start + count] = content[done : done + count]
            done += count
        start = max(0, start - len(target))
