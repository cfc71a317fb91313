"""What becomes of encoded images: the settings that `load`, `train`, `infer` and `scale` share.

shards with raw pixels     -> as they are
shards of encoded images   -> decoded -> cut, resized (train, validation) -> bytes of one size
                                      -> none: whole images, each of its own size
                              decoder none: the encoded bytes themselves
                              decoder nvimgcodec, dali: decoded on the GPU that batches go to, or by the library's
                              threads on the CPU where they stay in host memory
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..loaders.destinations.choice import DeviceChoice, check_choice, reads_into_device
from ..loaders.discovery import ShardSource
from ..loaders.engines.choice import open_reader
from ..loaders.index import RecordLayout, ShardIndex
from ..loaders.opening import open_index
from ..loaders.plan import ShuffleMode
from ..loaders.shards import ShardSet
from ..loaders.transforms import ImageNetTrain, ImageNetValidation, ImageTransform

if TYPE_CHECKING:
    import torch


class EncodedImages(BaseModel):
    """What becomes of encoded images; raw ones pass these settings by.  `none` hands out bytes, or whole images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decoder: Literal["auto", "libjpeg-turbo", "simplejpeg", "nvimgcodec", "dali", "none"] = "auto"
    transform: Literal["train", "validation", "none"] = "train"
    image_size: Annotated[int, Field(ge=8, le=4096)] = 224
    on_error: Literal["raise", "skip"] = "raise"

    def transform_of(self, index: ShardIndex, *, dtype: torch.dtype | None = None) -> ImageTransform | None:
        """What samples of `dtype` (float32) are made with; None for raw pixels, and where none is asked for."""
        if index.layout.codec is None or self.transform == "none":
            return None
        if self.transform == "train":
            return ImageNetTrain(self.image_size, dtype=dtype)
        return ImageNetValidation(self.image_size, resize=round(self.image_size * 256 / 224), dtype=dtype)

    def index_of(self, index: ShardIndex) -> ShardIndex:
        """The index; without a decoder its samples are bytes like any others."""
        return replace(index, layout=replace(index.layout, codec=None)) if self.decoder == "none" else index

    def sample_shape(self, layout: RecordLayout) -> tuple[int, ...]:
        """Height, width and channels that a loop sees of every record; () where samples differ in size."""
        if layout.codec is None:
            return layout.shape
        sized = self.decoder != "none" and self.transform != "none"
        return (self.image_size, self.image_size, 3) if sized else ()

    def sample_bytes(self, layout: RecordLayout) -> int:
        """Memory that a record takes in a batch: what is read, and the pixels of one size that are made of it."""
        shape = () if layout.codec is None else self.sample_shape(layout)
        return layout.slot_bytes + (math.prod(shape) if shape else 0)

    def open(
        self,
        source: ShardSource,
        *,
        engine: str = "auto",
        evict_behind: bool = False,
        shuffle_mode: ShuffleMode = "records",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: DeviceChoice = "cpu",
    ) -> ShardSet:
        """The set, whose samples stay bytes (uint8) as raw pixels are: who computes on them normalises them there.

        `device` is where a loader brings its batches.  Raises what opening and reading shards raises.
        """
        paths, index = open_index(source)
        index, dtype = self.index_of(index), None
        if index.layout.codec is not None:
            import torch

            dtype = torch.uint8
        check_choice(device)
        transform = self.transform_of(index, dtype=dtype)
        in_place = reads_into_device(device, transform)
        reader, reason = open_reader(engine, paths[0], evict_behind=evict_behind, into_device=in_place)
        return ShardSet(
            paths,
            index,
            reader,
            shuffle_mode=shuffle_mode,
            seed=seed,
            rank=rank,
            world_size=world_size,
            engine_reason=reason,
            decoder="auto" if self.decoder == "none" else self.decoder,
            transform=transform,
            on_error=self.on_error,
            device=device,
        )


def images_of(config: EncodedImages) -> EncodedImages:
    """These settings alone, of a model that has more."""
    return EncodedImages(**{name: getattr(config, name) for name in EncodedImages.model_fields})
