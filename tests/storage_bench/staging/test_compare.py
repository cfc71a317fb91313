"""The chain against reading in place: figures by hand from known blocks, and both really read on small data."""

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from iobench.results.plots.copies import copy_plot
from iobench.results.record import Metric, RunRecord
from iobench.results.record_tables import hop_table, reading_table
from iobench.storage_bench.staging import stage_chain
from iobench.storage_bench.staging.chain import ChainResult
from iobench.storage_bench.staging.compare import Case, compare, weigh
from iobench.storage_bench.staging.hop import StageResult
from iobench.storage_bench.staging.reading import ReadBlock, measure_roads, open_road
from iobench.storage_bench.staging.record import StageConfig, stage_metrics, stage_points, stage_workload

HUGE = 10**18  # bytes that no page cache holds


def half_width(samples: list[float]) -> float:
    return float(stats.t.ppf(0.975, len(samples) - 1) * np.std(samples, ddof=1) / len(samples) ** 0.5)


@pytest.fixture
def read_as(page_set, tmp_path):
    """`read_as(in_place, copy)`: the comparison where blocks came out at these (first batch s, images/s)."""
    copy = tmp_path / "copy"
    chain = stage_chain(page_set.folder, [copy])
    total = chain.total_bytes
    hop = replace(chain.hops[0], copy_s=total / 1e9, copied_bytes=total)  # 1 GB/s
    chain = ChainResult(chain.source, (hop,), page_set.folder)

    def read(in_place, from_copy, *, dataset_bytes=HUGE, epochs=10, warm=None, chain=chain):
        case = Case(chain, dataset_bytes, epochs, warm=warm)
        for where, folder, blocks in (("in place", page_set.folder, in_place), ("copy", copy, from_copy)):
            case.roads[where] = open_road(where, folder)
            case.roads[where].blocks += [ReadBlock(first, round(rate * 10), 10.0) for first, rate in blocks]
        return weigh(case)

    read.chain, read.images = chain, len(page_set)
    return read


def test_the_curves_are_copying_first_batch_and_epochs_at_the_measured_rates(read_as):
    slow, fast = [100.0, 101.0, 102.0, 99.0], [1000.0, 1010.0, 990.0, 1004.0]
    found = read_as([(0.5, rate) for rate in slow], [(0.1, rate) for rate in fast])
    images, copy_s = read_as.images * HUGE / read_as.chain.total_bytes, HUGE / 1e9
    direct, staged = 0.5 + images / np.mean(slow), 0.1 + images / np.mean(fast)
    in_place, copy = found.points
    expected = {"until_first_batch_s": 0.5, "until_first_epoch_s": direct, "until_last_epoch_s": 10 * direct}
    for name, seconds in expected.items():
        assert in_place.metrics[name].value == pytest.approx(seconds)
    expected = {"until_first_batch_s": 0.1, "until_first_epoch_s": staged, "until_last_epoch_s": 10 * staged}
    for name, seconds in expected.items():
        assert copy.metrics[name].value == pytest.approx(copy_s + seconds)
    low, high = in_place.metrics["until_first_epoch_s"].ci95
    assert low == pytest.approx(0.5 + images / (np.mean(slow) + half_width(slow)))
    assert high == pytest.approx(0.5 + images / (np.mean(slow) - half_width(slow)))
    assert in_place.metrics["until_first_epoch_s"].n == 4
    even = next((e for e in range(1, 11) if copy_s + e * staged < e * direct), None)
    assert found.choice.break_even_epochs == even
    assert found.choice.direct_s == pytest.approx([e * direct for e in range(1, 11)])
    assert found.choice.staged_s == pytest.approx([copy_s + e * staged for e in range(1, 11)])


def test_epochs_from_the_page_cache_cost_the_same_on_both_roads(read_as):
    total, images = read_as.chain.total_bytes, read_as.images
    steady, warm = [(0.0, 10.0)] * 4, Metric(value=2000.0, unit="images/s", ci95=(1000.0, 3000.0), n=4)
    found = read_as(steady, [(0.0, 1000.0)] * 4, dataset_bytes=total, warm=warm)
    direct, staged = images / 10, total / 1e9 + images / 1000
    assert (found.choice.outcome, found.choice.break_even_epochs) == ("copy after E", 1)
    assert found.choice.direct_s == pytest.approx([direct + e * images / 2000 for e in range(10)])
    assert found.choice.staged_s == pytest.approx([staged + e * images / 2000 for e in range(10)])


def test_a_copy_that_reads_no_faster_never_pays(read_as):
    assert read_as([(0.1, 1000.0)] * 4, [(0.1, 1000.0)] * 4).choice.outcome == "never"


def test_blocks_that_differ_more_than_the_roads_decide_nothing(read_as):
    wide = [(0.1, rate) for rate in (50.0, 150.0, 80.0, 120.0)]
    assert read_as(wide, [(0.1, 110.0)] * 4, epochs=10_000).choice.outcome == "not distinguishable"


def test_too_few_blocks_or_a_hop_that_was_there_leave_the_question_open(read_as):
    found = read_as([(0.1, 100.0)] * 2, [(0.1, 1000.0)] * 4)
    assert found.choice.outcome == "not distinguishable"
    assert "raise --seconds" in found.choice.sentence
    assert "raise --seconds" in found.points[0].metrics["until_first_epoch_s"].reason
    there = replace(read_as.chain.hops[0], copied_bytes=0)
    chain = ChainResult("a", (there,), read_as.chain.source_folder)
    found = read_as([(0.1, 100.0)] * 4, [(0.1, 1000.0)] * 4, chain=chain)
    assert "there already" in found.choice.sentence
    in_place, copy = found.points
    assert in_place.metrics["until_first_epoch_s"].value > 0
    assert copy.metrics["images_per_s"].value == 1000.0
    assert copy.metrics["until_first_epoch_s"].value is None


@pytest.fixture
def on_another_disk(page_set, new_disk) -> tuple[Path, ChainResult]:
    """The copy of a small set on a disk of its own."""
    disk = new_disk(128 << 20)
    return page_set.folder, stage_chain(page_set.folder, [disk / "copy"])


def test_both_are_read_cold_in_turn_and_the_report_draws_them(on_another_disk):
    source, chain = on_another_disk
    rounds = []
    found = compare(
        source, chain, epochs=3, dataset_bytes=None, seconds=0.4, progress=lambda *told: rounds.append(told)
    )
    assert rounds == [(number, 8) for number in range(found.num_rounds + 1)]
    assert found.num_rounds >= 1
    assert [point.params["source"] for point in found.points] == ["in place", "copy"]
    for point in found.points:
        assert point.metrics["images_per_s"].value > 0
        assert point.metrics["first_batch_s"].n == point.metrics["images_per_s"].n
        assert point.read_path.page_cache == "cold"
        assert point.read_path.delivered_bytes > 0
    config = StageConfig(epochs=3)
    metrics = stage_metrics(chain, found)
    record = RunRecord(
        run_id="x",
        kind="stage",
        started_at="2026-01-01T00:00:00+00:00",
        finished_at="2026-01-01T00:00:01+00:00",
        command=("iobench", "stage"),
        workload=stage_workload(chain, found, config),
        environment={},
        metrics=metrics,
        points=tuple(stage_points(chain, found)),
    )
    assert metrics["stage_time_s"].value == chain.hops[0].copy_s
    assert record.workload["copy_or_not"]["outcome"] == found.choice.outcome
    if found.choice.epochs:
        plot = copy_plot(record)
        assert len(plot.traces[0]["x"]) == 3
    assert hop_table(record).title == "Copy, hop by hop"
    assert reading_table(record).title == "In place, and by way of the copy"


def test_a_set_too_large_for_the_disk_does_not_fit_and_is_not_read(on_another_disk):
    source, chain = on_another_disk
    found = compare(source, chain, epochs=3, dataset_bytes=HUGE, seconds=0.4)
    assert (found.choice.outcome, found.points) == ("does not fit", ())
    assert "are free" in found.choice.sentence


def test_a_copy_on_the_same_device_is_not_applicable(page_set, tmp_path):
    chain = stage_chain(page_set.folder, [tmp_path / "copy"])
    found = compare(page_set.folder, chain, epochs=3, dataset_bytes=None, seconds=0.4)
    assert found.choice.outcome == "same device: not applicable"
    assert stage_metrics(chain, found)["break_even_epochs"].value is None


def test_a_page_cache_whose_rate_was_not_measured_leaves_the_question_open(read_as):
    found = read_as([(0.1, 100.0)] * 4, [(0.1, 1000.0)] * 4, dataset_bytes=read_as.chain.total_bytes)
    assert found.choice.outcome == "not distinguishable"
    assert "page cache" in found.choice.sentence
    assert "page cache" in found.points[0].metrics["until_last_epoch_s"].reason


def test_what_the_loader_does_not_read_in_place_is_null_with_the_reason(odd_set, tmp_path, new_disk, monkeypatch):
    """Compressed shards are read from plain copies: that says nothing of the place they lie in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "gz"
    source.mkdir()
    for path in odd_set.shards:
        (source / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
    chain = stage_chain(source, [new_disk(128 << 20) / "copy"])
    found = compare(source, chain, epochs=3, dataset_bytes=None, seconds=0.2)
    assert found.choice.outcome == "not distinguishable"
    for point in found.points:
        assert point.metrics["images_per_s"].value is None
        assert "plain copies" in point.metrics["images_per_s"].reason


def test_rounds_end_with_the_time_and_each_block_begins_anew(page_set):
    road = open_road("in place", page_set.folder)
    measure_roads([road], rounds=1000, block_s=0.01, limit_s=0.2)
    assert 1 < len(road.blocks) < 1000
    assert all(block.images >= road.batch_size for block in road.blocks)
    assert all(block.images % road.batch_size == 0 for block in road.blocks)
    assert road.evidence.delivered_bytes >= sum(block.images for block in road.blocks) * 35 * 35 * 3


def test_stage_metrics_of_a_chain_count_every_hop():
    def hop(copy_s: float) -> StageResult:
        return StageResult("a", Path("b"), 1, 10**9, 10**9, copy_s, 0.5, 4, False)

    chain = ChainResult("a", (hop(2.0), hop(3.0)), None)
    metrics = stage_metrics(chain, None)
    assert metrics["stage_time_s"].value == 5.0
    assert metrics["verify_time_s"].value == 1.0
    assert metrics["read_gbps"].value == pytest.approx(0.2)
    assert "--no-compare" in metrics["break_even_epochs"].reason


def test_a_copy_that_vanishes_before_it_is_read_leaves_the_record_of_the_copying(on_another_disk):
    source, chain = on_another_disk
    (chain.target / "train-00002-of-00004.tfrecord").unlink()
    found = compare(source, chain, epochs=3, dataset_bytes=None, seconds=0.2)
    assert found.choice.outcome == "not distinguishable"
    assert "train-00002-of-00004.tfrecord" in found.choice.sentence
    in_place, copy = found.points
    assert in_place.metrics["images_per_s"].value > 0
    assert copy.metrics["images_per_s"].value is None
