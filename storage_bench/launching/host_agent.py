"""The agent: what starts and watches the ranks of one host, told what to do through its standard input.

    launcher --ssh HOST python -m iobench.storage_bench.launching.host_agent
       | {"ranks": [2, 3], "module": ..., "config": ..., "environment": {...}}
       | {"start": 2, "environment": {...}}              one line each; the end of the input means: end everything
       <- {"ready": {...}}
       <- {"file": "rank-2.result.json", "text": ...}    {"append": "rank-2.log", "text": ...}
       <- {"ended": 2, "status": 0}                      {"problem": ...}

    keeper    owns the scratch folder; removes it when the agent has ended, however it ended
      | SIGTERM when it dies
    agent     reads lines, forks ranks, hands their files over
      | SIGKILL when it dies
    rank 2, rank 3

Nothing is on the command line, and nothing stays on the host: the input ends when the launcher or the network dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ... import __version__
from .rank_process import (
    Waiting,
    adopt_orphans,
    die_with,
    end_descendants,
    fork_rank,
    is_stopped,
    name_process,
    run_to_exit,
    write_json,
)

POLL_S = 0.1  # seldom enough not to be seen beside the ranks
STOPPED_FOR_S = 2.0
APPENDED = (".log", ".jsonl")
LOG_BYTES = 1 << 20


class _LauncherGoneError(Exception):
    """Nobody listens any more."""


def keep() -> int:
    """Run the agent in a scratch folder, and see to it that neither outlives this."""
    name_process("iobench-keeper")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    adopt_orphans()
    folder = Path(tempfile.mkdtemp(prefix="iobench-ranks-"))
    keeper = os.getpid()
    try:
        agent = os.fork()
        if agent == 0:
            run_to_exit(lambda: _Agent(folder, keeper).run())
        status = _wait(agent)
    finally:
        end_descendants()
        shutil.rmtree(folder, ignore_errors=True)
    return status


def _wait(agent: int) -> int:
    """Until the agent ends, or we are told to."""
    waited_for = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    while True:
        ended, status = os.waitpid(agent, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) & 0xFF
        if signal.sigtimedwait(waited_for, POLL_S) is not None:
            return 128 + signal.SIGTERM


class _Agent:
    """The ranks of this host, and the lines to and from the launcher."""

    def __init__(self, folder: Path, keeper: int) -> None:
        self._folder, self._keeper = folder, keeper
        self._input, self._output = b"", os.dup(1)
        os.dup2(2, 1)  # what is printed by mistake must not run into the lines
        self._waiting: dict[int, Waiting] = {}
        self._ended: set[int] = set()
        self._handed: dict[str, int] = {}
        self._stopped: dict[int, float] = {}

    def run(self) -> int:
        """Until every rank has ended, or the launcher is gone."""
        name_process("iobench-agent")
        die_with(self._keeper, signal.SIGTERM)
        signal.signal(signal.SIGTERM, _leave)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
        try:
            self._prepare(self._next_line())
            deadline = time.monotonic() + self._limit_s
            while len(self._ended) < len(self._waiting) and time.monotonic() < deadline:
                while b"\n" in self._input or select.select([0], [], [], POLL_S)[0]:
                    self._start(self._next_line())
                self._hand_over()
        except _LauncherGoneError:
            return 1
        finally:
            end_descendants()
            if os.getppid() != self._keeper:  # which would have removed it
                shutil.rmtree(self._folder, ignore_errors=True)
        return 0

    def _prepare(self, told: dict[str, Any]) -> None:
        os.environ.update(told["environment"])
        self._limit_s = float(told["limit_s"])
        if told["config"]["num_ranks"] > 1:
            import horovod.torch  # noqa: F401  the forked ranks find it imported
        write_json(self._folder / "config.json", told["config"])
        for rank in told["ranks"]:
            self._waiting[rank] = fork_rank(rank, self._folder, told["module"], list(self._waiting.values()))
        _, client = _ssh_addresses()
        self._say({"ready": {"version": __version__, "host": socket.gethostname(), "launcher": client}})

    def _start(self, told: dict[str, Any]) -> None:
        environment = dict(told["environment"])
        if "HOROVOD_GLOO_RENDEZVOUS_ADDR" in environment:
            mine, launcher = _ssh_addresses()
            address = launcher or environment["HOROVOD_GLOO_RENDEZVOUS_ADDR"]
            interface = _interface_of(mine or address)
            environment |= {"HOROVOD_GLOO_RENDEZVOUS_ADDR": address, "HOROVOD_GLOO_IFACE": interface}
        self._waiting[told["start"]].start(environment)

    def _hand_over(self) -> None:
        """What the ranks have written, then which of them have ended: whoever hears of an end has all its files."""
        ended: list[tuple[int, int]] = []
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                ended += [(rank, found[1]) for rank, each in self._waiting.items() if each.pid == found[0]]
        for path in sorted(self._folder.iterdir()):
            if not path.name.startswith(".") and path.name != "config.json":
                self._hand_file(path)
        for rank, status in ended:
            self._ended.add(rank)
            self._say({"ended": rank, "status": os.waitstatus_to_exitcode(status)})
        self._tell_stopped()

    def _hand_file(self, path: Path) -> None:
        done = self._handed.get(path.name, 0)
        if path.suffix in APPENDED:
            with path.open("rb") as file:
                file.seek(done)
                data = file.read(LOG_BYTES)
            data = data if path.suffix == ".log" else data[: data.rfind(b"\n") + 1]
            if data:
                self._say({"append": path.name, "text": data.decode("utf-8", errors="replace")})
            self._handed[path.name] = done + len(data)
        elif not done:
            self._say({"file": path.name, "text": path.read_text(encoding="utf-8")})
            self._handed[path.name] = 1

    def _tell_stopped(self) -> None:
        now = time.monotonic()
        for rank, each in self._waiting.items():
            if rank in self._ended or not is_stopped(each.pid):
                self._stopped.pop(rank, None)
            elif now - self._stopped.setdefault(rank, now) > STOPPED_FOR_S:
                self._say({"problem": f"rank {rank} (pid {each.pid}) has been stopped by a signal"})
                raise _LauncherGoneError

    def _say(self, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._output, data) :]
        except BrokenPipeError as error:
            raise _LauncherGoneError from error

    def _next_line(self) -> dict[str, Any]:
        """The next line that was sent; waits for its end."""
        while b"\n" not in self._input:
            data = os.read(0, 1 << 16)
            if not data:
                raise _LauncherGoneError
            self._input += data
        line, _, self._input = self._input.partition(b"\n")
        return dict(json.loads(line))


def _leave(_number: int, _frame: object) -> None:
    raise _LauncherGoneError


def _ssh_addresses() -> tuple[str | None, str | None]:
    """Of this connection our address and the launcher's; None where there is no ssh in between."""
    words = os.environ.get("SSH_CONNECTION", "").split()
    return (words[2], words[0]) if len(words) == 4 else (None, None)


def _interface_of(address: str) -> str:
    """The interface that has `address`; loopback for the addresses that it answers to without having them."""
    import psutil

    interfaces = psutil.net_if_addrs()
    wanted = "127.0.0.1" if address.startswith("127.") else address
    for name, addresses in interfaces.items():
        if any(each.address == wanted for each in addresses):
            return name
    return next(iter(interfaces))


if __name__ == "__main__":
    sys.exit(keep())
