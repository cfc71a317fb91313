"""Roads from JPEG TFRecords to normalised batches on the device, as others take them: torch's, and DALI's.

torch   worker processes with Pillow and torchvision's transforms written out, pin_memory, .to(device) of float32
dali    mixed decode (the hardware's engine where there is one), resize and normalise on the GPU
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..loaders import transforms
from ..loaders.roads.image_roads import EncodedRecords, PillowSamples
from ..loaders.roads.road import IMAGE, LABEL, RoadOptions, index_file
from ..loaders.shards import ShardSet
from .device import Device
from .roads import AHEAD, Landing, features_of, from_dali

if TYPE_CHECKING:
    from torch import Tensor


class TorchImages:
    """torch's DataLoader over one pread per image, which Pillow decodes and resizes."""

    def __init__(self, folder: Path, device: Device, *, batch_size: int, workers: int, size: int) -> None:
        from torch.utils.data import DataLoader

        options = RoadOptions(batch_size=batch_size, threads=workers, transform="train", image_size=size)
        self._samples = PillowSamples(EncodedRecords(ShardSet.open(folder).files), options)
        data: Any = self._samples  # a map-style data set by what it can do
        self._loader: Any = DataLoader(
            data,
            batch_size,
            shuffle=True,
            num_workers=workers,
            prefetch_factor=AHEAD,
            persistent_workers=True,
            pin_memory=device.is_cuda,
            drop_last=True,
        )
        self._landing = Landing(device)
        self.ahead = workers * AHEAD
        self.label = f"torch with Pillow, {workers} workers{', pin_memory' if device.is_cuda else ''}"

    def batches(self) -> Iterator[Tensor]:
        """One epoch after another; the workers stay."""
        while True:
            for images, _ in self._loader:
                yield self._landing(images)

    def close(self) -> None:
        """End the workers."""
        if (iterator := self._loader._iterator) is not None:
            iterator._shutdown_workers()
        self._samples.close()


class DaliImages:
    """DALI's pipeline over JPEG TFRecords: mixed decode on a GPU, libjpeg-turbo on the CPU."""

    def __init__(self, folder: Path, device: Device, *, batch_size: int, threads: int, size: int) -> None:
        dali: Any = import_module("nvidia.dali")
        fn: Any = import_module("nvidia.dali.fn")
        paths = ShardSet.open(folder).files
        self._index_files = [index_file(path) for path in paths]
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
