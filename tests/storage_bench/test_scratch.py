"""Our folder below somebody's data is gone afterwards, whatever happens to the process that made it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from iobench.storage_bench.scratch import ScratchError, ScratchFolder

FILLS_AND_WAITS = """
import sys, time
from pathlib import Path
from iobench.storage_bench.scratch import ScratchFolder

with ScratchFolder(Path(sys.argv[1]), purpose="test") as scratch:
    for number in range(500):
        (scratch.path / f"{number}").write_bytes(b"x")
    print("filled", flush=True)
    time.sleep(60)
"""


def test_it_is_a_dot_folder_that_is_gone_with_all_in_it(tmp_path):
    (tmp_path / "mine").write_text("stays")
    with ScratchFolder(tmp_path, purpose="test") as scratch:
        assert scratch.path.parent == tmp_path
        assert scratch.path.name.startswith(".iobench-test-")
        (scratch.path / "deep/er").mkdir(parents=True)
        (scratch.path / "deep/er/file").write_text("x")
        (scratch.path / "link").symlink_to(tmp_path / "mine")
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine").read_text() == "stays"


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_it_is_gone_after_an_error_which_is_passed_on(tmp_path, kind):
    def fail_inside():
        with ScratchFolder(tmp_path, purpose="test") as scratch:
            (scratch.path / "file").write_text("x")
            raise kind

    with pytest.raises(kind):
        fail_inside()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_it_is_gone_after_its_process_was_killed(tmp_path, number):
    words = [sys.executable, "-P", "-c", FILLS_AND_WAITS, str(tmp_path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout.readline() == "filled\n"
    process.send_signal(number)
    process.communicate(timeout=30)
    deadline = time.monotonic() + 30
    while list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []


def test_a_blank_or_a_quote_in_the_path_removes_nothing_else(tmp_path):
    parent = tmp_path / "a b'; $(rm) -rf *"
    parent.mkdir()
    (tmp_path / "a").write_text("stays")
    with ScratchFolder(parent, purpose="test") as scratch:
        (scratch.path / "file").write_text("x")
    assert list(parent.iterdir()) == []
    assert (tmp_path / "a").read_text() == "stays"


def test_no_folder_and_one_that_takes_none_are_told_with_the_way_out(tmp_path):
    (tmp_path / "file").write_text("x")
    for parent in (tmp_path / "nosuch", tmp_path / "file", Path("/proc")):
        with pytest.raises(ScratchError, match="name") as caught, ScratchFolder(parent, purpose="test"):
            pass
        assert str(parent) in str(caught.value)
        assert caught.value.exit_status == 4
