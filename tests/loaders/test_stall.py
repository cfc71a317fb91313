"""The stall meter against a loader that knows how long it made the loop wait."""

from time import perf_counter, sleep

import pytest

from iobench.loaders.dataloader import DataLoader
from iobench.loaders.shards import ShardSet
from iobench.loaders.stall import StallMeter


class Sleeper:
    """Sleeps before each batch and keeps its own time of it."""

    def __init__(self, *, num_batches: int, sleep_s: float) -> None:
        self.waited_s: list[float] = []
        self._num_batches = num_batches
        self._sleep_s = sleep_s

    def __iter__(self):
        for number in range(self._num_batches):
            begin = perf_counter()
            sleep(self._sleep_s)
            self.waited_s.append(perf_counter() - begin)
            yield number


def test_the_wait_is_the_loaders_own_time_and_the_wall_is_the_loops():
    loader, meter = Sleeper(num_batches=25, sleep_s=0.02), StallMeter()
    begin = perf_counter()
    for _ in meter.watch(loader):
        sleep(0.005)
    wall_s = perf_counter() - begin
    seen = meter.summary()
    assert seen["num_steps"] == 25
    assert seen["data_wait_s"] == pytest.approx(sum(loader.waited_s), rel=0.02)
    assert seen["wall_s"] == pytest.approx(wall_s, rel=0.02)
    assert seen["data_stall_fraction"] == seen["data_wait_s"] / seen["wall_s"]
    in_order = sorted(loader.waited_s)
    assert seen["wait_p50_s"] == pytest.approx(in_order[12], rel=0.1)
    assert in_order[23] * 0.9 < seen["wait_p99_s"] <= in_order[24] * 1.1


def test_what_the_loop_does_is_not_wait():
    loader, meter = Sleeper(num_batches=10, sleep_s=0), StallMeter()
    for _ in meter.watch(loader):
        sleep(0.02)
    seen = meter.summary()
    assert seen["wall_s"] >= 10 * 0.02
    assert seen["data_wait_s"] < seen["wall_s"] / 2


def test_a_loop_left_early_counts_its_last_step():
    loader, meter = Sleeper(num_batches=10, sleep_s=0.01), StallMeter()
    for number in meter.watch(loader):
        sleep(0.02)
        if number == 4:
            break
    seen = meter.summary()
    assert seen["num_steps"] == 5
    assert seen["data_wait_s"] == pytest.approx(sum(loader.waited_s), rel=0.1)
    assert seen["wall_s"] >= seen["data_wait_s"] + 5 * 0.02


def test_the_end_of_the_loader_is_no_step_and_no_time_of_one():
    class SlowEnd:
        def __iter__(self):
            yield 1
            sleep(0.5)

    meter = StallMeter()
    for _ in meter.watch(SlowEnd()):
        pass
    assert meter.summary()["num_steps"] == 1
    assert meter.summary()["wall_s"] < 0.5


def test_epochs_and_loaders_add_up():
    meter = StallMeter()
    loaders = [Sleeper(num_batches=3, sleep_s=0.01), Sleeper(num_batches=4, sleep_s=0.02)]
    with meter:
        for loader in loaders:
            for _ in meter.watch(loader):
                pass
    seen = meter.summary()
    assert seen["num_steps"] == 7
    assert seen["data_wait_s"] == pytest.approx(sum(loaders[0].waited_s + loaders[1].waited_s), rel=0.05)


def test_without_a_step_nothing_is_claimed():
    meter = StallMeter()
    assert list(meter.watch([])) == []
    seen = meter.summary()
    assert seen["num_steps"] == 0
    assert [name for name, value in seen.items() if value is None] == [
        "data_wait_s",
        "data_stall_fraction",
        "gpu_data_wait_s",
        "wait_p50_s",
        "wait_p99_s",
    ]
    assert str(meter) == "no step was made"


def test_an_error_of_the_loader_reaches_the_loop():
    def broken():
        yield 1
        raise LookupError("lost")

    meter = StallMeter()
    with pytest.raises(LookupError, match="lost"):
        list(meter.watch(broken()))
    assert meter.summary()["num_steps"] == 1


def test_the_meter_holds_no_batch_back(page_set):
    """A batch that the loop dropped is free before the next is asked for: the meter costs the loader no buffer."""
    loader = DataLoader(ShardSet.open(page_set.folder), batch_size=4, num_workers=0)
    addresses = set()
    for images, _ in StallMeter().watch(loader):
        addresses.add(images.data_ptr())
        del images
    assert len(addresses) == 1


def test_the_meter_prints_one_line():
    meter = StallMeter()
    for _ in meter.watch(Sleeper(num_batches=2, sleep_s=0.001)):
        pass
    assert str(meter).startswith("2 steps, 0.0")
    assert "s for data (" in str(meter)
