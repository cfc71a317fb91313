"""Checkpoints alone and beside readers: rates of every round, ratios of pairs, and what the device saw of it."""

import math
import os

import pytest

from iobench.storage_bench.checkpoint import CheckpointConfig, CheckpointError, measure_checkpoint

QUICK = {"threads": 2, "readers": 2, "block_size": "1M", "seconds": 0.1, "blocks": 2}
RATES = {"write_gbps", "write_s", "fsync_s", "restore_gbps", "restore_s", "read_gbps"}


def config(size, **settings):
    return CheckpointConfig(checkpoint=size, **{**QUICK, **settings})


def geometric_mean_of_ratios(candidate, base):
    logs = [math.log(a) - math.log(b) for a, b in zip(candidate, base, strict=True)]
    return math.exp(math.fsum(logs) / len(logs))


def test_beside_data_every_rate_and_every_ratio_is_measured(tmp_path):
    (tmp_path / "data.bin").write_bytes(os.urandom(4 << 20))
    told = []
    result = measure_checkpoint(tmp_path, config("8M"), on_sample=lambda share, text: told.append(share))
    alone, beside = result.points
    assert [point.params["beside"] for point in result.points] == ["nothing", "reads"]
    assert alone.params["stage"] == beside.params["stage"] == "checkpoint"
    assert alone.params["checkpoint_bytes"] == 8 << 20
    assert alone.params["read_data_bytes"] == 4 << 20
    assert set(alone.metrics) == RATES
    ratios = {f"{name}_ratio" for name in ("write_gbps", "fsync_s", "restore_gbps", "read_gbps")}
    during = {"read_during_restore_gbps", "read_during_restore_gbps_ratio"}
    assert set(beside.metrics) == RATES | ratios | during
    assert {metric.n for point in result.points for metric in point.metrics.values()} == {2}
    ratio = beside.metrics["write_gbps_ratio"]
    samples = (beside.metrics["write_gbps"].samples, alone.metrics["write_gbps"].samples)
    assert ratio.value == pytest.approx(geometric_mean_of_ratios(*samples))
    assert ratio.ci95[0] <= ratio.value <= ratio.ci95[1]
    assert told == [0.25, 0.5, 0.75, 1.0]
    assert result.warnings == ()
    assert [entry.name for entry in tmp_path.iterdir()] == ["data.bin"]


def test_in_an_empty_folder_the_readers_get_data_of_their_own_and_it_is_said(tmp_path):
    result = measure_checkpoint(tmp_path, config("4M"))
    assert result.points[0].params["read_data_bytes"] == 4 << 20
    assert any("made for them" in text for text in result.warnings)
    assert list(tmp_path.iterdir()) == []


def test_the_device_saw_what_was_written_and_read(small_disk):
    result = measure_checkpoint(small_disk, config("4M", engine="direct"))
    for point in result.points:
        path = point.read_path
        assert path.counters["checkpoint_bytes"] == 2 * (4 << 20)
        assert path.counters["device_bytes_written"] >= 0.98 * 2 * (4 << 20)
        assert path.device_bytes >= 0.98 * path.delivered_bytes
        assert path.observed_route == "host"
    assert result.invalid == ()


@pytest.mark.parametrize("size", ["40M", 1 << 60])
def test_without_room_nothing_is_written(small_disk, size):
    before = sorted(small_disk.iterdir())
    with pytest.raises(CheckpointError, match="give a smaller size") as caught:
        measure_checkpoint(small_disk, config(size))
    assert caught.value.exit_status == 4
    assert str(small_disk) in str(caught.value)
    assert sorted(small_disk.iterdir()) == before
