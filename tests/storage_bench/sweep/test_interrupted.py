"""A sweep or a search that is cut short: the blocks that are whole are kept, and nothing is said of others."""

import numpy as np
import pytest

from iobench.results.stats import t_interval
from iobench.storage_bench.launching.launch import horovod_available
from iobench.storage_bench.sweep.command import measure_storage
from iobench.storage_bench.workload import StorageConfig

BLOCKS = 4


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(np.random.default_rng(0).bytes(8 << 20))
    return path


def cut_short(path, at, **settings):
    """What is kept where Ctrl-C comes with progress number `at`."""
    kept, seen = [], []

    def show(*step):
        seen.append(step)
        if len(seen) == at:
            raise KeyboardInterrupt

    asked = {"engine": "buffered", "block_size": "64K", "seconds": 0.03, "blocks": BLOCKS, "queue_depth": 1, **settings}
    with pytest.raises(KeyboardInterrupt):
        measure_storage(path, StorageConfig.model_validate(asked), show=show, keep=kept.append)
    return kept


def test_whole_blocks_of_every_point_are_kept_and_their_number_is_how_many_there_were(file):
    (outcome,) = cut_short(file, 5, threads="1,2")  # two rounds of two points, and one block more
    rates = [point.metrics["read_gbps"] for point in outcome.points]
    assert sorted(rate.n for rate in rates) == [2, 3]
    for rate in rates:
        assert len(rate.samples) == rate.n
        assert rate.ci95 == t_interval(rate.samples)[1:]
    assert all(point.read_path.delivered_bytes > 0 for point in outcome.points)
    assert outcome.metrics["read_gbps"] == max(rates, key=lambda rate: rate.value)


def test_one_block_is_a_figure_without_an_interval_and_a_point_without_one_is_left_out(file):
    (outcome,) = cut_short(file, 1, threads="1,2,3")
    (point,) = outcome.points
    assert point.metrics["read_gbps"].n == 1
    assert point.metrics["read_gbps"].value > 0
    assert point.metrics["read_gbps"].ci95 is None


def test_writes_are_kept_as_reads_are_and_their_files_are_gone(file):
    (outcome,) = cut_short(file, 2, threads=1, operation="write", write_bytes=1 << 20)
    assert [point.metrics["write_gbps"].n for point in outcome.points] == [2]
    assert [entry.name for entry in file.parent.iterdir()] == ["data.bin"]


def test_a_search_keeps_the_loads_it_has_tried_and_names_no_knee(file):
    (outcome,) = cut_short(file, 3, adaptive=True, threads=8)
    assert sum(point.metrics["read_gbps"].n for point in outcome.points) == 3
    assert not any({"knee", "peak"} & set(point.flags) for point in outcome.points)
    (knee,) = outcome.workload["knee"]
    assert knee["load"] is None
    assert knee["reason"] == "the search was cut short"
    assert knee["loads_tried"] == sorted(point.params["threads"] for point in outcome.points)


@pytest.mark.horovod
def test_several_clients_keep_the_blocks_that_all_of_them_have_done(file):
    if reason := horovod_available():
        pytest.skip(reason)
    (outcome,) = cut_short(file, 3, threads="1,2", clients=2)  # a round of two points, and one block more at least
    rates = [point.metrics["read_gbps"] for point in outcome.points]
    assert sorted(rate.n for rate in rates) in ([1, 2], [2, 2], [2, 3])
    for point in outcome.points:
        assert point.params["clients"] == 2
        assert [rank.rank for rank in point.ranks] == [0, 1]
        both = zip(*(rank.metrics["read_gbps"].samples for rank in point.ranks), strict=True)
        assert [sum(pair) for pair in both] == pytest.approx(point.metrics["read_gbps"].samples)
        assert point.read_path.delivered_bytes > 0


def test_before_the_first_block_there_is_nothing_to_keep(file, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("iobench.storage_bench.sweep.run.background_rate", lambda *_, **__: interrupt())
    assert cut_short(file, 1) == []
