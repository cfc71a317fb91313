"""What the files of a launch say it came to: every rank's result, or what went wrong first."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from .ranks import PeerLostError

LOG_LINES = 6
HOST_ERROR = "host.error.json"


class LaunchError(RuntimeError):
    """Ranks could not be started, or one of them failed; carries the exit status of the error that a rank raised.

    `errno` is the system's number where a rank failed on a file.
    """

    exit_status: int = 4

    def __init__(self, message: str, *, exit_status: int = 4, errno: int | None = None) -> None:
        super().__init__(message)
        self.exit_status = exit_status
        self.errno = errno


def told_error(error: BaseException) -> dict[str, Any]:
    """What a rank leaves of its error: message, exit status (null for one that nobody foresaw), the system's number."""
    status = getattr(error, "exit_status", None)
    message, errno = str(error), None
    if not isinstance(status, int):
        status = None
        if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
            status, errno = LaunchError.exit_status, error.errno
            message = f"{os.fsdecode(error.filename)}: {error.strerror}"
        else:
            message = f"{type(error).__name__}: {error}"
    return {
        "message": message,
        "exit_status": status,
        "errno": errno,
        "consequence": isinstance(error, PeerLostError),
    }


def read_results(folder: Path, *, num_ranks: int) -> list[dict[str, Any]]:
    """The ranks' results in rank order.  Raises LaunchError if one has written none."""
    results: list[dict[str, Any]] = []
    for rank in range(num_ranks):
        result = read_json(folder / f"rank-{rank}.result.json")
        if result is None:
            name, log = rank_name(folder, rank), _rank_log(folder, rank)
            raise LaunchError(f"{name} ended without a result; its program must call rank_main{log}")
        process = read_json(folder / f"rank-{rank}.pid")
        if process is not None and process.get("elsewhere"):  # hosts are known by the names that they were given by
            result["host"] = process["host"]
        results.append(result)
    return results


def find_failure(folder: Path, *, num_ranks: int, status: int) -> LaunchError | None:
    """What went wrong first, if the guard's exit `status` is not 0.

    A rank's own error comes before a host that was lost, that before a rank that died, and that before ranks that only
    lost the others.
    """
    if status == 0:
        return None
    errors = _by_time(folder, num_ranks, "error")
    for rank, error in errors:
        if not error["consequence"]:
            return _rank_error(folder, rank, error)
    if (lost := read_json(folder / HOST_ERROR)) is not None:
        return LaunchError(lost["message"] + log_tail(folder / "launch.log"), exit_status=lost["exit_status"])
    for rank, ended in sorted(_by_time(folder, num_ranks, "exit"), key=lambda found: found[1]["status"] > 0):
        return LaunchError(f"{rank_name(folder, rank)} {_how(ended['status'])}{_rank_log(folder, rank)}")
    for rank, error in errors:
        return _rank_error(folder, rank, error)
    return LaunchError(f"the ranks' launcher ended with status {status}{log_tail(folder / 'launch.log')}")


def rank_name(folder: Path, rank: int) -> str:
    """A rank with its process, as far as known."""
    process = read_json(folder / f"rank-{rank}.pid")
    return f"rank {rank}" + (f" (pid {process['pid']} on {process['host']})" if process else "")


def log_tail(path: Path) -> str:
    """The last lines of a log, each on a line of its own below a message; empty if there are none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    except OSError:
        return ""
    return "".join(f"\n  {path.name}: {line}" for line in lines)


def read_json(path: Path) -> Any:
    """The document in a file, None if there is no file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _by_time(folder: Path, num_ranks: int, kind: str) -> list[tuple[int, dict[str, Any]]]:
    found = ((rank, read_json(folder / f"rank-{rank}.{kind}.json")) for rank in range(num_ranks))
    return sorted(((rank, each) for rank, each in found if each is not None), key=lambda pair: pair[1]["at"])


def _how(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    hint = "; if nobody did that, see whether memory ran out" if -status == signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-status).name}{hint}"


def _rank_error(folder: Path, rank: int, error: dict[str, Any]) -> LaunchError:
    if error["exit_status"] is None:
        return LaunchError(f"{rank_name(folder, rank)} failed: {error['message']}{_rank_log(folder, rank)}")
    message = f"{rank_name(folder, rank)}: {error['message']}"
    return LaunchError(message, exit_status=error["exit_status"], errno=error.get("errno"))


def _rank_log(folder: Path, rank: int) -> str:
    return log_tail(folder / f"rank-{rank}.log")
