"""Which files, or objects on servers, are the shards of a data set.

In a data folder dotfiles and dataset.json are not shards; anything else that is no shard is an error.  Shards are
TFRecords (`.tfrecord`, or numbered as TensorFlow does: `train-00000-of-00008`; plain, gzip or zlib), tensor shards
(`.tensors`), npz files (`.npz`, a sample each) or WebDataset's tars (`.tar`), one of the four in a set.  An S3 prefix
is a folder.

A folder of folders, without a shard, is an image folder as torchvision's ImageFolder has it (image_files.py).
"""

from __future__ import annotations

import errno
import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar, overload

from .description import check_description, read_description
from .formats.image_files import is_image_name
from .formats.image_index import open_image_folder
from .formats.npz import NPZ_SUFFIX
from .formats.tensors import DESCRIPTION_NAME, SUFFIX
from .formats.webdataset import TAR_SUFFIX
from .index import ShardFormatError
from .objects import list_objects, read_beside, stat_objects
from .remote import RemoteListError, RemotePath, RemotePathError, ShardPath, is_remote, shown_address

UNFINISHED_NAME = ".iobench-converting.jsonl"  # a conversion's ledger, until all of the folder is there
SHARD_SUFFIXES = (".tfrecord", ".tfrecords", ".tfrecord.gz", ".tfrecords.gz", SUFFIX, NPZ_SUFFIX, TAR_SUFFIX)

_NUMBERED = re.compile(r"-\d{5,}-of-\d{5,}(\.gz)?$")


ShardSource = str | ShardPath | Sequence[str | ShardPath]

_Place = TypeVar("_Place", Path, RemotePath)


class ShardSetError(ValueError):
    """There is no data set here, or it is asked for in a way that does not fit."""

    exit_status: ClassVar[int] = 4


@overload
def find_shards(source: Path) -> Sequence[Path]: ...
@overload
def find_shards(source: ShardSource) -> Sequence[Path] | list[RemotePath]: ...
def find_shards(source: ShardSource) -> Sequence[Path] | list[RemotePath]:
    """The shards of a folder, a glob, one file, an S3 prefix, an address or a list; anything else there is an error.

    Of an image folder its files, by its index, which is made where there is none.  An s3 address is an object's where
    its name is a shard's, else a prefix; in a list every address is an object's.
    """
    if isinstance(source, RemotePath):
        return [source]
    if not isinstance(source, str | Path):
        return _listed(source)
    if isinstance(source, str) and is_remote(source):
        return _remote(source)
    return _local(source)


def _local(source: str | Path) -> Sequence[Path]:
    path = Path(source)
    if (root := find_image_folder(path)) is not None:
        return open_image_folder(root)[0]
    if path.is_dir():
        return _folder_shards(path)
    if path.exists():
        return _checked([path], str(source))
    if "://" in str(source):
        RemotePath(str(source))  # raises what is wrong with it
    matches = [Path(match) for match in sorted(glob.glob(str(source)))]
    if not matches:
        raise ShardSetError(f"{source}: no such file or folder; make one with `iobench generate {source}`")
    return _checked([match for match in matches if match.name != DESCRIPTION_NAME], str(source))


def find_image_folder(source: ShardSource) -> Path | None:
    """The image folder that `source` is, or None: a folder that holds folders and no shard.

    ShardSetError where images lie beside the folders: they would have no class; where the folders hold shards; or where
    a conversion is not finished.
    """
    if not isinstance(source, str | Path) or is_remote(source) or not Path(source).is_dir():
        return None
    _require_finished(Path(source))
    with os.scandir(source) as entries:
        folders = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
    if not any(folders.values()) or any(map(is_shard_name, folders)):
        return None
    if strays := sorted(name for name, is_folder in folders.items() if is_image_name(name) and not is_folder):
        raise ShardSetError(
            f"{Path(source) / strays[0]}: an image beside folders of images, so that it has no class; put it into one "
            f"of them, or move it elsewhere"
        )
    first = Path(source) / min(name for name, is_folder in folders.items() if is_folder)
    if _holds_shards(first):
        raise ShardSetError(
            f"{source}: no shards in this folder, but in folders of its own; name one of them, as {first}, or their "
            f"shards by a glob in quotes: '{source}/*/*'"
        )
    return Path(source)


def _holds_shards(folder: Path) -> bool:
    """Whether there is a shard and no image right in a folder."""
    found = False
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_image_name(entry.name):
                return False
            found = found or is_shard_name(entry.name)
    return found


def _listed(source: Sequence[str | ShardPath]) -> list[Path] | list[RemotePath]:
    if not isinstance(source, Iterable):
        raise TypeError(f"{source!r} names no data set: give a path, a glob, an address or a list of them")
    remote = [RemotePath(item) if isinstance(item, str) else item for item in source if _is_address(item)]
    files = [Path(item) for item in source if not isinstance(item, RemotePath) and not _is_address(item)]
    objects = [path for path in remote if isinstance(path, RemotePath)]
    if objects and files:
        raise ShardSetError(f"{files[0]}: a file, and {objects[0]} is on a server; a set is one or the other")
    return _of_one_format(objects) if objects else _checked(files, "the list")


def _is_address(item: str | ShardPath) -> bool:
    return isinstance(item, RemotePath) or is_remote(item)


def _remote(address: str) -> list[RemotePath]:
    if not address.lower().startswith("s3:") or is_shard_name(address):
        return [RemotePath(address)]
    shards = remote_shards(address)
    if description := read_beside(shards[0], DESCRIPTION_NAME):
        present = {path.name: stat.size_bytes for path, stat in zip(shards, stat_objects(shards), strict=True)}
        check_description(shards[0].folder, description, present)
    return shards


def remote_shards(address: str) -> list[RemotePath]:
    """The shards right under an S3 prefix, by the rule of a data folder: anything else that is there is an error.

    http servers have no listing: give the addresses of the shards.
    """
    scheme, _, rest = address.partition("://")
    if scheme.lower() != "s3":
        raise RemotePathError(f"{scheme}://...: only an s3:// prefix can be listed; give the addresses of the shards")
    bucket, _, prefix = rest.partition("/")
    found = list_objects(bucket, prefix.rstrip("/"))
    objects = [RemotePath(f"s3://{bucket}/{key}") for key in found.sizes]
    shards = [path for path in objects if is_shard_name(path.name) and not path.name.startswith(".")]
    for path in sorted([*objects, *(RemotePath(f"s3://{bucket}/{key}") for key in found.prefixes)], key=str):
        if path not in shards and path.name != DESCRIPTION_NAME and not path.name.startswith("."):
            raise RemoteListError(
                errno.EINVAL,
                f"{'a prefix' if path.key in found.prefixes else 'an object'} that is no shard "
                f"({', '.join(SHARD_SUFFIXES)}); move it elsewhere, or give the addresses of the shards",
                str(path),
            )
    if not shards:
        text = "no shards right under this prefix; copy some there, or give the addresses of objects as a list"
        raise RemoteListError(errno.ENOENT, text, shown_address(address))
    return _of_one_format(shards)


def _checked(paths: list[Path], name: str) -> list[Path]:
    """The same paths, all of which are regular files: a pipe would block whoever opens it."""
    if not paths:
        raise ShardSetError(f"{name}: names no shard")
    for path in paths:
        if not path.is_file():
            raise ShardFormatError(f"{path}: {_kind(path)}, not a shard; name files only")
        if is_image_name(path.name):
            raise ShardFormatError(
                f"{path}: an image, which is no shard; give the folder that has a folder for each class (ImageFolder)"
            )
    return _of_one_format(paths)


def _of_one_format(paths: list[_Place]) -> list[_Place]:
    for suffix, kind in ((SUFFIX, "a tensor shard"), (NPZ_SUFFIX, "an npz file"), (TAR_SUFFIX, "a tar shard")):
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


def _require_finished(folder: Path) -> None:
    if os.path.exists(folder / UNFINISHED_NAME):  # False in a folder that may not be read, which its listing tells
        raise ShardSetError(
            f"{folder}: a conversion into this folder is not finished, so that images are missing; give the same "
            f"`iobench convert` command again, which goes on where it stopped"
        )


def _folder_shards(folder: Path) -> list[Path]:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    shards = [entry for entry in entries if entry.name != DESCRIPTION_NAME]
    for entry in shards:
        if not entry.is_file() or not is_shard_name(entry.name):
            kind = "a file" if entry.is_file() else _kind(entry)
            if is_image_name(entry.name):
                raise ShardFormatError(
                    f"{entry}: an image, which is no shard; images are read from a folder for each class, as "
                    f"torchvision's ImageFolder has them: give the folder of these folders"
                )
            raise ShardFormatError(
                f"{entry}: {kind} that is no shard ({', '.join(SHARD_SUFFIXES)}); move it out of the data folder, "
                f"or name the shards by a glob in quotes: '{folder}/{_usual_glob(shards)}'"
            )
    if not shards:
        raise ShardSetError(f"{folder}: no shards in this folder; make some with `iobench generate {folder}`")
    if (folder / DESCRIPTION_NAME).is_file():
        present = {path.name: path.stat().st_size for path in shards}
        check_description(folder, read_description(folder / DESCRIPTION_NAME), present)
    return _of_one_format(shards)


def _usual_glob(entries: Sequence[Path]) -> str:
    """What matches the names of the first shard's kind."""
    named = (f"*{suffix}" for entry in entries for suffix in SHARD_SUFFIXES if entry.name.endswith(suffix))
    numbered = "*-of-*" if any(_NUMBERED.search(entry.name) for entry in entries) else f"*{SHARD_SUFFIXES[0]}"
    return next(named, numbered)


def is_shard_name(name: str) -> bool:
    """Whether a file of this name in a data folder is a shard."""
    return name.endswith(SHARD_SUFFIXES) or _NUMBERED.search(name) is not None
