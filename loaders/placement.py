"""How a batch comes into its buffer: which bytes are read to where, and where each sample then lies.

Made by `decode.py` for samples of one size and by `ragged.py` for others; carried out by `prefetch.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np

from .plan import Indices

Part = tuple[int, int]


class ReadOp(NamedTuple):
    """One read: `length` bytes of a shard from `file_offset` to `buffer_offset`, of which `need` must come.

    With `parts` the bytes go to several places of the buffer: (offset, length) each, in file order.
    """

    shard: int
    file_offset: int
    length: int
    need: int
    buffer_offset: int
    parts: tuple[Part, ...] | None = None


@dataclass(frozen=True, slots=True)
class Reads:
    """Reads in file order, a column for each field of ReadOp; no `parts` where all go to one place each."""

    shards: Indices
    file_offsets: Indices
    lengths: Indices
    needs: Indices
    buffer_offsets: Indices
    parts: Sequence[tuple[Part, ...]] | None = None

    @classmethod
    def of(cls, ops: Sequence[ReadOp]) -> Reads:
        """The columns of such reads: all of them with parts, or none."""
        shards, starts, lengths, needs, targets = np.array([op[:5] for op in ops], dtype=np.int64).T
        return cls(shards, starts, lengths, needs, targets, [op.parts for op in ops if op.parts is not None] or None)

    def __len__(self) -> int:
        return len(self.shards)

    def __iter__(self) -> Iterator[ReadOp]:
        columns = (self.shards, self.file_offsets, self.lengths, self.needs, self.buffer_offsets)
        parts: Iterable[Any] = itertools.repeat(None) if self.parts is None else self.parts
        return map(ReadOp, *(column.tolist() for column in columns), parts)

    def between(self, start: int, stop: int) -> Reads:
        """Reads number `start` up to, but not including, `stop`."""
        mine = slice(start, stop)
        return Reads(
            self.shards[mine],
            self.file_offsets[mine],
            self.lengths[mine],
            self.needs[mine],
            self.buffer_offsets[mine],
            None if self.parts is None else self.parts[mine],
        )


class Move(NamedTuple):
    """`length` bytes from one place of the buffer to another, after the reads are done."""

    source: int
    target: int
    length: int


class Placement(NamedTuple):
    """How a batch comes into a buffer, and where its first record's slot starts there.

    Samples of unequal size have `places`: where each one starts, in the order of the batch.  `size_bytes` is then what
    the buffer must hold, and `whole` says that it is one range of one file, which can be seen in place as well.
    """

    reads: Reads
    moves: tuple[Move, ...]
    first_record: int
    payload_bytes: int
    places: Indices | None = None
    size_bytes: int = 0
    whole: bool = False


def cut_reads(
    shards: Indices, starts: Indices, needs: Indices, targets: Indices, *, alignment: int, read_bytes: int
) -> Reads:
    """Reads of at most `read_bytes`, one behind the other where there are more."""
    step = max(alignment, read_bytes - read_bytes % alignment)
    if needs.max() > step:
        pieces = -(-needs // step)
        which = np.repeat(np.arange(len(needs)), pieces)
        done = (np.arange(len(which)) - (pieces.cumsum() - pieces)[which]) * step
        shards, starts, targets = shards[which], starts[which] + done, targets[which] + done
        needs = np.minimum(needs[which] - done, step)
    lengths = needs if alignment == 1 else rounded_up(needs, alignment)
    return Reads(shards, starts, lengths, needs, targets)


@overload
def rounded_up(value: int, alignment: int) -> int: ...
@overload
def rounded_up(value: Indices, alignment: int) -> Indices: ...
def rounded_up(value: int | Indices, alignment: int) -> int | Indices:
    """The next multiple of `alignment`, of a number or of each in an array."""
    return -(-value // alignment) * alignment
