"""Tensor shards: records of one size and nothing else, so that where a pixel lies is plain arithmetic.

`iobench generate --format tensors` writes, next to a dataset.json that says shape, dtype and record_bytes:

    offset  0                 P               P + 8          record_bytes, a multiple of 4096
            | pixels          | label         | zeros        | pixels of the next record ...
            | (H, W, C) array | int64, signed |              |

    P = H * W * C * bytes of one element; all numbers are little-endian

Every record starts on a 4 KiB boundary, so O_DIRECT and GPUDirect read it straight into its slot.  A headerless file
has no dataset.json: it is pixels alone, record_bytes = P, no labels, and its shape and dtype must be given.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import xxhash

from ..objects import read_beside
from ..remote import RemotePath, ShardPath, folder_of
from .fields import NO_LABEL, Shape, Wanted, said
from .layout import read_exactly

DESCRIPTION_NAME = "dataset.json"
SUFFIX = ".tensors"
BOUNDARY_BYTES = 4096
LABEL_BYTES = 8

_BLOCK_BYTES = 4 << 20


class TensorShardError(ValueError):
    """A tensor shard, or its description, that breaks the format; or one whose format nothing says."""

    exit_status: ClassVar[int] = 4


@dataclass(frozen=True, slots=True)
class TensorFormat:
    """What every record of a set of tensor shards looks like; `digests` (xxh3_128 by name) is empty without one."""

    shape: Shape
    dtype: str
    record_bytes: int
    labelled: bool
    digests: Mapping[str, str]

    @property
    def payload_bytes(self) -> int:
        """Bytes of one record's pixels."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def record_bytes_of(payload_bytes: int) -> int:
    """Bytes of a labelled record, up to the boundary on which the next one starts."""
    return -(-(payload_bytes + LABEL_BYTES) // BOUNDARY_BYTES) * BOUNDARY_BYTES


def find_format(paths: Sequence[ShardPath], *, shape: Shape | None = None, dtype: str | None = None) -> TensorFormat:
    """What dataset.json beside the shards says of them, else what is given; TensorShardError where they disagree."""
    described = _described(paths[0])
    description = f"{folder_of(paths[0])}/{DESCRIPTION_NAME}"
    if described is None or not any(path.name in described.digests for path in paths):
        if shape is None:
            raise TensorShardError(
                f"{paths[0]}: a tensor shard without a {DESCRIPTION_NAME} that names it says nothing of its shape; "
                f"give shape=(height, width, channels) and dtype="
            )
        wanted = Wanted(shape=shape, dtype=dtype or "uint8")
        return TensorFormat(shape, wanted.dtype, wanted.image_bytes(shape), labelled=False, digests={})
    if foreign := [path for path in paths if path.name not in described.digests]:
        raise TensorShardError(f"{foreign[0]}: not one of the shards {DESCRIPTION_NAME} names; move it elsewhere")
    for name, given, there in (("shape", shape, described.shape), ("dtype", dtype, described.dtype)):
        if given is not None and given != there:
            raise TensorShardError(f"{description}: says {name} {there}, but {given} was given; leave {name}= out")
    return described


def count_records(path: ShardPath, size_bytes: int, format: TensorFormat) -> int:  # noqa: A002  # the field's word
    """How many records a shard of this size holds; TensorShardError where that is no whole number."""
    count, rest = divmod(size_bytes, format.record_bytes)
    if count and not rest:
        return count
    payload, record = format.payload_bytes, format.record_bytes
    image = f"{said(format.shape)} {format.dtype}"
    if not rest:
        raise TensorShardError(f"{path}: no record in it; take it out of the data folder, or create it again")
    sizes = f"{count * record} bytes would be {count}, {(count + 1) * record} bytes {count + 1}"
    if format.labelled:
        raise TensorShardError(
            f"{path}: {size_bytes} bytes are no whole number of records of {record} bytes: {sizes}; truncated or "
            f"changed: copy or generate it again"
        )
    padded = record_bytes_of(payload)
    hint = f"; with labels behind the pixels they would fit, but that takes a {DESCRIPTION_NAME}"
    raise TensorShardError(
        f"{path}: {size_bytes} bytes are no whole number of {image} images of {payload} bytes: {sizes}; give the right "
        f"shape= and dtype={'' if size_bytes % padded else hint}"
    )


def read_labels(fd: int, num_records: int, format: TensorFormat, *, path: ShardPath) -> npt.NDArray[np.int64]:  # noqa: A002
    """Labels int64 (n,) of a shard, NO_LABEL where it has none; what lies behind a label must be zeros."""
    labels = np.full(num_records, NO_LABEL, dtype=np.int64)
    if not format.labelled:
        return labels
    width = format.record_bytes - format.payload_bytes
    step = max(1, _BLOCK_BYTES // width)
    rows = np.empty((min(step, num_records), width), dtype=np.uint8)
    for first in range(0, num_records, step):
        count = min(step, num_records - first)
        for row in range(count):
            place = (first + row) * format.record_bytes + format.payload_bytes
            read_exactly(fd, rows[row].data, place, path)
        if rows[:count, LABEL_BYTES:].any():
            number = first + int(rows[:count, LABEL_BYTES:].any(axis=1).argmax())
            raise TensorShardError(
                f"{path}: what follows the label of record {number} (byte {number * format.record_bytes}) is not zero, "
                f"so records do not lie as {DESCRIPTION_NAME} says; copy or generate it again"
            )
        labels[first : first + count] = rows[:count, :LABEL_BYTES].copy().view("<i8")[:, 0]
    return labels


def verify_digest(fd: int, digest: str | None, *, path: ShardPath) -> int:
    """Compare an open shard's bytes with its digest; returns the bytes read, TensorShardError where it is wrong."""
    block, total, found = memoryview(bytearray(_BLOCK_BYTES)), 0, xxhash.xxh3_128()
    while count := os.preadv(fd, [block], total):
        found.update(block[:count])
        total += count
    if found.hexdigest() != digest:
        raise TensorShardError(
            f"{path}: its bytes are not those that {DESCRIPTION_NAME} has the xxh3_128 of; copy or generate it again"
        )
    return total


def _described(shard: ShardPath) -> TensorFormat | None:
    """What dataset.json beside a shard says, where there is one."""
    if isinstance(shard, RemotePath):
        text = read_beside(shard, DESCRIPTION_NAME)
        return None if text is None else _read_description(text, f"{shard.folder}/{DESCRIPTION_NAME}")
    description = shard.parent / DESCRIPTION_NAME
    if not description.is_file():
        return None
    try:
        return _read_description(description.read_bytes(), str(description))
    except OSError as error:
        raise TensorShardError(f"{description}: cannot be read ({error.strerror}); generate the data again") from error


def _read_description(text: bytes, path: str) -> TensorFormat:
    try:
        described: dict[str, Any] = json.loads(text)
        if described["format"] != "tensors":
            raise TensorShardError(f"{path}: describes {described['format']} shards; move the tensor shards elsewhere")
        height, width, channels = (int(size) for size in described["shape"])
        wanted = Wanted(shape=(height, width, channels), dtype=str(described["dtype"]))
        digests = {str(row["name"]): str(row["xxh3_128"]) for row in described["shards"]}
        record_bytes = int(described["record_bytes"])
    except TensorShardError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise TensorShardError(f"{path}: not a data set's description ({error}); generate the data again") from error
    shape = height, width, channels
    if record_bytes != record_bytes_of(wanted.image_bytes(shape)):
        raise TensorShardError(
            f"{path}: record_bytes {record_bytes} is not the {record_bytes_of(wanted.image_bytes(shape))} that "
            f"{said(shape)} {wanted.dtype} with a label take; generate the data again"
        )
    return TensorFormat(shape, wanted.dtype, record_bytes, labelled=True, digests=digests)
