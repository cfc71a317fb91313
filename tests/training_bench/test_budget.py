"""Plans of a launch: cells and their controls, steps and time, memory."""

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.loaders.index import RecordLayout
from iobench.storage_bench.accelerators import Accelerator
from iobench.training_bench.budget import (
    PROCESS_BYTES,
    check_memory,
    check_time,
    expected_seconds,
    fitting_ranks,
    make_plan,
)
from iobench.training_bench.train_run import FindMax, TrainBudgetError, TrainConfig, TrainError, TrainRun

LAYOUT = RecordLayout(4096, 100, (35, 35, 3), "uint8")


def make_run(
    cells=(("direct", 2),),
    *,
    steps=None,
    budget_s=60.0,
    step_time_s=0.1,
    batch_size=4,
    expected_step_s=None,
    find=None,
    **config,
):
    return TrainRun(
        folders={},
        engines={},
        cells=tuple(cells),
        accelerator=Accelerator("test", step_time_s, batch_size, False, "test"),
        config=TrainConfig(**config),
        budget_s=budget_s,
        layout=LAYOUT,
        steps=steps,
        expected_step_s=expected_step_s or {},
        find=find,
    )


def cells_of(plan):
    return [(block.source, block.num_ranks) for block in plan.blocks]


def test_every_number_of_ranks_has_one_synthetic_control():
    plan = make_plan(make_run([("direct", 3), ("direct", 4), ("staged", 4), ("direct", 5)]))
    assert cells_of(plan) == [
        ("direct", 3),
        ("direct", 4),
        ("staged", 4),
        ("direct", 5),
        ("synthetic", 3),
        ("synthetic", 4),
        ("synthetic", 5),
    ]
    assert plan.num_ranks == 5


def test_a_synthetic_cell_is_its_own_control():
    assert cells_of(make_plan(make_run([("synthetic", 2)]))) == [("synthetic", 2)]


@given(st.integers(1, 64), st.integers(1, 50))
def test_all_rounds_together_count_ten_steps_per_batch_of_prefetch(depth, rounds):
    plan = make_plan(make_run(prefetch_depth=depth, rounds=rounds))
    direct, control = plan.blocks
    assert direct.count_steps * rounds >= 10 * depth
    assert direct.drop_steps == depth + 1
    assert control.count_steps <= direct.count_steps
    assert control.drop_steps >= 1


def test_steps_that_are_asked_for_are_counted_in_every_block():
    plan = make_plan(make_run(steps=17))
    assert [block.count_steps for block in plan.blocks] == [17, 17]


def test_cells_share_the_time_of_a_round_by_what_they_are_expected_to_take():
    # a round of 20 s: 9 steps of each cell and 5 of each control, all of 0.1 s but those of direct, 2: 0.5 s
    cells = [("direct", 1), ("direct", 2)]
    even = make_plan(make_run(cells, budget_s=80.0, rounds=4))
    assert [block.limit_s for block in even.blocks] == pytest.approx([20 * n / 28 for n in (9, 9, 5, 5)])
    slow = make_plan(make_run(cells, budget_s=80.0, rounds=4, expected_step_s={("direct", 2): 0.5}))
    assert slow.blocks[1].limit_s == pytest.approx(20 * 4.5 / (0.9 + 4.5 + 0.5 + 0.5))
    assert sum(block.limit_s for block in slow.blocks) == pytest.approx(20)


def test_long_steps_make_fewer_rounds_of_more_steps():
    # 4 rounds: (3 + 6) x 2 s + 5 x 0.1 s = 74 s; 3: (3 + 7) x 2 = 61.5 s; 2: (3 + 10) x 2 = 53 s; of 60 s 80 % may go
    expected = {("direct", 2): 2.0}
    assert make_plan(make_run(budget_s=100.0, expected_step_s=expected)).rounds == 4
    assert make_plan(make_run(budget_s=80.0, expected_step_s=expected)).rounds == 3
    two = make_plan(make_run(budget_s=67.0, expected_step_s=expected))
    assert (two.rounds, two.blocks[0].count_steps) == (2, 10)
    assert make_plan(make_run(budget_s=10.0, expected_step_s=expected)).rounds == 2
    assert make_plan(make_run(budget_s=10.0, rounds=1, expected_step_s=expected)).rounds == 1


def test_steps_that_are_asked_for_are_asked_for_in_every_round():
    assert make_plan(make_run(steps=50, budget_s=1.0)).rounds == 4


def test_a_control_is_never_cut_short():
    control = make_plan(make_run(budget_s=0.0, step_time_s=2.0)).blocks[1]
    assert control.limit_s >= 2.0 * (control.drop_steps + control.count_steps)


def test_a_block_may_always_make_its_dropped_steps():
    plan = make_plan(make_run(budget_s=0.0, step_time_s=2.0, prefetch_depth=2))
    assert plan.blocks[0].limit_s >= 2.0 * 3


def test_the_time_expected_is_that_of_all_steps():
    # direct: 3 dropped + 6 counted, control: 1 + 4; 4 rounds of 0.1 s
    assert expected_seconds(make_run(rounds=4, prefetch_depth=2)) == pytest.approx(4 * (9 + 5) * 0.1)
    assert expected_seconds(make_run(expected_step_s={("direct", 2): 0.2})) == pytest.approx(4 * (9 * 0.2 + 5 * 0.1))


@pytest.fixture
def memory(monkeypatch):
    def give(free_bytes):
        class Memory:
            available = free_bytes

        monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory)

    return give


def test_as_many_ranks_fit_as_their_buffers_leave_room_for(memory):
    memory(10_000_000_000)  # 8 GB of it may be taken
    each = 100_000_000 * (2 + 3) + PROCESS_BYTES
    assert fitting_ranks(50, 100_000_000, 2) == 8_000_000_000 // each
    assert fitting_ranks(3, 100_000_000, 2) == 3


def test_a_launch_that_does_not_fit_into_memory_is_refused_with_the_way_out(memory):
    plan = make_plan(make_run([("direct", 8)], batch_size=100_000))
    memory(1 << 50)
    check_memory(plan)
    memory(8 << 30)
    with pytest.raises(TrainError, match="--batch-size") as caught:
        check_memory(plan)
    assert caught.value.exit_status == 4
    assert "8 ranks" in str(caught.value)


# --- the largest number of ranks ---------------------------------------------------------------------------------


def test_a_search_may_run_any_number_of_ranks_and_holds_time_for_the_three_around_the_hint():
    plan = make_plan(make_run([], find=FindMax(high=8, threshold=0.9, hint=3), rounds=2, budget_s=100.0))
    assert cells_of(plan) == [(source, count) for source in ("direct", "synthetic") for count in range(1, 9)]
    assert not any(block.fixed for block in plan.blocks)
    assert (plan.num_ranks, plan.search.low, plan.search.high, plan.search.hint) == (8, 1, 8, 3)
    # 2 short blocks of 9 steps at twice 0.1 s; 2 rounds of three cells of 3 + 10 steps and three controls of 1 + 4
    assert expected_seconds(make_run([], find=FindMax(high=8, threshold=0.9, hint=3), rounds=2)) == pytest.approx(
        2 * 9 * 0.2 + 2 * (3 * 13 + 3 * 5) * 0.1
    )


def test_cells_beside_a_search_are_run_whatever_it_finds():
    find = FindMax(high=3, threshold=0.9)
    plan = make_plan(make_run([("staged", 2), ("direct", 4)], find=find))
    fixed = [(block.source, block.num_ranks) for block in plan.blocks if block.fixed]
    assert fixed == [("staged", 2), ("direct", 4), ("synthetic", 2), ("synthetic", 4)]
    assert plan.num_ranks == 4


def test_a_search_without_the_time_for_its_steps_is_refused_with_the_way_out():
    # without a hint 1..8 take 4 short blocks: 4 x 1.8 s; two rounds of (3 x 13 + 3 x 5) x 0.1 s
    find = FindMax(high=8, threshold=0.9)
    check_time(make_run([], find=find, budget_s=18.1))
    with pytest.raises(TrainBudgetError, match="about 18 s, more than the 10 s allowed") as caught:
        check_time(make_run([], find=find, budget_s=10.0))
    assert caught.value.exit_status == 2
