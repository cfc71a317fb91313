"""The loader bench on small data: images counted, bytes accounted for, and the engine it says it used."""

import psutil
import pytest
import torch

from iobench.loaders.destinations.device import DestinationError
from iobench.loaders.engines.readers import direct_refused
from iobench.loaders.evidence import counter_for
from iobench.loaders.traced import Recorder
from iobench.storage_bench.evidence import cold_scope_of
from iobench.storage_bench.load import measure_load
from iobench.storage_bench.load_setup import LoadConfig
from iobench.storage_bench.workload import WorkloadError, WorkloadUsageError


def config(**settings):
    return LoadConfig.model_validate({"batch_size": 16, "seconds": 0.05, "blocks": 3, **settings})


def test_a_cold_load_has_every_metric_and_more_bytes_delivered_than_pixels(page_set):
    result = measure_load(page_set.folder, config(engine="buffered"))
    point = result.point
    assert point.params["engine"] == "buffered"
    assert point.params["batch_size"] == 16
    for name in ("images_per_s", "read_gbps", "data_stall_fraction"):
        assert point.metrics[name].n == 3
        assert point.metrics[name].ci95 is not None
    assert point.metrics["cpu_seconds_per_gb"].value > 0
    assert point.metrics["peak_rss_bytes"].value > 1 << 20
    assert 0 <= point.metrics["data_stall_fraction"].value <= 1
    assert point.metrics["read_gbps"].value == pytest.approx(point.metrics["images_per_s"].value * 4096 / 1e9)
    pixels = 35 * 35 * 3
    assert point.read_path.payload_bytes % pixels == 0
    assert point.read_path.payload_bytes < point.read_path.delivered_bytes


def test_a_warm_load_reads_through_the_page_cache_and_says_why(page_set):
    result = measure_load(page_set.folder, config(engine="auto", page_cache="warm"))
    assert result.point.params["engine"] == "buffered"
    assert "warm reads" in result.engine_reason
    assert result.point.read_path.cache_fraction == pytest.approx(1, abs=0.02)
    with pytest.raises(WorkloadUsageError):
        measure_load(page_set.folder, config(engine="direct", page_cache="warm"))


def test_direct_reads_of_the_loader_come_from_the_device(page_set):
    if refused := direct_refused(page_set.shards[0]):
        pytest.skip(refused)
    counter = counter_for(page_set.shards)
    if counter.counter_class != "exact":
        pytest.skip(counter.reason)
    result = measure_load(page_set.folder, config(engine="direct", seconds=0.2))
    if result.point.read_path.observed_route == "unknown":
        pytest.skip(result.point.read_path.route_evidence)
    assert result.invalid is None
    assert result.point.read_path.device_bytes >= 0.98 * result.point.read_path.delivered_bytes


def test_a_batch_larger_than_the_data_is_recorded_as_what_it_was(page_set):
    result = measure_load(page_set.shards[3], config(batch_size=64))
    assert result.point.params["batch_size"] == 10
    assert any("10 images, not 64" in warning for warning in result.warnings)


@pytest.mark.parametrize("settings", [{"num_workers": 0}, {"shuffle": "off"}, {"shuffle": "records"}])
def test_every_way_of_loading_delivers(page_set, settings):
    result = measure_load(page_set.folder, config(engine="buffered", **settings))
    assert result.point.metrics["images_per_s"].value > 0


def test_batches_that_would_take_all_memory_are_refused_before_they_are_read(page_set, monkeypatch):
    class Memory:
        available = 1 << 20

    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory)
    with pytest.raises(WorkloadError, match="--batch-size"):
        measure_load(page_set.folder, config(batch_size=64))


def test_cold_reads_of_a_memory_file_system_are_doubted(page_set, memory_folder):
    for shard in page_set.shards:
        (memory_folder / shard.name).write_bytes(shard.read_bytes())
    assert counter_for([memory_folder]).counter_class == "none"
    assert cold_scope_of(memory_folder) == "unknown"
    result = measure_load(memory_folder, config(engine="buffered"))
    assert result.invalid is None
    assert result.point.read_path.observed_route == "unknown"
    assert any("100% of the data was in memory" in warning for warning in result.warnings)


def test_a_measurement_that_a_counter_proves_is_not_doubted(page_set):
    result = measure_load(page_set.folder, config(engine="buffered"))
    if result.point.read_path.observed_route == "unknown":
        pytest.skip(result.point.read_path.route_evidence)
    assert not any("in memory" in warning for warning in result.warnings)


def test_the_mapped_engine_is_measured_warm_and_refused_cold(page_set):
    result = measure_load(
        page_set.folder, LoadConfig(engine="mmap", page_cache="warm", seconds=0.05, blocks=2, batch_size=4)
    )
    assert result.point.params["engine"] == "mmap"
    assert result.point.metrics["images_per_s"].value > 0
    with pytest.raises(WorkloadUsageError, match="--page-cache warm"):
        measure_load(page_set.folder, LoadConfig(engine="mmap", seconds=0.05, blocks=2))


def test_threads_and_depth_that_are_not_given_are_chosen_by_a_probe_that_is_not_counted(page_set):
    result = measure_load(page_set.folder, config(engine="buffered", page_cache="warm", shuffle="off"))
    chosen = result.chosen
    assert chosen["num_workers"] in {rate["threads"] for rate in chosen["rates"]}
    assert result.point.params["num_workers"] == chosen["num_workers"]
    path = result.point.read_path
    records = path.payload_bytes / (35 * 35 * 3)
    ahead = chosen["num_workers"] * chosen["prefetch_factor"] * 16
    assert records <= path.delivered_bytes / 4096 <= records + ahead


def test_threads_and_depth_that_are_given_are_kept(page_set):
    result = measure_load(page_set.folder, config(engine="buffered", num_workers=3, prefetch_factor=4))
    assert (result.chosen["num_workers"], result.chosen["prefetch_factor"], result.chosen["rates"]) == (3, 4, ())
    deep = measure_load(page_set.folder, config(engine="buffered", prefetch_factor=4))
    assert deep.chosen["prefetch_factor"] == 4
    assert deep.chosen["rates"]


@pytest.mark.parametrize("engine", ["buffered", "direct"])
@pytest.mark.usefixtures("direct_io")
def test_batches_that_go_to_a_device_are_measured_there(page_set, new_device, engine):
    """Copies take 5 ms each, and a time block ends with the last of them: no rate can hide that."""
    device = new_device(copy_delay_s=0.005)
    settings = config(engine=engine, batch_size=4, num_workers=2, shuffle="blocks")
    result = measure_load(page_set.folder, settings, device=device)
    assert result.point.params["destination"] == "gpu"
    assert result.point.read_path.requested_route == "bounce"
    assert result.point.read_path.observed_route in ("bounce", "unknown")
    assert 0 < result.point.metrics["images_per_s"].value < 2 * 4 / 0.005
    assert len(device.copies) > 10
    assert not device.sanitizer.races


def test_a_trace_names_what_goes_to_a_device_as_a_profiler_does(page_set, device):
    recorder = Recorder()
    settings = config(engine="buffered", batch_size=4, num_workers=2, shuffle="records")
    measure_load(page_set.folder, settings, device=device, recorder=recorder)
    noted = {(span.what, span.thread.startswith("iobench-reader-")) for span in recorder.spans}
    assert {("batch to device", True), ("wait for a batch", False), ("reads", True)} <= noted
    shown = {(name, thread.startswith("iobench-reader-")) for thread, name in device.ranges}
    assert shown == {("batch to device", True), ("wait for a batch", False)}
    assert shown <= noted


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_gpu_batches_cannot_go_to_one(page_set):
    with pytest.raises(DestinationError, match="--destination gpu is not possible: torch sees no CUDA") as caught:
        measure_load(page_set.folder, config(destination="gpu"))
    assert caught.value.exit_status == 4


@pytest.mark.parametrize("at", [2, 3])
def test_an_interrupted_load_keeps_its_whole_blocks(page_set, at):
    kept = []

    def interrupt(done, total, rate):
        assert rate > 0
        assert total == 6
        if done == at:  # its own block is not handed over any more
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_load(page_set.folder, config(engine="buffered", blocks=6), on_block=interrupt, keep=kept.append)
    (result,) = kept
    rate = result.point.metrics["images_per_s"]
    assert rate.n == len(rate.samples) == at - 1
    assert (rate.ci95 is None) == (at == 2)
    assert result.point.read_path.payload_bytes % (35 * 35 * 3) == 0
    assert result.point.read_path.delivered_bytes > result.point.read_path.payload_bytes


def test_a_load_that_is_interrupted_in_its_first_block_keeps_nothing(page_set):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_load(page_set.folder, config(engine="buffered"), on_block=interrupt, keep=pytest.fail)
