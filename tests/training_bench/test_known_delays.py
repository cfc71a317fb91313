"""Known truth: delays that a loader times with its own clock, and what the loop's marks make of them.

Medians over steps are compared: a step in which the system took the core away says nothing about either clock.
"""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from iobench.storage_bench.launching.launch import horovod_available, launch_ranks
from iobench.storage_bench.launching.ranks import SingleRank
from iobench.training_bench.timeline import EMULATED_PARTS, step_parts, straggler, waiting

PROGRAMS = Path(__file__).with_name("programs")
DELAYS_S = (0.002, 0.010, 0.050)
STEPS = (120, 70, 20)  # a second of each: a core that is taken away as two ranks begin takes milliseconds
MISSING = horovod_available()
pytestmark = pytest.mark.alone


def program():
    spec = importlib.util.spec_from_file_location("rank_delays", PROGRAMS / "rank_delays.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config(**more):
    return {"delays_s": DELAYS_S, "step_s": 0.004, "steps": STEPS, "delayed": [0], **more}


def marks_and_truth(result, number):
    """(steps, 4) marks of the loop and (steps, 2) of the loader, the dropped steps left out."""
    marks = np.array(result["blocks"][number]["steps_ns"])[2:]
    return marks, np.array(result["told"][number])[2:]


def check_waits(result, number):
    marks, truth = marks_and_truth(result, number)
    waited, delayed = marks[:, 1] - marks[:, 0], truth[:, 1] - truth[:, 0]
    assert (waited >= delayed).all(), "the wait encloses the delay"
    assert np.median(waited / delayed) < 1.02


@pytest.fixture(scope="module")
def alone():
    return program().run(config(), SingleRank())


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """Rank 1's loader delays, rank 0's does not."""
    if MISSING is not None:
        pytest.skip(f"Horovod: {MISSING}")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROGRAMS), before]))
    try:
        folder = tmp_path_factory.mktemp("delays")
        return launch_ranks("rank_delays", config(delayed=[1]), num_ranks=2, folder=folder, timeout_s=60.0)
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


@pytest.mark.parametrize("number", range(len(DELAYS_S)))
def test_a_delay_in_the_loader_is_measured_within_2_percent(alone, number):
    check_waits(alone, number)


@pytest.mark.horovod
@pytest.mark.parametrize("number", range(len(DELAYS_S)))
def test_a_delay_on_one_of_two_ranks_is_measured_within_2_percent(two_ranks, number):
    check_waits(two_ranks[1], number)


@pytest.mark.horovod
def test_a_slow_rank_of_two_is_named_with_what_it_cost_the_other(two_ranks):
    number = DELAYS_S.index(0.050)
    (first, _), (second, truth) = (marks_and_truth(result, number) for result in two_ranks)
    met = waiting([first, second])
    assert straggler(met.cost.sum(axis=1).tolist()) == 1
    delayed = truth[:, 1] - truth[:, 0]
    assert np.median(met.for_others[0] / delayed) == pytest.approx(1, abs=0.05)
    assert np.median(met.for_data[0] / delayed) == pytest.approx(1, abs=0.05), "it waited for data"
    assert np.median(met.communication / delayed) < 0.2, "what is left of the wait is communication"


@pytest.mark.horovod
@pytest.mark.parametrize("number", range(len(DELAYS_S)))
def test_both_ranks_tables_add_up_to_their_wall_time(two_ranks, number):
    for result in two_ranks:
        marks, _ = marks_and_truth(result, number)
        table = step_parts(marks, EMULATED_PARTS)
        wall = table.pop("step_time_s")
        assert sum(table.values()) == pytest.approx(wall, rel=0.01)
        assert wall * len(marks) == pytest.approx((marks[-1, 3] - marks[0, 0]) / 1e9)


@pytest.mark.horovod
@pytest.mark.parametrize("number", range(len(DELAYS_S)))
def test_what_the_ranks_waited_for_each_other_adds_up_over_all_steps(two_ranks, number):
    """Sums, not medians: steps in which the system took a core away are in them, on both sides."""
    both = [marks_and_truth(result, number)[0] for result in two_ranks]
    met = waiting(both)
    spent = np.stack([np.diff(marks, axis=1).sum(axis=0) for marks in both])  # (ranks, parts)
    walls = np.array([marks[-1, -1] - marks[0, 0] for marks in both])
    assert walls[0] == pytest.approx(walls[1], rel=0.01), "who meets after each step makes its steps in one time"
    assert (met.communication + met.for_others).sum(axis=1) == pytest.approx(spent[:, 2], rel=1e-12)
    assert met.for_others.sum() == met.cost.sum(), "what one waited is what the other cost"
    between = walls - spent.sum(axis=1)
    busy = spent[:, 0] + spent[:, 1] + between
    waited = met.for_others.sum(axis=1)
    assert waited[0] - waited[1] == pytest.approx(busy[1] - busy[0], abs=0.01 * walls[0])


def test_what_compute_hides_of_a_delay_is_no_wait():
    told = program().run(config(delays_s=[0.050], steps=[16], step_s=0.020, ahead=True), SingleRank())
    marks, truth = marks_and_truth(told, 0)
    waited = marks[:, 1] - marks[:, 0]
    left = np.maximum(truth[:, 1] - marks[:, 0], 0)  # when the batch was there, less when it was asked for
    assert np.median(left) == pytest.approx(0.030e9, rel=0.2), "20 of 50 ms are hidden"
    assert np.median(np.abs(waited - left)) < 0.02 * np.median(left)


def test_synthetic_batches_show_a_stall_under_1_percent():
    told = program().run(config(delays_s=[0.0], steps=[50]), SingleRank())
    marks, _ = marks_and_truth(told, 0)
    table = step_parts(marks, EMULATED_PARTS)
    assert table["data_wait_s"] / table["step_time_s"] < 0.01
