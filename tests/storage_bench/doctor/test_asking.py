"""Whoever does not answer is left behind: nobody waits for a file system that hangs."""

import ctypes
import json
import os
import struct
import subprocess
import sys
import time

import pytest

from iobench.storage_bench.doctor.asking import Witness
from iobench.storage_bench.doctor.finding import Seen, Subject

# struct fuse_init_out: major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, ...
INIT_ANSWER = struct.pack("=IIIIHHI", 7, 31, 0, 0, 12, 9, 1 << 17).ljust(64, b"\0")
MNT_DETACH = 2

SLOW_SUBJECT = """
from pathlib import Path
from iobench.storage_bench.doctor.finding import Seen, Subject

def waits(path):
    return Seen(True, Path(path).read_text())  # of a pipe that nobody writes to

def fails(path):
    raise ValueError("no such thing")

SUBJECT = Subject("slow", __name__, {"waits": waits, "tells": lambda path: Seen(True, "here"), "fails": fails})
"""


@pytest.fixture
def slow_subject(tmp_path, monkeypatch):
    """A subject one of whose looks waits for ever, and one fails."""
    (tmp_path / "slow_subject.py").write_text(SLOW_SUBJECT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    looks = dict.fromkeys(["waits", "tells", "fails"], lambda path: Seen(None, "asked at the wrong place"))
    return Subject("slow", "slow_subject", looks)


def test_one_look_that_waits_for_ever_hides_no_other(tmp_path, slow_subject):
    os.mkfifo(tmp_path / "pipe")
    witness = Witness(slow_subject, tmp_path / "pipe")
    waits, tells, fails = witness.findings(limit_s=0.5)
    assert (waits.available, waits.seen) == (None, "did not answer within 0.5 s")
    assert waits.advice
    assert (tells.available, tells.seen) == (True, "here")
    assert (fails.available, fails.seen) == (None, "cannot be told: no such thing")


def test_a_process_that_cannot_look_is_not_taken_for_silent(tmp_path, slow_subject):
    missing = Subject("slow", "no_such_module", slow_subject.looks)
    found = Witness(missing, tmp_path).findings(limit_s=30)
    assert [finding.available for finding in found] == [None] * 3
    assert {finding.seen for finding in found} == {"cannot be told: the process that looks ended with status 1"}


# A FUSE server that answers INIT, takes every other request and never answers it: callers cannot even be killed.
MUTE_SERVER = """
import os, struct, sys
device, init_answer = int(sys.argv[1]), bytes.fromhex(sys.argv[2])
while request := os.read(device, 1 << 18):
    length, opcode, unique = struct.unpack_from("=IIQ", request)
    if opcode == 26:
        os.write(device, struct.pack("=IiQ", 16 + len(init_answer), 0, unique) + init_answer)
"""


@pytest.fixture
def dead_mount(tmp_path):
    """A file system whose server has stopped answering; killing the server ends all waiting."""
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("a file system that hangs needs root and /dev/fuse")
    folder = tmp_path / "dead"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    status = libc.mount(b"dead:/export", os.fsencode(folder), b"fuse.dead", 0, options)
    if status == 0:
        words = [sys.executable, "-I", "-c", MUTE_SERVER, str(device), INIT_ANSWER.hex()]
        server = subprocess.Popen(words, pass_fds=(device,))
    os.close(device)
    if status:
        pytest.skip(f"mount: {os.strerror(ctypes.get_errno())}")
    yield folder
    server.kill()
    server.wait()
    libc.umount2(os.fsencode(folder), MNT_DETACH)


def test_a_dead_file_system_is_named_in_time_and_holds_nobody(dead_mount):
    begin = time.monotonic()
    words = [sys.executable, "-P", "-m", "iobench", "doctor", str(dead_mount / "data"), "--json"]
    done = subprocess.run(words, cwd="/", capture_output=True, text=True, timeout=30, check=False)
    took = time.monotonic() - begin
    assert done.returncode == 0, done.stderr
    assert took < 10  # not a timing: without a limit it would be for ever
    document = json.loads(done.stdout)
    storage = {row["name"]: row for row in document["findings"] if row["group"] == "storage"}
    silent = "did not answer within 2 s"
    assert storage["file system"]["seen"] == f"fuse.dead from dead:/export at {dead_mount} {silent}"
    assert {row["seen"][-len(silent) :] for row in storage.values()} == {silent}
    routes = {route["name"]: route for route in document["routes"]}
    assert routes["host/buffered"]["available"] is None
    assert silent in routes["host/buffered"]["reason"]
    assert all(row["available"] is not None for row in document["findings"] if row["group"] == "software")
