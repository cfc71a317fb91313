"""What a training is asked for: which sources are read by how many ranks, how, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from ..loaders.index import RecordLayout
from ..loaders.plan import ShuffleMode
from ..storage_bench.accelerators import Accelerator
from ..storage_bench.encoded import EncodedImages
from ..storage_bench.placement import Placement
from .places import Places
from .plan import Rung, Source

Cell = tuple[Source | Rung, int]


class TrainError(ValueError):
    """Ranks cannot be run as asked on this host."""

    exit_status: ClassVar[int] = 4


class TrainBudgetError(TrainError):
    """The time allowed is too short for what is asked."""

    exit_status = 2


class TrainConfig(EncodedImages):
    """How ranks read, what becomes of encoded images, and how long they run.

    At least `warmup_steps` of a block are dropped; `count_steps` are counted in all rounds together, where fewer than
    ten times the depth would do.  `placement` says which cores ranks get (storage_bench/launching/placing.py).
    """

    prefetch_depth: Annotated[int, Field(ge=1, le=64)] = 2
    reader_threads: Annotated[int, Field(ge=1, le=64)] = 2
    rounds: Annotated[int, Field(ge=1, le=1000)] = 4
    warmup_steps: Annotated[int, Field(ge=0, le=10_000)] = 0
    count_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    shuffle: ShuffleMode = "blocks"
    seed: Annotated[int, Field(ge=0)] = 0
    placement: Placement = "auto"


@dataclass(frozen=True, slots=True)
class FindMax:
    """Find the largest number of ranks, up to `high`, whose AU is at least `threshold`; `hint` is where to begin."""

    high: int
    threshold: float
    hint: int | None = None
    low: int = 1

    @property
    def centre(self) -> int:
        """The number of ranks that the answer is expected to be near; without a hint near the most."""
        return min(max(self.high - 1 if self.hint is None else self.hint, self.low), self.high)


@dataclass(frozen=True, slots=True)
class TrainRun:
    """One launch: which source is read by how many ranks, and for how long at most.

    `expected_step_s` says of cells how long a step will take where that is known to be more than the step time.  With
    `find` the numbers of ranks around the largest fed one are run on the direct source, beside `cells`.  For a trace
    each rank notes its first `trace_spans` reads and decodes.
    """

    folders: dict[Source, Path]
    engines: dict[Source, str]
    cells: tuple[Cell, ...]
    accelerator: Accelerator
    config: TrainConfig
    budget_s: float
    layout: RecordLayout
    steps: int | None = None
    expected_step_s: Mapping[Cell, float] = field(default_factory=dict)
    find: FindMax | None = None
    places: Places = field(default_factory=Places)
    trace_spans: int = 0
