"""The compute stream's wait: the order in which events are recorded, against a stream that runs on paper."""

from collections import namedtuple
from collections.abc import Iterator

import pytest
import torch

from iobench.loaders import StallMeter
from iobench.loaders.stall_cuda import NUM_EMPTY_PAIRS, DeviceWaits, moved_to, tensors_of, watch_device

EMPTY_MS = 0.002


class Stream:
    """A compute stream on paper: `now` is when it has done all that it was given."""

    def __init__(self) -> None:
        self.now = 0.0
        self.num_waits = 0
        self.passed = 0.0


class Event:
    """As torch.cuda.Event: stands where its stream had come to when it was recorded."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.at = -1.0

    def record(self, stream: Stream) -> None:
        assert stream is self._stream
        stream.now += EMPTY_MS
        self.at = stream.now

    def query(self) -> bool:
        return self.at <= self._stream.passed

    def synchronize(self) -> None:
        self._stream.num_waits += 1
        self._stream.passed = max(self._stream.passed, self.at)

    def elapsed_time(self, end: "Event") -> float:
        assert end.query(), "read before the device had passed it"
        return end.at - self.at


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def waits(stream: Stream) -> DeviceWaits:
    return DeviceWaits(lambda: Event(stream), lambda: stream)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)


@pytest.mark.usefixtures("on_a_gpu")
def test_the_wait_is_the_streams_and_not_the_hosts(stream, waits):
    """Each batch comes 3 ms after the stream was through; the step's own 10 ms do not count."""

    def batches() -> Iterator[torch.Tensor]:
        for _ in range(100):
            stream.now += 3.0  # the stream waits for the batch's event
            yield torch.zeros(2)

    fetch = watch_device(iter(batches()).__next__, waits, None, on_host_batch=pytest.fail, on_gpu=pytest.fail)
    before = stream.num_waits
    for _ in range(100):
        fetch()
        stream.now += 10.0
        stream.passed = stream.now - 15.0  # the device is a step behind the host
    assert stream.num_waits == before  # nobody waited for the device inside the loop
    assert waits.num_steps == 100
    assert waits.total_s() == pytest.approx(100 * 3.0 / 1e3, rel=1e-6)
    assert waits.total_s() == waits.total_s()


@pytest.mark.usefixtures("on_a_gpu")
def test_events_are_used_again_once_the_device_has_passed_them(stream):
    made = []

    def new_event() -> Event:
        made.append(Event(stream))
        return made[-1]

    waits = DeviceWaits(new_event, lambda: stream)
    fetch = watch_device(lambda: torch.zeros(1), waits, None, on_host_batch=pytest.fail, on_gpu=pytest.fail)
    for _ in range(1000):
        fetch()
        stream.passed = stream.now - 10 * EMPTY_MS
    assert len(made) <= 2 * NUM_EMPTY_PAIRS + 16


@pytest.mark.usefixtures("on_a_gpu")
def test_batches_on_another_gpu_than_the_current_one_are_waited_for_by_that_ones_stream(stream, monkeypatch):
    """The first of them is not counted: nobody was asked where it would be."""
    monkeypatch.setattr(torch.Tensor, "get_device", lambda _: 1)
    here, other = Stream(), stream
    first = DeviceWaits(lambda: Event(here), lambda: here, number=0)
    second = DeviceWaits(lambda: Event(other), lambda: other, number=1)
    asked = []

    def batch() -> torch.Tensor:
        other.now += 3.0
        return torch.zeros(2)

    def on_gpu(number: int) -> DeviceWaits:
        asked.append(number)
        return second

    fetch = watch_device(batch, first, None, on_host_batch=pytest.fail, on_gpu=on_gpu)
    for _ in range(10):
        fetch()
    assert asked == [1]
    assert (first.num_steps, second.num_steps) == (0, 9)
    assert second.total_s() == pytest.approx(9 * 3.0 / 1e3, rel=1e-6)


def test_a_batch_in_host_memory_is_not_counted_but_said(waits):
    said = []
    fetch = watch_device(
        lambda: {"x": torch.zeros(1)}, waits, None, on_host_batch=lambda: said.append(1), on_gpu=pytest.fail
    )
    fetch()
    assert said == [1]
    assert (waits.num_steps, waits.total_s()) == (0, 0.0)


def test_without_cuda_a_meter_claims_nothing_about_a_gpu():
    meter = StallMeter()
    assert [*meter.watch([torch.zeros(1)])] == [torch.zeros(1)]
    seen = meter.summary()
    assert (seen["gpu_data_wait_s"], seen["transfer_not_covered"]) == (None, False)


def test_a_cpu_device_moves_nothing_and_keeps_the_batch():
    batch = {"x": torch.arange(3), "name": "n"}
    (seen,) = StallMeter().watch([batch], device="cpu")
    assert seen["x"] is batch["x"]
    assert seen == batch


def test_tensors_are_found_and_moved_in_whatever_holds_them():
    pair = namedtuple("pair", "x y")(torch.zeros(1), [torch.ones(2), 3])
    batch = {"pair": pair, "word": "w", "more": (torch.ones(1),)}
    assert [tensor.shape[0] for tensor in tensors_of(batch)] == [1, 2, 1]
    moved = moved_to(batch, "meta")
    assert all(tensor.is_meta for tensor in tensors_of(moved))
    assert (type(moved["pair"]), moved["word"], moved["pair"].y[1]) == (type(pair), "w", 3)


@pytest.mark.twin(
    "test_the_wait_is_the_streams_and_not_the_hosts", "test_a_batch_in_host_memory_is_not_counted_but_said"
)
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_on_a_gpu_a_slow_loader_shows_as_the_streams_wait():
    from time import sleep

    def slow() -> Iterator[torch.Tensor]:
        for _ in range(20):
            sleep(0.02)
            yield torch.zeros(1000, 1000)

    meter = StallMeter()
    for batch in meter.watch(slow(), device="cuda"):
        assert batch.is_cuda
        batch @ batch
    seen = meter.summary()
    assert 19 * 0.015 < seen["gpu_data_wait_s"] < 20 * 0.03
    assert not seen["transfer_not_covered"]
    torch.cuda.synchronize()
    uncovered = StallMeter()
    list(uncovered.watch(slow()))
    assert uncovered.summary()["gpu_data_wait_s"] is None
    assert uncovered.summary()["transfer_not_covered"]
