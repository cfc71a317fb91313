"""Storage workloads: which reads a stream makes, in which order, over which files.

    sequential    stream t of n starts at t/n of the data and walks on, wrapping at the end
    random        whole blocks, uniformly, each stream with its own seed
    shard-replay  the reads the loader makes for rank t of n, in its order

A stream is what one client process would read; its `queue_depth` reads in flight come from that one order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar, get_args

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ..loaders.decode import place_batch
from ..loaders.discovery import find_shards, is_shard_name
from ..loaders.plan import batch_runs, epoch_order, rank_share
from ..loaders.prefetch import DEFAULT_READ_BYTES
from ..loaders.shards import ShardSet
from ..loaders.tensors import DESCRIPTION_NAME

Engine = Literal["auto", "buffered", "direct"]
Access = Literal["sequential", "random", "shard-replay"]
PageCache = Literal["cold", "warm"]

BLOCKS_PER_READ = 8
MIN_BLOCK_BYTES, MAX_BLOCK_BYTES = 4096, 64 << 20
_SUFFIXES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class WorkloadError(ValueError):
    """The data do not fit what is asked of them."""

    exit_status: ClassVar[int] = 4


class WorkloadUsageError(WorkloadError):
    """What is asked for contradicts itself."""

    exit_status: ClassVar[int] = 2


def parse_size(text: object) -> object:
    """`4K`, `16M`, `1GiB`, 4096 -> bytes (binary units)."""
    if not isinstance(text, str):
        return text
    number = text.strip().upper().removesuffix("IB").removesuffix("B")
    unit = number[-1:] if number[-1:] in _SUFFIXES else ""
    try:
        return int(float(number.removesuffix(unit)) * _SUFFIXES[unit])
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no size; write 4K, 1M or a number of bytes") from None


def parse_list(value: object) -> object:
    """`1,2` and 1 mean lists, too."""
    if isinstance(value, str):
        return [word.strip() for word in value.split(",") if word.strip()]
    return value if isinstance(value, list | tuple | dict) else [value]


Item = TypeVar("Item")
Several = Annotated[tuple[Item, ...], BeforeValidator(parse_list), Field(min_length=1)]
Bytes = Annotated[int, BeforeValidator(parse_size), Field(ge=1)]
BlockBytes = Annotated[
    int, BeforeValidator(parse_size), Field(ge=MIN_BLOCK_BYTES, le=MAX_BLOCK_BYTES, multiple_of=4096)
]
Count = Annotated[int, Field(ge=1, le=256)]


class StorageConfig(BaseModel):
    """`iobench storage`: every combination of the lists is one point."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Several[Engine] = ("auto",)
    access: Access = "sequential"
    block_size: Several[BlockBytes] = (1 << 20,)
    queue_depth: Several[Count] = (4,)
    threads: Several[Count] = (2,)
    page_cache: Several[PageCache] = ("cold",)
    seconds: Annotated[float, Field(gt=0, le=600)] = 1.0
    blocks: Annotated[int, Field(ge=2, le=1000)] = 8
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Annotated[int, Field(ge=1)] = 64


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """One read: `need` bytes of `path` from `offset`; `length` is what is asked for, aligned where it must be."""

    path: Path
    offset: int
    length: int
    need: int


@dataclass(frozen=True)
class DataFile:
    """A file under test."""

    path: Path
    size_bytes: int


def data_files(path: Path) -> list[DataFile]:
    """The file, or every file of the folder but dotfiles; raises where there is nothing to read.

    A folder that holds shards must hold nothing else, as everywhere; any other folder may hold anything.
    """
    if not path.exists():
        raise WorkloadError(f"{path}: no such file or folder; make data with `iobench generate {path}`")
    if path.is_dir():
        found = sorted(entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith("."))
        if any(entry.name == DESCRIPTION_NAME or is_shard_name(entry.name) for entry in found):
            found = find_shards(path)
    elif path.is_file():
        found = [path]
    else:
        raise WorkloadError(f"{path}: a pipe, socket or device; name a file or a folder")
    files = [DataFile(entry, entry.stat().st_size) for entry in found]
    files = [file for file in files if file.size_bytes]
    if not files:
        raise WorkloadError(f"{path}: no data to read here; make some with `iobench generate {path}`")
    return files


def crowding(files: Sequence[DataFile], *, block_bytes: int, reads_in_flight: int) -> str | None:
    """What to say where reads in flight are so many that the same block is often read twice at once, or None."""
    total = _Blocks(files, block_bytes).total
    if total >= BLOCKS_PER_READ * reads_in_flight:
        return None
    return (
        f"{reads_in_flight} reads in flight share {total} blocks of {block_bytes >> 10} KiB: what one reads, another "
        f"may find in a cache; use more data, smaller blocks or fewer reads"
    )


def open_stream(
    files: Sequence[DataFile], *, access: Access, block_bytes: int, stream: int, num_streams: int, seed: int
) -> Iterator[ReadRequest]:
    """The endless reads of stream `stream` of `num_streams`: sequential or random (shard-replay has its own)."""
    blocks = _Blocks(files, block_bytes)
    if access == "random":
        random = np.random.Generator(np.random.PCG64DXSM([seed, stream]))
        while True:
            for number in random.integers(0, blocks.total, size=4096).tolist():
                yield blocks.request(number)
    start = stream * blocks.total // num_streams
    for number in itertools.count(start):
        yield blocks.request(number % blocks.total)


def replay_stream(
    shards: ShardSet,
    *,
    batch_size: int,
    stream: int,
    num_streams: int,
    alignment: int,
    read_bytes: int = DEFAULT_READ_BYTES,
) -> Iterator[ReadRequest]:
    """The endless reads a loader makes for rank `stream` of `num_streams`, epoch after epoch."""
    index = shards.index
    if num_streams > index.num_records:
        raise WorkloadError(
            f"{shards.paths[0].parent}: {index.num_records} records cannot be split over {num_streams} streams; use "
            f"fewer --threads or more data"
        )
    for epoch in itertools.count():
        order = epoch_order(
            index.shard_sizes,
            seed=shards.seed,
            epoch=epoch,
            mode=shards.shuffle_mode,
            block_records=shards.block_records,
        )
        mine = rank_share(order, rank=stream, world_size=num_streams, batch_size=batch_size, drop_last=False).records
        for start in range(0, len(mine), batch_size):
            runs = batch_runs(mine[start : start + batch_size], index.first_records)
            placed = place_batch(runs, index, alignment=alignment, scatters=alignment == 1, read_bytes=read_bytes)
            for op in placed.reads:
                yield ReadRequest(shards.paths[op.shard], op.file_offset, op.length, op.need)


class _Blocks:
    """All whole blocks of all files, numbered through; a file shorter than a block is one block."""

    def __init__(self, files: Sequence[DataFile], block_bytes: int) -> None:
        self._files = files
        self._block_bytes = block_bytes
        counts = [max(1, file.size_bytes // block_bytes) for file in files]
        self._firsts = np.cumsum([0, *counts[:-1]])
        self.total = sum(counts)

    def request(self, number: int) -> ReadRequest:
        which = int(np.searchsorted(self._firsts, number, side="right")) - 1
        file = self._files[which]
        offset = (number - int(self._firsts[which])) * self._block_bytes
        need = min(self._block_bytes, file.size_bytes - offset)
        return ReadRequest(file.path, offset, -(-need // 4096) * 4096, need)


ACCESSES: tuple[str, ...] = get_args(Access)
