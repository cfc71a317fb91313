"""SIGINT at any moment of the main job: it ends soon, with exit 130, and nothing is left but what was measured."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from iobench.results.record import read_record

MOMENTS_S = 20.0
ENDS_WITHIN_S = 5.0


@pytest.fixture(scope="module")
def small_data(tmp_path_factory):
    from iobench.storage_bench.generate import Generate, generate

    folder = tmp_path_factory.mktemp("interrupted") / "data"
    generate(folder, Generate(num_images=512, images_per_shard=64, size=64))
    return folder


def start_qualify(data: Path, folder: Path, mark: str) -> subprocess.Popen:
    words = [sys.executable, "-m", "iobench", "qualify", str(data), "--accelerator", "0.05", "--batch-size", "16"]
    words += ["--measure-seconds", "60", "--max-ranks", "3", "--out", str(folder / "run"), "--local", str(folder)]
    words += ["--set", "storage.seconds=0.2", "--set", "train.rounds=100"]
    environment = {**os.environ, "IOBENCH_TEST_MARK": mark, "TMPDIR": str(folder)}
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def marked_processes(mark: str) -> list[str]:
    """Every process whose environment carries the mark of this run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("IOBENCH_TEST_MARK") == mark:
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def interrupt_once(data: Path, folder: Path, moment_s: float, *, whole_group: bool) -> tuple[int, float, str]:
    """Exit status, seconds from the signal to the end, and what it said."""
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    process = start_qualify(data, folder, mark)
    time.sleep(moment_s)
    assert process.poll() is None, f"it ended by itself: {process.stderr.read()}"
    sent = time.monotonic()
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    said = process.communicate(timeout=30)[1]
    took = time.monotonic() - sent
    deadline = time.monotonic() + 1.0
    while (left := marked_processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)  # the kernel may need a moment to bury what was killed
    assert not left
    return process.returncode, took, said


@pytest.mark.horovod
@pytest.mark.parametrize("attempt", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 20))])
def test_interrupting_the_main_job_leaves_nothing_behind(small_data, tmp_path, attempt):
    moment = random.Random(f"moment {attempt}").uniform(0.4, MOMENTS_S) if attempt else 12.0
    status, took, said = interrupt_once(small_data, tmp_path, moment, whole_group=attempt % 2 == 1)
    assert status == 130, said
    assert took < ENDS_WITHIN_S
    assert "Traceback" not in said
    kept = ["record.json", "report.html"] if "record of what was measured until then" in said else []
    assert sorted(entry.name for entry in tmp_path.rglob("*") if entry.is_file()) == kept
    assert not kept or read_record(tmp_path / "run").verdict is None
    assert not list(small_data.glob(".iobench-*.tmp"))
