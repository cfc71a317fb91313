"""Roads: what every way from raw shards to batches has in common, so that several can be held side by side.

paths -> Records (where every record lies) + RoadOptions -> Road.batches(): images and labels, for ever
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..engines.choice import EngineName
from ..formats.tfrecord import FRAMING_BYTES, walk_frames
from ..opening import open_index
from ..plan import Indices, ShuffleMode
from ..remote import local_files
from ..traced import Recorder

IMAGE, LABEL = "image/encoded", "image/class/label"
Images = npt.NDArray[Any] | list[npt.NDArray[np.uint8]]  # (B, H, W, C), or B times (H, W, C)
TransformName = Literal["", "train", "validation"]  # "": pixels as they were stored


class RoadError(ValueError):
    """A road is not known, cannot be taken this way, or its package is not installed."""

    exit_status: ClassVar[int] = 2


class RoadBatch(NamedTuple):
    """One batch, valid until the next one is asked for."""

    images: Images
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RoadOptions:
    """How a road is taken.  `variant` is one of the road's own; "" is its first."""

    batch_size: int = 64
    threads: int = 2
    variant: str = ""
    engine: EngineName = "auto"
    shuffle: ShuffleMode = "off"
    prefetch_factor: int = 2
    cold: bool = False
    seed: int = 0
    transform: TransformName = ""
    image_size: int = 224


class Road(Protocol):
    """A way from shards to batches."""

    @property
    def version(self) -> str:
        """Of the package that does the work."""

    @property
    def engine(self) -> str:
        """How this road reads: its variant, or the engine it chose."""

    def batches(self) -> Iterator[RoadBatch]:
        """Batches for ever, each valid until the next one is asked for."""

    def close(self) -> None:
        """End threads and processes, close files."""


@runtime_checkable
class TimedRoad(Road, Protocol):
    """A road over encoded images that tells where its threads' time goes."""

    def hop_seconds(self) -> dict[str, float]:
        """Seconds that threads have spent in each hop so far, and batches waiting before it, added up over both."""

    def decoder(self) -> tuple[str, str]:
        """What decodes, and why that."""


@runtime_checkable
class TracedRoad(Road, Protocol):
    """A road whose threads can note what they do."""

    def trace(self, recorder: Recorder) -> None:
        """Have reads and decodes noted from now on."""


class Records:
    """Where every record's pixels lie: `shards[i]` and `offsets[i]` of record i, at one `stride` where there is one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        found, index = open_index(paths)
        plain = local_files(found, user="a comparison with other loaders")
        layout = index.layout
        if layout.ragged:
            raise RoadError(f"{plain[0]}: samples of unequal size are not compared; leave --peers out")
        if layout.dtype != "uint8":
            raise RoadError(f"{plain[0]}: images of {layout.dtype} are not compared, only those of uint8")
        self.paths = tuple(plain)
        height, width, channels = layout.shape
        self.shape = height, width, channels
        self.image_bytes = layout.payload_bytes
        self.stride: int | None = layout.stride_bytes
        self.labels = index.labels
        self.sizes = index.shard_sizes
        self.shards = np.repeat(np.arange(len(paths)), self.sizes)
        numbers = np.arange(len(self.labels)) - index.first_records[self.shards]
        apart = index.payload_offsets
        self.offsets: Indices = numbers * layout.slot_bytes + layout.payload_offset if apart is None else apart
        self.head_bytes = layout.payload_offset

    def __len__(self) -> int:
        return len(self.labels)

    def index_files(self, *, with_end: bool = False) -> list[MemoryFile]:
        """An index per shard as DALI wants it; the tfrecord package cannot read one line alone: `with_end` adds one."""
        return [index_file(path, with_end=with_end) for path in self.paths]


class MemoryFile:
    """A file in memory that has a path for this process and those it forks."""

    def __init__(self, content: bytes) -> None:
        self._fd = os.memfd_create("iobench-index")
        self.path = f"/proc/self/fd/{self._fd}"
        with open(self._fd, "wb", closefd=False) as file:
            file.write(content)

    def close(self) -> None:
        """Let go of the memory."""
        os.close(self._fd)


def index_file(path: Path, *, with_end: bool = False) -> MemoryFile:
    """The index of one shard: a line `offset size` per framed record, and with `with_end` one for the file's end."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size_bytes = os.fstat(file).st_size
        frames = walk_frames(file, size_bytes, path=path)
    finally:
        os.close(file)
    lines = zip(frames.offsets.tolist(), (frames.lengths + FRAMING_BYTES).tolist(), strict=True)
    ends = [(size_bytes, 0)] if with_end else []
    return MemoryFile("".join(f"{offset} {length}\n" for offset, length in [*lines, *ends]).encode())


def read_fully(file: int, target: memoryview, offset: int, *, need: int | None = None) -> None:
    """Fill `target` from `offset`, at least `need` bytes of it; RoadError where the file ends before."""
    done = 0
    while done < (len(target) if need is None else need):
        count = os.preadv(file, [target[done:]], offset + done)
        if count == 0:
            raise RoadError(f"a shard ends at byte {offset + done}, before its last record; copy or create it again")
        done += count
