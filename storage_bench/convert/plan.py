"""What a conversion will make, decided before a byte is written: parts, shape, classes, and how much room it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...loaders.images.decoders import BrokenImageError
from ...loaders.plan import Indices, epoch_order
from ..generate.dataset import Dataset
from .classes import class_names, folder_classes
from .forms import SUFFIXES, Shape, encoded_record_bytes, raw_record_bytes
from .samples import Maker, Sample
from .settings import Convert, ConvertError, ConvertUsageError
from .source import Source

CONVERTER = "iobench convert 1"
PART_BYTES = 128 << 20
PART_FILES = 2048  # of an image folder, which are read back together
_SAMPLES = 16
_MAX_JPEG_SIDE = 65_500
_MARGIN = 1.1  # where sizes are estimated from a few images


class Part(NamedTuple):
    """One shard of the target, or so many of its files: images `first` to `stop` of the target's order."""

    name: str
    first: int
    stop: int

    @property
    def num_images(self) -> int:
        """Images of the source that it is made of."""
        return self.stop - self.first


@dataclass(frozen=True)
class Plan:
    """All that is decided: image `number` of the target is record `order[number]` of the source."""

    config: Convert
    order: Indices
    parts: tuple[Part, ...]
    shape: Shape | None
    record_bytes: int
    names: Mapping[int, str]
    classes: Mapping[int, str]
    source_digest: str

    @property
    def expected_bytes(self) -> int:
        """What all of it takes on the disk; of what is encoded anew an estimate."""
        return len(self.order) * self.record_bytes

    def described(self, source: Source) -> Dataset:
        """dataset.json of the target, but for its shards."""
        return Dataset(
            format=self.config.format,
            shape=self.shape,
            dtype=source.dtype if self.config.raw and not source.encoded else "uint8",
            num_images=len(self.order),
            seed=self.config.seed,
            images_per_shard=self.parts[0].num_images,
            num_classes=len(np.unique(source.labels)),
            record_bytes=self.record_bytes,
            generator=CONVERTER,
            shards=(),
        )

    def as_ledger(self) -> dict[str, Any]:
        """What the ledger says of it: all that what is made depends on."""
        asked = self.config.model_dump(
            mode="json", exclude={"jobs", "on_error"}
        )  # which what is whole does not depend on
        return {
            **asked,
            "num_images": len(self.order),
            "images_per_shard": self.parts[0].num_images,
            "shape": self.shape,
            "classes": {str(label): name for label, name in (self.classes or self.names).items()},
            "source": f"xxh3_128 {self.source_digest}",
            "converter": CONVERTER,
        }


def plan_of(source: Source, config: Convert) -> Plan:
    """Decide it all; ConvertUsageError where the source cannot become what is asked for."""
    _require_fitting(source, config)
    names = class_names(source)
    classes = folder_classes(source.labels, names, relabel=config.relabel) if config.format == "folder" else {}
    shape = _shape(source, config) if config.raw else None
    record_bytes = _record_bytes(source, config, shape)
    most = PART_FILES if config.format == "folder" else len(source)
    per_part = config.images_per_shard or max(1, min(PART_BYTES // record_bytes, most))
    order = np.arange(len(source), dtype=np.int64)
    if config.shuffle:
        order = epoch_order(source.index.shard_sizes, mode="records", seed=config.seed, epoch=0, block_records=1)
    return Plan(
        config, order, _parts(len(source), per_part, config), shape, record_bytes, names, classes, source.digest
    )


def _parts(num_images: int, per_part: int, config: Convert) -> tuple[Part, ...]:
    number = -(-num_images // per_part)
    suffix = SUFFIXES.get(config.format, "")
    firsts = range(0, num_images, per_part)
    return tuple(
        Part(f"train-{part:05d}-of-{number:05d}{suffix}", first, min(first + per_part, num_images))
        for part, first in enumerate(firsts)
    )


def _require_fitting(source: Source, config: Convert) -> None:
    if source.encoded:
        return
    if source.shape is None:
        raise ConvertUsageError(
            f"{source.place(0)}: its images are of unequal size, and they are not encoded; "
            f"only raw images of one size are converted"
        )
    plain = source.dtype == "uint8" and source.shape[2] in (1, 3)
    said = f"{' x '.join(map(str, source.shape))} {source.dtype}"
    if not config.raw and not plain:
        raise ConvertUsageError(f"images of {said} cannot be JPEGs, which are uint8 in one or three channels")
    if not config.raw and max(source.shape[:2]) > _MAX_JPEG_SIDE:
        raise ConvertUsageError(f"images of {said} cannot be JPEGs, whose sides are at most {_MAX_JPEG_SIDE} pixels")
    if config.size is not None and (source.dtype, source.shape[2]) != ("uint8", 3):
        raise ConvertUsageError(
            f"images of {said} are not resized, only those of uint8 in three channels; leave size out"
        )
    if config.format == "tfrecord" and source.dtype != "uint8":
        raise ConvertUsageError(f"a TFRecord does not say that its images are {source.dtype}; convert them to tensors")


def _shape(source: Source, config: Convert) -> Shape:
    """Height, width and channels of every image of a raw target: where nothing says them, those of the first."""
    if config.size is not None:
        return config.size, config.size, 3
    if source.shape is not None:
        return source.shape
    first = _tried(source, config)[0]
    return first.height, first.width, 3


def _record_bytes(source: Source, config: Convert, shape: Shape | None) -> int:
    """Bytes of a record of the target; the mean of encoded ones, for which a few are made where they are new."""
    if shape is not None:
        return raw_record_bytes(config.format, shape, source.dtype)
    if source.index.extents is not None and source.encoded and config.size is None and config.quality is None:
        return encoded_record_bytes(config.format, source.index.extents.mean_bytes + 1)
    sizes = [len(sample.stored) for sample in _tried(source, config)]
    return encoded_record_bytes(config.format, round(_MARGIN * sum(sizes) / len(sizes)))


def _tried(source: Source, config: Convert) -> list[Sample]:
    """A few images of the source as they will be, those that are broken left out."""
    maker = Maker(config, encoded=source.encoded)
    chosen = np.unique(np.linspace(0, len(source) - 1, _SAMPLES).astype(np.int64))
    made, wrong = [], ""
    for read in source.read(chosen):
        try:
            made.append(maker.make(read.data, read.label, 0))
        except BrokenImageError as error:
            wrong = f"{source.place(read.record)}: its image cannot be decoded: {error}"
    if not made:
        raise ConvertError(f"{wrong}; nor can any other of the {len(chosen)} that were tried")
    return made
