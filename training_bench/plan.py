"""What every rank of one launch is told: plain data that goes to the ranks as JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from ..loaders.plan import ShuffleMode
from ..storage_bench.encoded import EncodedImages
from .search import Search

Source = Literal["synthetic", "staged", "direct"]
Rung = Literal["host", "warm"]  # of the ladder from synthetic to direct: in host memory, in the page cache


class Block(BaseModel):
    """One stretch of steps: `source` read by ranks 0..num_ranks-1, the first `drop_steps` not counted.

    A `fixed` block is run whatever a search finds.  The rungs host and warm take the direct source's data.  Ranks that
    do not `meet` after each step do not wait for each other, as in inference.  `step_time_s` is the block's own where
    it is not the plan's; 0 asks for all a source gives.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Source | Rung
    num_ranks: int
    drop_steps: int
    count_steps: int
    limit_s: float
    fixed: bool = False
    meets: bool = True
    step_time_s: float | None = None


class RankPlan(BaseModel):
    """What every rank of one launch is told; `images` says what becomes of encoded ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_ranks: int
    blocks: tuple[Block, ...]
    rounds: int
    budget_s: float
    folders: dict[Source, str]
    engines: dict[Source, str]
    record_bytes: int
    image_shape: tuple[int, ...]  # () where samples differ in size
    accelerator: str
    step_time_s: float
    batch_size: int
    reader_threads: int
    prefetch_depth: int
    shuffle: ShuffleMode = "blocks"
    seed: int = 0
    images: EncodedImages = EncodedImages()
    search: Search | None = None
    trace_spans: int = 0  # how many reads and decodes each rank notes for a trace
