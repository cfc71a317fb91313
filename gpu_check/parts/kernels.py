"""Work on the device: normalising and gathering in one kernel, held to the CPU's numbers, and how fast.

normalise   bytes in, half as many more out in bfloat16: three bytes moved for each value
gather      records at places of their own, side by side: two bytes moved for each
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar

from ...loaders.device_kernels import gather, gather_normalised, normalise, road
from ...results.record import Point
from ...results.stats import summarise
from ..device import Device
from ..part import Bench, Findings
from ..rounds import Block, Rates, rounds

if TYPE_CHECKING:
    from torch import Tensor

QUEUED = 20  # calls between two looks at the clock
TOLERANCE = 2.0**-7  # of a value: one bit of bfloat16


class KernelWrongError(RuntimeError):
    """A kernel on the device does not give the CPU's numbers."""

    exit_status: ClassVar[int] = 3


def run(bench: Bench) -> Iterator[Findings]:
    """Check the numbers first, then the rates of both ways."""
    import torch

    device = Device(bench.device)
    side, count = bench.sized(224, 32), bench.sized(256, 8)
    memory, starts = _records(count, side)
    shape = (side, side, 3)
    host = gather(memory, starts, shape)
    wanted = normalise(host.permute(0, 3, 1, 2), dtype=torch.bfloat16)
    memory, starts = memory.to(device.name), starts.to(device.name)
    batch = gather(memory, starts, shape)
    _require("gather", batch.cpu(), host, 0.0)
    images = batch.permute(0, 3, 1, 2)
    _require("normalise", normalise(images, dtype=torch.bfloat16).cpu(), wanted, TOLERANCE)
    fused = gather_normalised(memory, starts, shape, dtype=torch.bfloat16)
    _require("gather_normalised", fused.cpu(), wanted, TOLERANCE)
    out, bytes_out = torch.empty_like(fused), torch.empty_like(batch)
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "normalise": (lambda: normalise(images, out=out), 3),
        "gather_normalised": (lambda: gather_normalised(memory, starts, shape, out=out), 3),
        "gather": (lambda: gather(memory, starts, shape, out=bytes_out), 2),
        "eager": (lambda: _eager(images), 3),
    }
    blocks = {name: _block(device, call, each * batch.numel()) for name, (call, each) in calls.items()}
    for rates in rounds(blocks, seconds=bench.seconds):
        yield _findings(rates, road(device.name), count)


def _records(count: int, side: int) -> tuple[Tensor, Tensor]:
    """Random records, each at a page of its own with a skew of its own, and where they begin."""
    import torch

    size = side * side * 3
    room = -(-size // 4096) * 4096 + 4096
    random = torch.Generator().manual_seed(7)
    memory = torch.randint(0, 256, (count * room,), dtype=torch.uint8, generator=random)
    starts = torch.arange(count) * room + torch.randint(0, 4096, (count,), generator=random)
    return memory, starts[torch.randperm(count, generator=random)]


def _require(name: str, found: Tensor, wanted: Tensor, tolerance: float) -> None:
    away = (found.float() - wanted.float()).abs() - tolerance * wanted.float().abs()
    if away.max() > 0:
        where = int(away.argmax())
        raise KernelWrongError(
            f"{name}: value {where} is {found.flatten()[where]}, on the CPU {wanted.flatten()[where]}; please report it"
        )


def _eager(images: Tensor) -> Tensor:
    """What users write."""
    import torch

    mean = torch.tensor((123.675, 116.28, 103.53), device=images.device).view(3, 1, 1)
    scale = 1 / torch.tensor((58.395, 57.12, 57.375), device=images.device).view(3, 1, 1)
    return ((images.float() - mean) * scale).to(torch.bfloat16, memory_format=torch.channels_last)


def _block(device: Device, call: Callable[[], object], num_bytes: int) -> Block:
    def run_block(seconds: float) -> float:
        device.synchronize()
        begin, calls = perf_counter(), 0
        while not calls or perf_counter() - begin < seconds:
            for _ in range(QUEUED if device.is_cuda else 1):
                call()
                calls += 1
            device.event().synchronize()
        return calls * num_bytes / (perf_counter() - begin)

    return run_block


def _findings(rates: Rates, way: str, count: int) -> Findings:
    points = [
        Point(
            params={"stage": "kernel", "kernel": name, "way": "eager" if name == "eager" else way, "batch_size": count},
            metrics={"copy_gbps": summarise([rate / 1e9 for rate in values], unit="GB/s")},
        )
        for name, values in rates.items()
    ]
    fused, eager = points[0].metrics["copy_gbps"].value or 0.0, points[-1].metrics["copy_gbps"].value or 1.0
    sentence = f"numbers as on the CPU; {way} normalises at {fused:.0f} GB/s, {fused / eager:.1f} times eager operators"
    return Findings(tuple(points), dict(points[0].metrics), sentence=sentence)
