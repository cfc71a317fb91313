"""What to generate, what dataset.json says of what was, and the errors of both."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, ValidationError, model_validator

from ...results.record import Model
from .forms import FormatName

NUM_CLASSES = 10
GENERATOR = "iobench 1"
DESCRIPTION = "dataset.json"
TRUNCATED_AT_SD = 2.0  # sizes of samples lie within this many standard deviations of their mean


class GenerateError(RuntimeError):
    """The data set cannot be written: no space, no permission, a disk that fails."""

    exit_status: ClassVar[int] = 4


class GenerateUsageError(GenerateError):
    """What was asked for would overwrite or mix with something else."""

    exit_status: ClassVar[int] = 2


class Generate(Model):
    """What to generate: `num_images` of `size` x `size` x 3 bytes."""

    num_images: int = Field(gt=0, lt=10**12)
    size: int = Field(default=300, ge=8, le=4096)
    images_per_shard: int = Field(default=256, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**63)
    format: FormatName = "tfrecord"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image: height, width, channels."""
        return self.size, self.size, 3


class WorkloadData(Model):
    """Which published data set this is a part of.  `scale` and `record_scale` are shares of its samples and their size.

    Anything but 1.0 for both is `scaled`, and every table of such data says so.
    """

    name: str
    scale: float
    record_scale: float
    scaled: bool

    @property
    def label(self) -> str:
        """How tables name the data."""
        if not self.scaled:
            return self.name
        parts = [f"{self.scale:.3g} of its samples"] if self.scale < 1 else []
        parts += [f"each at {self.record_scale:.3g} of its size"] if self.record_scale != 1 else []
        return f"{self.name} (scaled: {', '.join(parts)})"


class GenerateSamples(Model):
    """Opaque samples to generate: `num_images` of about `sample_bytes` bytes, normal around that and never far away.

    In an npz file there is one sample; TFRecords hold `images_per_shard` of them.
    """

    num_images: int = Field(gt=0, lt=10**12)
    sample_bytes: int = Field(ge=16, le=1 << 31)
    sample_bytes_sd: int = Field(default=0, ge=0)
    images_per_shard: int = Field(default=1, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**63)
    format: Literal["tfrecord", "npz"] = "tfrecord"
    workload: WorkloadData | None = None

    @model_validator(mode="after")
    def _holds_together(self) -> GenerateSamples:
        if self.sample_bytes_sd * TRUNCATED_AT_SD >= self.sample_bytes:
            raise ValueError(f"sample_bytes_sd {self.sample_bytes_sd} is not less than half of {self.sample_bytes}")
        if self.format == "npz" and self.images_per_shard != 1:
            raise ValueError("an npz file holds one sample: images_per_shard is 1")
        return self


class GenerateJpeg(Model):
    """JPEG images to generate, `images_per_shard` of them in a TFRecord shard: sides and sizes are ImageNet's.

    Sizes are log-normal: `mean_bytes` in the mean, `spread` is the standard deviation of their logarithm.
    """

    num_images: int = Field(gt=0, lt=10**12)
    images_per_shard: int = Field(default=256, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**63)
    format: Literal["tfrecord-jpeg"] = "tfrecord-jpeg"
    mean_bytes: int = Field(default=110_000, ge=20_000, le=400_000)
    spread: float = Field(default=0.45, ge=0, le=1)


class ShardFile(Model):
    """One shard as it was written, and the digest of its bytes."""

    name: str
    num_images: int
    bytes: int
    xxh3_128: str


class Dataset(Model):
    """What dataset.json says about the folder it lies in; without `shape` its samples are bytes of unequal number."""

    format: FormatName | Literal["npz", "tfrecord-jpeg", "webdataset", "folder"]
    shape: tuple[int, int, int] | None
    dtype: str
    num_images: int
    seed: int
    images_per_shard: int
    num_classes: int
    record_bytes: int
    sample_bytes: int | None = None
    sample_bytes_sd: int | None = None
    workload: WorkloadData | None = None
    mean_bytes: int | None = None
    spread: float | None = None
    generator: str
    shards: tuple[ShardFile, ...]


def read_dataset(folder: Path) -> Dataset:
    """What the folder's dataset.json says; GenerateError where it is damaged or of another kind."""
    path = folder / DESCRIPTION
    try:
        return Dataset.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the document"
        raise GenerateError(f"{path}: {field}: {first['msg']}; generate with --force to write it again") from error
