"""One at a time by a file's lock: who waits gets it, and says for whom it waits."""

import fcntl
import logging
import os
import subprocess
import sys
import threading

import pytest

from iobench.loaders import locking
from iobench.loaders.locking import holder_of, locked

HOLDER = (
    "import fcntl, os, sys, time\n"
    "fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
    "fcntl.flock(fd, fcntl.LOCK_EX)\n"
    "print('held', flush=True)\n"
    "sys.stdin.read()\n"
)


@pytest.fixture
def held_by_another(tmp_path):
    """A lock file that another process holds until it is told to end."""
    path = tmp_path / "lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield path, process
    process.stdin.close()
    process.wait()
    process.stdout.close()


def test_who_waits_says_for_whom_and_goes_on_once_that_one_has_ended(held_by_another, monkeypatch, caplog):
    path, process = held_by_another
    monkeypatch.setattr(locking, "TOLD_AFTER_S", 0.05)
    told = threading.Event()

    handler = logging.Handler()
    handler.emit = lambda _: told.set()
    logging.getLogger("iobench").addHandler(handler)
    ends = threading.Thread(target=lambda: (told.wait(20), process.stdin.close()))
    ends.start()
    try:
        with locked(path, wait=True, doing="builds the index of /data") as fd:
            assert fd is not None
            assert process.wait(timeout=20) == 0
    finally:
        logging.getLogger("iobench").removeHandler(handler)
        ends.join()
    (said,) = caplog.messages
    assert said.startswith(f"waiting for process {process.pid} (python")
    assert said.endswith(f"), which builds the index of /data ({path})")
    assert not path.exists()


def test_who_does_not_want_to_wait_is_not_made_to(held_by_another, caplog):
    path, _ = held_by_another
    with locked(path, wait=False, doing="builds it") as fd:
        assert fd is None
    assert caplog.messages == []


def test_a_lock_that_nobody_holds_here_is_perhaps_held_elsewhere(tmp_path):
    fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    try:
        assert holder_of(fd) == "another process, on another machine maybe"
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert holder_of(fd).startswith(f"process {os.getpid()} (")
    finally:
        os.close(fd)
