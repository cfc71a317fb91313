"""The guard: the process between `iobench` and its ranks that sees to it that no rank outlives its run.

    iobench               calls launch_ranks
      | SIGTERM when it dies, however it dies
    guard                 a session of its own, subreaper: whatever its descendants leave behind comes back to it
      | SIGKILL when it dies
    launcher              imports torch and Horovod once, forks the ranks, runs Horovod's launch_gloo
      | SIGKILL when it dies
    rank 0, rank 1, ...   wait in a pipe for the environment that Horovod's launcher made for their slot

No environment is put on a command line.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

from .rank_process import (
    Waiting,
    adopt_orphans,
    die_with,
    end_descendants,
    fork_rank,
    name_process,
    reap,
    run_to_exit,
    write_json,
)

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
    adopt_orphans()
    guard_pid = os.getpid()
    launcher = os.fork()
    if launcher == 0:
        run_to_exit(lambda: _launch(folder, module, num_ranks, guard_pid))
    status = None
    while status is None and signal.sigwait(_WAITED_FOR) == signal.SIGCHLD:
        status = reap(launcher)
    end_descendants()
    return 128 + signal.SIGTERM if status is None else status


def _launch(folder: Path, module: str, num_ranks: int, guard_pid: int) -> int:
    _unblock_signals()
    name_process("iobench-launch")
    die_with(guard_pid, signal.SIGKILL)
    if num_ranks > 1:
        import horovod.torch  # noqa: F401  the forked ranks find it imported
    waiting: list[Waiting] = []
    for rank in range(num_ranks):
        waiting.append(fork_rank(rank, folder, module, waiting))
    if num_ranks > 1:
        _launch_horovod(folder, waiting)
        return 0
    waiting[0].start({})
    return _wait_for(waiting[0], folder)


def _launch_horovod(folder: Path, waiting: list[Waiting]) -> None:
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


def _wait_for(rank: Waiting, folder: Path) -> int:
    """Wait until a rank ends; anything but a 0 is put on record, with the time."""
    _, waited = os.waitpid(rank.pid, 0)
    status = os.waitstatus_to_exitcode(waited)
    if status != 0:
        write_json(folder / f"rank-{rank.rank}.exit.json", {"status": status, "at": time.monotonic()})
    return status


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WAITED_FOR)


if __name__ == "__main__":
    sys.exit(guard(Path(sys.argv[1]), sys.argv[2], num_ranks=int(sys.argv[3]), parent=int(sys.argv[4])))
