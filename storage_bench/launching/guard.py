"""The guard: the process between `iobench` and its ranks that sees to it that no rank outlives its run.

    iobench               calls launch_ranks
      | SIGTERM when it dies, however it dies
    guard                 a session of its own, subreaper: whatever its descendants leave behind comes back to it
      | SIGKILL when it dies
    launcher              imports torch and Horovod once, forks the ranks, runs Horovod's launch_gloo
      | SIGKILL when it dies
    rank 0, rank 1, ...   wait in a pipe for the environment that Horovod's launcher made for their slot

With hosts the launcher has an agent on each, which forks the ranks there (remote.py, host_agent.py).

No environment is put on a command line.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from .outcome import LaunchError
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


class Starter(Protocol):
    """What runs ranks: here, or on several hosts."""

    def start(self, rank: int, environment: Mapping[str, str]) -> int:
        """Let `rank` begin in its slot; returns its exit status once it has ended."""


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
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if told["hosts"]:
        return _launch_on_hosts(folder, module, told)
    if num_ranks > 1:
        import horovod.torch  # noqa: F401  the forked ranks find it imported
    waiting: list[Waiting] = []
    for rank in range(num_ranks):
        waiting.append(fork_rank(rank, folder, module, waiting))
    forked = _Forked(folder, waiting)
    if num_ranks > 1:
        _launch_horovod(forked, f"localhost:{num_ranks}", num_ranks)
        return 0
    return forked.start(0, {})


def _launch_on_hosts(folder: Path, module: str, told: dict[str, Any]) -> int:
    """Ranks through the agents of several hosts; what goes wrong with a host is put on record."""
    from .hosts import HostSlots, assign
    from .remote import open_agents, record_host_error

    hosts, count = [HostSlots(name, slots) for name, slots in told["hosts"]], told["num_ranks"]
    try:
        placed = assign(hosts, count)
        ranks, address = open_agents(placed, folder, module, told, ssh=told["ssh"], limit_s=told["limit_s"])
        if count == 1:
            return ranks.start(0, {})
        _launch_horovod(ranks, ",".join(f"{host.name}:{len(theirs)}" for host, theirs in placed), count, address)
    except LaunchError as error:
        record_host_error(folder, error)
        return 1
    return 0


def _launch_horovod(starter: Starter, hosts: str, num_ranks: int, address: str | None = None) -> None:
    """Horovod's launcher with our way of starting a slot, as horovod.spark and horovod.ray have theirs.

    `horovodrun` first imports torch in a process of its own to see whether Gloo is there, and then starts a shell, a
    Python process and the program for each rank; for other hosts it puts the environment on ssh's command line.
    `address` is ours as other hosts see it; an agent finds the interface on its host itself.
    """
    from horovod.runner.common.util.settings import Settings  # type: ignore[attr-defined,unused-ignore]
    from horovod.runner.driver.driver_service import get_local_interfaces
    from horovod.runner.gloo_run import launch_gloo
    from horovod.runner.http.http_server import RendezvousHTTPServer
    from horovod.runner.util.network import get_driver_ip

    def run_slot(command: str, slot: Any, events: Any) -> tuple[int, float]:
        del events  # the guard ends ranks
        words = shlex.split(command)[1:]  # env NAME=value ... PROGRAM
        status = starter.start(slot.rank, dict(word.split("=", 1) for word in words[:-1]))
        if status != 0:
            time.sleep(OTHERS_MAY_TELL_S)
            os._exit(1)
        return status, time.time()

    # All ranks ask for the addresses of all others at once.  Beyond the 5 connections that socketserver lets wait Linux
    # drops them, and TCP tries again after 1, 3 and 7 s: 9 ranks took 10 s to find each other, and take 1 s this way.
    RendezvousHTTPServer.request_queue_size = RENDEZVOUS_BACKLOG
    settings = Settings(num_proc=num_ranks, hosts=hosts, verbose=0)
    interfaces = get_local_interfaces(settings)
    launch_gloo(["rank"], run_slot, settings, interfaces, {}, address or get_driver_ip(interfaces))


class _Forked:
    """Ranks of this host, forked and waiting."""

    def __init__(self, folder: Path, waiting: Sequence[Waiting]) -> None:
        self._folder, self._waiting = folder, waiting

    def start(self, rank: int, environment: Mapping[str, str]) -> int:
        """Let a rank begin and wait until it ends; anything but a 0 is put on record, with the time."""
        self._waiting[rank].start(dict(environment))
        _, waited = os.waitpid(self._waiting[rank].pid, 0)
        status = os.waitstatus_to_exitcode(waited)
        if status != 0:
            write_json(self._folder / f"rank-{rank}.exit.json", {"status": status, "at": time.monotonic()})
        return status


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WAITED_FOR)


if __name__ == "__main__":
    sys.exit(guard(Path(sys.argv[1]), sys.argv[2], num_ranks=int(sys.argv[3]), parent=int(sys.argv[4])))
