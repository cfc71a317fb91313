"""The launcher's side of ranks on several hosts: one agent a host, over ssh; what it says becomes the launch's files.

    launcher --ssh--> agent on a (ranks 0, 1)
             --ssh--> agent on b (ranks 2, 3)       rank-R.pid, .log, .result.json ... as if the ranks were here

`localhost` needs no ssh: its agent is started as a process.  host_agent.py has the lines that go to and fro.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import __version__
from .hosts import LOCAL, HostSlots
from .outcome import HOST_ERROR, LaunchError
from .rank_process import write_json

READY_WITHIN_S = 90.0
FILE = re.compile(r"(rank-[0-9]+\.(pid|log|result\.json|error\.json)|progress\.jsonl)")
AGENT = f"{__package__}.host_agent"

# A host that cannot be reached, or asks for a password, must not be waited for; nor one whose network is gone.
SSH_OPTIONS = (
    *("-T", "-x", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15"),
    *("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"),
)
# What belongs to the program, not to this host.
_GOES_ALONG = re.compile(r"(LC_|OMP_|MKL_|OPENBLAS_|HOROVOD_|IOBENCH_|CUDA_|NVIDIA_|NCCL_|KVIKIO_|CUFILE_)\w+$")


def record_host_error(folder: Path, error: LaunchError) -> None:
    """Put on record why a host was lost; the first reason stays, the others follow from it."""
    if not (folder / HOST_ERROR).exists():
        write_json(folder / HOST_ERROR, {"message": str(error), "exit_status": error.exit_status})


class HostAgent:
    """The agent of one host, and the ranks that it runs."""

    def __init__(self, host: HostSlots, ranks: range, folder: Path, *, ssh: Sequence[str], python: str) -> None:
        self.host, self._ranks, self._folder = host, ranks, folder
        here = host.name == LOCAL
        words = [python, "-P", "-m", AGENT]
        self._process = subprocess.Popen(
            words if here else [*ssh, *SSH_OPTIONS, host.name, "--", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._changed = threading.Condition()
        self._ready: dict[str, Any] | None = None
        self._status: dict[int, int] = {}
        self._gone: str | None = None
        threading.Thread(target=self._listen, daemon=True).start()

    def prepare(self, module: str, config: Mapping[str, Any], *, limit_s: float) -> None:
        """Tell the agent what its ranks are to do."""
        environment = {name: value for name, value in os.environ.items() if _GOES_ALONG.match(name)}
        told = {"ranks": list(self._ranks), "module": module, "config": config, "limit_s": limit_s}
        self._send({**told, "environment": environment})

    def wait_ready(self) -> str | None:
        """Wait until the ranks are there; returns this host's address as the other one sees it, None without ssh."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready is not None or self._gone is not None, READY_WITHIN_S)
            if self._ready is None:
                raise self._lost(self._gone or f"did not get ready within {READY_WITHIN_S:g} s")
            ready = self._ready
        if ready["version"] != __version__:
            raise self._lost(f"has iobench {ready['version']}, this host {__version__}; install the same on both")
        address = ready["launcher"]
        return None if address is None else str(address)

    def start(self, rank: int, environment: Mapping[str, str]) -> int:
        """Let a rank begin; returns its exit status once it has ended, 1 if the host is lost, which goes on record."""
        try:
            status = self._run(rank, environment)
        except LaunchError as error:
            record_host_error(self._folder, error)
            return 1
        if status != 0:
            write_json(self._folder / f"rank-{rank}.exit.json", {"status": status, "at": time.monotonic()})
        return status

    def _run(self, rank: int, environment: Mapping[str, str]) -> int:
        self._send({"start": rank, "environment": dict(environment)})
        with self._changed:
            self._changed.wait_for(lambda: rank in self._status or self._gone is not None)
            if rank not in self._status:
                raise self._lost(self._gone or "")
            return self._status[rank]

    def _send(self, document: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(document).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            with self._changed:
                self._changed.wait_for(lambda: self._gone is not None, 5.0)
            raise self._lost(self._gone or "the connection ended") from error

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError):
                self._note_gone(f"said what is not of the agent: {line[:200]!r}")
                break
        status = self._process.wait()
        self._note_gone(f"the connection ended with status {status}")

    def _take(self, told: dict[str, Any]) -> None:
        if "append" in told:
            with self._path(told["append"]).open("a", encoding="utf-8") as file:
                file.write(told["text"])
        elif "file" in told:
            self._keep_file(self._path(told["file"]), json.loads(told["text"]))
        elif "problem" in told:
            self._note_gone(told["problem"])
        else:
            with self._changed:
                if "ready" in told:
                    self._ready = told["ready"]
                else:
                    self._status[told["ended"]] = told["status"]
                self._changed.notify_all()

    def _path(self, name: str) -> Path:
        """A file of the launch's folder; another host does not choose where we write."""
        if not FILE.fullmatch(name):
            raise ValueError(f"{name!r} is not a file of a launch")
        return self._folder / name

    def _keep_file(self, path: Path, document: dict[str, Any]) -> None:
        if "at" in document:  # by that host's clock
            document["at"] = time.monotonic()
        if path.suffix == ".pid":
            document |= {"host": self.host.name, "elsewhere": True}
        write_json(path, document)

    def _note_gone(self, reason: str) -> None:
        with self._changed:
            self._gone = self._gone or reason
            self._changed.notify_all()

    def _lost(self, reason: str) -> LaunchError:
        ranks = ", ".join(str(rank) for rank in self._ranks)
        return LaunchError(f"host {self.host.name} (ranks {ranks}): {reason}")


class HostStarters:
    """Ranks on several hosts, each reached through its host's agent."""

    def __init__(self, agents: Sequence[HostAgent], ranks: Sequence[range]) -> None:
        self._by_rank = {rank: agent for agent, theirs in zip(agents, ranks, strict=True) for rank in theirs}

    def start(self, rank: int, environment: Mapping[str, str]) -> int:
        """Let a rank begin on its host; returns its exit status once it has ended."""
        return self._by_rank[rank].start(rank, environment)


def open_agents(
    placed: Sequence[tuple[HostSlots, range]],
    folder: Path,
    module: str,
    config: Mapping[str, Any],
    *,
    ssh: Sequence[str],
    limit_s: float,
    python: str = sys.executable,
) -> tuple[HostStarters, str]:
    """An agent on every host, all starting at once; and this host's address for them.  Raises LaunchError."""
    agents = [HostAgent(host, ranks, folder, ssh=ssh, python=python) for host, ranks in placed]
    for agent in agents:
        agent.prepare(module, config, limit_s=limit_s)
    seen = [agent.wait_ready() for agent in agents]
    address = next((each for each in seen if each is not None), "127.0.0.1")
    return HostStarters(agents, [ranks for _, ranks in placed]), address
