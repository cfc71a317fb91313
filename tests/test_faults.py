"""A storage that fails: bad blocks, hangs, a device that goes away, on a real file system that does so on demand."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from iobench.loaders import ShardSet
from iobench.storage_bench.launching.launch import horovod_available


def test_the_file_system_shows_what_lies_below(faults):
    (faults.backing / "a").write_bytes(b"0123456789")
    assert (faults.mount / "a").read_bytes() == b"0123456789"
    (faults.mount / "b").write_bytes(b"x")
    assert (faults.backing / "b").read_bytes() == b"x"


def test_faults_come_and_go_while_it_is_mounted(faults):
    path = faults.mount / "a"
    (faults.backing / "a").write_bytes(os.urandom(3 << 20))
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    faults.set("eio a 1048576 4096")
    assert len(os.pread(fd, 4096, 0)) == 4096
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        os.pread(fd, 4096, 1 << 20)
    faults.set("gone 19")
    with pytest.raises(OSError, match=os.strerror(errno.ENODEV)):
        path.stat()
    faults.set("hang 0.2")
    begin = time.monotonic()
    path.stat()
    assert time.monotonic() - begin >= 0.2
    faults.set("short 100")
    again = os.open(path, os.O_RDONLY)
    assert len(os.pread(again, 4096, 0)) == 100
    faults.set()
    assert len(os.pread(fd, 4096, 1 << 20)) == 4096
    os.close(fd)
    os.close(again)


# --- the commands


@pytest.fixture
def data(faults, page_set) -> Path:
    """The pages on the failing file system, indexed while it was well."""
    shutil.copytree(page_set.folder, faults.backing / "data", ignore=shutil.ignore_patterns(".*"))
    folder: Path = faults.mount / "data"
    ShardSet.open(folder)
    return folder


def iobench(cwd: Path, *words: object, **environment: str) -> tuple[int, dict, str]:
    """Exit status, the JSON document and what was said; nothing of the command may be left."""
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    done = subprocess.run(
        [sys.executable, "-m", "iobench", *map(str, words), "--json"],
        cwd=cwd,
        env={**os.environ, "IOBENCH_TEST_MARK": mark, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout, done.stderr
    assert "Traceback" not in done.stderr
    assert not marked_processes(mark)
    return done.returncode, json.loads(done.stdout), done.stderr


def marked_processes(mark: str) -> list[str]:
    """Every process whose environment carries the mark, a second after the command has ended."""
    deadline = time.monotonic() + 1.0
    while found := [process.name() for process in psutil.process_iter() if _mark_of(process) == mark]:
        if time.monotonic() > deadline:
            return found
        time.sleep(0.05)
    return []


def _mark_of(process: psutil.Process) -> str | None:
    try:
        mark: str | None = process.environ().get("IOBENCH_TEST_MARK")
    except psutil.Error:
        return None
    return mark


STORAGE = ("--engine", "direct", "--block-size", "16K", "--threads", "1", "--queue-depth", "2", "--blocks", "2")
READ_AND_WRITE = ("--set", 'operation=["read","write"]', "--seconds", "0.1")


def words_of(command: str, data: Path, folder: Path) -> tuple[object, ...]:
    small = ("--accelerator", "0.05", "--batch-size", "8", "--measure-seconds", "10", "--max-ranks", "1")
    return {
        "load": ("load", data, "--engine", "direct", "--seconds", "0.2", "--out", folder / "run"),
        "stage": ("stage", data, folder / "copy", "--out", folder / "run"),
        "index": ("index", data, "--verify"),
        "qualify": ("qualify", data, *small, "--local", folder / "local", "--out", folder / "run"),
    }[command]


def points_of(record: dict) -> dict[str, dict]:
    return {point["params"]["operation"]: point for point in record["points"]}


def test_a_bad_block_ends_its_point_and_no_other(faults, data, tmp_path):
    faults.set(f"eio data/{sorted(data.glob('*.tfrecord'))[1].name} 16384 4096")
    status, record, _ = iobench(tmp_path, "storage", data, *STORAGE, *READ_AND_WRITE, "--out", tmp_path / "run")
    assert status == 4
    read, write = points_of(record)["read"], points_of(record)["write"]
    assert "failed" in read["flags"]
    assert "failed" not in write["flags"]
    assert write["metrics"]["write_gbps"]["value"] > 0
    (said,) = [text for text in record["warnings"] if "failed" in text]
    assert f"{sorted(data.glob('*.tfrecord'))[1]}: read of 16384 bytes at byte 16384 failed: Input/output error" in said
    assert json.loads((tmp_path / "run/record.json").read_text()) == record
    assert (tmp_path / "run/report.html").exists()


def test_a_device_that_goes_away_while_it_is_measured_leaves_a_record_that_says_so(faults, data, tmp_path):
    faults.set("gone 19 20000000")
    status, record, _ = iobench(tmp_path, "storage", data, *STORAGE, "--seconds", "2", "--out", tmp_path / "run")
    assert status == 4
    assert record["points"][0]["flags"] == ["failed"]
    assert any("at byte" in text and "No such device" in text for text in record["warnings"])
    assert (tmp_path / "run/record.json").exists()


def test_a_mount_that_stands_still_ends_its_point_with_the_place_where_it_waited(faults, data, tmp_path):
    faults.set("hang 2 2000000")
    patience = ("--set", "patience_s=0.5", "--seconds", "0.2")
    status, record, _ = iobench(tmp_path, "storage", data, *STORAGE, *patience, "--out", tmp_path / "run")
    assert status == 4
    assert record["points"][0]["flags"] == ["failed"]
    (said,) = [text for text in record["warnings"] if "have not come back within 0.5 s" in text]
    assert ".tfrecord: byte " in said
    assert (tmp_path / "run/record.json").exists()


@pytest.mark.parametrize("command", ["load", "stage", "index", pytest.param("qualify", marks=pytest.mark.horovod)])
def test_a_bad_block_is_named_by_file_and_byte(faults, data, tmp_path, command):
    if command == "qualify" and (reason := horovod_available()):
        pytest.skip(reason)
    shard = sorted(data.glob("*.tfrecord"))[1]
    faults.set(f"eio data/{shard.name} 65536 4096")
    status, document, said = iobench(tmp_path, *words_of(command, data, tmp_path))
    assert status == 4, document
    message = document["error"]["message"] if "error" in document else said
    assert str(shard) in message
    assert "at byte" in message
    assert "Input/output error" in message
    assert not list(tmp_path.rglob("*.iobench-*.tmp"))


@pytest.mark.parametrize("command", ["load", "stage", "index"])
def test_a_device_that_goes_away_is_an_error_that_names_a_file(faults, data, tmp_path, command):
    faults.set("gone 19 200000")
    status, document, _ = iobench(tmp_path, *words_of(command, data, tmp_path))
    assert status == 4
    assert str(data) in document["error"]["message"]
    assert "No such device" in document["error"]["message"]


def test_a_mount_that_does_not_answer_at_all_is_told_and_the_command_ends(faults, data, tmp_path):
    faults.set("hang 2")
    status, document, _ = iobench(tmp_path, *words_of("index", data, tmp_path), IOBENCH_PATIENCE_S="0.5")
    assert status == 4
    assert document["error"]["type"] == "StorageSilentError"
    assert f"{data}: its file system has not answered for 0.5 s" in document["error"]["message"]
    assert "IOBENCH_PATIENCE_S=SECONDS" in document["error"]["message"]


@pytest.mark.slow
def test_an_interrupt_is_taken_though_the_command_is_stuck_in_the_kernel(faults, data):
    faults.set("hang 60")
    words = [sys.executable, "-m", "iobench", "index", str(data)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "iobench: interrupted\n"
    faults.set()  # the kernel keeps the process until the mount answers
    assert process.wait(timeout=10) == 130


def test_a_mount_that_only_pauses_is_waited_for(faults, data, tmp_path):
    faults.set("hang 0.7")
    status, document, _ = iobench(tmp_path, "index", data)
    assert status == 0, document


def test_a_patience_that_is_no_number_is_refused(tmp_path):
    status, document, _ = iobench(tmp_path, "index", tmp_path, IOBENCH_PATIENCE_S="long")
    assert status == 2
    assert "IOBENCH_PATIENCE_S='long' is no number of seconds" in document["error"]["message"]


@pytest.mark.slow
@pytest.mark.horovod
def test_what_a_qualification_measured_before_the_device_went_away_is_kept(faults, data, tmp_path):
    if reason := horovod_available():
        pytest.skip(reason)
    words = [str(word) for word in words_of("qualify", data, tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-m", "iobench", *words, "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr is not None
        said = []
        for line in running.stderr:
            said.append(line)
            if line.startswith("load") or " load " in line:  # the storage points are there by then
                break
        faults.set("gone 19")
        rest, _ = running.communicate(timeout=60)
    assert running.returncode == 4, "".join(said)
    assert "No such device" in json.loads(rest)["error"]["message"]
    record = json.loads((tmp_path / "run/record.json").read_text())
    assert {point["params"]["stage"] for point in record["points"]} >= {"storage"}
    assert record["verdict"] is None
    assert any(text.startswith("stopped before its end") and "No such device" in text for text in record["warnings"])
    assert (tmp_path / "run/report.html").exists()
