"""What profilers show of a training: the names and the order of its trace, and nothing where nobody looks."""

import json
from collections import Counter

import pytest
import torch

from iobench.loaders.traced import Recorder
from iobench.storage_bench.launching.ranks import SingleRank
from iobench.training_bench.feed import ShardFeed, open_feed
from iobench.training_bench.peers import Alone
from iobench.training_bench.ranges import ShownMarks, shown
from iobench.training_bench.real.plan import RealPlan
from iobench.training_bench.real.ranks import Training
from iobench.training_bench.timeline import TRAINING_PARTS, StepClock
from iobench.training_bench.tracing import PARTS, trace_of_training

CPU = torch.device("cpu")
STEPS = 3


class Told:
    """A profiler that keeps what it is told, and what is open."""

    def __init__(self):
        self.names, self.open = [], []

    def push(self, name):
        self.names.append("/".join([*self.open, name]))
        self.open.append(name)

    def pop(self):
        self.open.pop()


def new_plan(**changes):
    told = {
        "model": "resnet18",
        "device": "cpu",
        "num_ranks": 1,
        "batch_size": 2,
        "steps": STEPS,
        "source": "synthetic",
        "image_shape": (8, 8, 3),
        "threads": 1,
        "num_classes": 10,
    }
    return RealPlan(**{**told, **changes})


def trained():
    """The clock of a training of a few steps."""
    plan = new_plan()
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))
    feed = open_feed(plan, rank=0, device=CPU)
    training = Training(model, feed, plan=plan, ranks=SingleRank(), peers=Alone(), device=CPU)
    clock = training.new_clock()
    training.loop(clock)
    return clock


def names_in_trace(clock):
    told = {"rank": 0, "pid": 1, "host": "here", "steps_ns": clock.times.tolist(), "stream_ns": None}
    events = json.loads(trace_of_training([told]))["traceEvents"]
    return Counter(event["name"] for event in events if event["ph"] == "X")


def test_torchs_profiler_shows_the_names_that_the_trace_has():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        clock = trained()
    ours = {*PARTS, *(f"step {number}" for number in range(STEPS))}
    seen = Counter(event.name for event in profiler.events() if event.name in ours)
    in_trace = names_in_trace(clock)
    in_trace.pop("training, round 0")
    assert seen == in_trace == {**dict.fromkeys(PARTS, STEPS), **{f"step {number}": 1 for number in range(STEPS)}}


def test_what_goes_to_a_device_is_in_the_trace_of_a_training_as_in_a_profiler(page_set, device):
    plan = new_plan(data=str(page_set.folder), source="direct", image_shape=(35, 35, 3), reader_threads=1)
    feed, recorder = ShardFeed(plan, 0, device), Recorder()
    feed.trace(recorder)
    batches = feed.batches()
    for _ in range(3):
        next(batches)
    batches.close()
    device.settle()
    noted = Counter((span.thread, span.what) for span in recorder.spans)
    assert noted["iobench-reader-0", "batch to device"] >= 3
    assert ("iobench-reader-0", "batch to device") in device.ranges


def test_a_step_holds_its_parts_and_they_follow_each_other():
    clock, profiler, other = StepClock(2, TRAINING_PARTS), Told(), Told()
    marks = ShownMarks(clock, [profiler, other], parts=PARTS, first_step=7)
    for _ in range(2 * (len(PARTS) + 1)):
        marks.mark()
    marks.close()
    assert profiler.names == [
        name for step in ("step 7", "step 8") for name in (step, *(f"{step}/{part}" for part in PARTS))
    ]
    assert profiler.open == []
    assert other.names == profiler.names
    assert len(clock.times) == 2


@pytest.mark.parametrize("num_marks", range(5))
def test_a_step_that_is_cut_short_leaves_no_range_open(num_marks):
    profiler = Told()
    marks = ShownMarks(StepClock(1, TRAINING_PARTS), [profiler], parts=PARTS, first_step=0)
    for _ in range(num_marks):
        marks.mark()
    assert len(profiler.open) == (2 if num_marks else 0)
    marks.close()
    assert profiler.open == []


def test_where_nobody_looks_the_clock_itself_is_in_the_loop():
    clock = StepClock(1, TRAINING_PARTS)
    with shown(clock, parts=PARTS, first_step=0, cuda=False) as marks:
        assert marks is clock
    with torch.profiler.profile(), shown(clock, parts=PARTS, first_step=0, cuda=False) as marks:
        assert marks is not clock
