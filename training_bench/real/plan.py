"""What real training is told: RealConfig as the user sets it, RealPlan as every rank gets it, and the learning rate."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ...loaders.engines.choice import EngineName
from ...loaders.plan import ShuffleMode
from ...storage_bench.encoded import EncodedImages
from ...storage_bench.placement import Placement
from ..models import ModelName
from ..plan import RankPlan, Source

BASE_BATCH = 256
CAPTURE_STEPS = 3  # until a step is a graph: two one by one, one captured

Precision = Literal["fp32", "bf16", "fp16"]
Device = Literal["cpu", "cuda"]
Scaling = Literal["weak", "strong"]
Positive = Annotated[int, Field(ge=1)]


class RealConfig(EncodedImages):
    """How a network is trained.

    `learning_rate` is for 256 images a step and scales with the images of all ranks (Goyal et al. 2017); it rises over
    `warmup_steps` (a tenth of the steps unless given), then follows `schedule`.  `crop` is the side of the centred
    square that is cut out of each image, of encoded ones after `transform`.  `labels="shuffled"` is the control: labels
    that say nothing of the pixels.  `rounds` are those of a training that is measured hop by hop.  With
    `cuda_graphs` forward and backward of a step are launched as one graph, on a GPU and of one rank.  `placement` says
    which cores ranks and their reader threads get (storage_bench/launching/placing.py).
    """

    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False
    cuda_graphs: bool = False
    aux_heads: bool = False
    num_classes: Positive = 1000
    crop: Positive | None = None
    labels: Literal["given", "shuffled"] = "given"
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    schedule: Literal["cosine", "constant"] = "cosine"
    drop_steps: Annotated[int, Field(ge=0)] = 3
    checkpoint_steps: Positive | None = None
    reader_threads: Annotated[int, Field(ge=0, le=64)] = 2
    prefetch_factor: Annotated[int, Field(ge=1, le=64)] = 2
    shuffle: ShuffleMode = "blocks"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    max_seconds: Annotated[float, Field(gt=0)] = 7 * 86400.0
    rounds: Annotated[int, Field(ge=2, le=1000)] = 4
    placement: Placement = "auto"

    @model_validator(mode="after")
    def _can_be_captured(self) -> Self:
        if self.cuda_graphs and self.precision == "fp16":
            raise ValueError("cuda_graphs and precision fp16: its scaler decides on the host; use bf16 or fp32")
        if self.cuda_graphs and self.drop_steps < CAPTURE_STEPS:
            raise ValueError(
                f"cuda_graphs is set up in the first {CAPTURE_STEPS} steps, which must not count: use drop_steps="
                f"{CAPTURE_STEPS} or more"
            )
        return self


class RealPlan(RealConfig):
    """What every rank of one training is told; `batch_size` is each rank's, paths are absolute."""

    model: ModelName
    device: Device
    num_ranks: Positive
    batch_size: Positive
    steps: Positive
    source: Source
    image_shape: tuple[int, int, int]  # height, width, channels
    threads: Positive
    engine: EngineName = "auto"
    data: str | None = None
    validate_on: str | None = None
    checkpoint_folder: str | None = None
    resume: bool = False
    trace_spans: int = 0

    @model_validator(mode="after")
    def _reads_something(self) -> Self:
        if self.data is None and self.source != "synthetic":
            raise ValueError(f"source {self.source} needs data to read")
        return self

    @property
    def side(self) -> tuple[int, int]:
        """Height and width of what the network sees."""
        return (self.crop, self.crop) if self.crop else self.image_shape[:2]

    @property
    def global_batch(self) -> int:
        """Images of one step, over all ranks."""
        return self.num_ranks * self.batch_size

    @property
    def settings(self) -> dict[str, object]:
        """All that must be the same for a checkpoint to be gone on from."""
        free = {"data", "validate_on", "checkpoint_folder", "resume", "threads", "engine", "max_seconds", "drop_steps"}
        free |= {
            "checkpoint_steps",
            "reader_threads",
            "prefetch_factor",
            "rounds",
            "decoder",
            "on_error",
            "trace_spans",
            "placement",
        }
        return self.model_dump(mode="json", exclude=free)

    def learning_rate_at(self, step: int) -> float:
        """The rate of step 0, 1 ...: linear in the batch, a linear rise, then constant or half a cosine to zero."""
        peak = self.learning_rate * self.global_batch / BASE_BATCH
        warmup = self.steps // 10 if self.warmup_steps is None else self.warmup_steps
        if step < warmup:
            return peak * (step + 1) / warmup
        if self.schedule == "constant":
            return peak
        return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.steps - warmup)))

    def seed_at(self, rank: int, step: int) -> int:
        """What torch's generator is set to before a step: dropout is a function of (seed, rank, step), so resume is."""
        return (self.seed * 1_000_003 + step) * 4096 + rank


class RealHopsPlan(BaseModel):
    """What every rank of a training that is measured hop by hop is told: the network, and the blocks of its steps.

    The first `warmup_steps` are made on synthetic batches, before the first block, and are in none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    training: RealPlan
    launch: RankPlan
    warmup_steps: int
