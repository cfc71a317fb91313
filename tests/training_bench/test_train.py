"""Plans of a launch: cells and their controls, steps and time, memory."""

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.loaders.index import RecordLayout
from iobench.storage_bench.accelerators import Accelerator
from iobench.training_bench import train as train_module
from iobench.training_bench.train import (
    TrainConfig,
    TrainError,
    TrainRun,
    check_memory,
    expected_seconds,
    fitting_ranks,
    make_plan,
)

LAYOUT = RecordLayout(4096, 100, (35, 35, 3), "uint8")


def make_run(cells=(("direct", 2),), *, steps=None, budget_s=60.0, step_time_s=0.1, batch_size=4, **config):
    return TrainRun(
        folders={},
        engines={},
        cells=tuple(cells),
        accelerator=Accelerator("test", step_time_s, batch_size, False, "test"),
        config=TrainConfig(**config),
        budget_s=budget_s,
        layout=LAYOUT,
        steps=steps,
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


def test_no_cell_may_take_more_than_its_share_of_the_time():
    plan = make_plan(make_run([("direct", 1), ("direct", 2)], budget_s=80.0, rounds=4))
    assert [block.limit_s for block in plan.blocks[:2]] == [10.0, 10.0]


def test_a_block_may_always_make_its_dropped_steps():
    plan = make_plan(make_run(budget_s=0.0, step_time_s=2.0, prefetch_depth=2))
    assert plan.blocks[0].limit_s >= 2.0 * 3


def test_the_least_time_is_that_of_all_steps_without_a_wait():
    # direct: 3 dropped + 6 counted, control: 1 + 4; 4 rounds of 0.1 s
    assert expected_seconds(make_run(rounds=4, prefetch_depth=2)) == pytest.approx(4 * (9 + 5) * 0.1)


@pytest.fixture
def memory(monkeypatch):
    def give(free_bytes):
        class Memory:
            available = free_bytes

        monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory)

    return give


def test_as_many_ranks_fit_as_their_buffers_leave_room_for(memory):
    memory(10_000_000_000)  # 8 GB of it may be taken
    each = 100_000_000 * (2 + 3) + train_module.PROCESS_BYTES
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
