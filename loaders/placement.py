"""How a batch comes into its buffer: which bytes are read to where, and where each sample then lies.

Made by `decode.py` for samples of one size and by `ragged.py` for others; carried out by `prefetch.py`.
"""

from __future__ import annotations

from typing import NamedTuple

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

    reads: tuple[ReadOp, ...]
    moves: tuple[Move, ...]
    first_record: int
    payload_bytes: int
    places: tuple[int, ...] | None = None
    size_bytes: int = 0
    whole: bool = False


def split_read(shard: int, start: int, need: int, target: int, *, alignment: int, read_bytes: int) -> list[ReadOp]:
    """One range as reads of at most `read_bytes`, each of whole aligned blocks."""
    step = max(alignment, read_bytes - read_bytes % alignment)
    return [
        ReadOp(
            shard, start + done, rounded_up(min(step, need - done), alignment), min(step, need - done), target + done
        )
        for done in range(0, need, step)
    ]


def rounded_up(value: int, alignment: int) -> int:
    """The next multiple of `alignment`."""
    return -(-value // alignment) * alignment
