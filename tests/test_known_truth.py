"""Known truth: on a disk held to a known rate, rates and accelerators fed must come out as that rate says."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

RATE_BPS = 200 << 20
RECORD_BYTES = 270_336
BATCH_SIZE = 64
THRESHOLD = 0.90

pytestmark = pytest.mark.root


class Throttle:
    """A control group whose processes read from one disk at RATE_BPS at most; cgroup v1 or v2."""

    def __init__(self, device: str) -> None:
        v1 = Path("/sys/fs/cgroup/blkio")
        self.root = v1 if v1.is_dir() else Path("/sys/fs/cgroup")
        self.group = self.root / f"iobench-test-{uuid.uuid4().hex[:8]}"
        if not v1.is_dir():
            (self.root / "cgroup.subtree_control").write_text("+io")
        self.group.mkdir()
        name, line = (
            ("blkio.throttle.read_bps_device", f"{device} {RATE_BPS}")
            if v1.is_dir()
            else ("io.max", f"{device} rbps={RATE_BPS}")
        )
        (self.group / name).write_text(line)

    def run(self, *words: str) -> tuple[int, dict]:
        """Run iobench inside the group; its exit status and its JSON document."""
        done = subprocess.run(
            [sys.executable, "-m", "iobench", *words, "--json"],
            capture_output=True,
            text=True,
            preexec_fn=lambda: (self.group / "cgroup.procs").write_text(str(os.getpid())),
            check=False,
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def close(self) -> None:
        """Remove the group; its processes have ended."""
        self.group.rmdir()


@pytest.fixture(scope="module")
def disk_data(tmp_path_factory):
    """1,024 generated images on whatever disk temporary files lie on."""
    from iobench.storage_bench.generate import Generate, generate

    folder = tmp_path_factory.mktemp("throttled")
    generate(folder / "data", Generate(num_images=1024, images_per_shard=128))
    return folder / "data"


@pytest.fixture(scope="module")
def throttle(disk_data):
    number = disk_data.stat().st_dev
    node = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if os.geteuid() != 0:
        pytest.skip("needs root to throttle a disk")
    if not node.exists():
        pytest.skip(f"{disk_data} is on no block device")
    disk = node.resolve().parent if (node / "partition").exists() else node
    try:
        group = Throttle((disk / "dev").read_text().strip())
    except OSError as error:
        pytest.skip(f"the disk cannot be throttled here: {error}")
    yield group
    group.close()


def test_direct_and_cold_buffered_reads_both_report_the_throttled_rate(throttle, disk_data, tmp_path):
    status, record = throttle.run(
        *("storage", str(disk_data), "--engine", "direct,buffered", "--seconds", "1", "--blocks", "6"),
        *("--out", str(tmp_path / "run")),
    )
    assert status == 0, record
    assert {point["params"]["engine"] for point in record["points"]} == {"direct", "buffered"}
    for point in record["points"]:
        assert point["metrics"]["read_gbps"]["value"] == pytest.approx(RATE_BPS / 1e9, rel=0.03)
        assert point["read_path"]["cache_fraction"] <= 0.02
        assert point["read_path"]["device_bytes"] >= 0.98 * point["read_path"]["delivered_bytes"]


def test_warm_reads_are_resident_and_ask_nothing_of_the_disk(throttle, disk_data, tmp_path):
    status, record = throttle.run(
        *("storage", str(disk_data), "--engine", "buffered", "--page-cache", "warm", "--seconds", "0.3"),
        *("--blocks", "4", "--out", str(tmp_path / "run")),
    )
    assert status == 0, record
    path = record["points"][0]["read_path"]
    assert path["cache_fraction"] >= 0.98
    assert path["device_bytes"] <= 0.02 * path["delivered_bytes"]
    assert record["points"][0]["metrics"]["read_gbps"]["value"] > RATE_BPS / 1e9


def step_time_for(truth: int) -> float:
    """Seconds per step for which the throttled disk feeds exactly `truth`, half an accelerator from either side."""
    return BATCH_SIZE * RECORD_BYTES * THRESHOLD * (truth + 0.5) / RATE_BPS


@pytest.mark.horovod
@pytest.mark.parametrize("truth", [3, pytest.param(5, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)])
def test_as_many_accelerators_are_fed_as_the_throttle_allows(throttle, disk_data, tmp_path, truth):
    status, record = throttle.run(
        *("qualify", str(disk_data), "--accelerator", f"{step_time_for(truth):.4f}", "--batch-size", str(BATCH_SIZE)),
        *("--required-gpus", str(truth), "--max-ranks", str(truth + 1), "--measure-seconds", "200"),
        *("--set", "storage.blocks=4", "--set", "train.rounds=2", "--out", str(tmp_path / "run")),
    )
    metrics = record["metrics"]
    assert metrics["gpus_fed_predicted"]["value"] == truth
    undecided = record["verdict"]["outcome"] == "insufficient"
    if undecided and "harness_limited" in (metrics["gpus_fed_measured"]["reason"] or ""):
        pytest.skip(f"this machine is too busy for {truth + 1} ranks: {metrics['gpus_fed_measured']['reason']}")
    assert metrics["gpus_fed_measured"]["value"] == truth
    assert status == 0
    assert len({rank["pid"] for rank in record["ranks"]}) == truth


@pytest.mark.slow
def test_copying_and_reading_in_place_both_report_the_throttled_rate_and_the_first_epoch_follows(
    throttle, disk_data, new_disk, tmp_path
):
    """The copy lies on a disk that is not throttled, so that it is read faster by far."""
    words = ("--seconds", "16", "--epochs", "3", "--out", str(tmp_path / "run"))
    status, record = throttle.run("stage", str(disk_data), str(new_disk(512 << 20) / "copy"), *words)
    assert status == 0, record
    hop, in_place, copy = record["points"]
    assert hop["metrics"]["read_gbps"]["value"] == pytest.approx(RATE_BPS / 1e9, rel=0.10)  # with fdatasync
    assert in_place["metrics"]["read_gbps"]["value"] == pytest.approx(RATE_BPS / 1e9, rel=0.08)  # a few batches a block
    seconds = 1024 * RECORD_BYTES / RATE_BPS
    assert in_place["metrics"]["until_first_epoch_s"]["value"] == pytest.approx(seconds, rel=0.15)
    assert copy["metrics"]["until_first_batch_s"]["value"] > 0.95 * seconds
    assert copy["metrics"]["images_per_s"]["value"] > 2 * in_place["metrics"]["images_per_s"]["value"]
