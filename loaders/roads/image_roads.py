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
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import __version__
from ..engines.readers import BufferedReader
from ..formats.webdataset import TAR_SUFFIX
from ..images.augment import CROP_NUMBERS, centre, random_resized_crop, shorter_side
from ..remote import local_files
from ..shards import open_index
from ..traced import Recorder, trace_set
from ..transforms import (
    FLIP,
    IMAGENET_MEAN,
    IMAGENET_STD,
    RATIO,
    SCALE,
    ImageNetTrain,
    ImageNetValidation,
    ImageTransform,
    resize_of,
)
from .road import IMAGE, LABEL, MemoryFile, Road, RoadBatch, RoadError, RoadOptions, index_file, read_fully

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


class ImageTorchRoad:
    """torch.utils.data.DataLoader with `threads` worker processes; Pillow decodes and resizes."""

    engine = "pillow"

    def __init__(self, paths: Sequence[Path], options: RoadOptions) -> None:
        import PIL
        import torch
        from torch.utils.data import DataLoader

        self.version = f"{torch.__version__} with Pillow {PIL.__version__}"
        self._samples = PillowSamples(EncodedRecords(paths), options)
        workers = options.threads
        self._loader: Any = DataLoader(
            self._samples,  # type: ignore[arg-type]  # torch asks for these two methods only
            options.batch_size,
            shuffle=options.shuffle != "off",
            num_workers=workers,
            prefetch_factor=options.prefetch_factor if workers else None,
            persistent_workers=workers > 0,
            multiprocessing_context="fork" if workers else None,
        )

    def batches(self) -> Iterator[RoadBatch]:
        """One epoch after another; the workers stay."""
        while True:
            for images, labels in self._loader:
                yield RoadBatch(images.numpy(), labels.numpy())

    def close(self) -> None:
        """End the workers, close the files."""
        if (iterator := self._loader._iterator) is not None:
            iterator._shutdown_workers()
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
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div_(255)
        return tensor.sub_(self._mean).div_(self._std), int(records.labels[position])

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


class ImageDaliRoad:
    """DALI's CPU pipeline with `threads` threads; reads by `mmap` (its default), `read`, or `direct` (O_DIRECT)."""

    def __init__(self, paths: Sequence[Path], options: RoadOptions) -> None:
        dali: Any = import_module("nvidia.dali")
        fn: Any = import_module("nvidia.dali.fn")
        self.version = str(dali.__version__)
        self.engine = options.variant or ("direct" if options.cold else "mmap")
        records = EncodedRecords(paths)
        if records.paths[0].suffix == TAR_SUFFIX:
            raise RoadError(f"{records.paths[0].name} is a tar, and DALI is compared over TFRecords only")
        self._index_files = records.index_files()
        feature = dali.tfrecord
        self._pipeline: Any = dali.Pipeline(
            options.batch_size,
            options.threads,
            device_id=None,
            prefetch_queue_depth=options.prefetch_factor,
            seed=options.seed,
        )
        with self._pipeline:
            found = fn.readers.tfrecord(
                path=[str(path) for path in records.paths],
                index_path=[file.path for file in self._index_files],
                features={
                    IMAGE: feature.FixedLenFeature((), feature.string, ""),
                    LABEL: feature.FixedLenFeature([1], feature.int64, -1),
                },
                random_shuffle=options.shuffle != "off",
                dont_use_mmap=self.engine != "mmap",
                use_o_direct=self.engine == "direct",
            )
            self._pipeline.set_outputs(_dali_samples(found[IMAGE], options), found[LABEL])
        self._pipeline.build()

    def batches(self) -> Iterator[RoadBatch]:
        """Views over the pipeline's outputs, which lie in one piece."""
        while True:
            images, labels = self._pipeline.run()
            yield RoadBatch(np.asarray(images.as_tensor()), np.asarray(labels.as_tensor()).reshape(-1))
            del images, labels

    def close(self) -> None:
        """End the pipeline's threads."""
        del self._pipeline
        for file in self._index_files:
            file.close()


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


class ImageIobenchRoad:
    """Ours: DataLoader over a ShardSet with a transform; `engine` decides how it reads."""

    def __init__(self, paths: Sequence[Path], options: RoadOptions) -> None:
        from ..dataloader import DataLoader
        from ..shards import ShardSet

        evicting = options.cold and options.engine == "buffered"
        self._set = ShardSet.open(
            paths,
            engine=BufferedReader(evict_behind=True) if evicting else options.engine,
            device="cpu",
            shuffle_mode=options.shuffle,
            seed=options.seed,
            transform=_transform_of(options),
        )
        self.version = __version__
        self.engine = self._set.reader.engine
        self._loader: Any = DataLoader(
            self._set,
            batch_size=options.batch_size,
            shuffle=options.shuffle != "off",
            num_workers=options.threads,
            prefetch_factor=options.prefetch_factor if options.threads else None,
            persistent_workers=options.threads > 0,
        )

    def trace(self, recorder: Recorder) -> None:
        """Have reads and decodes noted from now on."""
        trace_set(self._set, recorder)

    def batches(self) -> Iterator[RoadBatch]:
        """One epoch after another."""
        while True:
            with closing(iter(self._loader)) as epoch:
                for images, labels in epoch:
                    yield RoadBatch(images.permute(0, 2, 3, 1).numpy(), labels.numpy())
                    del images, labels

    def hop_seconds(self) -> dict[str, float]:
        """See TimedRoad."""
        found: dict[str, float] = self._loader.tally.hop_seconds()
        return found

    def decoder(self) -> tuple[str, str]:
        """What decodes, and why that."""
        assert self._set.decoding is not None  # its images are encoded
        return self._set.decoding.name, self._set.decoding.reason

    def close(self) -> None:
        """End the threads, close the files."""
        del self._loader
        self._set.close()


def _transform_of(options: RoadOptions) -> ImageTransform:
    size = options.image_size
    return ImageNetTrain(size) if options.transform == "train" else ImageNetValidation(size, resize=resize_of(size))


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
