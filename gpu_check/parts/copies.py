"""Host memory to the GPU: what the bus gives, from pinned and from pageable memory, by size of a copy.

Copies of a block are queued behind each other on one stream, from and to the same place; the clock stops when the
device has done the last one.  Copies from pageable memory wait for themselves: the driver takes them through a buffer
of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import TYPE_CHECKING

from ...results.record import Point
from ...results.stats import summarise
from ..device import Device
from ..part import Bench, Findings
from ..rounds import Block, rounds

if TYPE_CHECKING:
    from torch import Tensor

SIZES = (256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20)
TWIN_SIZES = (64 << 10, 1 << 20)
QUEUED_BYTES = 256 << 20  # between two looks at the clock


def run(bench: Bench) -> Iterator[Findings]:
    """Rates of all sizes and both kinds of memory, in interleaved blocks."""
    device = Device(bench.device)
    sizes = TWIN_SIZES if bench.twin else SIZES
    source = {pinned: device.host(max(sizes), pinned=pinned) for pinned in (True, False)}
    target = device.empty(max(sizes))
    ways = {(pinned, size): f"{pinned} {size}" for size in sizes for pinned in (True, False)}
    contestants = {name: _block(device, source[way[0]][: way[1]], target[: way[1]]) for way, name in ways.items()}
    for rates in rounds(contestants, seconds=bench.seconds):
        points = [_point(pinned, size, rates[name]) for (pinned, size), name in ways.items()]
        best = max(points, key=lambda point: point.metrics["copy_gbps"].value or 0.0)
        sentence = (
            f"{device.title}: up to {best.metrics['copy_gbps'].value:.1f} GB/s from {best.params['memory']} memory"
        )
        yield Findings(tuple(points), dict(best.metrics), sentence=sentence)


def _block(device: Device, source: Tensor, target: Tensor) -> Block:
    """Copies for so many seconds; bytes per second."""
    size = source.numel()
    queued = max(1, QUEUED_BYTES // size) if device.is_cuda else 1

    def copy(seconds: float) -> float:
        device.synchronize()
        begin, num_bytes = perf_counter(), 0
        while not num_bytes or perf_counter() - begin < seconds:
            for _ in range(queued):
                target.copy_(source, non_blocking=True)
            num_bytes += queued * size
            device.event().synchronize()
        return num_bytes / (perf_counter() - begin)

    return copy


def _point(pinned: bool, size: int, rates: list[float]) -> Point:
    params = {"stage": "copy", "memory": "pinned" if pinned else "pageable", "block_bytes": size}
    return Point(params=params, metrics={"copy_gbps": summarise([rate / 1e9 for rate in rates], unit="GB/s")})
