"""The whole check, as a user runs it: what is said without a GPU, and the twin's records, summary and report."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from iobench.gpu_check.child import status_of
from iobench.gpu_check.job import START_S, CheckOutcome, PartOutcome, planned_seconds
from iobench.gpu_check.machine import what_is_missing
from iobench.gpu_check.part import Bench, GpuCheckError, Part, PartSkippedError, parts_named
from iobench.gpu_check.parts import PARTS
from iobench.gpu_check.process import Ended, run_part
from iobench.gpu_check.roads import RoadGoneError
from iobench.results.record import read_record


@pytest.fixture
def check(tmp_path):
    """Runs `python -m iobench.gpu_check` in a folder of its own."""

    def run(*words, limit_s=120):
        command = [sys.executable, "-P", "-m", "iobench.gpu_check", *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=limit_s)

    return run


@pytest.fixture(scope="session")
def no_gpu():
    if not what_is_missing():
        pytest.skip("there is a GPU")


def test_without_a_gpu_one_line_and_one_document_say_what_is_missing(check, no_gpu, tmp_path):
    done = check("--json")
    assert done.returncode == 4
    (line,) = done.stderr.splitlines()
    assert line.startswith("iobench: no NVIDIA GPU can be used here: CUDA: ")
    error = json.loads(done.stdout)["error"]
    assert (error["exit_status"], f"iobench: {error['message']}") == (4, line)
    assert list(tmp_path.iterdir()) == []  # nothing is generated for nothing


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--twin", "--parts", "copy"), "part 'copy' is not known; choose of routes"),
        (("--twin", "--minutes", "0"), "--minutes 0: give more than 0"),
        (("--twin", "--data", __file__), "is a file"),
    ],
)
def test_a_wrong_wish_is_refused_before_anything_is_done(check, words, said, tmp_path):
    done = check(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert not list(tmp_path.glob("iobench-runs/*"))


def test_the_twin_of_one_part_leaves_record_summary_and_report(check, tmp_path):
    done = check("--twin", "--parts", "stall", "--minutes", "1", "--data", "data", "--out", "out", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["kind"], document["device"], document["result"]) == ("gpu-check", "cpu twin", "done")
    (part,) = document["parts"]
    assert (part["name"], part["ending"], part["requirements"]) == ("stall", "done", [])
    record = read_record(tmp_path / "out" / "stall")
    assert record.points[0].params["device"] == "cpu twin"
    assert record.verdict is None
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == document
    assert "cpu twin" in (tmp_path / "out" / "report.html").read_text()


def test_what_there_is_no_time_for_is_skipped_by_name(check):
    done = check("--twin", "--minutes", "0.2", "--parts", "infer", "--data", "data", "--json")
    assert done.returncode == 0
    (part,) = json.loads(done.stdout)["parts"]
    assert part["ending"] == "skipped"
    assert "raise --minutes" in part["reason"]


def bench_in(folder, seconds, page_set):
    return Bench("cpu", page_set.folder, page_set.folder, folder, seconds, 1)


@pytest.mark.slow
def test_a_part_that_is_not_done_in_time_is_killed_and_keeps_what_it_found(tmp_path, page_set):
    (stall,) = parts_named(["stall"], PARTS)
    ended = run_part(stall, bench_in(tmp_path, 40.0, page_set), limit_s=20.0)
    assert ended.ending == "cut off"
    assert read_record(tmp_path).points[0].metrics["meter_error"].n >= 1


def test_a_part_that_fails_says_how_and_leaves_nothing_running(tmp_path, page_set):
    unknown = Part("none-such", "", "load", 1, 1, "nothing")
    ended = run_part(unknown, bench_in(tmp_path, 1.0, page_set), limit_s=60.0)
    assert ended.ending == "failed"
    assert "status 1" in ended.reason
    assert "StopIteration" in ended.reason


def test_a_part_that_raises_keeps_its_error_in_its_record_and_takes_no_other_along(check, tmp_path):
    """Shards of the user's own that are damaged: what reads them fails, what does not is measured."""
    (tmp_path / "data" / "raw").mkdir(parents=True)
    (tmp_path / "data" / "raw" / "one.tfrecord").write_bytes(b"not a record at all, and no length that fits" * 100)
    done = check("--twin", "--parts", "storage,copies", "--minutes", "1", "--data", "data", "--out", "out", "--json")
    document = json.loads(done.stdout)
    storage, copies = document["parts"]
    assert (storage["ending"], copies["ending"]) == ("failed", "done")
    assert (done.returncode, document["result"], storage["exit_status"]) == (4, "failed", 4)
    record = read_record(tmp_path / "out" / "storage")
    error = record.workload["error"]
    assert (error["ending"], error["exit_status"]) == ("failed", 4)
    assert error["reason"] == storage["reason"]
    assert "one.tfrecord" in error["reason"]
    assert record.warnings == (f"failed: {storage['reason']}",)
    assert "one.tfrecord" in (tmp_path / "out" / "report.html").read_text()
    (figure,) = [row for row in document["asked"] if row["name"] == "storage_to_gpu"]
    assert figure["outcome"] == "not measured"
    assert figure["reason"].startswith("part storage failed: ")


def test_an_error_of_a_measurement_that_is_not_valid_has_status_3_and_any_other_4():
    assert [status_of(error) for error in (RoadGoneError("x"), PartSkippedError("x"), GpuCheckError("x"))] == [3, 4, 4]
    assert [status_of(error) for error in (OSError("x"), KeyError("x"))] == [4, 4]


def outcome(name, ending, status=0):
    (part,) = parts_named([name], PARTS)
    return PartOutcome(part, Ended(ending, "why", status), 1.0, Path())


@pytest.mark.parametrize(
    ("outcomes", "result", "status"),
    [
        ([("storage", "done", 0), ("stall", "skipped", 0)], "done", 0),
        ([("storage", "cut off", 0), ("stall", "done", 0)], "not decided", 3),
        ([("storage", "failed", 3), ("stall", "done", 0)], "failed", 3),
        ([("storage", "failed", 3), ("stall", "failed", 4)], "failed", 4),
    ],
)
def test_the_checks_status_is_that_of_its_worst_part(outcomes, result, status):
    found = CheckOutcome("cuda", tuple(outcome(*each) for each in outcomes), Path(), 1.0, {})
    assert (found.result, found.exit_status) == (result, status)


def test_the_plan_gives_each_part_its_seconds_and_names_those_there_is_no_time_for():
    parts = parts_named(["routes", "storage", "infer"], PARTS)
    assert list(planned_seconds(parts, 600).values()) == [part.seconds for part in parts]
    short = planned_seconds(parts, 2 * START_S + parts[0].least_s + parts[1].least_s)
    assert short == {"routes": parts[0].least_s, "storage": parts[1].least_s, "infer": None}


@pytest.mark.slow
def test_the_twin_runs_every_part(check, tmp_path):
    begin = time.monotonic()
    done = check("--twin", "--minutes", "6", "--data", "data", "--out", "out", "--json", limit_s=420)
    assert done.returncode in (0, 3), done.stderr  # 3: a part was cut off, on a busy machine
    parts = {part["name"]: part for part in json.loads(done.stdout)["parts"]}
    assert list(parts) == [part.name for part in PARTS]
    assert not [part["name"] for part in parts.values() if part["ending"] == "failed"], done.stdout
    assert time.monotonic() - begin < 6 * 60 + 30
    for name, part in parts.items():
        if part["record"] is not None:
            assert read_record(Path(tmp_path / "out" / name)).workload["gpu_check"] == name
