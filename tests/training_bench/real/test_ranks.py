"""Real training: ranks that average as one process would, killed and resumed, refused, and what it learns."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from iobench.storage_bench.generate import Generate, generate
from iobench.storage_bench.launching.launch import horovod_available, launch_ranks
from iobench.training_bench.real.plan import RealPlan

PROGRAMS = Path(__file__).parent.with_name("programs")
MISSING = horovod_available()
pytestmark = [pytest.mark.horovod, pytest.mark.skipif(MISSING is not None, reason=f"Horovod: {MISSING}")]


def start(*words, folder, mark="", module=("iobench",)):
    """The command as a process of its own; its ranks carry the mark, too."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", *module, *map(str, words)],
        cwd=folder,
        # threads that spin while they wait are what makes tests slow where cores are shared
        env={**os.environ, "IOBENCH_TEST_MARK": mark, "TMPDIR": str(folder), "OMP_WAIT_POLICY": "PASSIVE"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    return json.loads(out)


def training(data, *words, steps, ranks=2, model="resnet18"):
    return (
        *("train", data, "--accelerator", "cpu", "--model", model, "--np", ranks, "--batch-size", 4, "--json"),
        *("--steps", steps, "--set", "num_classes=10", *words),
    )


def marked(mark):
    """Living processes of one run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("IOBENCH_TEST_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def wait_until(condition, *, within_s=60.0):
    deadline = time.monotonic() + within_s
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return met


def test_two_ranks_train_the_weights_of_one_process_with_the_whole_batch_and_of_torch(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(PROGRAMS), os.environ.get("PYTHONPATH")])))
    plan = RealPlan(
        model="resnet18",  # the program has a network of its own
        device="cpu",
        num_ranks=2,
        batch_size=4,
        steps=12,
        source="synthetic",
        image_shape=(8, 8, 3),
        threads=1,
        learning_rate=3.2,
        weight_decay=0.01,
        data=str(tmp_path / "meeting"),  # nothing is read: the file through which torch's processes find each other
    )
    config = plan.model_dump(mode="json")
    results = launch_ranks("averaging", config, num_ranks=2, folder=tmp_path / "run", timeout_s=90, emulated=False)
    for result in results:
        assert result["moved"] > 0.01
        assert result["from_alone"] <= 1e-6
        assert result["from_torch"] <= 1e-6
    assert results[0]["sum"] == results[1]["sum"]


@pytest.mark.slow
def test_a_killed_rank_is_named_nothing_is_left_and_resume_goes_on_to_the_same_losses(page_set, tmp_path):
    words = ("--checkpoint-steps", 4, "--checkpoint")
    whole = finish(
        start(*training(page_set.folder, *words, tmp_path / "whole", steps=9, model="googlenet"), folder=tmp_path)
    )
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    process = start(
        *training(page_set.folder, *words, tmp_path / "killed", steps=9, model="googlenet"), folder=tmp_path, mark=mark
    )
    assert wait_until((tmp_path / "killed" / "step-00000004.pt").exists), process.communicate()
    victim = next(each for each in marked(mark) if each.name() == "iobench-rank1")
    victim.send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    out, _ = process.communicate(timeout=60)
    assert time.monotonic() - killed_at < 60
    assert process.returncode == 4
    message = json.loads(out)["error"]["message"]
    assert f"rank 1 (pid {victim.pid} on {os.uname().nodename}) was killed by SIGKILL" in message
    assert wait_until(lambda: not marked(mark), within_s=2.0), marked(mark)
    resumed = finish(
        start(
            *training(page_set.folder, *words, tmp_path / "killed", "--resume", steps=9, model="googlenet"),
            folder=tmp_path,
        )
    )
    assert 4 <= resumed["workload"]["first_step"] < 9
    assert resumed["workload"]["loss_curve"] == whole["workload"]["loss_curve"]
    assert len(whole["workload"]["loss_curve"]["losses"]) == 9
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["step-00000008.pt", "step-00000009.pt"]


def test_torchrun_is_refused_with_what_to_run_instead(page_set, tmp_path):
    words = ("--nproc-per-node", 2, "--master-port", 0, "-m", "iobench", "train", page_set.folder, "--json")
    process = start(*words, folder=tmp_path, module=("torch.distributed.run",))
    out, said = process.communicate(timeout=200)
    assert process.returncode != 0
    refused = [json.loads(line)["error"] for line in out.splitlines() if line.startswith('{"error"')]
    assert refused, said
    assert all(error["exit_status"] == 2 for error in refused)
    assert all("torchrun started 2 copies" in error["message"] for error in refused)
    assert all("--np 2` without torchrun" in error["message"] for error in refused)
    assert not list(tmp_path.glob("iobench-runs/*"))


def test_the_record_of_one_rank_holds_parts_that_add_up_and_what_was_learned(page_set, tmp_path):
    words = training(page_set.folder, "--validate", page_set.folder, steps=9, ranks=1)
    record = finish(start(*words, folder=tmp_path))
    assert record["kind"] == "train"
    metrics = record["metrics"]
    parts = ("data_wait_s", "compute_s", "sync_wait_s", "optimizer_s", "overhead_s")
    assert math.isclose(sum(metrics[name]["value"] for name in parts), metrics["step_time_s"]["value"], rel_tol=1e-9)
    assert metrics["step_time_s"]["n"] == 3  # 9 steps less 3 that are dropped, two to a block
    assert metrics["images_per_s"]["value"] > 0
    assert 0 <= metrics["validation_accuracy"]["value"] <= 1
    assert record["points"][0]["params"]["emulated"] is False
    assert record["workload"]["parameters"] == 11_689_512 - 990 * 513  # 10 classes instead of 1,000
    assert record["read_path"]["payload_bytes"] >= 9 * 4 * 35 * 35 * 3


@pytest.mark.slow
def test_real_training_beats_a_control_with_shuffled_labels(tmp_path):
    for name, images, seed in (("train", 4096, 0), ("held-out", 512, 1)):
        generate(tmp_path / name, Generate(num_images=images, size=96, images_per_shard=512, seed=seed))
    right = {}
    for labels in ("given", "shuffled"):
        words = ("--validate", tmp_path / "held-out", "--set", "crop=64", "--set", f"labels={labels}")
        tuned = ("--set", "learning_rate=0.4", "--batch-size", 16)
        record = finish(start(*training(tmp_path / "train", *words, *tuned, steps=60), folder=tmp_path))
        right[labels] = record["metrics"]["validation_accuracy"]["value"]
    assert right["given"] > 0.9  # ten classes: chance is 0.1
    assert right["shuffled"] < 0.2
