"""dataset.json beside the shards: what whoever wrote them promises of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from .formats.records import ShardFormatError
from .formats.tensors import DESCRIPTION_NAME


def read_description(path: Path) -> bytes:
    """The description's bytes; ShardFormatError where they cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ShardFormatError(f"{path}: cannot be read ({error.strerror}); generate the data again") from error


def check_description(folder: Path | str, text: bytes, present: Mapping[str, int]) -> None:
    """The shards dataset.json promises must be there, whole, and no others; `present` are sizes by name."""
    try:
        promised = {str(row["name"]): int(row["bytes"]) for row in json.loads(text)["shards"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ShardFormatError(
            f"{folder}/{DESCRIPTION_NAME}: not a data set's description ({error}); generate the data again"
        ) from error
    if foreign := sorted(present.keys() - promised.keys()):
        raise ShardFormatError(
            f"{folder}/{foreign[0]}: not one of the shards {DESCRIPTION_NAME} names; move it elsewhere"
        )
    for name, size in promised.items():
        if name not in present:
            raise ShardFormatError(f"{folder}/{name}: missing, though {DESCRIPTION_NAME} names it; copy it again")
        if present[name] != size:
            raise ShardFormatError(
                f"{folder}/{name}: {present[name]} bytes, but {DESCRIPTION_NAME} says {size}: "
                f"truncated or changed; copy or generate it again"
            )
