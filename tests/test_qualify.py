"""The main job: all of it on small data, and copy or not from made-up rates."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from iobench.loaders.index import RecordLayout
from iobench.qualify import QualifyConfig, add_history
from iobench.qualify.copying import decide_copy, make_copy
from iobench.qualify.run import Run
from iobench.results.record import Metric, Point, RunRecord, write_record
from iobench.storage_bench.accelerators import resolve_accelerator
from iobench.storage_bench.launching.launch import horovod_available
from iobench.storage_bench.staging import StageResult
from iobench.training_bench.fed import DECODE, FEW_STEPS, HARNESS, fed_by_ranks, why_unusable

pytestmark = pytest.mark.alone

PROMISED = {
    "read_gbps",
    "read_iops",
    "latency_p50_us",
    "latency_p99_us",
    "images_per_s",
    "step_time_s",
    "data_wait_s",
    "sync_wait_s",
    "data_stall_fraction",
    "gpu_data_wait_s",
    "au_mlperf",
    "au_dlio",
    "gpus_fed_predicted",
    "gpus_fed_measured",
    "stage_time_s",
    "break_even_epochs",
    "cpu_seconds_per_gb",
    "peak_rss_bytes",
    "joules_per_image",
    "scaling_efficiency",
}
SMALL = (
    *("--accelerator", "0.05", "--batch-size", "8", "--measure-seconds", "30", "--max-ranks", "2"),
    *("--set", "storage.seconds=0.1", "--set", "storage.blocks=3", "--set", "train.rounds=2"),
)


def run(cwd: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "iobench", "qualify", *map(str, words), "--json"]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


# --- the whole job -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qualified(tmp_path_factory):
    """One qualification of data that it generates itself, with a copy on another device where there is one."""
    if reason := horovod_available():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("qualify")
    with tempfile.TemporaryDirectory(prefix="iobench-test-", dir="/dev/shm") as local:
        data = ("--set", "data.num_images=256", "--set", "data.images_per_shard=64", "--set", "data.size=64")
        done = run(folder, folder / "data", *SMALL, *data, "--local", local, "--out", folder / "run")
        assert done.stdout, done.stderr
        yield folder, Path(local), done, json.loads(done.stdout)


@pytest.mark.horovod
def test_the_whole_job_ends_with_a_verdict_a_record_and_a_page(qualified):
    folder, _, done, record = qualified
    assert done.returncode == {"pass": 0, "fail": 1}.get(record["verdict"]["outcome"], 3)
    assert "Traceback" not in done.stderr
    assert json.loads((folder / "run" / "record.json").read_text()) == record
    page = (folder / "run" / "report.html").read_text()
    assert record["verdict"]["sentence"].split(";")[0].split("feeds")[-1].strip()[:40] in page
    assert record["verdict"]["sentence"] in done.stderr
    assert record["verdict"]["measured_seconds"] > 0
    assert record["verdict"]["measured_bytes"] > 0


@pytest.mark.horovod
def test_every_promised_figure_is_there_with_unit_interval_blocks_or_a_reason(qualified):
    metrics = qualified[3]["metrics"]
    assert metrics.keys() >= PROMISED
    for name, metric in metrics.items():
        assert metric["unit"], name
        assert {"value", "unit", "ci95", "n"} <= metric.keys()
        if metric["value"] is None:
            assert metric["reason"], name
            assert metric["ci95"] is None
        else:
            assert metric["n"] >= 1, name


@pytest.mark.horovod
def test_ranks_really_ran_each_in_a_process_of_its_own(qualified):
    record = qualified[3]
    trained = [point for point in record["points"] if point["params"]["stage"] == "train"]
    assert {point["params"]["source"] for point in trained} >= {"direct", "synthetic"}
    for point in trained:
        pids = {rank["pid"] for rank in point["ranks"]}
        assert len(pids) == point["params"]["num_ranks"] == len(point["ranks"])
        parts = ("compute_s", "data_wait_s", "sync_wait_s", "overhead_s")
        step = point["metrics"]["step_time_s"]["value"]
        assert sum(point["metrics"][name]["value"] for name in parts) == pytest.approx(step)


@pytest.mark.horovod
def test_the_record_says_what_was_asked_and_on_which_data(qualified):
    workload = qualified[3]["workload"]
    assert (workload["preset"], workload["batch_size"], workload["step_time_s"]) == ("quick", 8, 0.05)
    assert workload["emulated"] is True
    assert workload["dataset"]["num_images"] == 256
    assert workload["dataset"]["num_shards"] == 4
    assert workload["dataset"]["shape"] == [64, 64, 3]
    assert workload["config"]["storage"]["blocks"] == 3
    assert workload["copy_or_not"]["sentence"]
    assert workload["requirement"].startswith("feeds 1 emulated accelerator of 0.05 s/step running ResNet-50")
    assert workload["target"].endswith("/data")


@pytest.mark.horovod
def test_the_search_and_what_was_predicted_are_beside_what_was_measured(qualified):
    record = qualified[3]
    tried = {trial["num_ranks"] for trial in record["workload"]["search"]}
    assert tried
    assert tried <= {1, 2}
    for point in record["points"]:
        if point["params"]["stage"] == "train" and point["params"]["source"] == "direct":
            predicted = point["metrics"]["au_predicted"]
            assert predicted["value"] is None or 0 < predicted["value"] <= 1
            assert 0 < point["metrics"]["au_mlperf"]["value"] <= point["metrics"]["au_dlio"]["value"] <= 1


@pytest.mark.horovod
def test_the_copy_is_gone_and_the_data_stay(qualified):
    folder, local, _, record = qualified
    assert not list(local.glob("*"))
    assert len(list((folder / "data").glob("*.tfrecord"))) == 4
    assert not list(folder.rglob("*.tmp"))
    if any(point["params"]["stage"] == "stage" for point in record["points"]):
        assert record["metrics"]["stage_time_s"]["value"] > 0


@pytest.mark.horovod
def test_a_later_run_says_what_changed_since_the_last_good_one(qualified, tmp_path):
    record = RunRecord.model_validate(qualified[3])
    verdict = record.verdict.model_copy(update={"outcome": "pass", "passed": True})
    earlier = record.model_copy(update={"run_id": "earlier", "started_at": "2026-01-01", "verdict": verdict})
    assert add_history(record, tmp_path).history is None
    write_record(earlier, tmp_path / "earlier")
    history = add_history(record, tmp_path).history
    assert history.base_run_id == "earlier"
    assert {change.name for change in history.changes} >= {"gpus_fed_measured", "read_gbps"}
    assert "no difference" in history.sentence
    other = record.model_copy(update={"workload": {**record.workload, "target": "/elsewhere"}})
    assert add_history(other, tmp_path).history is None
    others = record.model_copy(update={"workload": {**record.workload, "batch_size": 9}})
    assert (add_history(others, tmp_path).history, add_history(others, tmp_path).warnings) == (None, record.warnings)
    unlike = record.model_copy(update={"workload": {**record.workload, "record_bytes": 9}})
    told = add_history(unlike, tmp_path)
    assert told.history is None
    assert any("record_bytes" in text for text in told.warnings)


@pytest.mark.horovod
def test_a_local_folder_that_cannot_be_written_ends_the_job_before_it_measures(page_set, small_disk, tmp_path):
    if reason := horovod_available():
        pytest.skip(reason)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = run(tmp_path, page_set.folder, *SMALL, "--local", small_disk / "copy")
    assert done.returncode == 4
    assert "read-only" in json.loads(done.stdout)["error"]["message"]
    assert "pilot" not in done.stderr


# --- copy or not -------------------------------------------------------------------------------------------------


def new_run(page_set, local, **config):
    settings = QualifyConfig.model_validate({"accelerator": "0.1", "batch_size": 10, "copy": {"epochs": 10, **config}})
    accelerator = resolve_accelerator("0.1", batch_size=10)
    run = Run(page_set.folder, local, settings, accelerator, lambda part, share, detail: None)
    run.total_bytes = sum(path.stat().st_size for path in page_set.shards)
    run.record_bytes, run.num_images, run.num_shards = 4096, 130, 4
    run.layout = RecordLayout(4096, 100, (35, 35, 3), "uint8")
    run.engine = "buffered"
    return run


def train_point(source, images_per_s, *, half=0.0, flags=()):
    rate = Metric(value=images_per_s, unit="images/s", ci95=(images_per_s - half, images_per_s + half), n=8)
    return Point(
        params={"stage": "train", "source": source, "num_ranks": 1}, metrics={"images_per_s": rate}, flags=flags
    )


def choose(run, *, direct, staged, copy_gbps=1.0, control=1e6):
    """Copy or not where one rank reads at these rates, 1000 images of a GB in the real data set."""
    run.points += [direct, staged, train_point("synthetic", control)]
    copied = StageResult(Path("a"), Path("b"), 1, 10**9, 10**9, 1 / copy_gbps, 0.1, 4, False)
    return decide_copy(run, copied, None)


@pytest.fixture
def large(page_set, tmp_path):
    """A run about a data set too large for any page cache: later epochs read the storage again."""
    return new_run(page_set, tmp_path, dataset_bytes=10**18)


def seconds(run, rate):
    return run.real_bytes / run.record_bytes / rate


def test_a_copy_pays_after_the_epochs_that_make_up_for_it(large):
    choice = choose(large, direct=train_point("direct", 100.0), staged=train_point("staged", 1000.0), copy_gbps=0.001)
    assert choice.outcome == "copy after E"
    direct, staged, copy = seconds(large, 100.0), seconds(large, 1000.0), large.real_bytes / 1e6
    expected = next(epochs for epochs in range(1, 11) if copy + epochs * staged < epochs * direct)
    assert choice.break_even_epochs == expected


def test_a_copy_that_reads_no_faster_never_pays(large):
    choice = choose(large, direct=train_point("direct", 100.0), staged=train_point("staged", 100.0))
    assert choice.outcome == "never"


def test_rates_whose_intervals_overlap_are_not_distinguishable(large):
    direct, staged = train_point("direct", 100.0, half=20), train_point("staged", 110.0, half=20)
    assert choose(large, direct=direct, staged=staged, copy_gbps=1000.0).outcome == "not distinguishable"


@pytest.mark.parametrize(
    "staged",
    [
        train_point("staged", 1000.0, flags=("insufficient",)),
        train_point("staged", 1000.0, half=1000.0),
        Point(
            params={"stage": "train", "source": "staged", "num_ranks": 1},
            metrics={"images_per_s": Metric(value=1000.0, unit="images/s", n=1)},
        ),
    ],
)
def test_too_few_steps_compare_nothing(large, staged):
    choice = choose(large, direct=train_point("direct", 100.0), staged=staged)
    assert choice.outcome == "not distinguishable"
    assert "Too few steps" in choice.sentence


def test_epochs_from_the_page_cache_cost_the_same_on_both_roads(page_set, tmp_path):
    run = new_run(page_set, tmp_path)
    run.warm_rate = Metric(value=500.0, unit="images/s", ci95=(100.0, 900.0), n=8)
    choice = choose(run, direct=train_point("direct", 1.0), staged=train_point("staged", 100.0), control=400.0)
    # 130 images: 130 s read in place; 1.3 s from the copy, which takes next to nothing; later 130 / 400 s for both
    assert (choice.outcome, choice.break_even_epochs) == ("copy after E", 1)
    later = [b - a for a, b in zip(choice.direct_s[:-1], choice.direct_s[1:], strict=True)]
    assert later == pytest.approx([130 / 400] * 9)
    assert [b - a for a, b in zip(choice.staged_s[:-1], choice.staged_s[1:], strict=True)] == pytest.approx(later)


def test_a_page_cache_whose_rate_was_not_measured_leaves_the_question_open(page_set, tmp_path):
    run = new_run(page_set, tmp_path)
    choice = choose(run, direct=train_point("direct", 1.0), staged=train_point("staged", 100.0))
    assert choice.outcome == "not distinguishable"
    assert "page cache" in choice.sentence


def test_a_copy_whose_reads_were_not_valid_decides_nothing(large):
    large.copy_invalid = "ranks: staged, 1 ranks: asked for cold reads"
    choice = choose(large, direct=train_point("direct", 100.0), staged=train_point("staged", 1000.0))
    assert choice.outcome == "not distinguishable"
    assert "asked for cold reads" in choice.sentence


def test_a_copy_beside_the_data_is_not_applicable(page_set, tmp_path):
    staged, choice = make_copy(new_run(page_set, page_set.folder.parent / "local"))
    assert staged is None
    assert choice.outcome == "same device: not applicable"
    assert "--local" in choice.sentence


def test_a_copy_of_the_real_data_set_must_fit_not_only_its_sample(page_set, memory_folder):
    run = new_run(page_set, memory_folder, dataset_bytes="1000T")
    staged, choice = make_copy(run)
    assert staged is None
    assert choice.outcome == "does not fit"
    assert not list(memory_folder.iterdir())


def test_a_copy_takes_no_more_disk_than_it_may(page_set, memory_folder):
    run = new_run(page_set, memory_folder)
    run.config = run.config.model_copy(update={"disk_bytes": 1000})
    staged, choice = make_copy(run)
    assert (staged, choice.outcome) == (None, "does not fit")
    run.config = run.config.model_copy(update={"disk_bytes": 90 * 4096})
    staged, _ = make_copy(run)
    assert staged.num_files == 1  # what is affordable at a rate that is not known: the first shard
    assert staged.copied_bytes == 40 * 4096


def test_a_copy_that_fails_is_removed(copied, page_set, memory_folder):
    known = copied(page_set)
    with known.shards[0].open("r+b") as file:
        file.seek(100)
        file.write(b"\0\1\2")
    with pytest.raises(ValueError, match="digest"):
        make_copy(new_run(known, memory_folder))
    assert not list(memory_folder.iterdir())


# --- which ranks give a verdict ----------------------------------------------------------------------------------


def au_point(source, value, *, half=0.01, flags=()):
    metric = (
        Metric(value=None, unit="fraction", reason="no counted step")
        if value is None
        else Metric(value=value, unit="fraction", ci95=(value - half, value + half), n=4)
    )
    return Point(params={"source": source, "num_ranks": 2}, metrics={"au_mlperf": metric}, flags=flags)


@pytest.mark.parametrize(
    ("direct", "control", "reason"),
    [
        (au_point("direct", 0.95), 0.99, None),
        (au_point("direct", 0.50), 0.99, None),
        (au_point("direct", 0.95, flags=("insufficient",)), 0.99, FEW_STEPS),
        (au_point("direct", 0.50, flags=("insufficient",)), 0.99, None),
        (au_point("direct", 0.89, half=0.05, flags=("insufficient",)), 0.99, FEW_STEPS),
        (au_point("direct", 0.95, flags=("harness_limited",)), 0.95, None),
        (au_point("direct", 0.88, flags=("harness_limited",)), 0.95, HARNESS),
        (au_point("direct", 0.50, flags=("harness_limited",)), 0.95, None),
        (au_point("direct", 0.95, flags=("harness_limited",)), 0.80, HARNESS),
        (au_point("direct", 0.50, flags=("decode_limited",)), 0.99, DECODE),
        (au_point("direct", None), 0.99, "no counted step"),
        (None, 0.99, "not run"),
    ],
)
def test_only_what_flags_and_control_leave_standing_gives_a_verdict(direct, control, reason):
    points = [point for point in (direct, au_point("synthetic", control)) if point is not None]
    assert why_unusable(points, 2, threshold=0.9) == reason


def test_ranks_that_give_no_verdict_leave_the_number_fed_open():
    points = [au_point("direct", 0.95), au_point("synthetic", 0.99)]
    assert fed_by_ranks(points, threshold=0.9).value == 2
    assert fed_by_ranks(points, threshold=0.9).is_at_least
    limited = [au_point("direct", 0.95, flags=("insufficient",)), au_point("synthetic", 0.99)]
    assert fed_by_ranks(limited, threshold=0.9).value is None
