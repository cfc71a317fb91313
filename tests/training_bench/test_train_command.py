"""`iobench train --hops` and `--roofline`, as a user runs them: one document, the lines that say what it means."""

import json
import subprocess
import sys

import pytest

SMALL = ("--accelerator", "0.005", "--batch-size", "8", "--steps", "4", "--set", "rounds=2")


@pytest.fixture
def train(tmp_path, page_set):
    """Runs `iobench train` in a process of its own; (exit status, document, what it said)."""

    def run(*words):
        command = [sys.executable, "-P", "-m", "iobench", "train", str(page_set.folder), *words, "--json"]
        command += ["--local", str(tmp_path / "local")]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, json.loads(done.stdout), done.stderr

    return run


def points_of(record, stage, name):
    return {point["params"][name]: point for point in record["points"] if point["params"]["stage"] == stage}


def test_hops_are_points_of_the_record_and_lines_on_the_terminal(train, tmp_path):
    status, record, said = train(*SMALL, "--hops", "--source", "staged", "--engine", "buffered")
    assert status in (0, 3), said  # so few bytes: what a busy machine reads beside them may decide
    hops = points_of(record, "hop", "hop")
    assert list(hops) == ["synthetic", "host", "warm", "direct", "staged"]
    assert hops["warm"]["read_path"]["page_cache"] == "warm"
    assert hops["direct"]["read_path"]["page_cache"] == "cold"
    assert hops["host"]["read_path"] is None
    steps = {hop: point["metrics"]["step_time_s"]["samples"] for hop, point in hops.items()}
    for hop, before in (("host", "synthetic"), ("warm", "host"), ("direct", "warm"), ("staged", "warm")):
        cost = hops[hop]["metrics"]["hop_cost_s"]
        assert cost["samples"] == pytest.approx([a - b for a, b in zip(steps[hop], steps[before], strict=True)])
        assert cost["n"] == 4
        assert cost["ci95"] is not None
    assert all(point["params"]["emulated"] for point in hops.values())
    assert "over page cache" in said
    assert "stall by substitution" in said
    assert not (tmp_path / "local").exists(), "the copy is gone, and the folder that was made for it"


def test_a_roofline_is_points_of_the_record_and_lines_on_the_terminal(train):
    status, record, said = train(*SMALL, "--roofline")
    assert status in (0, 3), said
    roofs = points_of(record, "roofline", "roof")
    assert roofs["compute"]["metrics"]["images_per_s"]["value"] == pytest.approx(8 / 0.005)
    assert "emulated" in roofs["compute"]["params"]["roof_source"]
    assert roofs["measured"]["metrics"]["images_per_s"] == record["metrics"]["images_per_s"]
    assert "emulated" in roofs["memory_bandwidth"]["metrics"]["images_per_s"]["reason"]
    assert "Roofline: " in said


@pytest.mark.parametrize(
    "words",
    [("--hops", "--source", "synthetic"), ("--hops", "--accelerator", "cpu", "--checkpoint", "kept")],
    ids=" ".join,
)
def test_hops_that_lead_nowhere_are_refused(in_process, page_set, words):
    done = in_process("train", page_set.folder, *SMALL, *words, "--local", "local", "--json")
    assert done.status == 2
    assert "--hops" in json.loads(done.out)["error"]["message"]
