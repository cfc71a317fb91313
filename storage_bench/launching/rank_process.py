"""A rank's process: forked early, told its slot through a pipe, gone with whoever forked it; and how all of that ends.

Ranks are forked, not started afresh: importing torch takes a second of CPU time, once instead of once per rank.  The
fork comes before there is any thread, and before Horovod is initialised.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import runpy
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
GRACE_S = 0.5
KILLED_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A forked rank that waits for its environment."""

    rank: int
    pid: int
    pipe: int

    def start(self, environment: dict[str, str]) -> None:
        """Let the rank begin, with these variables added to its environment."""
        with open(self.pipe, "w", encoding="utf-8") as pipe:
            json.dump(environment, pipe)


def fork_rank(rank: int, folder: Path, module: str, others: list[Waiting]) -> Waiting:
    """Fork the process of `rank`, which waits for its environment; `others` are the ranks forked before."""
    reading, writing = os.pipe()
    launcher = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        for other in others:
            os.close(other.pipe)
        os.close(writing)
        run_to_exit(lambda: _be_rank(rank, folder, module, reading, launcher))
    os.close(reading)
    return Waiting(rank, pid, writing)


def _be_rank(rank: int, folder: Path, module: str, pipe: int, launcher: int) -> int:
    die_with(launcher, signal.SIGKILL)
    name_process(f"iobench-rank{rank}")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whatever our parent does on it, a rank ends
    log = os.open(folder / f"rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    pid = os.getpid()
    write_json(folder / f"rank-{rank}.pid", {"pid": pid, "host": socket.gethostname(), "start": start_ticks(pid)})
    with open(pipe, encoding="utf-8") as file:
        text = file.read()
    if not text:
        return 1
    os.environ.update(json.loads(text))
    sys.argv = [module, str(folder)]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def run_to_exit(work: Any) -> None:
    """Be a forked process: do `work` and exit with its status, whatever happens, without our parent's clean-up."""
    status = 1
    try:
        status = work()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status & 0xFF)


def end_descendants() -> None:
    """End all processes below this one: told first, killed after GRACE_S, and reaped."""
    import psutil

    me = psutil.Process()
    begin = time.monotonic()
    while (below := me.children(recursive=True)) and time.monotonic() < begin + KILLED_WITHIN_S:
        number = signal.SIGTERM if time.monotonic() < begin + GRACE_S else signal.SIGKILL
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        time.sleep(0.01)
        reap(None)


def reap(wanted: int | None) -> int | None:
    """Collect every child that has ended; the exit status of `wanted` if it is among them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == wanted:
                status = os.waitstatus_to_exitcode(ended[1]) & 0xFF
    return status


def die_with(parent: int, signal_number: int) -> None:
    """Get `signal_number` when the process `parent` dies; leave at once if it already has."""
    _prctl(PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:
        os._exit(128 + signal_number)


def name_process(name: str) -> None:
    """Be called `name` (15 characters) in `top` and `ps -o comm`."""
    _prctl(PR_SET_NAME, name.encode())


def adopt_orphans() -> None:
    """Become the parent of whatever our descendants leave behind."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def start_ticks(pid: int) -> int | None:
    """When process `pid` started, in clock ticks since boot; with the pid it names a process for good.  None: gone."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else int(fields[19])


def is_stopped(pid: int) -> bool:
    """Whether process `pid` is stopped by a signal."""
    fields = _stat(pid)
    return fields is not None and fields[0] == "T"


def write_json(path: Path, document: Any) -> None:
    """Write a small file that is seen whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(document), encoding="utf-8")
    temporary.replace(path)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on (proc(5) counts it as the third)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(") ")[2].split()
    except OSError:
        return None


def _prctl(option: int, value: int | bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")
