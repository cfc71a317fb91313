"""`iobench storage` on a folder: one document, one record, wrong usage told, and nothing left after an interrupt."""

import json
import signal
import subprocess
import sys
import time

import pytest

WARM = ("--page-cache", "warm", "--seconds", "0.05", "--blocks", "2")


@pytest.fixture
def iobench(tmp_path):
    """Runs `iobench storage data ... --json` in a process of its own; (exit status, document, what it said)."""
    (tmp_path / "data").mkdir()

    def run(*words):
        command = [sys.executable, "-P", "-m", "iobench", "storage", "data", *words, "--json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, json.loads(done.stdout), done.stderr

    return run


def test_names_end_with_a_record_and_a_table(iobench, tmp_path):
    status, record, said = iobench("--metadata", "--files", "200", *WARM)
    assert status == 0
    assert record["workload"]["files"] == 200
    assert record["metrics"]["stat_per_s"]["n"] == 2
    assert "small read" in said
    (found,) = record["summary"]
    assert "the least of all operations" in found
    assert found in said
    (folder,) = (tmp_path / "iobench-runs").iterdir()
    assert json.loads((folder / "record.json").read_text()) == record
    page = (folder / "report.html").read_text()
    assert "files made" in page
    assert "names cached" in page
    assert list((tmp_path / "data").iterdir()) == []


def test_checkpoints_end_with_a_record_and_a_table(iobench, tmp_path):
    status, record, said = iobench("--checkpoint", "4M", "--seconds", "0.1", "--blocks", "2")
    assert status in (0, 3), said  # so few bytes: what a busy machine writes beside them may decide
    assert [point["params"]["beside"] for point in record["points"]] == ["nothing", "reads"]
    assert record["metrics"]["restore_gbps"]["value"] > 0
    assert "beside reads" in said
    assert record["summary"][0].startswith("A checkpoint of 4.19 MB is written at ")
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        (("--metadata", "--checkpoint", "1M"), 2, "give one of them"),
        (("--metadata", "--access", "random"), 2, "'access' is not known"),
        (("--files", "20"), 2, "'files' is not known"),
        (("--metadata", "--files", "3"), 2, "--files"),
        (("--checkpoint", "soon"), 2, "no size"),
        (("--checkpoint", "1M", "--page-cache", "warm"), 2, "'page_cache' is not known"),
        (("--checkpoint", "1000T"), 4, "give a smaller size"),
    ],
)
def test_what_does_not_fit_together_is_told(in_process, tmp_path, words, status, named):
    (tmp_path / "data").mkdir()
    done = in_process("storage", "data", *words, "--json")
    document = json.loads(done.out)
    assert done.status == document["error"]["exit_status"] == status
    assert named in document["error"]["message"]
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["data"]


@pytest.mark.parametrize("words", [("--metadata", "--files", "5000"), ("--checkpoint", "64M")])
def test_an_interrupt_leaves_nothing_behind(tmp_path, words):
    (tmp_path / "data").mkdir()
    command = [sys.executable, "-P", "-m", "iobench", "storage", "data", *words, "--blocks", "100"]
    extra = WARM[:2] if "--metadata" in words else ()
    process = subprocess.Popen([*command, *extra], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any((tmp_path / "data").glob(".iobench-*/*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    deadline = time.monotonic() + 60  # a folder of many files is removed by a process that goes on alone
    while any((tmp_path / "data").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list((tmp_path / "data").iterdir()) == []
