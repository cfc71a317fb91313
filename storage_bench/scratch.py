"""A folder of our own below somebody's data, which is gone afterwards, whatever happens to this process.

    this process --- pipe ---> cleaner: a shell that waits for the pipe's end, then removes the folder
         '- ends, is interrupted or killed: the pipe ends with it

Removing a hundred thousand files can take longer than an interrupted command has; the cleaner goes on by itself.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

# Again where a thread that was just being stopped has made one more file.
CLEANING = 'read -r _; for _ in 1 2 3 4 5; do rm -rf -- "$1" && exit 0; sleep 0.2; done; exit 1'
INTERRUPTED_S = 3.0  # what an interrupted command waits for its cleaner
REMOVED_WITHIN_S = 600.0


MEMORY_FOLDER = Path("/dev/shm")


def memory_folder(num_bytes: int) -> Path | None:
    """A folder in memory with room for twice `num_bytes`, to see what a program does by itself; None without one."""
    if not os.access(MEMORY_FOLDER, os.W_OK | os.X_OK) or shutil.disk_usage(MEMORY_FOLDER).free < 2 * num_bytes:
        return None
    return MEMORY_FOLDER


class ScratchError(OSError):
    """The folder cannot be made, or could not be removed."""

    exit_status: ClassVar[int] = 4


class ScratchFolder:
    """`parent`/.iobench-PURPOSE-XXXX from entering to leaving; a dot folder is no data to anybody."""

    def __init__(self, parent: Path, *, purpose: str) -> None:
        self._parent = parent
        self.path = parent.absolute() / f".iobench-{purpose}-{secrets.token_hex(4)}"
        self._cleaner: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if not self._parent.is_dir():
            raise ScratchError(f"{self._parent}: no such folder; name a folder on the storage to be measured")
        self._cleaner = subprocess.Popen(
            ["/bin/sh", "-c", CLEANING, "iobench-cleaner", str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        try:
            self.path.mkdir()
        except OSError as error:
            self._clean(REMOVED_WITHIN_S)
            text = f"{self._parent}: no folder can be made in it ({error.strerror}); name one that can be written"
            raise ScratchError(text) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupted = kind is not None and not issubclass(kind, Exception)
        removed = self._clean(INTERRUPTED_S if interrupted else REMOVED_WITHIN_S)
        if kind is None and (not removed or self.path.exists()):
            raise ScratchError(f"{self.path}: could not be removed; see whether the storage answers, then remove it")

    def _clean(self, limit_s: float) -> bool:
        """Let the cleaner do its work; whether it was done in time."""
        assert self._cleaner is not None
        assert self._cleaner.stdin is not None
        self._cleaner.stdin.close()
        try:
            return self._cleaner.wait(limit_s) == 0
        except subprocess.TimeoutExpired:
            return False
