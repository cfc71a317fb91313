"""Launch ranks of one program, here or on several hosts, and get their results, their error or an end without remains.

launch_ranks -> guard -> Horovod's launcher -> rank 0, rank 1, ...         (guard.py draws the processes)

FOLDER/config.json                            what the ranks are told
FOLDER/rank-R.pid, rank-R.log                 process, and what it printed
FOLDER/rank-R.result.json or .error.json      what it came to
FOLDER/rank-R.exit.json                       how it ended, if not with 0
FOLDER/progress.jsonl, launch.log             how far rank 0 is; what the guard and Horovod's launcher printed
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from .hosts import HostSlots, assign
from .outcome import HOST_ERROR, LaunchError, find_failure, log_tail, rank_name, read_json, read_results, told_error
from .placing import Placing, check_lists, take_place
from .rank_process import is_stopped, start_ticks, write_json
from .ranks import Ranks, machine_id, open_ranks
from .variables import variables_of_ranks

__all__ = ["LaunchError", "horovod_available", "launch_ranks", "rank_main", "require_ranks"]

POLL_S = 0.1
GUARD_ENDS_WITHIN_S = 2.0
STOPPED_FOR_S = 2.0
BUILD_IT = "run `make setup` in a clone of iobench, which builds Horovod against the installed torch"


def horovod_available() -> str | None:
    """Why Horovod cannot be used here, None if it can.  Looks at files only: importing torch takes a second."""
    for name in ("torch", "horovod"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            return f"{name} is not installed for {sys.executable}"
        package = Path(spec.origin).parent
    extension = package / "torch" / f"mpi_lib_v2{sysconfig.get_config_var('EXT_SUFFIX')}"
    return None if extension.exists() else f"Horovod was built without PyTorch ({extension} is missing)"


def require_ranks(num_ranks: int) -> None:
    """Raise LaunchError, before any work is done, if `num_ranks` ranks cannot run here."""
    if num_ranks < 1:
        raise LaunchError(f"the number of ranks is {num_ranks}; give 1 or more", exit_status=2)
    if num_ranks > 1 and (reason := horovod_available()) is not None:
        raise LaunchError(f"without Horovod one rank works; {num_ranks} ranks need it, and {reason}; {BUILD_IT}")


def launch_ranks(
    module: str,
    config: Mapping[str, Any],
    *,
    num_ranks: int,
    folder: Path,
    timeout_s: float,
    emulated: bool = True,
    placing: Placing = Placing(),  # noqa: B008  # frozen
    environment: Mapping[str, str] | None = None,
    hosts: Sequence[HostSlots] = (),
    ssh: Sequence[str] = ("ssh",),
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Run `python -m module FOLDER` on `num_ranks` ranks; the result of each, in rank order.

    All run on this host, or on `hosts`, filled one after the other and reached with the words of `ssh`; the same Python
    with the same iobench must be there under the same path.

    `module` calls `rank_main`.  Ranks whose steps are `emulated` have one thread for torch and the BLAS, and Horovod's
    threads of a rank stay on one core: they share the cores with each other and with the readers.  `placing` says which
    cores ranks get.  `environment` is added to theirs; `on_progress` gets what rank 0 reports, as it comes.  Each
    result is what the rank's `main` returned, with `rank`, `local_rank`, `pid`, `host`, `machine` and where it `stood`.

    However this function ends, no process is left: LaunchError if a rank fails, dies, is stopped or `timeout_s` is
    over; KeyboardInterrupt on SIGINT, once everything is gone.
    """
    require_ranks(num_ranks)
    together = max(len(ranks) for _, ranks in assign(hosts, num_ranks)) if hosts else num_ranks
    check_lists(placing.asked, together, may=None if hosts else frozenset(os.sched_getaffinity(0)))
    folder = folder.absolute()
    placed = {"hosts": [[host.name, host.slots] for host in hosts], "ssh": list(ssh), "limit_s": timeout_s}
    told = {"num_ranks": num_ranks, "emulated": emulated, "placing": asdict(placing), "config": dict(config)}
    _prepare(folder, {**told, **placed})
    with _interrupts() as interrupts:
        variables = variables_of_ranks(num_ranks, emulated=emulated, by_ssh=bool(hosts), more=environment)
        guard = _start_guard(folder, module, num_ranks, variables)
        try:
            _watch(guard, folder, num_ranks, timeout_s, interrupts, on_progress)
        finally:
            _end(guard, folder)
    if (failure := find_failure(folder, num_ranks=num_ranks, status=guard.returncode)) is not None:
        raise failure
    return read_results(folder, num_ranks=num_ranks)


def rank_main(main: Callable[[dict[str, Any], Ranks], dict[str, Any]]) -> NoReturn:
    """Be one rank of a launch: run `main(config, ranks)`, write its result or its error to the folder, and exit.

    An error with an `exit_status` of its own is handed to whoever launched as it is, and so is what the system says of
    a file.
    """
    folder = Path(sys.argv[1])
    rank = int(os.environ.get("HOROVOD_RANK", "0"))
    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        progress, place = folder / "progress.jsonl", take_place(Placing(**told["placing"]))
        ranks = open_ranks(expected_size=told["num_ranks"], pin=told["emulated"], progress=progress)
        result = main(told["config"], ranks)
        about = {"rank": rank, "local_rank": ranks.local_rank, "pid": os.getpid(), "host": ranks.host}
        about |= {"machine": machine_id(), "stood": place.seen()}
        write_json(folder / f"rank-{rank}.result.json", {**result, **about})
        ranks.close()
    except BaseException as error:
        traceback.print_exc()
        document = told_error(error)
        write_json(folder / f"rank-{rank}.error.json", {**document, "at": time.monotonic()})
        sys.exit(document["exit_status"] or 1)
    sys.exit(0)


def _prepare(folder: Path, document: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in [*folder.glob("rank-*"), folder / HOST_ERROR, folder / "progress.jsonl", folder / "launch.log"]:
        path.unlink(missing_ok=True)
    write_json(folder / "config.json", document)


def _start_guard(folder: Path, module: str, num_ranks: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-P", "-m", f"{__package__}.guard", str(folder), module, str(num_ranks), str(os.getpid())]
    with (folder / "launch.log").open("wb") as log:
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Note SIGINT in a list instead of raising, so that neither the start nor the clean-up is ever cut short."""
    came: list[int] = []
    previous = signal.getsignal(signal.SIGINT)
    held = threading.current_thread() is threading.main_thread() and previous not in {signal.SIG_IGN, None}
    try:
        if held:
            signal.signal(signal.SIGINT, lambda number, _: came.append(number))
        yield came
    finally:
        if held:
            signal.signal(signal.SIGINT, previous)
        if came:
            raise KeyboardInterrupt


def _watch(
    guard: subprocess.Popen[bytes],
    folder: Path,
    num_ranks: int,
    timeout_s: float,
    interrupts: list[int],
    on_progress: Callable[[dict[str, Any]], None] | None,
) -> None:
    """Wait until the guard is through; raise if that will not happen."""
    progress = _Progress(folder / "progress.jsonl", on_progress)
    stopped_since: dict[int, float] = {}
    deadline = time.monotonic() + timeout_s
    while guard.poll() is None:
        if interrupts:
            raise KeyboardInterrupt
        if time.monotonic() > deadline:
            raise LaunchError(
                f"{num_ranks} ranks did not end within {timeout_s:g} s; see whether the storage still answers, "
                f"or give them more time{log_tail(folder / 'rank-0.log')}"
            )
        _raise_if_stopped(folder, num_ranks, stopped_since)
        progress.hand_over()
        time.sleep(POLL_S)
    progress.hand_over()


def _raise_if_stopped(folder: Path, num_ranks: int, since: dict[int, float]) -> None:
    now = time.monotonic()
    for rank in range(num_ranks):
        process = read_json(folder / f"rank-{rank}.pid")
        if process is None or process.get("elsewhere") or not is_stopped(process["pid"]):
            since.pop(rank, None)
        elif now - since.setdefault(rank, now) > STOPPED_FOR_S:
            raise LaunchError(
                f"{rank_name(folder, rank)} has been stopped by a signal for {STOPPED_FOR_S:g} s, and the other ranks "
                f"wait for it; nothing may stop ranks while they are measured"
            )


class _Progress:
    """Lines of a growing file, handed over whole and once each."""

    def __init__(self, path: Path, receiver: Callable[[dict[str, Any]], None] | None) -> None:
        self._path, self._receiver, self._offset = path, receiver, 0

    def hand_over(self) -> None:
        if self._receiver is None or not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            lines = file.read().rpartition(b"\n")[0]
        if lines:
            self._offset += len(lines) + 1
            for line in lines.split(b"\n"):
                self._receiver(json.loads(line))


def _end(guard: subprocess.Popen[bytes], folder: Path) -> None:
    """Have the guard end everything below it; kill what it, stopped or killed itself, has left."""
    if guard.poll() is None:
        guard.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            guard.wait(GUARD_ENDS_WITHIN_S)
    if guard.poll() is None:
        _kill_with_descendants(guard)
    for path in folder.glob("rank-*.pid"):
        recorded = read_json(path)
        if recorded is not None and not recorded.get("elsewhere") and start_ticks(recorded["pid"]) == recorded["start"]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(recorded["pid"], signal.SIGKILL)


def _kill_with_descendants(guard: subprocess.Popen[bytes]) -> None:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(guard.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    guard.kill()
    guard.wait()
