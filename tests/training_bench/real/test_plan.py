"""The learning rate by hand, what a checkpoint depends on, and the seeds of steps."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from iobench.training_bench.real.plan import RealPlan


def make_plan(**changes):
    told = {
        "model": "resnet18",
        "device": "cpu",
        "num_ranks": 2,
        "batch_size": 64,
        "steps": 110,
        "source": "synthetic",
        "image_shape": (64, 64, 3),
        "threads": 1,
    }
    return RealPlan(**{**told, **changes})


def test_the_rate_rises_to_the_batchs_share_and_falls_on_half_a_cosine():
    plan = make_plan(learning_rate=0.4, warmup_steps=10)
    peak = 0.4 * 128 / 256
    assert plan.learning_rate_at(0) == pytest.approx(peak / 10)
    assert plan.learning_rate_at(9) == pytest.approx(peak)
    assert plan.learning_rate_at(10) == pytest.approx(peak)
    assert plan.learning_rate_at(60) == pytest.approx(peak / 2)  # half of the 100 steps after the rise
    assert plan.learning_rate_at(109) == pytest.approx(peak * (1 + math.cos(math.pi * 0.99)) / 2)


def test_without_a_given_rise_it_is_a_tenth_of_the_steps_and_constant_stays():
    plan = make_plan(learning_rate=0.2, schedule="constant")
    assert [plan.learning_rate_at(step) for step in (10, 11, 109)] == [0.1] * 3
    assert plan.learning_rate_at(5) == pytest.approx(0.1 * 6 / 11)


@given(st.integers(1, 64), st.integers(1, 512), st.integers(0, 109))
def test_the_rate_depends_on_the_images_of_a_step_and_not_on_how_ranks_share_them(ranks, images, step):
    shared = make_plan(num_ranks=ranks, batch_size=images)
    alone = make_plan(num_ranks=1, batch_size=images * ranks)
    assert shared.learning_rate_at(step) == alone.learning_rate_at(step)


def test_a_checkpoint_depends_on_what_changes_the_training_and_on_nothing_else():
    plan = make_plan()
    for free in ({"threads": 2}, {"checkpoint_folder": "/b"}, {"resume": True}, {"reader_threads": 7}, {"data": "/c"}):
        assert make_plan(**free).settings == plan.settings
    for bound in ({"num_ranks": 1}, {"batch_size": 1}, {"steps": 3}, {"seed": 1}, {"momentum": 0.5}, {"crop": 32}):
        assert make_plan(**bound).settings != plan.settings


@given(st.integers(0, 2**31 - 1), st.integers(0, 10**6 - 1), st.integers(0, 255))
def test_a_steps_seed_is_one_that_torch_takes(seed, step, rank):
    assert 0 <= make_plan(seed=seed).seed_at(rank, step) < 2**63


def test_every_rank_and_step_has_a_seed_of_its_own():
    plan = make_plan(seed=3)
    assert len({plan.seed_at(rank, step) for rank in range(50) for step in range(50)}) == 2500


def test_a_source_without_data_is_refused():
    with pytest.raises(ValidationError, match="source direct needs data"):
        make_plan(source="direct")
