"""Steps as a graph and compiled, in the check: what makes a step wrong, and that all ways make the same."""

import pytest
import torch

from iobench.gpu_check.device import Device
from iobench.gpu_check.part import Bench
from iobench.gpu_check.parts.graphs import COMPARED_STEPS, compile_refused, first_steps, run, wrong_steps
from iobench.gpu_check.roads import OurRoad
from iobench.gpu_check.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_gpu])]


def told(*steps):
    return torch.tensor(steps, dtype=torch.float64)


@pytest.mark.parametrize(
    ("first", "count"),
    [
        (told((7.0, 100), (6.0, 200)), 0),
        (told((7.13, 100), (5.9, 200)), 0),  # within two per cent
        (told((7.15, 100), (6.0, 200)), 1),
        (told((7.0, 100), (6.0, 100)), 1),  # a loss as it should be, of the batch before
        (told((float("nan"), 100), (6.0, 200)), 1),
        (told((7.0, 101), (8.0, 201)), 2),
    ],
)
def test_a_step_is_wrong_that_was_of_another_batch_or_lost_otherwise(first, count):
    assert wrong_steps(first, told((7.0, 100), (6.0, 200))) == count


class StaleTrainer(Trainer):
    """One whose graph goes on reading where the batch of its capture was."""

    def step(self, images, labels):
        self._kept = getattr(self, "_kept", (images.clone(), labels.clone()))
        return super().step(*self._kept)


@pytest.mark.slow
@pytest.mark.parametrize("name", DEVICES)
def test_a_graph_sees_each_batch_and_one_that_goes_on_with_an_old_one_is_found_out(page_set, name):
    device = Device(name)
    road = OurRoad(page_set.folder, device, batch_size=4, threads=2, shuffle_mode="off")
    try:
        wanted = first_steps(Trainer(device, model="resnet18", sums=True), road)
        found = first_steps(Trainer(device, model="resnet18", way="graph", sums=True), road)
        stale = first_steps(StaleTrainer(device, model="resnet18", way="graph", sums=True), road)
    finally:
        road.close()
    assert wrong_steps(found, wanted) == 0
    assert wrong_steps(stale, wanted) == COMPARED_STEPS - 1


@pytest.mark.slow
def test_all_ways_make_the_same_steps_and_are_timed(page_set, tmp_path):
    found = list(run(Bench("cpu", page_set.folder, page_set.folder, tmp_path, 0.2, 2)))
    assert [point.params["way"] for point in found[0].points] == ["eager"]  # the first is known before others are made
    eager, *others = found[-1].points
    assert [point.params["way"] for point in others] == ["graph", "compiled"]
    assert "wrong_steps" not in eager.metrics
    for point in others:
        assert point.metrics["wrong_steps"].value == 0
        assert point.metrics["step_time_s"].n == point.metrics["images_per_s_ratio"].n >= 2


def test_what_is_missing_for_compiling_is_told_on_a_gpu_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compile_refused(Bench("cpu", tmp_path, tmp_path, tmp_path, 1.0, 1)) is None
    reason = compile_refused(Bench("cuda", tmp_path, tmp_path, tmp_path, 1.0, 1))
    assert reason is not None
    assert "Triton" in reason
