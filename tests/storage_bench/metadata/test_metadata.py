"""Rates of names: every operation in every block, and honesty about what came from this client's memory."""

import math
import os

import pytest

from iobench.storage_bench.metadata import OPERATIONS, MetadataConfig, measure_metadata
from iobench.storage_bench.metadata.files import SmallFiles
from iobench.storage_bench.metadata.memory import cannot_drop_names, drop_names
from iobench.storage_bench.workload import WorkloadError

QUICK = {"files": 400, "file_size": 2000, "threads": 2, "seconds": 0.05, "blocks": 3}


def test_warm_rates_have_all_blocks_and_say_that_the_names_were_known(tmp_path):
    told = []
    result = measure_metadata(
        tmp_path, MetadataConfig(page_cache="warm", **QUICK), on_block=lambda share, text: told.append((share, text))
    )
    (point,) = result.points
    assert point.params["stage"] == "metadata"
    assert (point.params["files"], point.params["page_cache"]) == (400, "warm")
    for name in OPERATIONS:
        rate = point.metrics[f"{name}_per_s"]
        assert rate.n == len(rate.samples) == 3
        assert rate.value == pytest.approx(math.fsum(rate.samples) / 3)
        assert rate.ci95[0] <= rate.value <= rate.ci95[1]
    assert point.metrics["stat_p99_us"].value > 0
    assert point.metrics["fill_s"].value == pytest.approx(result.fill_s)
    assert "names_cached" in point.flags
    assert any("this client had just seen every name" in text for text in result.warnings)
    assert result.invalid == ()
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert list(tmp_path.iterdir()) == []


def test_cold_names_come_from_the_device_and_its_counter_shows_it(small_disk):
    if cannot_drop_names():
        pytest.skip("names can be dropped by root alone")
    before = sorted(small_disk.iterdir())
    result = measure_metadata(small_disk, MetadataConfig(page_cache="cold", **QUICK))
    (point,) = result.points
    counters = point.read_path.counters
    assert counters["stat_device_bytes"] > 0
    assert counters["open_device_bytes"] > 0
    assert counters["list_device_bytes"] > 0
    assert "names_cached" not in point.flags
    read = sum(1 for _ in point.metrics["small_read_per_s"].samples)
    assert read == 3
    assert point.read_path.device_bytes >= 0.98 * point.read_path.delivered_bytes
    assert result.invalid == ()
    assert sorted(small_disk.iterdir()) == before


def test_dropped_names_are_asked_of_the_device_again_and_kept_ones_are_not(small_disk):
    if cannot_drop_names():
        pytest.skip("names can be dropped by root alone")
    from iobench.loaders.evidence import counter_for

    folder = small_disk / "many"
    folder.mkdir()
    files = SmallFiles(folder, num_files=500, file_bytes=100, threads=1)
    files.fill()
    counter = counter_for([folder])

    def device_bytes_of_a_pass():
        before = counter.read_bytes()
        files.run(files.stat, files.names)
        return counter.read_bytes() - before

    device_bytes_of_a_pass()
    assert device_bytes_of_a_pass() == 0
    drop_names(folder, with_pages=files.names)
    assert device_bytes_of_a_pass() >= 500 * 256  # an inode of ext4 takes 256 bytes


def test_both_states_are_two_points(small_disk):
    if cannot_drop_names():
        pytest.skip("names can be dropped by root alone")
    result = measure_metadata(small_disk, MetadataConfig(page_cache="warm,cold", **{**QUICK, "blocks": 2}))
    assert [point.params["page_cache"] for point in result.points] == ["warm", "cold"]


@pytest.mark.parametrize("size", [{"files": 100_000, "file_size": 100}, {"files": 100, "file_size": 1 << 20}])
def test_more_than_fits_is_refused_before_a_file_is_made(small_disk, size):
    before = sorted(small_disk.iterdir())
    with pytest.raises(WorkloadError, match="do not fit") as caught:
        measure_metadata(small_disk, MetadataConfig(page_cache="warm", **size))
    assert caught.value.exit_status == 4
    assert sorted(small_disk.iterdir()) == before


def test_on_a_file_system_without_a_counter_nothing_is_claimed(memory_folder):
    result = measure_metadata(memory_folder, MetadataConfig(page_cache="warm", **QUICK))
    (point,) = result.points
    assert point.read_path.observed_route == "unknown"
    assert point.read_path.device_bytes is None
    assert "harness_limited" in point.flags or all(
        metric.reason is None for name, metric in point.metrics.items() if name.endswith("_per_s")
    )
    assert os.listdir(memory_folder) == []
