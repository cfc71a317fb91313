"""The settings of a qualification; presets are files of these keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..results.stats import DRIFT_BLOCKS
from ..storage_bench.emulate import WORKLOADS, Model
from ..storage_bench.generate.forms import FormatName
from ..storage_bench.workload import Bytes, Engine
from ..training_bench.train_run import TrainConfig


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(_Settings):
    """What is generated where PATH is empty: images, or with `workload` the samples of the model's published data set.

    Without `num_images` it is 6144 images, or all samples of the workload; more than `disk_bytes` holds is scaled down,
    and the record says so.
    """

    workload: bool = False
    num_images: Annotated[int, Field(ge=1)] | None = None
    images_per_shard: Annotated[int, Field(ge=1)] | None = None
    size: Annotated[int, Field(ge=8, le=4096)] = 300
    format: FormatName = "tfrecord"
    seed: Annotated[int, Field(ge=0)] = 0


class RateConfig(_Settings):
    """Time blocks of the storage rate."""

    seconds: Annotated[float, Field(gt=0, le=600)] = 1.0
    blocks: Annotated[int, Field(ge=2, le=1000)] = 8


class CopyConfig(_Settings):
    """The question of the local copy: over how many epochs, and for how large a data set (default: this one)."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 10
    streams: Annotated[int, Field(ge=1, le=64)] = 4
    dataset_bytes: Bytes | None = None


class SustainConfig(_Settings):
    """Reading on and on, to see whether the rate lasts: for how long, in blocks of how many seconds; 0: not at all."""

    seconds: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    block_seconds: Annotated[float, Field(gt=0, le=600)] = 10.0

    @model_validator(mode="after")
    def _blocks_are_enough(self) -> SustainConfig:
        if 0 < self.seconds < DRIFT_BLOCKS * self.block_seconds:
            raise ValueError(
                f"sustain.seconds is {self.seconds:g}: a slope needs {DRIFT_BLOCKS} blocks of block_seconds "
                f"({self.block_seconds:g} s), so at least {DRIFT_BLOCKS * self.block_seconds:g}"
            )
        return self


class QualifyConfig(_Settings):
    """One qualification; presets are files of these keys.  `about` says in words what it is for."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # accelerator = 0.25

    about: str = ""
    model: Model = "resnet50"
    accelerator: str = "h100"
    batch_size: Annotated[int, Field(ge=1)] | None = None
    engine: Engine = "auto"
    au_threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    required_gpus: Annotated[int, Field(ge=1)] = 1
    max_ranks: Annotated[int, Field(ge=1, le=256)] = 8
    measure_seconds: Annotated[float, Field(ge=10, le=86_400)] = 120.0
    disk_bytes: Bytes = 4 << 30
    data: DataConfig = DataConfig()
    storage: RateConfig = RateConfig()
    sustain: SustainConfig = SustainConfig()
    train: TrainConfig = TrainConfig()
    copy_: CopyConfig = Field(default=CopyConfig(), alias="copy")

    @property
    def threshold(self) -> float:
        """The AU that counts as fed: as given, or the workload's."""
        return WORKLOADS[self.model].au_threshold if self.au_threshold is None else self.au_threshold

    @property
    def total_seconds(self) -> float:
        """Measuring time of everything together."""
        return self.measure_seconds + self.sustain.seconds
