"""A part's process, seen from the job: started, given its time, killed when that is over.

A part has a process of its own because it may hang in a driver, run out of GPU memory, or leave CUDA unusable: the
parts behind it do not notice.  It leads a session, so that all it has started ends with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Literal, NamedTuple

from .part import Bench, Part

LOG_LINES = 4
ENVIRONMENT = 4  # the exit status of what has none of its own
TWIN_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # tiny tensors: threads would wait for each other
Ending = Literal["done", "skipped", "failed", "cut off"]


class Ended(NamedTuple):
    """How a part ended, and why where it is not done; a part that failed has the exit status of its error, 3 or 4."""

    ending: Ending
    reason: str = ""
    exit_status: int = 0


def run_part(part: Part, bench: Bench, *, limit_s: float) -> Ended:
    """Run a part in a process of its own, which is killed after `limit_s`; its record is in `bench.folder`."""
    bench.folder.mkdir(parents=True, exist_ok=True)
    for left in ("record.json", "ended.json"):
        (bench.folder / left).unlink(missing_ok=True)
    task = {**asdict(bench), **{name: str(getattr(bench, name).resolve()) for name in ("raw", "jpeg", "folder")}}
    (bench.folder / "task.json").write_text(json.dumps({"part": part.name, "bench": task}), encoding="utf-8")
    with (bench.folder / "log.txt").open("wb") as log, _process(bench, log.fileno()) as process:
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return Ended("cut off", f"was not done after {limit_s:.0f} s")
    return _told(bench.folder, status)


@contextmanager
def _process(bench: Bench, log: int) -> Iterator[subprocess.Popen[bytes]]:
    words = [sys.executable, "-P", "-m", f"{__package__}.child", str(bench.folder.resolve()), str(os.getpid())]
    environment = {**os.environ, **(TWIN_ENVIRONMENT if bench.twin else {})}
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        words, stdin=quiet, stdout=log, stderr=log, env=environment, cwd=bench.folder, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also what a part that is done has left behind
        process.wait()


def _told(folder: Path, status: int) -> Ended:
    try:
        told = json.loads((folder / "ended.json").read_text(encoding="utf-8"))
        return Ended(told["ending"], told["reason"], told["exit_status"])
    except (OSError, ValueError):
        lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").split("\n")
        last = " | ".join([line.strip() for line in lines if line.strip()][-LOG_LINES:])
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return Ended("failed", f"its process {how}{': ' if last else ''}{last}", ENVIRONMENT)
