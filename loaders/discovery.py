"""Which files are the shards of a data set.

In a data folder dotfiles and dataset.json are not shards; anything else that is no shard is an error.  Shards are
TFRecords (`.tfrecord`, or numbered as TensorFlow does: `train-00000-of-00008`; plain, gzip or zlib), tensor shards
(`.tensors`) or npz files (`.npz`, a sample each), one of the three in a set.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from .index import ShardFormatError
from .npz import NPZ_SUFFIX
from .tensors import DESCRIPTION_NAME, SUFFIX

SHARD_SUFFIXES = (".tfrecord", ".tfrecords", ".tfrecord.gz", ".tfrecords.gz", SUFFIX, NPZ_SUFFIX)

_NUMBERED = re.compile(r"-\d{5,}-of-\d{5,}(\.gz)?$")


class ShardSetError(ValueError):
    """There is no data set here, or it is asked for in a way that does not fit."""

    exit_status: ClassVar[int] = 4


def find_shards(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """The shard files of a folder, a glob, one file or a list; anything else in a folder is an error."""
    if not isinstance(source, str | Path):
        return _checked([Path(item) for item in source], "the list")
    path = Path(source)
    if path.is_dir():
        return _folder_shards(path)
    if path.exists():
        return _checked([path], str(source))
    matches = [Path(match) for match in sorted(glob.glob(str(source)))]
    if not matches:
        raise ShardSetError(f"{source}: no such file or folder; make one with `iobench generate {source}`")
    return _checked([match for match in matches if match.name != DESCRIPTION_NAME], str(source))


def _checked(paths: list[Path], name: str) -> list[Path]:
    """The same paths, all of which are regular files: a pipe would block whoever opens it."""
    if not paths:
        raise ShardSetError(f"{name}: names no shard")
    for path in paths:
        if not path.is_file():
            raise ShardFormatError(f"{path}: {_kind(path)}, not a shard; name files only")
    return _of_one_format(paths)


def _of_one_format(paths: list[Path]) -> list[Path]:
    for suffix, kind in ((SUFFIX, "a tensor shard"), (NPZ_SUFFIX, "an npz file")):
        some = [path for path in paths if path.suffix == suffix]
        if 0 < len(some) < len(paths):
            other = next(path for path in paths if path.suffix != suffix)
            raise ShardFormatError(
                f"{some[0]}: {kind}, and {other.name} is none; a set has one format: give each a folder, or name those "
                f"of one format with a glob"
            )
    return paths


def _kind(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    if path.exists():
        return "a pipe, socket or device"
    return "a link to a file that is missing" if path.is_symlink() else "missing"


def _folder_shards(folder: Path) -> list[Path]:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    shards = [entry for entry in entries if entry.name != DESCRIPTION_NAME]
    for entry in shards:
        if not entry.is_file() or not is_shard_name(entry.name):
            kind = "a file" if entry.is_file() else _kind(entry)
            raise ShardFormatError(
                f"{entry}: {kind} that is no shard ({', '.join(SHARD_SUFFIXES)}); move it out of the data folder, "
                f"or name the shards with a glob"
            )
    if not shards:
        raise ShardSetError(f"{folder}: no shards in this folder; make some with `iobench generate {folder}`")
    if (folder / DESCRIPTION_NAME).is_file():
        _check_description(folder / DESCRIPTION_NAME, shards)
    return _of_one_format(shards)


def is_shard_name(name: str) -> bool:
    """Whether a file of this name in a data folder is a shard."""
    return name.endswith(SHARD_SUFFIXES) or _NUMBERED.search(name) is not None


def _check_description(description: Path, shards: Sequence[Path]) -> None:
    """The shards dataset.json promises must be there, whole, and no others."""
    try:
        promised = {str(row["name"]): int(row["bytes"]) for row in json.loads(description.read_text())["shards"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ShardFormatError(
            f"{description}: not a data set's description ({error}); generate the data again"
        ) from error
    present = {path.name: path.stat().st_size for path in shards}
    if foreign := sorted(present.keys() - promised.keys()):
        raise ShardFormatError(
            f"{description.parent / foreign[0]}: not one of the shards {DESCRIPTION_NAME} names; move it elsewhere"
        )
    for name, size in promised.items():
        if name not in present:
            raise ShardFormatError(
                f"{description.parent / name}: missing, though {DESCRIPTION_NAME} names it; copy it again"
            )
        if present[name] != size:
            raise ShardFormatError(
                f"{description.parent / name}: {present[name]} bytes, but {DESCRIPTION_NAME} says {size}: "
                f"truncated or changed; copy or generate it again"
            )
