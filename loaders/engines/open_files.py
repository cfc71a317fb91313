"""What stays open from read to read: a bounded number, of which the one used longest ago is let go."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from ..remote import ShardPath

File = TypeVar("File")


class OpenFile:
    """A file descriptor, closed when its last user lets go: a dropped reader or a forked child leaves none open."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.fd)


class OpenFiles(Generic[File]):
    """At most `most` files or objects that a process has open, and the lock over them.

    What is let go is closed by its last user: where a read is under way on it, after that read.
    """

    def __init__(self, most: int) -> None:
        self.lock = threading.Lock()
        self._most = most
        self._files: OrderedDict[ShardPath, File] = OrderedDict()

    def opened(self, path: ShardPath, open_file: Callable[[ShardPath], File]) -> File:
        """The open file of `path`; `open_file` is called where there is none."""
        with self.lock:
            if path in self._files:
                self._files.move_to_end(path)
                return self._files[path]
        file = open_file(path)  # not under the lock: on a shared file system, or far away, this takes its time
        dropped = []  # nor are these closed under it
        with self.lock:
            file = self._files.setdefault(path, file)
            while len(self._files) > self._most:
                dropped.append(self._files.popitem(last=False))
        return file

    def close(self) -> None:
        """Let all of them go."""
        with self.lock:
            dropped, self._files = self._files, OrderedDict()
        dropped.clear()
