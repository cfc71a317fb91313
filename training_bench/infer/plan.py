"""What validation inference is told: InferConfig as the user sets it, InferPlan as every rank gets it.

The defaults are those of the HPE Deep Learning Cookbook's large-batch validation: 10 batches of warm-up and 400 that
count, 13 threads that read ahead into a queue of 32 batches.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ...loaders.plan import ShuffleMode
from ...storage_bench.encoded import EncodedImages
from ...storage_bench.placement import Placement
from ..models import ModelName
from ..plan import RankPlan, Source
from ..real.plan import Device, Precision

Positive = Annotated[int, Field(ge=1)]
Arrivals = Literal["poisson", "even"]
STUDY_FIGURES = ("warmup_batches", "batches", "prefetch_threads", "queue_depth")
STUDY_IMAGES_PER_FILE, STUDY_SIDE = 20_000, 300
STUDY_MODELS: tuple[ModelName, ...] = ("alexnet", "googlenet", "resnet50", "vgg16", "inception_v3")


class InferError(ValueError):
    """Inference cannot be run as asked on this host."""

    exit_status: ClassVar[int] = 4


class InferUsageError(InferError):
    """Settings that do not go together."""

    exit_status = 2


class InferConfig(EncodedImages):
    """How validation inference is run.

    `accelerator` is cpu or cuda, which compute `models` and are measured, or an emulated one: seconds per batch, or a
    published name.  `batches` are counted of each source in all rounds together.  `latency_bound_s` asks for the
    highest rate of arrivals whose 99th percentile stays under it; `trial_batches` arrive at each rate that is tried.
    `agreement_batches` are answered in fp32 as well where `precision` is another.  `placement` says which cores ranks
    and their reader threads get (storage_bench/launching/placing.py).
    """

    about: str = ""
    transform: Literal["train", "validation", "none"] = "validation"
    models: Annotated[tuple[ModelName, ...], Field(min_length=1)] = ("resnet50",)
    accelerator: str = "h100"
    precision: Precision = "fp32"
    num_ranks: Annotated[int, Field(ge=1, le=256)] = 1
    batch_sizes: Annotated[tuple[Positive, ...], Field(min_length=1)] = (128,)
    sources: Annotated[tuple[Source, ...], Field(min_length=1)] = ("direct",)
    warmup_batches: Annotated[int, Field(ge=0, le=100_000)] = 10
    batches: Annotated[int, Field(ge=1, le=1_000_000)] = 400
    rounds: Annotated[int, Field(ge=1, le=1000)] = 4
    prefetch_threads: Annotated[int, Field(ge=1, le=64)] = 13
    queue_depth: Annotated[int, Field(ge=1, le=4096)] = 32
    queue_memory_share: Annotated[float, Field(gt=0, le=0.25)] = 0.25
    seconds: Annotated[float, Field(gt=0, le=7 * 86400)] = 600.0
    latency_bound_s: Annotated[float, Field(gt=0, lt=3600)] | None = None
    arrivals: Arrivals = "poisson"
    trial_batches: Annotated[int, Field(ge=100, le=1_000_000)] = 200
    resolution: Annotated[float, Field(ge=0.005, le=0.25)] = 0.03
    agreement_batches: Annotated[int, Field(ge=1, le=10_000)] = 4
    num_classes: Positive = 1000
    crop: Positive | None = None
    channels_last: bool = False
    shuffle: ShuffleMode = "off"
    engine: str = "auto"
    placement: Placement = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @model_validator(mode="after")
    def _once_each(self) -> Self:
        for name in ("models", "batch_sizes", "sources"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} {', '.join(map(str, values))}: name each once")
        return self

    def scaled_down(self, *, images_per_file: int, side: int) -> dict[str, tuple[int, int]]:
        """What is less than in the study: the figure here, and the study's."""
        study = {name: int(type(self).model_fields[name].default) for name in STUDY_FIGURES}
        here = {name: int(getattr(self, name)) for name in STUDY_FIGURES}
        study |= {"images_per_file": STUDY_IMAGES_PER_FILE, "image_side": STUDY_SIDE}
        here |= {"images_per_file": images_per_file, "image_side": side}
        return {name: (here[name], study[name]) for name in study if here[name] < study[name]}

    @property
    def real(self) -> bool:
        """Whether a network is computed here, and not a published or given time waited for."""
        return self.accelerator in ("cpu", "cuda")


class Network(BaseModel):
    """The network that ranks compute, and how; `weights` is a checkpoint of `iobench train`, None random ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelName
    device: Device
    precision: Precision
    num_classes: int
    crop: int | None
    channels_last: bool
    threads: int
    seed: int
    near_gpu: bool = True
    weights: str | None = None
    agreement_batches: int = 0


class Bound(BaseModel):
    """The latency-bound mode: how the highest rate is looked for, whose 99th percentile is at most `bound_s`.

    A trial that would not end within `budget_s` of the search's beginning is not begun.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bound_s: float
    arrivals: Arrivals
    trial_batches: int
    resolution: float
    source: Source
    budget_s: float


class InferPlan(BaseModel):
    """What every rank of one launch is told: one plan for each batch size, whose blocks are the sources."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sizes: tuple[RankPlan, ...]
    network: Network | None
    bounds: tuple[Bound, ...] = ()
