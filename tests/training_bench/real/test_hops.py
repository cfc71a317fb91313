"""Hops of a network that really trains: its steps go on over every rung, and each rung's bytes are where they say."""

from time import perf_counter_ns, sleep

import numpy as np
import pytest
import torch

from iobench.storage_bench.launching.ranks import SingleRank
from iobench.training_bench.command import TrainUsageError
from iobench.training_bench.feed import SyntheticFeed
from iobench.training_bench.hops import plan_ladder
from iobench.training_bench.peers import Alone
from iobench.training_bench.real.asked import RealRun, make_plan
from iobench.training_bench.real.hop_ranks import EndlessBatches, Steps, main
from iobench.training_bench.real.hop_run import WARMUP_STEPS, hops_plan, run_real_hops
from iobench.training_bench.real.plan import RealConfig
from iobench.training_bench.real.ranks import open_training

CPU = torch.device("cpu")
RUNGS = ("synthetic", "host", "warm", "direct")
SMALL = {"num_classes": 1000, "crop": 32, "rounds": 2, "drop_steps": 1, "reader_threads": 1, "prefetch_factor": 1}


def make_run(path, **more):
    told = {"model": "resnet18", "device": "cpu", "num_ranks": 1, "steps": 2, "batch_size": 2, "engine": "buffered"}
    return RealRun(path=path, config=RealConfig(**SMALL), **{**told, **more})


def nowhere(*_):
    """Shows nothing."""


@pytest.fixture
def told(page_set):
    ladder = plan_ladder(page_set.shards, engine="buffered", staged=False)
    training = make_plan(make_run(page_set.folder)).model_copy(update={"threads": 1})
    return hops_plan(training, ladder, {"direct": page_set.folder}, "buffered", seconds=300)


def test_every_rung_has_the_same_counted_steps_and_readers_fill_their_queue_first(told):
    assert tuple(block.source for block in told.launch.blocks) == RUNGS
    assert {block.count_steps for block in told.launch.blocks} == {2}
    assert [block.drop_steps for block in told.launch.blocks] == [1, 1, 2, 2]  # a queue of one batch, and one in use
    assert told.training.steps == WARMUP_STEPS + 2 * (3 + 3 + 4 + 4)


def test_a_training_goes_on_over_rungs_that_take_their_bytes_from_where_they_say(told):
    logs = {
        (RUNGS[log["block"]], log["round"]): log for log in main(told.model_dump(mode="json"), SingleRank())["blocks"]
    }
    assert len(logs) == 8
    for (rung, _), log in logs.items():
        marks = np.array(log["steps_ns"])
        assert marks.shape == (3 if rung in ("synthetic", "host") else 4, 5)  # asked, got, computed, met, updated
        assert (np.diff(marks.reshape(-1)) >= 0).all()
        assert (log["delivered_bytes"] > 0) is (rung in ("warm", "direct"))
        if rung == "warm":
            assert log["cache_fraction"] == pytest.approx(1.0)
            assert not log["process_bytes"], "others may read from the device, this process does not"
        if rung == "direct":
            assert log["cache_fraction"] == pytest.approx(0, abs=0.02)


def test_a_delay_before_a_network_that_trains_is_measured_within_2_percent(told):
    """The truth is the delay's own clock; the median leaves out steps in which the system took the core away."""
    plan, truth = told.training, []
    feed = SyntheticFeed(plan, CPU)

    def delayed():
        for batch in feed.batches():
            begin = perf_counter_ns()
            sleep(0.020)
            truth.append(perf_counter_ns() - begin)
            yield batch

    steps = Steps(open_training(plan, feed, ranks=SingleRank(), peers=Alone(), device=CPU))
    marks = steps.make(delayed(), 12)
    waited = marks[:, 1] - marks[:, 0]
    assert (waited >= truth).all(), "the wait encloses the delay"
    assert np.median(waited / np.array(truth)) < 1.02


def test_batches_of_a_small_set_go_on_without_an_end_and_each_rank_has_its_own(page_set):
    shards = RealConfig().open(page_set.folder)
    order = EndlessBatches(shards, 16)
    seen = []
    for rank in (0, 1):
        order.begin(rank=rank, num_ranks=2, seed=5)
        batches = iter(order)
        seen.append(np.concatenate([next(batches) for _ in range(4)]).tolist())  # 64 of the 65 of its share
    assert len({*seen[0], *seen[1]}) == 128
    order.begin(rank=0, num_ranks=2, seed=5)
    longer = iter(order)
    assert sum(1 for _, _ in zip(range(20), longer, strict=False)) == 20
    shards.close()


def test_hops_of_synthetic_batches_are_refused(page_set):
    with pytest.raises(TrainUsageError, match="--hops goes from synthetic to"):
        run_real_hops(make_run(page_set.folder, source="synthetic"), seconds=60, show=nowhere)


@pytest.mark.slow
def test_a_run_has_a_point_a_rung_and_a_point_a_hop_with_differences_of_its_own_steps(page_set, tmp_path):
    outcome = run_real_hops(
        make_run(page_set.folder, source="staged", local=tmp_path / "local"), seconds=300, show=nowhere
    )
    rungs = {point.params["source"]: point for point in outcome.points if point.params["stage"] == "real"}
    hops = {point.params["hop"]: point for point in outcome.points if point.params["stage"] == "hop"}
    assert set(rungs) == {*RUNGS, "staged"}
    assert list(hops) == [*RUNGS, "staged"]
    assert outcome.best is rungs["staged"]
    for rung, point in rungs.items():
        names = ("data_wait_s", "compute_s", "sync_wait_s", "optimizer_s", "overhead_s")
        parts = sum(point.metrics[name].value for name in names)
        assert parts == pytest.approx(point.metrics["step_time_s"].value, rel=0.01), rung
        assert "au_mlperf" not in point.metrics, "there is no nominal step time"
        assert point.metrics["train_loss"].reason
        assert not point.params["emulated"]
    steps = {hop: point.metrics["step_time_s"].samples for hop, point in hops.items()}
    for hop, before in (("host", "synthetic"), ("warm", "host"), ("direct", "warm"), ("staged", "warm")):
        cost = hops[hop].metrics["hop_cost_s"]
        assert cost.samples == pytest.approx([a - b for a, b in zip(steps[hop], steps[before], strict=True)])
        assert cost.ci95 is not None
    told = [*outcome.warnings, outcome.sentence]
    assert all(any(f"{hop}: " in text and "by the meter" in text for text in told) for hop in ("direct", "staged"))
    assert hops["warm"].read_path.page_cache == "warm"
    assert not (tmp_path / "local").exists(), "the copy is gone, and the folder that was made for it"
