"""Roads over JPEG TFRecords: the ways others take from encoded images to normalised batches, and ours.

    torch      DataLoader whose data set reads a record, decodes and resizes with Pillow, and normalises with torch
    dali       DALI's TFRecord reader, decoder, resize and crop_mirror_normalize in a CPU pipeline
    iobench    ShardSet with a transform, and DataLoader

All give float32 samples of one size by the same definitions: RandomResizedCrop and a flip (train), or Resize and
CenterCrop (validation).  Batches are as they lie in memory: (B, H, W, C), of torch (B, C, H, W).

Source of the definitions: torchvision.transforms, as its documentation and source give them.
"""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..formats.webdataset import TAR_SUFFIX
from ..images.augment import CROP_NUMBERS, centre, random_resized_crop, shorter_side
from ..opening import open_index
from ..remote import local_files
from ..transforms import (
    FLIP,
    IMAGENET_MEAN,
    IMAGENET_STD,
    RATIO,
    SCALE,
    resize_of,
)
from .ours import ImageIobenchRoad
from .peers import PipelineRoad, WorkerRoad
from .road import MemoryFile, Road, RoadError, RoadOptions, index_file, read_fully

if TYPE_CHECKING:
    from PIL import Image


class EncodedRecords:
    """Where every record's encoded image lies: `offsets[i]` and `lengths[i]` in shard `shards[i]`."""

    def __init__(self, paths: Sequence[Path]) -> None:
        found, index = open_index(paths)
        plain = local_files(found, user="a comparison with other loaders")
        if index.layout.codec is None or index.extents is None:
            raise RoadError(
                f"{plain[0]}: its samples are no encoded images ({index.layout_reason}); leave transform out"
            )
        self.paths = tuple(plain)
        self.labels = index.labels
        self.shards = np.repeat(np.arange(len(plain)), index.shard_sizes)
        self.offsets, self.lengths = index.extents.offsets, index.extents.lengths

    def __len__(self) -> int:
        return len(self.labels)

    def index_files(self) -> list[MemoryFile]:
        """An index per shard as DALI wants it."""
        return [index_file(path) for path in self.paths]


class ImageTorchRoad(WorkerRoad):
    """torch.utils.data.DataLoader with `threads` worker processes; Pillow decodes and resizes."""

    engine = "pillow"

    def __init__(self, paths: Sequence[Path], options: RoadOptions) -> None:
        import PIL
        import torch

        self.version = f"{torch.__version__} with Pillow {PIL.__version__}"
        self._samples = PillowSamples(EncodedRecords(paths), options)
        super().__init__(self._samples, options, shuffle=options.shuffle != "off")

    def close(self) -> None:
        """End the workers, close the files."""
        super().close()
        self._samples.close()


class PillowSamples:
    """A map-style data set as torchvision's transforms make it, written out: sample i is (tensor (3, H, W), label)."""

    def __init__(self, records: EncodedRecords, options: RoadOptions) -> None:
        import torch

        self._records, self._size = records, options.image_size
        self._cut: Callable[[Image.Image], Image.Image] = (
            self._train if options.transform == "train" else self._validate
        )
        self._mean, self._std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        # pread needs no file position: forked workers may share these
        self._files = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in records.paths]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        import torch
        from PIL import Image

        records = self._records
        encoded = bytearray(int(records.lengths[position]))
        read_fully(self._files[records.shards[position]], memoryview(encoded), int(records.offsets[position]))
        with Image.open(io.BytesIO(encoded)) as opened:
            image = self._cut(opened.convert("RGB"))
        # ToTensor and Normalize as in torchvision (transforms/functional.py): each with a result of its own
        tensor = torch.from_numpy(np.array(image, copy=True)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        return tensor.clone().sub_(self._mean).div_(self._std), int(records.labels[position])

    def _train(self, image: Image.Image) -> Image.Image:
        from PIL.Image import Resampling, Transpose

        numbers = [random.random() for _ in range(CROP_NUMBERS)]
        crop = random_resized_crop(image.height, image.width, numbers, scale=SCALE, ratio=RATIO)
        piece = image.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
        resized = piece.resize((self._size, self._size), Resampling.BILINEAR)
        return resized.transpose(Transpose.FLIP_LEFT_RIGHT) if random.random() < FLIP else resized

    def _validate(self, image: Image.Image) -> Image.Image:
        from PIL.Image import Resampling

        height, width = shorter_side(image.height, image.width, resize_of(self._size))
        crop = centre(height, width, self._size)
        box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
        return image.resize((width, height), Resampling.BILINEAR).crop(box)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            os.close(file)


class ImageDaliRoad(PipelineRoad):
    """DALI's TFRecord reader, its decoder, and the operators of the transform."""

    def __init__(self, paths: Sequence[Path], options: RoadOptions) -> None:
        records = EncodedRecords(paths)
        if records.paths[0].suffix == TAR_SUFFIX:
            raise RoadError(f"{records.paths[0].name} is a tar, and DALI is compared over TFRecords only")
        super().__init__(records.paths, records.index_files(), options)
        with self._pipeline:
            encoded, label = self._read(random_shuffle=options.shuffle != "off")
            self._pipeline.set_outputs(_dali_samples(encoded, options), label)
        self._pipeline.build()


def _dali_samples(encoded: Any, options: RoadOptions) -> Any:
    """The operators from encoded images to samples."""
    fn: Any = import_module("nvidia.dali.fn")
    types: Any = import_module("nvidia.dali.types")
    size, flip = options.image_size, 0
    if options.transform == "train":
        images = fn.decoders.image_random_crop(
            encoded, random_area=list(SCALE), random_aspect_ratio=list(RATIO), num_attempts=CROP_NUMBERS // 4
        )
        images = fn.resize(images, size=[size, size], interp_type=types.INTERP_LINEAR, antialias=True)
        flip = fn.random.coin_flip(probability=FLIP)
    else:
        images = fn.decoders.image(encoded)
        shorter = resize_of(size)
        images = fn.resize(images, resize_shorter=shorter, interp_type=types.INTERP_LINEAR, antialias=True)
    return fn.crop_mirror_normalize(
        images,
        dtype=types.FLOAT,
        output_layout="HWC",
        crop=(size, size),
        mirror=flip,
        mean=[255 * value for value in IMAGENET_MEAN],
        std=[255 * value for value in IMAGENET_STD],
    )


ROADS: dict[str, Callable[[Sequence[Path], RoadOptions], Road]] = {
    "iobench": ImageIobenchRoad,
    "torch": ImageTorchRoad,
    "dali": ImageDaliRoad,
}


def image_candidates(name: str, options: RoadOptions) -> list[RoadOptions]:
    """The ways to take a road over encoded images; of torch's loader with up to twice as many workers as threads."""
    if name == "torch":
        return [replace(options, threads=workers) for workers in sorted({1, options.threads, 2 * options.threads})]
    if name == "dali":
        # mapped pages cannot be evicted, so a cold comparison takes the other two
        return [
            replace(options, variant=variant) for variant in (["read", "direct"] if options.cold else ["mmap", "read"])
        ]
    return [options]
