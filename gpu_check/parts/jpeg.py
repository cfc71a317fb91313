"""JPEG TFRecords to normalised batches on the device: ours beside DALI's, whose decoder is nvJPEG's.

    iobench      reader threads decode, cut, resize and normalise into pinned memory, which is sent
    nvimgcodec   our loader reads, nvImageCodec decodes batches onto the GPU, where they are cut and normalised
    dali         mixed decode (the hardware's engine where there is one), resize and normalise on the GPU

All take the same transform: RandomResizedCrop to one size, a flip, ImageNet's mean and deviation, half precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...loaders import transforms
from ...loaders.dataloader import DataLoader
from ...loaders.formats.fields import Fields
from ...loaders.formats.tfrecord import FRAMING_BYTES, walk_frames
from ...loaders.images.device_decoders import open_device_decoder, why_not
from ...loaders.images.device_images import samples_of
from ...loaders.page_cache import warm
from ...loaders.roads.road import IMAGE, LABEL, MemoryFile
from ...loaders.shards import ShardSet
from ...results.record import Point, Requirement
from ...results.stats import summarise
from ..device import Device
from ..part import Bench, Findings, at_least, is_installed
from ..roads import AHEAD, EndlessBatches, Landing, OurRoad, Road, block_of, features_of, from_dali
from ..rounds import Rates, ratio, rounds

if TYPE_CHECKING:
    from torch import Tensor

REQUIRED = 1.0


def run(bench: Bench) -> Iterator[Findings]:
    """Rates of both, and ours over DALI's, round by round."""
    import torch

    device, batch = Device(bench.device), bench.sized(128, 4)
    size = bench.sized(224, 64)
    warm(ShardSet.open(bench.jpeg).files)
    transform = transforms.ImageNetTrain(size, dtype=torch.float16)
    with ExitStack() as stack:
        ours = OurRoad(
            bench.jpeg, device, batch_size=batch, threads=bench.threads, transform=transform, shuffle_mode="records"
        )
        roads: dict[str, Road] = {"iobench": stack.enter_context(closing(ours))}
        if why_not("nvimgcodec", device.name) is None:
            on_device = DeviceImages(
                bench.jpeg, device, batch_size=batch, threads=bench.threads, transform=transform, decoder="nvimgcodec"
            )
            roads["nvimgcodec"] = stack.enter_context(closing(on_device))
        if is_installed("nvidia.dali"):
            theirs = DaliImages(bench.jpeg, device, batch_size=batch, threads=bench.threads, size=size)
            roads["dali"] = stack.enter_context(closing(theirs))
        blocks = {name: block_of(road, device) for name, road in roads.items()}
        for rates in rounds(blocks, seconds=bench.seconds):
            yield _findings(rates, {name: road.label for name, road in roads.items()}, size, bench)


class DeviceImages:
    """Our loader for the bytes, a decoder of whole batches onto the device, and the transform there."""

    def __init__(
        self,
        folder: Path,
        device: Device,
        *,
        batch_size: int,
        threads: int,
        transform: transforms.ImageTransform,
        decoder: str,
    ) -> None:
        self._set = ShardSet.open(folder, fields=Fields(opaque=True), device="cpu", shuffle_mode="records")
        self._loader: Any = DataLoader(
            self._set,
            batch_sampler=EndlessBatches(self._set, batch_size, shuffle=True),
            num_workers=threads,
            prefetch_factor=AHEAD,
        )
        self._decoder, _ = open_device_decoder(decoder, device.name, num_threads=threads)
        self._transform = transform
        self.ahead = threads * AHEAD
        self.label = f"iobench, {self._decoder.name}"

    def batches(self) -> Iterator[Tensor]:
        """One endless epoch."""
        random = np.random.default_rng(7)
        with closing(iter(self._loader)) as epoch:
            for encoded, _ in epoch:
                pixels = self._decoder.decode([sample.numpy() for sample in encoded])
                numbers = random.random((len(pixels), self._transform.num_numbers)).tolist()
                yield samples_of(pixels, self._transform, numbers)
                del encoded, pixels

    def close(self) -> None:
        """Close the files, let the decoder go."""
        self._decoder.close()
        self._set.close()


class DaliImages:
    """DALI's pipeline over JPEG TFRecords: mixed decode on a GPU, libjpeg-turbo on the CPU."""

    def __init__(self, folder: Path, device: Device, *, batch_size: int, threads: int, size: int) -> None:
        dali: Any = import_module("nvidia.dali")
        fn: Any = import_module("nvidia.dali.fn")
        paths = ShardSet.open(folder).files
        self._index_files = [_index_of(path) for path in paths]
        self._device, self._landing = device, Landing(device)
        self._pipeline: Any = dali.Pipeline(
            batch_size, threads, device_id=0 if device.is_cuda else None, prefetch_queue_depth=AHEAD, seed=7
        )
        with self._pipeline:
            found = fn.readers.tfrecord(
                path=[str(path) for path in paths],
                index_path=[file.path for file in self._index_files],
                features=features_of(dali.tfrecord),
                random_shuffle=True,
            )
            self._pipeline.set_outputs(_samples(fn, found[IMAGE], device, size), found[LABEL])
        self._pipeline.build()
        self.ahead = AHEAD
        self.label = f"DALI {dali.__version__} {'mixed' if device.is_cuda else 'CPU'} decode"

    def batches(self) -> Iterator[Tensor]:
        """Views over the pipeline's outputs."""
        while True:
            images, _ = self._pipeline.run(*self._device.compute_stream())
            yield from_dali(images, self._device, self._landing)
            del images

    def close(self) -> None:
        """End the pipeline's threads."""
        del self._pipeline
        for file in self._index_files:
            file.close()


def _samples(fn: Any, encoded: Any, device: Device, size: int) -> Any:
    types: Any = import_module("nvidia.dali.types")
    images = fn.decoders.image_random_crop(
        encoded,
        device="mixed" if device.is_cuda else "cpu",
        random_area=[0.08, 1.0],
        random_aspect_ratio=[3 / 4, 4 / 3],
        num_attempts=10,
    )
    images = fn.resize(images, size=[size, size], interp_type=types.INTERP_LINEAR, antialias=True)
    return fn.crop_mirror_normalize(
        images,
        dtype=types.FLOAT16,
        output_layout="HWC",
        crop=(size, size),
        mirror=fn.random.coin_flip(probability=0.5),
        mean=[255 * value for value in transforms.IMAGENET_MEAN],
        std=[255 * value for value in transforms.IMAGENET_STD],
    )


def _index_of(path: Path) -> MemoryFile:
    """What DALI wants to know of a shard: a line `offset size` per framed record."""
    with path.open("rb") as file:
        frames = walk_frames(file.fileno(), path.stat().st_size, path=path)
    lines = zip(frames.offsets.tolist(), (frames.lengths + FRAMING_BYTES).tolist(), strict=True)
    return MemoryFile("".join(f"{offset} {length}\n" for offset, length in lines).encode())


def _findings(rates: Rates, labels: dict[str, str], size: int, bench: Bench) -> Findings:
    points, requirements, told = [], list[Requirement](), "DALI is not installed (extra gpu): it was not compared"
    best = max((name for name in rates if name != "dali"), key=lambda name: sum(rates[name]))
    for name, values in rates.items():
        metrics = {"images_per_s": summarise(values, unit="images/s")}
        if name == "dali":
            metrics["images_per_s_ratio"] = over = ratio(rates[best], values)
            requirements += at_least("jpeg_over_dali", "JPEG loader, images/s over DALI's", REQUIRED, over, bench)
            told = f"{over.value or 0:.2f} times DALI's"
        params = {"stage": "to_gpu", "road": name, "engine": labels[name], "transform": f"train {size}"}
        points.append(Point(params=params, metrics=metrics))
    ours = next(point for point in points if point.params["road"] == best)
    rate = ours.metrics["images_per_s"].value or 0.0
    return Findings(tuple(points), dict(ours.metrics), tuple(requirements), f"{best}: {rate:,.0f} images/s; {told}")
