"""`iobench infer` as a user meets it: wrong usage, an interrupt, one document on stdout."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = ("--accelerator", "0.01", "--batch-size", "4", "--batches", "8", "--queue-depth", "2", "--threads", "2")


def words(*more: object) -> list[str]:
    return [sys.executable, "-m", "iobench", "infer", *map(str, more)]


def infer(folder: Path, *more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words(*more), cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--batch-size", "x"), "give numbers with commas between them"),
        (("--batch-size", "8,8"), "name each once"),
        (("--batch-size", "0"), "iobench: --batch-size: key 'batch_sizes' is 0"),
        (("--latency-bound", "0"), "iobench: --latency-bound: key 'latency_bound_s' is 0.0"),
        (("--model", "resnet19"), "iobench: --model: key 'models' is 'resnet19'"),
        (("--model", "vgg16"), "no step time of VGG-16 on h100 is published"),
        (("--accelerator", "cpu", "--weights", "nowhere"), "there is no checkpoint"),
        (("--preset", "quick"), "presets are: five-models, hpe-validation"),
    ],
)
def test_wrong_usage_is_exit_2_and_leaves_no_folder(in_process, tmp_path, page_set, wrong, said):
    done = in_process("infer", page_set.folder, *wrong)
    assert done.status == 2
    assert said in done.err
    assert not list(tmp_path.iterdir())


def test_the_record_tells_of_every_source_and_of_what_is_less_than_in_the_study(tmp_path, page_set):
    done = infer(tmp_path, page_set.folder, *SMALL, "--rounds", "1", "--out", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["kind"] == "infer"
    assert {point["params"]["source"] for point in record["points"]} == {"direct", "synthetic"}
    assert record["workload"]["emulated"] is True
    assert record["workload"]["scaled_down"]["batches"] == [8, 400]
    first, last = record["summary"]
    assert first.startswith("ResNet-50, 1 x emulated 0.01 s/step, batch 4: direct ")
    assert "batches 8 instead of 400" in last
    assert last in done.stderr
    assert (tmp_path / "run" / "report.html").stat().st_size > 0


def test_an_interrupt_ends_it_with_130_and_without_a_record(tmp_path, page_set):
    command = (page_set.folder, *SMALL[2:], "--accelerator", "0.5", "--batches", "400", "--out", tmp_path / "run")
    begun = subprocess.Popen(words(*command, "--json"), cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    time.sleep(4)
    begun.send_signal(signal.SIGINT)
    document, _ = begun.communicate(timeout=30)
    assert begun.returncode == 130
    assert json.loads(document)["error"]["exit_status"] == 130
    assert not (tmp_path / "run" / "record.json").exists()
