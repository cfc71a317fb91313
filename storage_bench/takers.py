"""What takes the loader's batches while it is measured: hardly anything, on the host or on a GPU.

host    one byte of each 4 KiB is read
gpu     the same by one kernel on the stream that computes; a time block ends once the device has done all of it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter, perf_counter_ns
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..loaders.destinations.device import WAITING
from ..loaders.traced import Recorder
from .accelerators import TOUCH_BYTES, touch

if TYPE_CHECKING:
    import torch

    from ..loaders.dataloader import DataLoader
    from ..loaders.destinations.device import Device

RAMP_S = 0.5


class TimeBlock(NamedTuple):
    """Images of one time block, its seconds, and those of them that the loop waited for batches."""

    images: int
    seconds: float
    waited_s: float


class Taker(Protocol):
    """What is done with a batch."""

    def batches(self, loader: DataLoader[Any]) -> Iterator[Any]:
        """The loader's images, epoch behind epoch: (B, H, W, C), or lists of samples of unequal size."""

    def take(self, images: Any) -> None:
        """Look at every page of a batch."""

    def settle(self) -> None:
        """Return once all that was taken has been looked at."""


class HostTaker:
    """Takes batches in host memory."""

    @staticmethod
    def batches(loader: DataLoader[Any]) -> Iterator[Any]:
        """See Taker; numpy arrays."""
        while True:
            for images, _ in loader:
                if isinstance(images, list):
                    yield [sample.numpy() for sample in images]
                else:
                    yield images.permute(0, 2, 3, 1).numpy()

    @staticmethod
    def take(images: Any) -> None:
        """See Taker."""
        touch(images)

    @staticmethod
    def settle() -> None:
        """Nothing is under way."""


class DeviceTaker:
    """Takes batches on a device."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._done = device.new_event()

    @staticmethod
    def batches(loader: DataLoader[Any]) -> Iterator[Any]:
        """See Taker; tensors on the device."""
        while True:
            for images, _ in loader:
                yield images if isinstance(images, list) else images.permute(0, 2, 3, 1)

    @staticmethod
    def take(images: Any) -> None:
        """See Taker; the sum stays on the device."""
        for tensor in images if isinstance(images, list) else [images]:
            _touched(tensor)

    def settle(self) -> None:
        """See Taker: waits for the stream's own place, not for the device."""
        self._done.record(self._device.current_stream())
        self._done.synchronize()


def _touched(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over one element of each 4 KiB, from the first record's beginning to the last one's end."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    step = TOUCH_BYTES // tensor.element_size()
    return tensor.as_strided((-(-extent // step),), (step,)).sum()


def time_blocks(
    batches: Iterator[Any],
    taker: Taker,
    *,
    seconds: float,
    blocks: int,
    on_block: Callable[[int, int, float], None] | None,
) -> Iterator[TimeBlock]:
    """Each time block; the first half second is ramp-up and not counted.  `on_block`: number, all, images/s."""
    ramp_until = perf_counter() + min(RAMP_S, seconds)
    while perf_counter() < ramp_until:
        taker.take(next(batches))
    taker.settle()
    for number in range(blocks):
        start = perf_counter()
        images, waited, now = 0, 0.0, start
        while now - start < seconds:
            batch = next(batches)
            waited += perf_counter() - now
            taker.take(batch)
            images += len(batch)
            now = perf_counter()
        taker.settle()
        now = perf_counter()
        if on_block is not None:
            on_block(number + 1, blocks, images / (now - start))
        yield TimeBlock(images, now - start, waited)


def noted(batches: Iterator[Any], recorder: Recorder) -> Iterator[Any]:
    """The batches, with every wait for one and what was done with it until the next was asked for."""
    while True:
        asked = perf_counter_ns()
        batch = next(batches)
        recorder.add(WAITING, asked)
        got = perf_counter_ns()
        yield batch
        recorder.add("touch the batch", got)
