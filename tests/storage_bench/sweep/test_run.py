"""Sweeps on real small files: bytes, evidence, order, and errors from reader threads."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from iobench.loaders.engines.readers import ReadError, direct_refused
from iobench.loaders.evidence import counter_for
from iobench.storage_bench.choice import choose_engine
from iobench.storage_bench.limits import require_room_to_warm
from iobench.storage_bench.sweep.block import measure_reads
from iobench.storage_bench.sweep.drive import timing_of
from iobench.storage_bench.sweep.points import PointResult, SweepPoint
from iobench.storage_bench.sweep.recorded import storage_point
from iobench.storage_bench.sweep.run import run_points, sweep
from iobench.storage_bench.sweep.streams import open_stream
from iobench.storage_bench.workload import StorageConfig, WorkloadError, WorkloadUsageError, data_files

SECONDS = 0.05


def config(**settings):
    return StorageConfig.model_validate({"block_size": "64K", "seconds": SECONDS, "blocks": 2, **settings})


def point(**changes):
    settings = {
        "engine": "buffered",
        "access": "sequential",
        "block_bytes": 65536,
        "queue_depth": 2,
        "threads": 2,
        "page_cache": "cold",
    }
    return SweepPoint(**{**settings, **changes})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(np.random.default_rng(0).bytes(8 << 20))
    return path


def needs_counter(path: Path) -> None:
    counter = counter_for([path])
    if counter.counter_class != "exact":
        pytest.skip(counter.reason)


def needs_proof(result: PointResult) -> None:
    if result.evidence.observed_route == "unknown":
        pytest.skip(result.evidence.route_evidence)


def test_a_file_cut_while_it_is_read_is_an_error_that_names_it(file):
    files = data_files(file)
    with file.open("r+b") as opened:
        opened.truncate(5 << 20)

    def streams(stream, num_streams):
        return open_stream(files, access="sequential", block_bytes=65536, stream=stream, num_streams=2, seed=0)

    with pytest.raises(ReadError, match="ends at byte 5242880") as caught:
        measure_reads(point(), files, streams, counter_for([file]), timing_of(20))
    assert caught.value.filename == str(file)


# --- sweeps ------------------------------------------------------------------------------------------------------


def test_every_combination_is_a_point_with_all_its_blocks_and_evidence(file):
    lists = {"threads": "1,2", "queue_depth": "1,2", "page_cache": "cold,warm"}
    results = sweep(file, config(engine="buffered", seconds=0.2, **lists))
    combinations = {(r.point.threads, r.point.queue_depth, r.point.page_cache) for r in results}
    assert combinations == set(itertools.product((1, 2), (1, 2), ("cold", "warm")))
    for result in results:
        assert len(result.blocks) == 2
        assert result.evidence.delivered_bytes == sum(block.delivered_bytes for block in result.blocks)
        for block in result.blocks:
            assert block.delivered_bytes >= block.payload_bytes > 0
            assert block.latencies.total > 0
            # the window's rate times the whole block's time is at most a little more than what the block delivered
            assert block.gbps > 0
            assert block.iops == pytest.approx(block.gbps * 1e9 / 65536)


def test_rounds_are_interleaved_every_point_once_in_each(file):
    seen = []
    sweep(
        file,
        config(engine="buffered", threads="1,2,3", blocks=4, seconds=0.02),
        on_block=lambda done, total, where, block: seen.append((done, total, where.threads)),
    )
    assert [(done, total) for done, total, _ in seen] == [(i, 12) for i in range(1, 13)]
    rounds = [[threads for _, _, threads in seen[start : start + 3]] for start in range(0, 12, 3)]
    assert all(sorted(order) == [1, 2, 3] for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1


@pytest.mark.parametrize("engine", ["buffered", "direct"])
def test_cold_reads_find_nothing_in_memory_and_come_from_the_device(file, engine):
    if engine == "direct" and (refused := direct_refused(file)):
        pytest.skip(refused)
    needs_counter(file)
    (result,) = sweep(file, config(engine=engine))
    assert result.evidence.cache_fraction == pytest.approx(0, abs=0.02)
    needs_proof(result)
    assert result.evidence.invalid_reason() is None
    assert result.evidence.device_bytes >= 0.98 * result.evidence.delivered_bytes


def test_warm_reads_find_everything_in_memory_and_ask_nothing_of_the_device(file):
    needs_counter(file)
    (result,) = sweep(file, config(engine="buffered", page_cache="warm"))
    assert result.evidence.cache_fraction == pytest.approx(1, abs=0.02)
    assert result.ceiling_gbps is None
    needs_proof(result)
    assert result.evidence.device_bytes <= 0.02 * result.evidence.delivered_bytes


def test_reads_of_a_file_with_holes_cannot_pass_for_cold_reads(tmp_path):
    path = tmp_path / "holes.bin"
    with path.open("wb") as opened:
        opened.truncate(8 << 20)
    needs_counter(path)
    (result,) = sweep(path, config(engine="buffered"))
    needs_proof(result)
    assert "holes" in result.evidence.invalid_reason()


def test_a_data_set_smaller_than_a_block_is_read_whole(tmp_path):
    (tmp_path / "tiny.bin").write_bytes(b"x" * 5000)
    (result,) = sweep(tmp_path, config(engine="buffered", block_size="64M", threads="4"))
    for block in result.blocks:
        assert block.delivered_bytes % 5000 == 0
        assert block.delivered_bytes == block.payload_bytes > 0


def test_a_replay_by_as_many_streams_as_records_ends(page_set):
    (result,) = sweep(
        page_set.shards[3], config(engine="buffered", access="shard-replay", threads=10, queue_depth=1, blocks=2)
    )
    assert all(block.delivered_bytes > 0 for block in result.blocks)
    with pytest.raises(WorkloadError, match="cannot be split"):
        sweep(page_set.shards[3], config(engine="buffered", access="shard-replay", threads=11, queue_depth=1))


def test_more_blocks_may_be_added_to_a_point(file):
    results = sweep(file, config(engine="buffered"))
    run_points(file, results, config(engine="buffered"))
    assert len(results[0].blocks) == 4


def test_a_point_in_the_record_has_every_metric_with_an_interval_over_blocks(file):
    (result,) = sweep(file, config(engine="buffered", blocks=3))
    recorded = storage_point(result, file)
    assert recorded.params["block_size_bytes"] == 65536
    assert recorded.params["page_cache"] == "cold"
    for name, unit in (
        ("read_gbps", "GB/s"),
        ("read_iops", "reads/s"),
        ("latency_p50_us", "us"),
        ("latency_p99_us", "us"),
    ):
        metric = recorded.metrics[name]
        assert metric.unit == unit
        assert metric.n == len(metric.samples) == 3
        assert metric.ci95 is not None
    assert recorded.metrics["read_gbps"].value == pytest.approx(np.mean([block.gbps for block in result.blocks]))


def test_blocks_without_a_finished_read_have_no_latency_and_say_why(file):
    (result,) = sweep(file, config(engine="buffered"))
    silent = PointResult(result.point, "asked for", evidence=result.evidence)
    for block in result.blocks:
        empty = type(block.latencies)()
        silent.blocks.append(
            type(block)(1.0, 1.0, empty, block.delivered_bytes, block.payload_bytes, None, 0.1, block.cache_fraction)
        )
    metric = storage_point(silent, file).metrics["latency_p50_us"]
    assert metric.value is None
    assert "no read ended" in metric.reason


@pytest.mark.parametrize(("gbps", "limited"), [(0.89, False), (0.91, True)])
def test_a_rate_within_a_tenth_of_the_harness_own_is_marked(file, gbps, limited):
    (result,) = sweep(file, config(engine="buffered"))
    block = result.blocks[0]
    near = type(block)(gbps, 1.0, block.latencies, 1, 1, None, 0.1, None)
    marked = PointResult(result.point, "asked for", blocks=[near, near], ceiling_gbps=1.0, evidence=result.evidence)
    assert marked.harness_limited is limited
    assert ("harness_limited" in storage_point(marked, file).flags) is limited


# --- what cannot be measured -------------------------------------------------------------------------------------


def test_the_engine_is_recorded_with_the_reason_for_it(file):
    assert choose_engine("buffered", file) == ("buffered", "asked for")
    assert choose_engine("auto", file, page_cache="warm")[0] == "buffered"
    engine, reason = choose_engine("auto", file)
    refused = direct_refused(file)
    assert engine == ("buffered" if refused else "direct")
    assert (refused or "the page cache cannot answer") in reason


def test_an_engine_that_is_not_known_or_never_warm_is_a_mistake_of_usage(file):
    for engine, state in (("fast", "cold"), ("direct", "warm")):
        with pytest.raises(WorkloadUsageError) as caught:
            choose_engine(engine, file, page_cache=state)
        assert caught.value.exit_status == 2


def test_auto_reads_warm_data_through_the_page_cache(file):
    results = sweep(file, config(engine="auto", page_cache="cold,warm"))
    assert Counter(result.point.page_cache for result in results) == {"cold": 1, "warm": 1}
    assert next(r for r in results if r.point.page_cache == "warm").point.engine == "buffered"


def test_a_sweep_that_would_take_all_memory_or_threads_is_refused_before_it_begins(tmp_path):
    path = tmp_path / "large.bin"
    with path.open("wb") as opened:
        opened.truncate(1 << 40)  # a hole
    with pytest.raises(WorkloadError, match="GB of memory"):
        sweep(path, config(engine="buffered", block_size="64M", threads=64, queue_depth=64))
    with pytest.raises(WorkloadUsageError, match="65536 reads in flight"):
        sweep(path, config(engine="buffered", block_size="4K", threads=256, queue_depth=256))
    with pytest.raises(WorkloadError, match="quarter of memory"):
        sweep(path, config(engine="buffered", page_cache="warm"))


def test_data_of_a_quarter_of_memory_may_be_warm():
    require_room_to_warm(1 << 20)
    with pytest.raises(WorkloadError, match="name fewer files"):
        require_room_to_warm(1 << 50)
