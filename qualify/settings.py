"""The settings of a qualification; presets are files of these keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ..storage_bench.workload import Bytes, Engine
from ..training_bench.train import TrainConfig


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(_Settings):
    """What is generated where PATH is empty."""

    num_images: Annotated[int, Field(ge=1)] = 6144
    images_per_shard: Annotated[int, Field(ge=1)] = 256
    size: Annotated[int, Field(ge=8, le=4096)] = 300
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


class QualifyConfig(_Settings):
    """One qualification; presets are files of these keys."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # accelerator = 0.25

    accelerator: str = "h100"
    batch_size: Annotated[int, Field(ge=1)] | None = None
    engine: Engine = "auto"
    au_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.90
    required_gpus: Annotated[int, Field(ge=1)] = 1
    max_ranks: Annotated[int, Field(ge=1, le=256)] = 8
    measure_seconds: Annotated[float, Field(ge=10, le=86_400)] = 120.0
    disk_bytes: Bytes = 4 << 30
    data: DataConfig = DataConfig()
    storage: RateConfig = RateConfig()
    train: TrainConfig = TrainConfig()
    copy_: CopyConfig = Field(default=CopyConfig(), alias="copy")
