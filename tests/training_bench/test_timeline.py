"""Marks, tables that add up, and who kept whom waiting: worked examples, and properties of any marks."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from iobench.training_bench.timeline import (
    EMULATED_PARTS,
    TRAINING_PARTS,
    StepClock,
    StreamClock,
    TimelineError,
    step_parts,
    straggler,
    waiting,
)


def rows(*steps, overhead=0):
    """Marks of steps after one another, each given as the ns of its parts."""
    found, now = [], 7
    for parts in steps:
        marks = now + np.cumsum([0, *parts])
        found.append(marks)
        now = marks[-1] + overhead
    return np.array(found, dtype=np.int64)


def test_a_mark_is_the_time_it_was_made_at():
    clock = StepClock(3)
    before = time.perf_counter_ns()
    told = [clock.mark() for _ in range(12)]
    after = time.perf_counter_ns()
    assert clock.times.tolist() == [told[:4], told[4:8], told[8:]]
    assert before <= told[0] <= told[-1] <= after


def test_a_step_that_was_cut_short_is_no_step():
    clock = StepClock(3, TRAINING_PARTS)
    for _ in range(8):
        clock.mark()
    assert clock.times.shape == (1, 5)


def test_more_marks_than_there_is_room_for_are_refused():
    clock = StepClock(1)
    for _ in range(4):
        clock.mark()
    with pytest.raises(IndexError):
        clock.mark()


def test_a_worked_example_of_a_table():
    # 2 steps of 1 + 20 + 3 + 4 ms with 2 ms between them: 58 ms, of which the overhead is seen once
    table = step_parts(rows(*[np.array([1, 20, 3, 4]) * 10**6] * 2, overhead=2 * 10**6), TRAINING_PARTS)
    assert table == pytest.approx(
        {
            "data_wait_s": 0.001,
            "compute_s": 0.020,
            "sync_wait_s": 0.003,
            "optimizer_s": 0.004,
            "overhead_s": 0.001,
            "step_time_s": 0.029,
        }
    )


marks = arrays(np.int64, st.tuples(st.integers(1, 20), st.just(4)), elements=st.integers(0, 10**9)).map(
    lambda gaps: np.cumsum(gaps.reshape(-1)).reshape(gaps.shape)
)


@given(marks)
def test_the_parts_of_any_table_add_up_to_its_wall_time(times):
    table = step_parts(times, EMULATED_PARTS)
    wall = table.pop("step_time_s")
    assert sum(table.values()) == pytest.approx(wall, rel=1e-9, abs=1e-12)
    assert wall * len(times) == pytest.approx((times[-1, -1] - times[0, 0]) / 1e9)


# --- who waits for whom ------------------------------------------------------------------------------------------


def test_a_worked_example_of_two_ranks_of_which_one_waits_for_data():
    # step 1: rank 1 waits 50 for data, rank 0 waits 52 in the allreduce; step 2: rank 0 computes 30 longer
    first = rows((1, 10, 52), (1, 40, 2))
    second = rows((50, 11, 2), (1, 10, 32))
    met = waiting([first, second])
    assert met.communication.tolist() == [[2, 2], [2, 2]]
    assert met.for_others.tolist() == [[50, 0], [0, 30]]
    assert met.for_data.tolist() == [[49, 0], [0, 0]]
    assert met.for_compute.tolist() == [[1, 0], [0, 30]]
    assert met.cost.tolist() == [[0, 30], [50, 0]]
    assert straggler(met.cost.sum(axis=1).tolist()) == 1


def test_a_rank_alone_waits_for_nobody():
    met = waiting([rows((1, 10, 3), (1, 10, 5))])
    assert met.communication.tolist() == [[3, 5]]
    assert not met.for_others.any()
    assert not met.cost.any()
    assert straggler([0.0]) is None


ranks = st.integers(1, 5).flatmap(
    lambda count: arrays(np.int64, st.tuples(st.just(count), st.integers(1, 9), st.just(4)), elements=st.integers(0, 9))
)


@given(ranks)
def test_what_ranks_wait_for_each_other_is_what_the_last_ones_cost(gaps):
    times = [np.cumsum(gap.reshape(-1)).reshape(gap.shape) for gap in gaps]
    met = waiting(times)
    exposed = np.stack([each[:, 3] - each[:, 2] for each in times])
    assert (met.communication + met.for_others == exposed).all()
    assert (met.for_others >= 0).all()
    assert (met.cost.sum(axis=0) == met.for_others.sum(axis=0)).all()
    assert ((met.cost > 0).sum(axis=0) <= 1).all()


def test_ranks_that_made_different_numbers_of_steps_are_refused():
    with pytest.raises(TimelineError, match=r"\[1, 2\] steps") as caught:
        waiting([rows((1, 1, 1)), rows((1, 1, 1), (1, 1, 1))])
    assert caught.value.exit_status == 3


# --- the compute stream ------------------------------------------------------------------------------------------


class Stream:
    """A stream that has come to `now_ms`; events are 0.005 ms apart, as if recording took so long."""

    now_ms = 0.0


class Event:
    """Stands for torch.cuda.Event: there is no stream here."""

    at_ms = None

    def record(self, stream):
        stream.now_ms += 0.005
        self.at_ms = stream.now_ms

    def synchronize(self):
        assert self.at_ms is not None

    def elapsed_time(self, end):
        return end.at_ms - self.at_ms


def test_the_compute_stream_has_a_table_of_its_own_that_adds_up():
    stream = Stream()
    clock = StreamClock(3, TRAINING_PARTS, new_event=Event, stream=lambda: stream)
    for _ in range(2):
        for spent_ms in (0.0, 6.0, 20.0, 3.0, 1.0):  # before the first mark, then each part
            stream.now_ms += spent_ms
            clock.mark()
    table = step_parts(clock.times, TRAINING_PARTS)
    # data wait is less by the 5 us of an empty pair; what lies between other marks is left as it is
    assert table["data_wait_s"] == pytest.approx(0.006, abs=1e-8)
    assert table["compute_s"] == pytest.approx(0.020010, abs=1e-8)
    assert table["sync_wait_s"] == pytest.approx(0.003005, abs=1e-8)
    assert sum(value for name, value in table.items() if name != "step_time_s") == pytest.approx(table["step_time_s"])
    assert len(clock.host.times) == 2


def test_events_go_round_in_a_long_loop_and_no_time_is_lost(monkeypatch):
    monkeypatch.setattr("iobench.training_bench.timeline.KEPT_EVENTS", 6)
    stream = Stream()
    made = []

    def new_event():
        made.append(Event())
        return made[-1]

    clock = StreamClock(50, EMULATED_PARTS, new_event=new_event, stream=lambda: stream)
    passed_ms = []
    for step in range(50):
        for part in range(4):
            stream.now_ms += 1.0 + step + part
            clock.mark()
            passed_ms.append(stream.now_ms)
    assert len(made) == 6 + 2 * 33
    expected = (np.array(passed_ms).reshape(50, 4) - passed_ms[0]) * 1e6
    expected[:, 1] -= 5_000  # an empty pair
    assert clock.times == pytest.approx(expected, abs=1)
    assert (clock.times == np.array(clock.times)).all(), "looking twice changes nothing"


def test_a_stream_that_never_waits_shows_no_wait():
    stream = Stream()
    clock = StreamClock(1, EMULATED_PARTS, new_event=Event, stream=lambda: stream)
    for _ in range(4):
        clock.mark()
    assert clock.times[0, 1] == clock.times[0, 0]
