from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iobench.cli.failures import status_of
from iobench.storage_bench.launching.launch import LaunchError, horovod_available, launch_ranks

PROGRAMS = Path(__file__).parents[1] / "programs"
ROOT = Path(__file__).parents[3]
ENDS_WITHIN_S = 5.0
MISSING = horovod_available()
horovod = [
    pytest.mark.horovod,
    pytest.mark.skipif(MISSING is not None, reason=f"Horovod: {MISSING}"),
]
ONE_AND_THREE = [1, pytest.param(3, marks=horovod)]


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """A word in the environment of every process that this test starts."""
    word = uuid.uuid4().hex
    monkeypatch.setenv("IOBENCH_TEST_MARK", word)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(PROGRAMS), os.environ.get("PYTHONPATH")])))
    return word


def processes(mark: str) -> dict[int, str]:
    """Pid and name of all living processes with the mark, this one aside."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                found[int(folder.name)] = (folder / "comm").read_text().strip()
        except OSError:  # ended meanwhile; a zombie has no environment
            continue
    return found


def wait_until(condition: Callable[[], bool], *, within_s: float = 30.0) -> bool:
    deadline = time.monotonic() + within_s
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return met


def run(program: str, config: dict[str, Any], *, num_ranks: int, folder: Path, **more: Any) -> list[dict[str, Any]]:
    return launch_ranks(program, config, num_ranks=num_ranks, folder=folder, **{"timeout_s": 60.0, **more})


def start_launcher(folder: Path, *, num_ranks: int, program: str = "rank_waits") -> subprocess.Popen[str]:
    words = [sys.executable, str(PROGRAMS / "launcher.py"), str(folder), program, str(num_ranks)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_ranks(folder: Path) -> None:
    assert wait_until((folder / "progress.jsonl").exists), (folder / "launch.log").read_text()


@pytest.mark.parametrize("num_ranks", ONE_AND_THREE)
def test_results_come_in_rank_order_from_processes_of_their_own(num_ranks: int, tmp_path: Path, mark: str) -> None:
    reports: list[dict[str, Any]] = []
    config = {"word": "ü"}
    results = run("rank_hello", config, num_ranks=num_ranks, folder=tmp_path / "run", on_progress=reports.append)
    assert [result["rank"] for result in results] == list(range(num_ranks))
    assert [result["local_rank"] for result in results] == list(range(num_ranks))
    assert len({result["pid"] for result in results} | {os.getpid()}) == num_ranks + 1
    assert results[0]["gathered"] == [[rank, "ü" * rank] for rank in range(num_ranks)]
    assert all(result["gathered"] is None for result in results[1:])
    assert reports == [{"ranks": num_ranks}, {"word": "ü"}]
    assert processes(mark) == {}


def test_one_rank_does_without_horovod(tmp_path: Path, mark: str) -> None:
    (result,) = run("rank_hello", {"word": ""}, num_ranks=1, folder=tmp_path)
    assert result["backend"] == "single"
    assert result["with_horovod"] is False


def test_more_ranks_without_horovod_are_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "iobench").symlink_to(ROOT)
    ask = """
from iobench.storage_bench.launching.launch import *
try: require_ranks(2)
except LaunchError as error: print(error)
"""
    words = [sys.executable, "-S", "-c", ask]  # without site-packages
    said = subprocess.run(words, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True).stdout
    assert "without Horovod one rank works; 2 ranks need it" in said
    assert "make setup" in said


def test_ranks_get_what_they_need_of_the_environment_and_no_secret(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("HOROVOD_RANK", "5")  # of ranks that we are one of, not of those we start
    more = {"IOBENCH_LOCAL": "/there"}
    (result,) = run("rank_hello", {"word": ""}, num_ranks=1, folder=tmp_path, environment=more)
    assert result["environment"]["PATH"] == os.environ["PATH"]
    assert result["environment"]["IOBENCH_LOCAL"] == "/there"
    assert result["environment"]["OMP_NUM_THREADS"] == "1"
    assert not {"AWS_SECRET_ACCESS_KEY", "HOROVOD_RANK"} & set(result["environment"])


def test_a_folder_can_be_used_again(tmp_path: Path, mark: str) -> None:
    with pytest.raises(LaunchError):
        run("rank_fails", {"rank": 0, "ours": True}, num_ranks=1, folder=tmp_path)
    assert len(run("rank_hello", {"word": ""}, num_ranks=1, folder=tmp_path)) == 1


@pytest.mark.parametrize("num_ranks", ONE_AND_THREE)
def test_an_error_of_ours_keeps_its_message_and_its_exit_status(num_ranks: int, tmp_path: Path, mark: str) -> None:
    last = num_ranks - 1
    with pytest.raises(LaunchError, match=rf"^rank {last} \(pid \d+ on \S+\): bytes are missing$") as caught:
        run("rank_fails", {"rank": last, "ours": True}, num_ranks=num_ranks, folder=tmp_path)
    assert caught.value.exit_status == 3
    assert processes(mark) == {}


def test_a_file_that_a_rank_cannot_open_is_told_without_a_traceback(tmp_path: Path, mark: str) -> None:
    gone = tmp_path / "a.tfrecord"
    with pytest.raises(LaunchError, match=rf"^rank 0 \(pid \d+ on \S+\): {gone}: No such file or directory$") as caught:
        run("rank_fails", {"rank": 0, "opens": str(gone)}, num_ranks=1, folder=tmp_path / "run")
    assert caught.value.exit_status == 4
    assert "give a path that exists" in status_of(caught.value)[1]


@pytest.mark.parametrize("num_ranks", ONE_AND_THREE)
def test_any_other_error_names_the_rank_and_shows_its_log(num_ranks: int, tmp_path: Path, mark: str) -> None:
    last = num_ranks - 1
    with pytest.raises(LaunchError, match=rf"^rank {last} .* failed: ZeroDivisionError: nothing left\n") as caught:
        run("rank_fails", {"rank": last, "ours": False}, num_ranks=num_ranks, folder=tmp_path)
    assert caught.value.exit_status == 4
    assert f"rank-{last}.log: ZeroDivisionError" in str(caught.value)


@pytest.mark.parametrize(
    ("program", "said"), [("rank_silent", "must call rank_main"), ("rank_nowhere", "No module named rank_nowhere")]
)
def test_a_program_that_is_none_is_an_error(program: str, said: str, tmp_path: Path, mark: str) -> None:
    with pytest.raises(LaunchError, match=said):
        run(program, {}, num_ranks=1, folder=tmp_path)


def test_ranks_that_do_not_end_in_time_are_ended(tmp_path: Path, mark: str) -> None:
    with pytest.raises(LaunchError, match=r"1 ranks did not end within 0\.5 s"):
        run("rank_waits", {}, num_ranks=1, folder=tmp_path, timeout_s=0.5)
    assert processes(mark) == {}


@pytest.mark.parametrize("num_ranks", ONE_AND_THREE)
@pytest.mark.parametrize(
    ("number", "how"), [(signal.SIGKILL, "was killed by SIGKILL"), (signal.SIGSTOP, "has been stopped by a signal")]
)
def test_a_rank_that_is_killed_or_stopped_is_named_and_nothing_is_left(
    num_ranks: int, number: int, how: str, tmp_path: Path, mark: str
) -> None:
    last = num_ranks - 1

    def strike(progress: dict[str, Any]) -> None:
        os.kill(progress["pids"][last], number)

    with pytest.raises(LaunchError, match=rf"^rank {last} \(pid \d+ on \S+\) {how}") as caught:
        run("rank_waits", {}, num_ranks=num_ranks, folder=tmp_path, on_progress=strike)
    assert caught.value.exit_status == 4
    assert processes(mark) == {}


def test_an_error_where_progress_is_received_leaves_no_process(tmp_path: Path, mark: str) -> None:
    def receive(progress: dict[str, Any]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run("rank_waits", {}, num_ranks=1, folder=tmp_path, on_progress=receive)
    assert processes(mark) == {}


@pytest.mark.parametrize("to_group", [False, True], ids=["to the process", "to its group"])
@pytest.mark.parametrize("num_ranks", ONE_AND_THREE)
def test_sigint_at_any_moment_ends_everything(num_ranks: int, to_group: bool, tmp_path: Path, mark: str) -> None:
    for number in range(3):
        delay = random.uniform(0.15, 0.6 if num_ranks == 1 else 2.5)
        launcher = start_launcher(tmp_path / str(number), num_ranks=num_ranks)
        wait_until(lambda: len(processes(mark)) > 1)  # from here on KeyboardInterrupt is launch_ranks' to deal with
        time.sleep(delay)
        (os.killpg if to_group else os.kill)(launcher.pid, signal.SIGINT)
        said, _ = launcher.communicate(timeout=ENDS_WITHIN_S)
        assert (said, processes(mark)) == ("interrupted\n", {}), f"after {delay} s"


@pytest.mark.parametrize("num_ranks", ONE_AND_THREE)
def test_more_sigints_during_the_clean_up_change_nothing(num_ranks: int, tmp_path: Path, mark: str) -> None:
    launcher = start_launcher(tmp_path, num_ranks=num_ranks)
    wait_for_ranks(tmp_path)
    deadline = time.monotonic() + ENDS_WITHIN_S
    while launcher.poll() is None and processes(mark).keys() - {launcher.pid} and time.monotonic() < deadline:
        launcher.send_signal(signal.SIGINT)
        time.sleep(0.005)
    launcher.wait(timeout=ENDS_WITHIN_S)
    assert wait_until(lambda: processes(mark) == {}, within_s=0.5)


@pytest.mark.parametrize("num_ranks", ONE_AND_THREE)
@pytest.mark.parametrize("ready", [False, True], ids=["starting", "running"])
def test_ranks_end_when_whoever_launched_is_killed(num_ranks: int, ready: bool, tmp_path: Path, mark: str) -> None:
    launcher = start_launcher(tmp_path, num_ranks=num_ranks)
    if ready:
        wait_for_ranks(tmp_path)
    else:
        wait_until(lambda: len(processes(mark)) > 1)
    launcher.kill()
    launcher.wait()
    assert wait_until(lambda: processes(mark) == {}, within_s=ENDS_WITHIN_S)


@pytest.mark.parametrize("num_ranks", ONE_AND_THREE)
def test_ranks_end_when_their_guard_is_killed(num_ranks: int, tmp_path: Path, mark: str) -> None:
    launcher = start_launcher(tmp_path, num_ranks=num_ranks)
    wait_for_ranks(tmp_path)
    (guard,) = (pid for pid, name in processes(mark).items() if name == "iobench-guard")
    os.kill(guard, signal.SIGKILL)
    said, _ = launcher.communicate(timeout=ENDS_WITHIN_S)
    assert said.startswith("error")
    # nobody waits for ranks whose guard is gone: the kernel may need a moment to bury what it killed
    assert wait_until(lambda: processes(mark) == {}, within_s=1.0)


@pytest.mark.parametrize("num_ranks", ONE_AND_THREE)
def test_ranks_end_although_their_guard_is_stopped(num_ranks: int, tmp_path: Path, mark: str) -> None:
    launcher = start_launcher(tmp_path, num_ranks=num_ranks)
    wait_for_ranks(tmp_path)
    (guard,) = (pid for pid, name in processes(mark).items() if name == "iobench-guard")
    os.kill(guard, signal.SIGSTOP)
    launcher.send_signal(signal.SIGINT)
    said, _ = launcher.communicate(timeout=ENDS_WITHIN_S)
    assert said == "interrupted\n"
    assert processes(mark) == {}
