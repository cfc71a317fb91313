"""Work on the device: normalising, gathering and making samples in one kernel, held to the CPU's numbers; how fast.

normalise   bytes in, twice as many out in bfloat16: three bytes moved for each value
gather      records at places of their own, side by side: two bytes moved for each
samples     decoded images of many sizes, cut, resized, turned over and normalised (kernels_samples.py)

`eager` is what users write, `samples_eager` three launches of torch's own operators for each image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar

from ...loaders.device_kernels import gather, gather_normalised, normalise, road, why_eager
from ...results.record import Metric, Point
from ...results.stats import summarise
from ..device import Device
from ..part import Bench, Findings
from ..rounds import Block, Rates, ratio, rounds
from .kernels_samples import require_samples, sample_work

if TYPE_CHECKING:
    from torch import Tensor

QUEUED = 20  # calls between two looks at the clock
EAGER = {"normalise": "eager", "samples": "samples_eager"}  # what each is held against
TOLERANCE = 2.0**-7  # of a value: one bit of bfloat16


class KernelWrongError(RuntimeError):
    """A kernel on the device does not give the CPU's numbers."""

    exit_status: ClassVar[int] = 3


def run(bench: Bench) -> Iterator[Findings]:
    """Check the numbers first, then the rates of both ways."""
    device = Device(bench.device)
    side, count = bench.sized(224, 32), bench.sized(256, 8)
    work = sample_work(device.name, count=count, side=side)
    require_samples(work)
    blocks = {
        **_raw_blocks(device, count, side),
        "samples": _block(device, work.make, count),
        "samples_eager": _block(device, work.make_eagerly, count),
    }
    for rates in rounds(blocks, seconds=bench.seconds):
        yield _findings(rates, device, count)


def _raw_blocks(device: Device, count: int, side: int) -> dict[str, Block]:
    """Bytes per second of each kernel on raw pixels, once its numbers are the CPU's."""
    import torch

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
    return {name: _block(device, call, each * batch.numel()) for name, (call, each) in calls.items()}


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


def _block(device: Device, call: Callable[[], object], amount: int) -> Block:
    """How much is done in a second by calls that each do `amount`."""

    def run_block(seconds: float) -> float:
        device.synchronize()
        begin, calls = perf_counter(), 0
        while not calls or perf_counter() - begin < seconds:
            for _ in range(QUEUED if device.is_cuda else 1):
                call()
                calls += 1
            device.event().synchronize()
        return calls * amount / (perf_counter() - begin)

    return run_block


def _findings(rates: Rates, device: Device, count: int) -> Findings:
    way = road(device.name)
    over = {name: ratio(rates[name], rates[eager]) for name, eager in EAGER.items()}
    points = {name: _point(name, values, way, count, over.get(name)) for name, values in rates.items()}
    raw, made = points["normalise"].metrics, points["samples"].metrics
    sentence = (
        f"numbers as on the CPU; {way} normalises at {raw['copy_gbps'].value or 0:.0f} GB/s, "
        f"{over['normalise'].value or 0:.1f} times eager operators, and makes samples of "
        f"{made['images_per_s'].value or 0:,.0f} images/s, {over['samples'].value or 0:.1f} times image by image"
    )
    why = why_eager(device.name)
    warnings = (f"torch's operators did the work of the kernels: {why}",) if device.is_cuda and why is not None else ()
    headline = {"copy_gbps": raw["copy_gbps"], "images_per_s": made["images_per_s"]}
    return Findings(tuple(points.values()), headline, sentence=sentence, warnings=warnings)


def _point(name: str, rates: list[float], way: str, count: int, over_eager: Metric | None) -> Point:
    params = {"stage": "kernel", "kernel": name, "way": way, "batch_size": count}
    if name in EAGER.values():
        params["way"] = "eager"
    if name.startswith("samples"):
        metrics = {"images_per_s": summarise(rates, unit="images/s")}
    else:
        metrics = {"copy_gbps": summarise([rate / 1e9 for rate in rates], unit="GB/s")}
    return Point(params=params, metrics=metrics if over_eager is None else {**metrics, "over_eager": over_eager})
