"""The guard: the process between `iobench` and its ranks that sees to it that no rank outlives its run.

    iobench               calls launch_ranks
      | SIGTERM when it dies, however it dies
    guard                 a session of its own, subreaper: whatever its descendants leave behind comes back to it
      | SIGKILL when it dies
    launcher              imports torch and Horovod once, forks the ranks, runs Horovod's launch_gloo
      | SIGKILL when it dies
    rank 0, rank 1, ...   wait in a pipe for the environment that Horovod's launcher made for their slot

Ranks are forked, not started afresh: importing torch takes a second of CPU time, once instead of once per rank.  The
fork comes before there is any thread, and before Horovod is initialised.  No environment is put on a command line.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import runpy
import shlex
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
OTHERS_MAY_TELL_S = 0.05
RENDEZVOUS_BACKLOG = 1024
_WAITED_FOR = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}


def guard(folder: Path, module: str, *, num_ranks: int, parent: int) -> int:
    """Run `module` on ranks until they end, we are told to stop or `parent` dies; leave no process.

    Returns an exit status: 0 if every rank ended with 0.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    name_process("iobench-guard")
    die_with(parent, signal.SIGTERM)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    guard_pid = os.getpid()
    launcher = os.fork()
    if launcher == 0:
        _run_to_exit(lambda: _launch(folder, module, num_ranks, guard_pid))
    status = None
    while status is None and signal.sigwait(_WAITED_FOR) == signal.SIGCHLD:
        status = _reap(launcher)
    end_descendants()
    return 128 + signal.SIGTERM if status is None else status


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
        _reap(None)


def die_with(parent: int, signal_number: int) -> None:
    """Get `signal_number` when the process `parent` dies; leave at once if it already has."""
    _prctl(PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:
        os._exit(128 + signal_number)


def name_process(name: str) -> None:
    """Be called `name` (15 characters) in `top` and `ps -o comm`."""
    _prctl(PR_SET_NAME, name.encode())


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


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A forked rank that waits for its environment."""

    rank: int
    pid: int
    pipe: int

    def start(self, environment: dict[str, str]) -> None:
        with open(self.pipe, "w", encoding="utf-8") as pipe:
            json.dump(environment, pipe)


def _launch(folder: Path, module: str, num_ranks: int, guard_pid: int) -> int:
    _unblock_signals()
    name_process("iobench-launch")
    die_with(guard_pid, signal.SIGKILL)
    if num_ranks > 1:
        import horovod.torch  # noqa: F401  the forked ranks find it imported
    waiting: list[_Waiting] = []
    for rank in range(num_ranks):
        waiting.append(_fork_rank(rank, folder, module, waiting))
    if num_ranks > 1:
        _launch_horovod(folder, waiting)
        return 0
    waiting[0].start({})
    return _wait_for(waiting[0], folder)


def _launch_horovod(folder: Path, waiting: list[_Waiting]) -> None:
    """Horovod's launcher with our way of starting a slot, as horovod.spark and horovod.ray have theirs.

    `horovodrun` first imports torch in a process of its own to see whether Gloo is there, and then starts a shell, a
    Python process and the program for each rank.
    """
    from horovod.runner.common.util.settings import Settings  # type: ignore[attr-defined,unused-ignore]
    from horovod.runner.driver.driver_service import get_local_interfaces
    from horovod.runner.gloo_run import launch_gloo
    from horovod.runner.http.http_server import RendezvousHTTPServer
    from horovod.runner.util.network import get_driver_ip

    def run_slot(command: str, slot: Any, events: Any) -> tuple[int, float]:
        del events  # the guard ends ranks
        words = shlex.split(command)[1:]  # env NAME=value ... PROGRAM
        waiting[slot.rank].start(dict(word.split("=", 1) for word in words[:-1]))
        status = _wait_for(waiting[slot.rank], folder)
        if status != 0:
            time.sleep(OTHERS_MAY_TELL_S)
            os._exit(1)
        return status, time.time()

    # All ranks ask for the addresses of all others at once.  Beyond the 5 connections that socketserver lets wait Linux
    # drops them, and TCP tries again after 1, 3 and 7 s: 9 ranks took 10 s to find each other, and take 1 s this way.
    RendezvousHTTPServer.request_queue_size = RENDEZVOUS_BACKLOG
    settings = Settings(num_proc=len(waiting), hosts=f"localhost:{len(waiting)}", verbose=0)
    interfaces = get_local_interfaces(settings)
    launch_gloo(["rank"], run_slot, settings, interfaces, {}, get_driver_ip(interfaces))


def _fork_rank(rank: int, folder: Path, module: str, others: list[_Waiting]) -> _Waiting:
    reading, writing = os.pipe()
    launcher = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        for other in others:
            os.close(other.pipe)
        os.close(writing)
        _run_to_exit(lambda: _be_rank(rank, folder, module, reading, launcher))
    os.close(reading)
    return _Waiting(rank, pid, writing)


def _be_rank(rank: int, folder: Path, module: str, pipe: int, launcher: int) -> int:
    die_with(launcher, signal.SIGKILL)
    name_process(f"iobench-rank{rank}")
    log = os.open(folder / f"rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
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


def _wait_for(rank: _Waiting, folder: Path) -> int:
    """Wait until a rank ends; anything but a 0 is put on record, with the time."""
    _, waited = os.waitpid(rank.pid, 0)
    status = os.waitstatus_to_exitcode(waited)
    if status != 0:
        write_json(folder / f"rank-{rank.rank}.exit.json", {"status": status, "at": time.monotonic()})
    return status


def _run_to_exit(work: Any) -> None:
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


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WAITED_FOR)


def _reap(wanted: int | None) -> int | None:
    """Collect every child that has ended; the exit status of `wanted` if it is among them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == wanted:
                status = os.waitstatus_to_exitcode(ended[1]) & 0xFF
    return status


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


if __name__ == "__main__":
    sys.exit(guard(Path(sys.argv[1]), sys.argv[2], num_ranks=int(sys.argv[3]), parent=int(sys.argv[4])))
