"""What `iobench storage PATH --checkpoint SIZE` is asked to do."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..workload import BlockBytes, Bytes, Count


class CheckpointConfig(BaseModel):
    """`checkpoint` bytes by `threads`, written with `engine`, restored cold; `readers` are the threads beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: Bytes
    threads: Count = 4
    block_size: BlockBytes = 8 << 20
    engine: Literal["buffered", "direct"] = "buffered"
    readers: Count = 4
    read_block_size: BlockBytes = 1 << 20
    seconds: Annotated[float, Field(gt=0, le=600)] = 1.0
    blocks: Annotated[int, Field(ge=2, le=1000)] = 5
    seed: Annotated[int, Field(ge=0)] = 0
