"""The rank's side, in this process as the only rank: real blocks on real small shards."""

import numpy as np
import pytest

from iobench.loaders.evidence import counter_for
from iobench.storage_bench.accelerators import Accelerator
from iobench.storage_bench.launching.ranks import SingleRank
from iobench.training_bench.loop import main, measured_steps
from iobench.training_bench.plan import Block, RankPlan
from iobench.training_bench.search import Search
from iobench.training_bench.sources import Shards

STEP_S = 0.002


def make_plan(folder, *, blocks=("direct", "synthetic"), rounds=2, budget_s=60.0, limit_s=30.0, engine="buffered"):
    return RankPlan(
        num_ranks=1,
        blocks=tuple(
            Block(source=source, num_ranks=1, drop_steps=2, count_steps=5, limit_s=limit_s) for source in blocks
        ),
        rounds=rounds,
        budget_s=budget_s,
        folders={source: str(folder) for source in blocks if source != "synthetic"},
        engines={source: engine for source in blocks if source != "synthetic"},
        record_bytes=4096,
        image_shape=(35, 35, 3),
        accelerator="test",
        step_time_s=STEP_S,
        batch_size=16,
        reader_threads=2,
        prefetch_depth=1,
    )


def run(plan, ranks=None):
    return main(plan.model_dump(mode="json"), ranks or SingleRank())


def test_every_block_of_every_round_is_logged_with_its_steps_and_bytes(page_set):
    result = run(make_plan(page_set.folder))
    assert sorted((log["round"], log["block"]) for log in result["blocks"]) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for log in result["blocks"]:
        times = np.array(log["steps_ns"])
        assert times.shape == (7, 4)
        assert (np.diff(times.reshape(-1)) >= 0).all()
        assert (times[:, 2] - times[:, 1] >= STEP_S * 1e9).all()
        direct = log["block"] == 0
        assert (log["delivered_bytes"] >= 7 * 16 * 35 * 35 * 3) is direct
        assert log["payload_bytes"] == (7 * 16 * 35 * 35 * 3 if direct else 0)
    assert result["peak_rss_bytes"] > 0
    assert result["wall_s"] > 0


def test_a_block_starts_cold_and_its_bytes_come_from_the_device(page_set):
    counter = counter_for(page_set.shards)
    if counter.counter_class != "exact":
        pytest.skip(counter.reason)
    for log in run(make_plan(page_set.folder, blocks=("direct",)))["blocks"]:
        assert log["cache_fraction"] == pytest.approx(0, abs=0.02)
        assert log["device_bytes"] >= 0.98 * log["delivered_bytes"]


def test_shards_of_a_block_go_to_a_device_where_one_is_named(page_set, device):
    """A played GPU, as inference has it: tensors there, the same batches as on the host."""
    plan = make_plan(page_set.folder, blocks=("direct",))
    there, here = (Shards(plan, page_set.folder, "buffered", device=name) for name in (device, "cpu"))
    with (
        there.batches(rank=0, num_ranks=1, seed=3) as on_device,
        here.batches(rank=0, num_ranks=1, seed=3) as on_host,
    ):
        both = [(next(on_device), next(on_host)) for _ in range(12)]
    device.settle()
    assert len(device.copies) >= 12
    assert all(np.array_equal(tensor.numpy(), array) for tensor, array in both)
    assert there.take_bytes()[1] == 12 * 16 * 35 * 35 * 3


def test_a_round_that_would_not_end_within_the_budget_is_not_begun(page_set):
    result = run(make_plan(page_set.folder, rounds=50, budget_s=0.0))
    assert {log["round"] for log in result["blocks"]} == {0}


def test_progress_is_told_after_each_round(page_set, tmp_path):
    path = tmp_path / "progress.jsonl"
    run(make_plan(page_set.folder), SingleRank(progress=path))
    assert path.read_text().splitlines() == ['{"round": 1, "rounds": 2}', '{"round": 2, "rounds": 2}']


def test_a_block_out_of_time_ends_after_the_step_that_saw_it(page_set):
    result = run(make_plan(page_set.folder, blocks=("synthetic",), rounds=1, limit_s=0.0))
    assert len(result["blocks"][0]["steps_ns"]) == 1


def test_a_block_ends_on_all_ranks_when_one_of_them_is_out_of_time():
    class Told(SingleRank):
        """Meets a rank that is out of time at the third step."""

        meetings = 0

        def any_true(self, flag, num_ranks):
            self.meetings += 1
            return flag or self.meetings == 3

    images = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    block = Block(source="synthetic", num_ranks=1, drop_steps=0, count_steps=10, limit_s=60.0)
    times = measured_steps(iter([images] * 10), block, Accelerator("test", 0.0, 2, False, "test"), Told())
    assert len(times) == 3


def test_a_time_of_waiting_is_data_wait_and_nothing_else():
    class Slow:
        def __iter__(self):
            return self

        def __next__(self):
            import time

            time.sleep(0.01)
            return np.zeros((2, 8, 8, 3), dtype=np.uint8)

    block = Block(source="direct", num_ranks=1, drop_steps=0, count_steps=3, limit_s=60.0)
    times = measured_steps(Slow(), block, Accelerator("test", 0.02, 2, False, "test"), SingleRank())
    assert (times[:, 1] - times[:, 0] >= 10_000_000).all()
    assert (times[:, 2] - times[:, 1] >= 20_000_000).all()


def test_a_damaged_shard_ends_the_run_with_its_error(copied, page_set):
    known = copied(page_set)
    plan = make_plan(known.folder)
    run(plan)  # leaves an index, as a first rank would
    with known.shards[0].open("r+b") as file:
        file.truncate(4096)
    with pytest.raises(ValueError, match=known.shards[0].name):
        run(plan)


@pytest.mark.parametrize(("threshold", "fed"), [(0.01, True), (0.999_999, False)])
def test_a_search_tries_short_blocks_that_are_no_rounds_and_then_runs_the_blocks_around_what_it_found(
    page_set, threshold, fed
):
    plan = make_plan(page_set.folder, rounds=2)
    far = [Block(source="direct", num_ranks=5, drop_steps=2, count_steps=5, limit_s=30.0)]
    search = Search(high=1, threshold=threshold, drop_steps=1, count_steps=2)
    result = run(plan.model_copy(update={"blocks": (*plan.blocks, *far), "search": search}))
    (trial,) = result["trials"]
    assert (trial["num_ranks"], trial["au_mlperf"] >= threshold) == (1, fed)
    assert trial["delivered_bytes"] > 0
    assert sorted((log["round"], log["block"]) for log in result["blocks"]) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(len(log["steps_ns"]) == 7 for log in result["blocks"])
