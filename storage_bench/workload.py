"""What a sweep is asked to do: its settings, the words they are given in, and the files under test."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ..loaders.discovery import find_image_folder, find_shards, is_shard_name
from ..loaders.formats.tensors import DESCRIPTION_NAME

Engine = Literal["auto", "buffered", "direct"]
SweepEngine = Literal["auto", "buffered", "direct", "mmap", "kvikio"]
Operation = Literal["read", "write"]
Destination = Literal["host", "gpu"]
Access = Literal["sequential", "random", "shard-replay"]
PageCache = Literal["cold", "warm"]

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
    """`iobench storage`: every combination of the lists is one point.

    With `adaptive` the largest `threads` and `queue_depth` are bounds instead; with `clients` each of so many processes
    runs every point, all at once.  `write_bytes` is the size of the files of all threads that writes go to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Several[SweepEngine] = ("auto",)
    access: Access = "sequential"
    operation: Several[Operation] = ("read",)
    destination: Several[Destination] = ("host",)
    block_size: Several[BlockBytes] = (1 << 20,)
    queue_depth: Several[Count] = (4,)
    threads: Several[Count] = (2,)
    page_cache: Several[PageCache] = ("cold",)
    adaptive: bool = False
    clients: Count = 1
    seconds: Annotated[float, Field(gt=0, le=600)] = 1.0
    blocks: Annotated[int, Field(ge=2, le=1000)] = 8
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Annotated[int, Field(ge=1)] = 64
    write_bytes: Bytes = 512 << 20
    patience_s: Annotated[float, Field(gt=0, le=3600)] = 60.0


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
        if glob.has_magic(str(path)):
            raise WorkloadError(f"{path}: a glob, where storage is measured on a folder or a file; name {path.parent}")
        raise WorkloadError(f"{path}: no such file or folder; make data with `iobench generate {path}`")
    if path.is_dir():
        found: Sequence[Path] = sorted(
            entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith(".")
        )
        if any(entry.name == DESCRIPTION_NAME or is_shard_name(entry.name) for entry in found):
            found = find_shards(path)
    elif path.is_file():
        found = [path]
    else:
        raise WorkloadError(f"{path}: a pipe, socket or device; name a file or a folder")
    files = [DataFile(entry, entry.stat().st_size) for entry in found]
    files = [file for file in files if file.size_bytes]
    if not files and find_image_folder(path) is not None:
        raise WorkloadUsageError(
            f"{path}: folders of images, files too small to measure storage with; see how they are read with `iobench "
            f"load {path}`, or write shards with `iobench convert {path} DST --format tfrecord-jpeg`"
        )
    if not files:
        raise WorkloadError(f"{path}: no data to read here; make some with `iobench generate {path}`")
    return files


def folder_of(path: Path) -> Path:
    """The folder itself, or the one a file lies in."""
    return path if path.is_dir() else path.parent
