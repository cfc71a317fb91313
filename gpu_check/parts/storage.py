"""Storage to the GPU, against its limit: our loader beside the bare loop, at the same threads, in interleaved blocks.

    bare       preadv into pinned memory, then a copy on the thread's own stream
    buffered   our loader on the same warm files: what is required is of this one

direct.py and kvikio.py hold other engines against the same loop, each in a part of its own: counters of the device then
show this engine's reads alone, and kvikio may hang.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace

from ...loaders.page_cache import warm
from ...loaders.shards import ShardSet
from ...results.record import Metric, Point
from ...results.stats import summarise
from ...storage_bench.evidence import cold_scope_of, read_path
from ..bare import BareLoop
from ..device import Device
from ..part import Bench, Findings, PartSkippedError, at_least
from ..roads import OurRoad, block_of
from ..rounds import Block, Rates, ratio, rounds

REQUIRED = 0.95


def run(bench: Bench) -> Iterator[Findings]:
    """Rates of the bare loop and of our loader, through the page cache."""
    return compare(bench, ("buffered",), required=REQUIRED)


def compare(bench: Bench, engines: Sequence[str], *, required: float | None) -> Iterator[Findings]:
    """Rates of our loader with each engine, and over the bare loop's, round by round; the first is the headline.

    The bare loop reads warm files: what a device delivers in the meantime is delivered to our loader.
    Raises PartSkippedError where this machine refuses them all.
    """
    device, batch = Device(bench.device), bench.sized(128, 16)
    shards = ShardSet.open(bench.raw)
    slot_bytes = shards.index.layout.slot_bytes
    warm(shards.files)
    refused: dict[str, str] = {}
    with ExitStack() as stack:
        bare = stack.enter_context(
            closing(BareLoop(shards.files, device, span_bytes=batch * slot_bytes, threads=bench.threads))
        )
        ours = {
            engine: road for engine in engines if (road := _opened(engine, bench, device, batch, refused)) is not None
        }
        for road in ours.values():
            stack.enter_context(closing(road))
        if not ours:
            raise PartSkippedError("; ".join(f"{engine}: {reason}" for engine, reason in refused.items()))
        contestants = {
            "bare": bare.run,
            **{name: _bytes(block_of(road, device), slot_bytes) for name, road in ours.items()},
        }
        for rates in rounds(contestants, seconds=bench.seconds):
            found = _findings(bench, rates, ours, bare.label, refused, required, batch_bytes=batch * slot_bytes)
            yield replace(found, workload={"reader_threads": bench.threads, "placement": device.near().reason})


def _opened(engine: str, bench: Bench, device: Device, batch: int, refused: dict[str, str]) -> OurRoad | None:
    """Our loader with this engine; what this machine refuses is told, and does not end the part."""
    try:
        return OurRoad(bench.raw, device, batch_size=batch, threads=bench.threads, engine=engine, shuffle_mode="off")
    except (ValueError, OSError, RuntimeError) as error:
        refused[engine] = f"{type(error).__name__}: {error}"
        return None


def _bytes(block: Block, slot_bytes: int) -> Callable[[float], float]:
    return lambda seconds: block(seconds) * slot_bytes


def _findings(
    bench: Bench,
    rates: Rates,
    ours: dict[str, OurRoad],
    bare_label: str,
    refused: dict[str, str],
    required: float | None,
    *,
    batch_bytes: int,
) -> Findings:
    ratios = {name: ratio(rates[name], rates["bare"]) for name in ours}
    points = [_point("bare", bare_label, rates["bare"], bench, {}, None)]
    extra = {name: extra_of(rates[name], rates["bare"], batch_bytes) for name in ours}
    points += [
        _point(
            name, road.label, rates[name], bench, {"of_bare_loop": ratios[name], "extra_per_batch_s": extra[name]}, road
        )
        for name, road in ours.items()
    ]
    name, found = next(iter(ratios.items()))
    text = f"warm storage to the GPU, over a bare loop of preadv and asynchronous copies at {bench.threads} threads"
    rate = points[1].metrics["read_gbps"].value or 0.0
    return Findings(
        tuple(points),
        {**points[1].metrics},
        () if required is None else at_least("storage_to_gpu", text, required, found, bench),
        f"{name}: {rate:.1f} GB/s, {found.value or 0:.3f} of a bare loop's on warm files; "
        f"{1e6 * (extra[name].value or 0):+,.0f} us for each batch of {batch_bytes / 1e6:.1f} MB",
        tuple(f"{engine} cannot be used here: {reason}" for engine, reason in refused.items()),
    )


def extra_of(ours: Sequence[float], bare: Sequence[float], batch_bytes: int) -> Metric:
    """Seconds that a batch takes us longer than the bare loop, by the rates in bytes/s of blocks of one round.

    What is the same for every batch weighs on small ones: it says whether a ratio is missed by that or by bandwidth.
    """
    return summarise([batch_bytes / our - batch_bytes / their for our, their in zip(ours, bare, strict=True)], unit="s")


def _point(
    name: str,
    label: str,
    rates: list[float],
    bench: Bench,
    over_bare: Mapping[str, Metric],
    road: OurRoad | None,
) -> Point:
    metrics = {"read_gbps": summarise([rate / 1e9 for rate in rates], unit="GB/s"), **over_bare}
    path = None if road is None else read_path(road.evidence(), cold_scope=cold_scope_of(bench.raw))
    params = {"stage": "to_gpu", "road": name, "engine": label, "threads": bench.threads}
    return Point(params=params, read_path=path, metrics=metrics)
