"""The stall meter against the truth: a step of known length, and a loader that is late by a known time.

    host     | ask, slept d ........ | step started | ask, slept d ........ | ...
    device   | .......... waits d - t | computes t   | ......... waits d - t | ...

The device's wait per step is the delay less the step, since the next batch is asked for while the step still runs; on
the CPU twin nothing runs beside the host, which then waits the whole delay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from ...loaders.stall import StallMeter
from ...results.record import Metric, Point
from ...results.stats import summarise
from ..asked import asked
from ..device import Device
from ..part import Bench, Findings

if TYPE_CHECKING:
    from torch import Tensor

BLOCKS = 8


@dataclass(slots=True)
class LateLoader:
    """`steps` batches that are on the device already, each late by `delay_s`; what was really slept is added up."""

    batch: Tensor
    delay_s: float
    steps: int
    slept_s: float = 0.0
    waits: list[float] = field(default_factory=list)

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(self.steps):
            begin = perf_counter()
            time.sleep(self.delay_s)
            self.slept_s += perf_counter() - begin
            yield self.batch


def run(bench: Bench) -> Iterator[Findings]:
    """Blocks of late steps; how far the meter is from what was injected, as a share of it."""
    device = Device(bench.device)
    step, step_s = busy_step(device, bench.sized(20, 2) / 1e3)
    delay_s = step_s + bench.sized(50, 5) / 1e3
    batch = device.empty(1 << 16)
    steps = max(3, int(bench.seconds / BLOCKS / (delay_s + step_s)))
    errors: list[float] = []
    waits: list[float] = []
    begin = perf_counter()
    while len(errors) < BLOCKS and (len(errors) < 2 or perf_counter() - begin < bench.seconds):
        expected, measured = one_block(device, LateLoader(batch, delay_s, steps), step, step_s)
        errors.append(abs(measured - expected) / expected)
        waits.append(measured / steps)
        yield _findings(errors, waits, delay_s, step_s, bench)


def one_block(device: Device, late: LateLoader, step: Callable[[], None], step_s: float) -> tuple[float, float]:
    """Seconds that the device, or the host of the twin, had to wait by what was injected, and by the meter.

    The first step of a block finds the device idle: its whole delay is waited for.
    """
    device.synchronize()
    with StallMeter() as meter:
        for _ in meter.watch(late):
            step()
    device.synchronize()
    seen = meter.summary()
    if not device.is_cuda:
        return late.slept_s, seen["data_wait_s"]
    return late.slept_s - (late.steps - 1) * step_s, seen["gpu_data_wait_s"]


def busy_step(device: Device, seconds: float) -> tuple[Callable[[], None], float]:
    """A step that keeps the device busy for about `seconds`, and how long it really does.

    On a GPU a kernel that spins for a number of clock ticks; on the CPU a sleep.
    """
    if not device.is_cuda:
        return lambda: time.sleep(seconds), seconds
    import torch

    trial = 10_000_000
    took = _spun(device, trial)
    ticks = int(trial * seconds / min(took, _spun(device, trial)))

    def spin() -> None:
        torch.cuda._sleep(ticks)  # type: ignore[no-untyped-call]

    times = [_spun(device, ticks) for _ in range(9)]
    return spin, sorted(times)[4]


def _spun(device: Device, ticks: int) -> float:
    """Seconds, by events, that the device spins for so many ticks."""
    import torch

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    torch.cuda._sleep(ticks)  # type: ignore[no-untyped-call]
    end.record()
    device.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def _findings(errors: list[float], waits: list[float], delay_s: float, step_s: float, bench: Bench) -> Findings:
    error = summarise(errors, unit="fraction")
    metrics: dict[str, Metric] = {"gpu_data_wait_s" if not bench.twin else "data_wait_s": summarise(waits, unit="s")}
    metrics["meter_error"] = error
    params = {"stage": "stall", "delay_s": round(delay_s, 6), "step_s": round(step_s, 6)}
    sentence = f"a delay of {delay_s * 1e3:.1f} ms before steps of {step_s * 1e3:.1f} ms: off by {error.value or 0:.1%}"
    requirements = asked("stall_of_injected_delay").judge(error, bench)
    return Findings((Point(params=params, metrics=metrics),), metrics, requirements, sentence)
