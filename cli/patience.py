"""Storage that does not answer: the command says so and ends, wherever it is stuck.

    prober    statvfs of every word of the command line, one after another, every INTERVAL_S
    watcher   one of them has not come back within the patience -> StorageSilentError in the main thread
                                                                -> GRACE_S later the process ends by itself
              an interrupt is pending for GRACE_S               -> the process ends by itself

A main thread inside a system call on a dead mount sees no signal: no exception unwinds it, and Ctrl-C does nothing.
Ending the process ends such calls, too, on NFS at once, on FUSE only when the mount answers: it is told before, and the
process is gone as soon as the kernel lets it go.  statvfs asks the server where stat may be answered from a cache.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import ClassVar

from .options import INTERRUPTED

PATIENCE_S = 120.0  # longer than a file server takes to fail over
PATIENCE_NAME = "IOBENCH_PATIENCE_S"
INTERVAL_S = 2.0
GRACE_S = 4.0  # what an interrupted command has for cleaning up before it is ended all the same

End = Callable[[str, str, int], None]  # says a last word, its kind and the exit status, and ends the process


class StorageSilentError(RuntimeError):
    """The storage has not answered for too long."""

    exit_status: ClassVar[int] = 4


class PatienceError(ValueError):
    """The time to wait is no number of seconds."""

    exit_status: ClassVar[int] = 2


def patience_s() -> float:
    """Seconds that storage may stay silent: $IOBENCH_PATIENCE_S, else two minutes."""
    told = os.environ.get(PATIENCE_NAME) or str(PATIENCE_S)
    try:
        seconds = float(told)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise PatienceError(f"{PATIENCE_NAME}={told!r} is no number of seconds above 0; take it away or give one")
    return seconds


def watch(words: Sequence[str], *, end: End) -> None:
    """Watch the file systems of all `words` that are paths, and for signals that the main thread cannot take.

    `end` is called from another thread, where the main thread does not come back; it must not return.
    """
    prober, patience = _Prober([word for word in words if not word.startswith("-")]), patience_s()

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise StorageSilentError(prober.said)

    signal.signal(signal.SIGALRM, give_up)
    threading.Thread(target=prober.run, daemon=True).start()
    threading.Thread(target=_watch, args=(prober, patience, end), daemon=True).start()


class _Prober:
    """Asks one path after another, for ever; `silent_s` tells how long it has waited for the present answer."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._asked: tuple[str, float] | None = None
        self.said = ""

    def run(self) -> None:
        while self._paths:
            for path in self._paths:
                self._asked = path, time.monotonic()
                with suppress(OSError, ValueError):  # no path, or an error: that is an answer
                    os.statvfs(path)
                self._asked = None
            time.sleep(INTERVAL_S)

    def silent_s(self) -> tuple[str, float] | None:
        asked = self._asked
        return None if asked is None else (asked[0], time.monotonic() - asked[1])


def _watch(prober: _Prober, patience: float, end: End) -> None:
    pending_since: float | None = None
    while True:
        time.sleep(min(1.0, patience / 4))
        silent = prober.silent_s()
        if silent is not None and silent[1] > patience:
            _give_up(prober, f"{silent[0]}: its file system has not answered for {patience:g} s", end)
        pending_since = (pending_since or time.monotonic()) if _is_interrupt_pending() else None
        if pending_since is not None and time.monotonic() - pending_since > GRACE_S:
            end("interrupted", "Interrupted", INTERRUPTED)


def _give_up(prober: _Prober, rule: str, end: End) -> None:
    prober.said = f"{rule}; see whether it hangs (df, dmesg), or give it longer with {PATIENCE_NAME}=SECONDS"
    os.kill(os.getpid(), signal.SIGALRM)
    time.sleep(GRACE_S)
    end(prober.said, StorageSilentError.__name__, StorageSilentError.exit_status)


def _is_interrupt_pending() -> bool:
    """Whether SIGINT or SIGTERM waits for the main thread to leave the kernel (proc_pid_status(5))."""
    try:
        text = Path("/proc/self/status").read_text()
        waiting = int(text.partition("\nShdPnd:")[2].split()[0], 16)
    except (OSError, IndexError, ValueError):
        return False
    return any(waiting >> (number - 1) & 1 for number in (signal.SIGINT, signal.SIGTERM))
