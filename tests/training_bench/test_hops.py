"""What hops add to a step: differences by hand from points made up, and real rungs on real small shards."""

import pytest

from iobench.results.record import Point
from iobench.results.stats import summarise
from iobench.storage_bench.launching.ranks import SingleRank
from iobench.training_bench.hops import check, hop_lines, hop_points, plan_ladder
from iobench.training_bench.loop import main
from iobench.training_bench.plan import Block, RankPlan

UNITS = {"images_per_s": "images/s", "data_stall_fraction": "fraction"}


def train_point(source, steps, *, wait=0.0, straggler=0.0, compute=0.010, num_ranks=1):
    """A point of the launch: step times of its blocks, and the means of its parts."""
    parts = {"data_wait_s": wait, "straggler_wait_s": straggler, "compute_s": compute}
    parts |= {"communication_s": 0.0, "overhead_s": 0.0, "images_per_s": 1.0, "data_stall_fraction": 0.0}
    metrics = {name: summarise([value], unit=UNITS.get(name, "s")) for name, value in parts.items()}
    about = {"accelerator": "test", "emulated": True, "scaled": False, "batch_size": 4}
    return Point(
        params={"stage": "train", "source": source, "num_ranks": num_ranks, **about},
        metrics={**metrics, "step_time_s": summarise(steps, unit="s")},
    )


RUN = [
    train_point("synthetic", [0.010, 0.012]),
    train_point("host", [0.011, 0.013]),
    train_point("warm", [0.010, 0.013]),
    train_point("direct", [0.020, 0.026], wait=0.012),
    train_point("staged", [0.015, 0.016], wait=0.0045),
]


@pytest.fixture
def ladder(page_set):
    return plan_ladder(page_set.shards, engine="buffered", staged=True)


def by_hop(points):
    return {point.params["hop"]: point for point in points}


def test_each_hop_costs_the_difference_to_the_rung_before_it(ladder):
    found = by_hop(hop_points(RUN, ladder, num_ranks=1))
    assert found["synthetic"].metrics["hop_cost_s"].value is None
    assert found["host"].metrics["hop_cost_s"].samples == pytest.approx([0.001, 0.001])
    assert found["direct"].metrics["hop_cost_s"].samples == pytest.approx([0.010, 0.013])
    assert found["direct"].metrics["hop_cost_fraction"].samples == pytest.approx([0.5, 0.5])
    assert found["direct"].params["over"] == "warm"


def test_a_negative_difference_is_shown_as_it_is(ladder):
    cost = by_hop(hop_points(RUN, ladder, num_ranks=1))["warm"].metrics["hop_cost_s"]
    assert cost.samples == pytest.approx([-0.001, 0.0])
    assert cost.value < 0
    assert cost.ci95[0] < cost.value < cost.ci95[1]


def test_the_copy_is_a_branch_beside_the_storage(ladder):
    copy = by_hop(hop_points(RUN, ladder, num_ranks=1))["staged"]
    assert copy.params["over"] == "warm"
    assert copy.metrics["hop_cost_s"].samples == pytest.approx([0.005, 0.003])
    assert copy.metrics["hop_cost_fraction"].samples == pytest.approx([5 / 15, 3 / 16])


def test_the_shares_of_a_branch_add_up_to_its_stall(ladder):
    found = by_hop(hop_points(RUN, ladder, num_ranks=1))
    shares = [found[hop].metrics["hop_cost_fraction"].samples for hop in ("host", "warm", "direct")]
    assert [sum(block) for block in zip(*shares, strict=True)] == pytest.approx([10 / 20, 14 / 26])


def test_engine_direct_has_no_page_cache_and_says_so(page_set):
    ladder = plan_ladder(page_set.shards, engine="direct", staged=False)
    assert ladder.rungs == ("synthetic", "host", "direct")
    found = by_hop(hop_points([point for point in RUN if point.params["source"] in ladder.rungs], ladder, num_ranks=1))
    assert "never reads from the page cache" in found["warm"].metrics["step_time_s"].reason
    assert found["direct"].params["over"] == "host"
    assert "staged" in found["staged"].metrics["step_time_s"].reason
    lines = hop_lines(list(found.values())).splitlines()
    assert len(lines) == 4  # a copy that was not asked for is not told of
    assert "not measured: engine direct" in lines[2]


def test_data_that_do_not_stay_in_memory_have_no_warm_rung(page_set, monkeypatch):
    monkeypatch.setattr("iobench.storage_bench.limits.ram_bytes", lambda: 4096)
    ladder = plan_ladder(page_set.shards, engine="buffered", staged=False)
    assert "warm" not in ladder.rungs
    assert "quarter of memory" in ladder.missing["warm"]


def test_blocks_that_cannot_be_paired_give_no_difference(ladder):
    short = [*RUN[:3], train_point("direct", [0.020], wait=0.012)]
    cost = by_hop(hop_points(short, ladder, num_ranks=1))["direct"].metrics["hop_cost_s"]
    assert cost.value is None
    assert "1 time blocks cannot be paired with 2" in cost.reason


def test_the_meter_and_the_substitution_agree_where_the_step_grew_by_what_was_waited():
    direct, staged = check(RUN, num_ranks=1)
    # mean step 23 ms against 11 ms, and 12 ms of wait; 15.5 against 11, and 4.5
    assert (direct.hop, direct.agrees) == ("direct", True)
    assert direct.by_substitution == pytest.approx(12 / 23)
    assert direct.by_meter == pytest.approx(12 / 23)
    assert (staged.hop, staged.agrees) == ("staged", True)


def test_a_step_that_grew_by_compute_makes_the_two_disagree_and_is_named():
    slow = train_point("direct", [0.023], wait=0.010, compute=0.012)
    (found,) = check([RUN[0], slow], num_ranks=1)
    assert found.by_substitution - found.by_meter == pytest.approx(2 / 23)
    assert not found.agrees
    assert "compute grew by 2.0 ms a step" in found.text


def test_where_a_network_computes_beside_its_reader_threads_they_are_named_as_the_cause():
    slow = train_point("direct", [0.023], wait=0.010, compute=0.012)
    ends = "on the cores that the reader threads take their time from"
    assert not check([RUN[0], slow], num_ranks=1)[0].text.endswith(ends)  # emulated: nobody knows what it is
    real = slow.model_copy(update={"params": {**slow.params, "emulated": False, "accelerator": "cpu"}})
    assert check([RUN[0], real], num_ranks=1)[0].text.endswith(ends)
    gpu = slow.model_copy(update={"params": {**slow.params, "emulated": False, "accelerator": "cuda"}})
    assert not check([RUN[0], gpu], num_ranks=1)[0].text.endswith(ends)


def with_waits(point, waits):
    """The point with a wait for data in each block; nobody waited for a rank."""
    blocks = {"data_wait_s": waits, "straggler_wait_s": [0.0] * len(waits)}
    return point.model_copy(
        update={"metrics": {**point.metrics, **{name: summarise(seen, unit="s") for name, seen in blocks.items()}}}
    )


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([0.0200, 0.0201, 0.0199, 0.0200], "compute grew by"),  # 5 ms a step that nobody waited for, in every block
        ([0.0150, 0.0350, 0.0152, 0.0148], "may be chance"),  # in one block of four
    ],
)
def test_blocks_that_differ_by_more_than_the_disagreement_leave_it_open(steps, words):
    synthetic = with_waits(train_point("synthetic", [0.010] * 4), [0.0] * 4)
    slow = with_waits(train_point("direct", steps, compute=0.015), [0.005] * 4)
    (found,) = check([synthetic, slow], num_ranks=1)
    assert not found.agrees
    assert words in found.text


def test_waiting_for_a_rank_that_waits_for_data_is_stall_by_meter():
    ranks = [train_point("synthetic", [0.010], num_ranks=2)]
    ranks.append(train_point("direct", [0.020], wait=0.004, straggler=0.006, num_ranks=2))
    assert check(ranks, num_ranks=2)[0].by_meter == pytest.approx(0.5)


def test_real_rungs_take_their_bytes_from_where_they_say(page_set):
    rungs = ("synthetic", "host", "warm", "direct")
    plan = RankPlan(
        num_ranks=1,
        blocks=tuple(Block(source=rung, num_ranks=1, drop_steps=2, count_steps=4, limit_s=30.0) for rung in rungs),
        rounds=2,
        budget_s=60.0,
        folders={"direct": str(page_set.folder)},
        engines={"direct": "buffered"},
        record_bytes=4096,
        image_shape=(35, 35, 3),
        accelerator="test",
        step_time_s=0.001,
        batch_size=16,
        reader_threads=2,
        prefetch_depth=1,
    )
    logs = {
        (rungs[log["block"]], log["round"]): log for log in main(plan.model_dump(mode="json"), SingleRank())["blocks"]
    }
    assert len(logs) == 8
    for (rung, _), log in logs.items():
        assert len(log["steps_ns"]) == 6
        assert (log["delivered_bytes"] > 0) is (rung in ("warm", "direct"))
        if rung == "warm":
            assert log["cache_fraction"] == pytest.approx(1.0)
            assert not log["process_bytes"], "others may read from the device, this process does not"
        if rung == "direct":
            assert log["cache_fraction"] == pytest.approx(0, abs=0.02)
