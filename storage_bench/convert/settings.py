"""What to convert into, what may be asked of it, and the errors of all of it."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

from pydantic import Field, model_validator

from ...loaders.transforms import MAX_SIZE
from ...results.record import Model

TargetFormat = Literal["tfrecord", "tfrecord-jpeg", "tensors", "webdataset", "folder"]
Fit = Literal["crop", "stretch", "shorter"]
OnBroken = Literal["raise", "skip"]

FORMATS: tuple[str, ...] = get_args(TargetFormat)
RAW_FORMATS = ("tfrecord", "tensors")
QUALITY = 90


class ConvertError(RuntimeError):
    """The data cannot be converted: an image or a disk fails, or there is no room."""

    exit_status: ClassVar[int] = 4


class ConvertUsageError(ConvertError):
    """What was asked for does not fit the data, or the folder holds something else."""

    exit_status: ClassVar[int] = 2


class Convert(Model):
    """What to make of a set.

    `size` and `fit` say how large images become: `crop` makes the shorter side `size` and cuts size x size out of the
    middle, `stretch` makes both sides `size`, `shorter` makes the shorter side `size` and cuts nothing.  Without `size`
    they stay as they are.  `quality` is that of JPEGs that are encoded anew; giving one encodes all anew.
    """

    format: TargetFormat
    size: int | None = Field(default=None, ge=1, le=MAX_SIZE)
    fit: Fit = "crop"
    quality: int | None = Field(default=None, ge=1, le=100)
    images_per_shard: int | None = Field(default=None, gt=0)
    shuffle: bool = False
    seed: int = Field(default=0, ge=0, lt=2**63)
    on_error: OnBroken = "raise"
    check: bool = True
    relabel: bool = False
    jobs: int | None = Field(default=None, ge=1, le=1024)

    @model_validator(mode="after")
    def _holds_together(self) -> Convert:
        if self.raw and self.quality is not None:
            raise ValueError(f"quality is that of JPEGs, and {self.format} holds raw pixels: leave it out")
        if self.raw and self.fit == "shorter":
            raise ValueError(f"{self.format} holds images of one size: fit is crop or stretch")
        if self.fit != "crop" and self.size is None:
            raise ValueError(f"fit {self.fit} needs a size")
        return self

    @property
    def raw(self) -> bool:
        """Whether the target holds pixels as they are."""
        return self.format in RAW_FORMATS
