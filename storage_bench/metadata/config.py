"""What `iobench storage PATH --metadata` is asked to do."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..workload import Bytes, Count, Several

Operation = Literal["create", "remove", "stat", "open", "list", "small_read"]

OPERATIONS: tuple[Operation, ...] = ("create", "remove", "stat", "open", "list", "small_read")
MAX_FILE_BYTES = 64 << 20


class MetadataConfig(BaseModel):
    """`iobench storage PATH --metadata`; page_cache auto is cold where this user can make names be forgotten."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: Annotated[int, Field(ge=8, le=2_000_000)] = 10_000
    file_size: Annotated[Bytes, Field(le=MAX_FILE_BYTES)] = 4096
    threads: Count = 4
    page_cache: Several[Literal["auto", "cold", "warm"]] = ("auto",)
    fsync: bool = False
    seconds: Annotated[float, Field(gt=0, le=600)] = 0.5
    blocks: Annotated[int, Field(ge=2, le=1000)] = 8
    seed: Annotated[int, Field(ge=0)] = 0
