"""`iobench scale` as a user meets it: wrong usage, an interrupt and going on, one document on stdout."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from iobench.cli.scale import numbers

SMALL = ("--gpus", "1", "--accelerator", "0.02", "--batch-size", "4", "--steps", "4")


def words(*more: object) -> list[str]:
    return [sys.executable, "-m", "iobench", "scale", *map(str, more)]


def scale(folder: Path, *more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words(*more), cwd=folder, capture_output=True, text=True, check=False)


def test_numbers_stand_between_commas():
    assert numbers("--gpus", "1, 2,4") == [1, 2, 4]
    assert numbers("--gpus", None) is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--nodes", "x"), "give numbers with commas between them"),
        (("--nodes", "0"), "greater than or equal to 1"),
        (("--resume",), "--resume goes on with the grid in --out"),
        (("--hosts", "-oProxyCommand=x:1"), "is not a host's name"),
        (("--hosts", "a:1", "--nodes", "2"), "the grid goes up to 2 nodes"),
        (("--preset", "quick"), "presets are: two-cores"),
        (("--transform", "sideways"), "--transform: key 'transform' is 'sideways'"),
    ],
)
def test_wrong_usage_is_exit_2_and_leaves_no_folder(in_process, tmp_path, page_set, wrong, said):
    done = in_process("scale", page_set.folder, *wrong)
    assert done.status == 2
    assert said in done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_interrupted_grid_says_how_to_go_on_and_does(tmp_path, page_set):
    command = (page_set.folder, *SMALL, "--repeats", "4", "--out", tmp_path / "run", "--json")
    first = subprocess.Popen(words(*command), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "run" / "cells.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (journal.exists() and '{"trial"' in journal.read_text()):
        time.sleep(0.02)
    first.send_signal(signal.SIGINT)
    document, said = first.communicate(timeout=60)
    assert first.returncode == 130
    assert json.loads(document)["error"]["exit_status"] == 130
    assert "--resume" in said
    kept = journal.read_text().splitlines()

    done = scale(tmp_path, *command, "--resume")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["kind"] == "scale"
    assert record["summary"][0].startswith("train, direct, 1 rank (1x1) on emulated accelerators of 0.02 s/step: ")
    assert "100% of the line through 1x1" in record["summary"][0]
    assert [point["metrics"]["images_per_s"]["n"] for point in record["points"]] == [4, 4]
    assert journal.read_text().splitlines()[: len(kept)] == kept
    assert json.loads((tmp_path / "run" / "record.json").read_text()) == record
