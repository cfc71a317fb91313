"""A road's process, seen from the one that compares: told over a pipe when to open and when to run a time block.

    compare_peers -> RoadProcess --a line of JSON--> road_server.py, one process per road
                                 <--a line of JSON--

Processes are started afresh, never forked, in sessions of their own: Ctrl-C is for the one that compares, which ends
them; should it be killed, the kernel ends them.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from ..loaders.roads.road import RoadOptions
from .road_server import Consumer, RoadBlock

if TYPE_CHECKING:
    import psutil

ENDS_WITHIN_S = 2.0
ANSWERS_WITHIN_S = 120.0
POLL_S = 0.25
LOG_LINES = 4


class RoadProcessError(RuntimeError):
    """A road's process failed, died or did not answer."""

    def __init__(self, message: str, *, exit_status: int = 4) -> None:
        super().__init__(message)
        self.exit_status: int = exit_status


class OpenedRoad(NamedTuple):
    """What a road says of itself; what decodes, and why that, only where it tells its hops."""

    version: str
    engine: str
    decoder: str
    decoder_reason: str


class RoadProcess:
    """A road's process, seen from the one that compares."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._log = os.memfd_create("iobench-road-log")
        self._answers, answers = os.pipe()  # not its standard output: libraries print
        words = [sys.executable, "-P", "-m", f"{__package__}.road_server", str(os.getpid()), str(answers)]
        try:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(answers,),
                start_new_session=True,
            )
        finally:
            os.close(answers)

    def open(self, road: str, paths: Sequence[Path], options: RoadOptions, *, trace_spans: int = 0) -> OpenedRoad:
        """Open a road there, in the place of the one before; it notes its first `trace_spans` reads and waits."""
        told = {"road": road, "paths": [str(path.absolute()) for path in paths], "options": asdict(options)}
        answer = self._ask({"do": "open", **told, "trace_spans": trace_spans}, ANSWERS_WITHIN_S)
        return OpenedRoad(answer["version"], answer["engine"], *answer["decoder"])

    def run(
        self, *, consumer: Consumer, seconds: float, ramp_s: float, ramp_images: int, most_images: int | None
    ) -> RoadBlock:
        """Run one time block: a ramp of at least `ramp_s` and `ramp_images`, then `seconds`.

        It ends earlier once `most_images` have come, the ramp's included.
        """
        told = {
            "consumer": consumer,
            "seconds": seconds,
            "ramp_s": ramp_s,
            "ramp_images": ramp_images,
            "most_images": most_images,
        }
        return RoadBlock(**self._ask({"do": "run", **told}, seconds + ramp_s + ANSWERS_WITHIN_S))

    def trace(self) -> dict[str, Any]:
        """What the road has noted since it was opened: `spans`, how many were `dropped`, `note_ns` each, its `pid`."""
        return self._ask({"do": "trace"}, ANSWERS_WITHIN_S)

    def tell_end(self) -> None:
        """Tell the process to end, without waiting for it."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        if self._process.poll() is None:
            self._process.terminate()

    def end(self, deadline: float) -> None:
        """Wait until `deadline` (of time.monotonic) for the process to end; then kill it and what it started."""
        import psutil

        below: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(self._process.pid).children(recursive=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()  # of a process that psutil knows by its start, never of another one with its number
        self._process.kill()
        self._process.wait()
        os.close(self._answers)
        os.close(self._log)

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _ask(self, told: dict[str, Any], patience_s: float) -> dict[str, Any]:
        try:
            self._stdin.write(json.dumps(told).encode() + b"\n")
            self._stdin.flush()
        except OSError:
            raise self._died() from None
        answer: dict[str, Any] = json.loads(self._read_line(patience_s))
        if "error" in answer:
            raise RoadProcessError(f"road {self.name}: {answer['error']}", exit_status=answer["exit_status"])
        return answer

    def _read_line(self, patience_s: float) -> bytes:
        line, deadline = b"", time.monotonic() + patience_s
        while not line.endswith(b"\n"):
            if select.select([self._answers], [], [], POLL_S)[0]:
                part = os.read(self._answers, 1 << 16)
                if not part:
                    raise self._died()
                line += part
            elif self._process.poll() is not None:  # what it started may hold the pipe open
                raise self._died()
            elif time.monotonic() > deadline:
                raise RoadProcessError(
                    f"road {self.name} did not answer within {patience_s:.0f} s: the storage hangs, or the road does"
                )
        return line

    def _died(self) -> RoadProcessError:
        status = self._process.wait(ENDS_WITHIN_S)
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        text = os.pread(self._log, os.fstat(self._log).st_size, 0).decode(errors="replace")
        return RoadProcessError("\n  ".join([f"road {self.name}: its process {how}", *text.splitlines()[-LOG_LINES:]]))


def end_all(processes: Sequence[RoadProcess]) -> None:
    """End all of them at once, within ENDS_WITHIN_S."""
    for process in processes:
        process.tell_end()
    deadline = time.monotonic() + ENDS_WITHIN_S
    for process in processes:
        process.end(deadline)
