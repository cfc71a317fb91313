"""Raw TFRecords to the GPU: our loader beside torch's with pinned memory, and DALI's TFRecord road.

All read the same warm files in the order on disk; torch's gets the number of workers that a pilot finds best.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

from ...loaders.page_cache import warm
from ...loaders.shards import ShardSet
from ...results.record import Point, Requirement
from ...results.stats import summarise
from ..asked import asked
from ..device import Device
from ..part import Bench, Findings, is_installed
from ..roads import DaliRoad, OurRoad, Road, TorchRoad, block_of
from ..rounds import Rates, ratio, rounds

PILOT_S = 0.5
MOST_WORKERS = 16


def run(bench: Bench) -> Iterator[Findings]:
    """Rates of all roads, and ours over each of theirs, round by round."""
    device = Device(bench.device)
    warm(ShardSet.open(bench.raw).files)
    workers = best_workers(bench, device)
    batch, threads = bench.sized(128, 8), bench.threads
    with ExitStack() as stack:

        def opened(make: Callable[[], Road]) -> Road:
            return stack.enter_context(closing(make()))

        # worker processes are forked before anything else has threads
        roads: dict[str, Road] = {
            "torch": opened(lambda: TorchRoad(bench.raw, device, batch_size=batch, workers=workers)),
        }
        next(roads["torch"].batches())
        roads["iobench"] = opened(
            lambda: OurRoad(bench.raw, device, batch_size=batch, threads=threads, shuffle_mode="off")
        )
        if is_installed("nvidia.dali"):
            roads["dali"] = opened(lambda: DaliRoad(bench.raw, device, batch_size=batch, threads=threads))
        blocks = {name: block_of(road, device) for name, road in roads.items()}
        for rates in rounds(blocks, seconds=bench.seconds - PILOT_S * len(_ways(bench))):
            yield findings_of(rates, {name: road.label for name, road in roads.items()}, bench)


def _ways(bench: Bench) -> tuple[int, ...]:
    """Numbers of workers that are tried."""
    cores = len(os.sched_getaffinity(0))
    return (1,) if bench.twin else tuple(sorted({0, bench.threads, min(MOST_WORKERS, cores)}))


def best_workers(bench: Bench, device: Device) -> int:
    """The number of worker processes with which torch's loader is fastest here."""
    ways = _ways(bench)
    if len(ways) == 1:
        return ways[0]
    found = {}
    for workers in ways:
        with closing(TorchRoad(bench.raw, device, batch_size=128, workers=workers)) as road:
            found[workers] = block_of(road, device)(PILOT_S)
    return max(found, key=lambda workers: found[workers])


def findings_of(rates: Rates, labels: dict[str, str], bench: Bench) -> Findings:
    """A point for each road, ours over theirs, and what is required of that."""
    points, requirements, told = [], list[Requirement](), []
    for name, values in rates.items():
        metrics = {"images_per_s": summarise(values, unit="images/s")}
        if name != "iobench":
            metrics["images_per_s_ratio"] = over = ratio(rates["iobench"], values)
            requirements += asked(f"raw_over_{name}").judge(over, bench)
            told.append(f"{over.value or 0:.2f} times {name}")
        params = {"stage": "to_gpu", "road": name, "engine": labels[name], "page_cache": "warm"}
        points.append(Point(params=params, metrics=metrics))
    ours = next(point for point in points if point.params["road"] == "iobench")
    rate = ours.metrics["images_per_s"].value or 0.0
    absent = () if "dali" in rates else ("DALI is not installed (extra gpu): it was not compared",)
    return Findings(
        tuple(points),
        dict(ours.metrics),
        tuple(requirements),
        f"{rate:,.0f} images/s, {' and '.join(told)}",
        absent,
        unmeasured=dict.fromkeys(["raw_over_dali"], absent[0]) if absent else {},
    )
