"""The stall meter: how long a loop waited for data.

    with StallMeter() as meter:
        for images, labels in meter.watch(loader):
            step(images, labels)
    print(meter)          # N steps, X s, waited Y s for data (Z%), p50 ... ms, p99 ... ms

Host wait is the time blocked in next().  The wall time runs from the first next() to the last batch's end of step.
On CUDA the compute stream has a wait of its own (stall_cuda.py): the host may wait while the GPU is still busy.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

    from .destinations.device import Device
    from .stall_cuda import DeviceWaits

T = TypeVar("T")


class StallMeter:
    """Counts the time a loop waits for data; works on any iterable, and adds up over several epochs."""

    def __init__(self) -> None:
        self.transfer_not_covered = False
        self._waits_ns = array("q")
        self._wall_ns = 0
        self._devices: list[DeviceWaits] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held open."""

    def watch(self, loader: Iterable[T], device: torch.device | str | None = None) -> Iterator[T]:
        """Iterate over `loader`, timing each next().

        With a `device` the meter moves each batch there itself (on a stream of its own where it is a CUDA device), so
        that the transfer counts too.  Without one, batches that come in host memory while CUDA is in use set
        `transfer_not_covered`: their transfer is then the loop's own, and the GPU's wait is not told.
        """
        steps = Steps(self)
        batches = iter(loader)
        fetch = self._fetch(batches.__next__, device)
        try:
            while True:
                try:
                    batch = steps.take(fetch)
                except StopIteration:
                    return
                yield batch
                del batch  # a batch the user dropped must be free before the next one is asked for
        finally:  # the step is over, also where it ends the loop
            steps.end()

    def summary(self) -> dict[str, Any]:
        """Steps, seconds, the share of the wall time spent waiting, and percentiles of one wait.

        Keys: num_steps, wall_s, data_wait_s, data_stall_fraction, gpu_data_wait_s (None where no batch was on a GPU),
        wait_p50_s, wait_p99_s, transfer_not_covered.  Without a step the seconds and the share are None but for wall_s.
        """
        waits = np.array(self._waits_ns, dtype=np.float64) / 1e9
        wall = self._wall_ns / 1e9
        measured = len(waits) > 0 and wall > 0
        on_device = [device for device in self._devices if device.num_steps]
        return {
            "num_steps": len(waits),
            "wall_s": wall,
            "data_wait_s": float(waits.sum()) if measured else None,
            "data_stall_fraction": float(waits.sum()) / wall if measured else None,
            "gpu_data_wait_s": sum(device.total_s() for device in on_device) if on_device else None,
            "wait_p50_s": float(np.percentile(waits, 50)) if measured else None,
            "wait_p99_s": float(np.percentile(waits, 99)) if measured else None,
            "transfer_not_covered": self.transfer_not_covered,
        }

    def __str__(self) -> str:
        seen = self.summary()
        if seen["data_wait_s"] is None:
            return "no step was made"
        gpu = seen["gpu_data_wait_s"]
        return (
            f"{seen['num_steps']} steps, {seen['wall_s']:.2f} s, waited {seen['data_wait_s']:.2f} s for data "
            f"({seen['data_stall_fraction']:.1%}), p50 {seen['wait_p50_s'] * 1e3:.2f} ms, "
            f"p99 {seen['wait_p99_s'] * 1e3:.2f} ms"
            + (f", GPU waited {gpu:.2f} s" if gpu is not None else "")
            + (", transfers to the GPU not covered" if seen["transfer_not_covered"] else "")
        )

    def _fetch(self, fetch: Callable[[], T], device: torch.device | str | None) -> Callable[[], T]:
        """`fetch`, with what a CUDA device adds to it; as it is where there is none."""
        if device is None and not cuda_in_use():
            return fetch
        from .stall_cuda import DeviceWaits, moved_to, watch_device

        if device is not None and "cuda" not in str(device):
            return lambda: moved_to(fetch(), device)

        def waits_of(name: torch.device | str | None) -> DeviceWaits:
            self._devices.append(DeviceWaits.of(name))
            return self._devices[-1]

        return watch_device(
            fetch,
            waits_of(device),
            device,
            on_host_batch=self._say_not_covered,
            on_gpu=lambda number: waits_of(f"cuda:{number}"),
        )

    def on_device(self, device: Device, *, empty_ms: float | None) -> DeviceWaits:
        """Pairs of events for a loader that brings batches to a device itself; they count as `gpu_data_wait_s`."""
        from .stall_cuda import DeviceWaits

        waits = DeviceWaits(lambda: device.new_event(timing=True), device.current_stream, empty_ms=empty_ms)
        self._devices.append(waits)
        return waits

    def _say_not_covered(self) -> None:
        self.transfer_not_covered = True


class Steps:
    """One loop's timeline: a step runs from asking for its batch to asking for the next one."""

    __slots__ = ("_asked_ns", "_meter")

    def __init__(self, meter: StallMeter) -> None:
        self._meter = meter
        self._asked_ns = 0

    def take(self, fetch: Callable[[], T]) -> T:
        """What `fetch` gives, its time counted as wait; where it raises no step has begun."""
        asked = self._asked(perf_counter_ns())
        batch = fetch()
        self._meter._waits_ns.append(perf_counter_ns() - asked)
        self._asked_ns = asked
        return batch

    def end(self) -> None:
        """The last step is over."""
        self._asked(perf_counter_ns())

    def _asked(self, now: int) -> int:
        if self._asked_ns:
            self._meter._wall_ns += now - self._asked_ns
            self._asked_ns = 0
        return now

    def __del__(self) -> None:  # an iterator that is dropped in the middle of an epoch ends its last step
        self.end()


def cuda_in_use() -> bool:
    """Whether this process has started CUDA through torch; imports nothing."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())
