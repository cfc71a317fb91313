"""JPEG TFRecords to normalised batches on the device: ours beside torch's and DALI's, whose decoder is nvJPEG's.

    iobench      reader threads decode, cut, resize and normalise into pinned memory, which is sent
    nvimgcodec   reader threads read, nvImageCodec decodes batches onto the GPU, where they are cut and normalised
    torch        worker processes with Pillow, pinned memory
    dali         DALI's own pipeline

All take the same transform: RandomResizedCrop to one size, a flip, ImageNet's mean and deviation; half precision, but
for torch's float32.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

from ...loaders import transforms
from ...loaders.images.device_decoders import why_not
from ...loaders.page_cache import warm
from ...loaders.shards import ShardSet
from ...results.record import Point, Requirement
from ...results.stats import summarise
from ..asked import asked
from ..device import Device
from ..image_roads import DaliImages, TorchImages
from ..part import Bench, Findings, is_installed
from ..roads import OurRoad, Road, block_of
from ..rounds import Rates, ratio, rounds

OURS = ("iobench", "nvimgcodec")
MOST_WORKERS = 16


def run(bench: Bench) -> Iterator[Findings]:
    """Rates of all roads, and the better of ours over theirs, round by round."""
    device = Device(bench.device)
    size = bench.sized(224, 64)
    warm(ShardSet.open(bench.jpeg).files)
    with ExitStack() as stack:
        roads = _opened(bench, device, size, stack)
        blocks = {name: block_of(road, device) for name, road in roads.items()}
        for rates in rounds(blocks, seconds=bench.seconds):
            yield _findings(rates, {name: road.label for name, road in roads.items()}, size, bench)


def _opened(bench: Bench, device: Device, size: int, stack: ExitStack) -> dict[str, Road]:
    """The roads that can be taken here; torch's first, whose workers are forked before anything else has threads."""
    import torch

    batch, threads = bench.sized(128, 4), bench.threads
    transform = transforms.ImageNetTrain(size, dtype=torch.float16)

    def opened(make: Callable[[], Road]) -> Road:
        return stack.enter_context(closing(make()))

    def ours(decoder: str) -> Road:
        return opened(
            lambda: OurRoad(
                bench.jpeg,
                device,
                batch_size=batch,
                threads=threads,
                decoder=decoder,
                transform=transform,
                shuffle_mode="records",
            )
        )

    workers = bench.sized(min(MOST_WORKERS, len(os.sched_getaffinity(0))), 1)
    roads = {"torch": opened(lambda: TorchImages(bench.jpeg, device, batch_size=batch, workers=workers, size=size))}
    next(roads["torch"].batches())
    roads["iobench"] = ours("auto")
    if why_not("nvimgcodec", device.name) is None:
        roads["nvimgcodec"] = ours("nvimgcodec")
    if is_installed("nvidia.dali"):
        roads["dali"] = opened(lambda: DaliImages(bench.jpeg, device, batch_size=batch, threads=threads, size=size))
    return roads


def _findings(rates: Rates, labels: dict[str, str], size: int, bench: Bench) -> Findings:
    points, requirements, told = [], list[Requirement](), []
    best = max((name for name in rates if name in OURS), key=lambda name: sum(rates[name]))
    for name, values in rates.items():
        metrics = {"images_per_s": summarise(values, unit="images/s")}
        if name not in OURS:
            metrics["images_per_s_ratio"] = over = ratio(rates[best], values)
            told.append(f"{over.value or 0:.2f} times {name}")
        if name == "dali":
            requirements += asked("jpeg_over_dali").judge(over, bench)
        params = {"stage": "to_gpu", "road": name, "engine": labels[name], "transform": f"train {size}"}
        points.append(Point(params=params, metrics=metrics))
    ours = next(point for point in points if point.params["road"] == best)
    rate = ours.metrics["images_per_s"].value or 0.0
    absent = () if "dali" in rates else ("DALI is not installed (extra gpu): it was not compared",)
    return Findings(
        tuple(points),
        dict(ours.metrics),
        tuple(requirements),
        f"{best}: {rate:,.0f} images/s, {' and '.join(told)}",
        absent,
        unmeasured=dict.fromkeys(["jpeg_over_dali"], absent[0]) if absent else {},
    )
