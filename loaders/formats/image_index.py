"""The index of an image folder: every file one sample, its class the label; kept as arrays beside the folders.

    root/.iobench-index   classes | folders, with times of change | counts | lengths | names, one behind the other

A shard of the set is a folder that holds images: `shards` permutes whole folders, `blocks` runs of files of one folder.
Batches of both hold few classes; for training take `records`.

A kept index is used while the classes are the same, no folder of the tree has another time of change (as where a file
came, went or was renamed), and of SAMPLED files spread over the tree none has another size.  Files that were written
anew in place, under the same name, are not all looked at: `iobench index` does, as it always walks the tree.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..index_cache import INDEX_NAME, index_locations, keep_index, one_builder
from ..index_file import Arrays, IndexCacheError, read_index_file
from ..plan import Indices
from .fields import Fields, Shape, encoding_of
from .image_files import Folder, ImageFiles, ImageFolderUsageError, find_classes, scan
from .ragged import Extents
from .records import RecordLayout, ShardIndex, ShardStamp, first_records_of

SAMPLED = 256
OTHER_CODEC = "image"


class _Tree(NamedTuple):
    """What a walk over the tree found, or a kept index has: folders without images, too."""

    classes: tuple[str, ...]
    folders: tuple[str, ...]
    times: Indices
    counts: Indices
    lengths: Indices
    names: bytes
    ends: Indices
    codec: str


def open_image_folder(
    root: Path,
    *,
    fields: Fields | None = None,
    shape: Shape | None = None,
    dtype: str | None = None,
    anew: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ImageFiles, ShardIndex]:
    """The images of the tree under `root` and their index: a kept one that is still true, unless it is made `anew`.

    `fields` may only ask for bytes as they are (`Fields(opaque=True)`), else ImageFolderUsageError is raised;
    also ImageFolderError, OSError.
    """
    if fields not in (None, Fields(opaque=True)) or shape is not None or dtype is not None:
        raise ImageFolderUsageError(
            f"{root}: an image folder's files say their size, and its folders their label; leave fields, shape and "
            f"dtype out, or take their bytes as they are with fields=Fields(opaque=True)"
        )
    classes = tuple(find_classes(root))
    if not anew and (kept := _kept_tree(root, classes)[0]) is not None:
        return _opened(root, kept.tree, fields, "cached", kept.location)
    with one_builder(root, name=INDEX_NAME):
        kept, reason = (None, "") if anew else _kept_tree(root, classes)  # who was before us may have built it
        if kept is not None:
            return _opened(root, kept.tree, fields, "cached", kept.location)
        tree = _tree_of(root, classes, list(scan(root, classes, progress=progress)))
        header, arrays = _pack(tree)
        location, where = keep_index(header, arrays, root, name=INDEX_NAME, mode=root.stat().st_mode & 0o666)
    return _opened(root, tree, fields, (f"rebuilt: {reason}" if reason else "built") + where, location)


class _Kept(NamedTuple):
    tree: _Tree
    location: Path


def _kept_tree(root: Path, classes: tuple[str, ...]) -> tuple[_Kept | None, str]:
    """The tree as it is kept, if that is still true; else None, and what is wrong with the first that is kept."""
    reasons = []
    for location in index_locations(root, name=INDEX_NAME):
        try:
            tree = _unpack(*read_index_file(location), location)
        except FileNotFoundError:
            continue
        except (IndexCacheError, OSError) as error:
            reasons.append(str(error))
            continue
        if (changed := _change(root, classes, tree)) is None:
            return _Kept(tree, location), ""
        reasons.append(changed)
    return None, reasons[0] if reasons else ""


def _tree_of(root: Path, classes: tuple[str, ...], found: Sequence[Sequence[Folder]]) -> _Tree:
    folders = [folder for some in found for folder in some]
    bases = np.cumsum([0, *(len(folder.names) for folder in folders[:-1])], dtype=np.int64)
    ends = np.concatenate([folder.ends + base for folder, base in zip(folders, bases, strict=True)])
    counts = np.array([len(folder.ends) for folder in folders], np.int64)
    names, paths = b"".join(folder.names for folder in folders), tuple(folder.path for folder in folders)
    with open(ImageFiles(root, paths, counts, names, ends)[0], "rb", buffering=0) as first:
        kind = encoding_of(first.read(4) or b"")
    times = np.array([folder.mtime_ns for folder in folders], np.int64)
    lengths = np.concatenate([folder.lengths for folder in folders])
    return _Tree(classes, paths, times, counts, lengths, names, ends, kind.lower() if kind else OTHER_CODEC)


def _change(root: Path, classes: tuple[str, ...], tree: _Tree) -> str | None:
    """What of the tree is not as the kept index has it, or None."""
    if classes != tree.classes:
        return "the classes have changed since they were indexed"
    try:
        for folder, time in zip(tree.folders, tree.times.tolist(), strict=True):
            if os.stat(root / folder).st_mtime_ns != time:
                return f"{folder} has changed since it was indexed"
        files = _files_of(root, tree)
        for number in range(0, len(files), max(1, -(-len(files) // SAMPLED))):
            if os.stat(files[number]).st_size != tree.lengths[number]:
                return f"{files[number].name} has changed since it was indexed"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return None


def _opened(
    root: Path, tree: _Tree, fields: Fields | None, status: str, location: Path | None
) -> tuple[ImageFiles, ShardIndex]:
    counts = tree.counts[tree.counts > 0]
    stamps = _stamps_of(tree)
    number_of = {name: number for number, name in enumerate(tree.classes)}
    classes = [number_of[stamp.name.partition("/")[0]] for stamp in stamps]
    sizes = tuple(counts.tolist())
    extents = Extents(np.broadcast_to(np.int64(0), tree.lengths.shape), tree.lengths, files=True)
    codec = None if fields is not None and fields.opaque else tree.codec
    what = "opaque samples" if codec is None else f"encoded images ({codec})"
    index = ShardIndex(
        RecordLayout(None, 0, (), "uint8", extents.mean_bytes, codec),
        stamps,
        sizes,
        first_records_of(sizes),
        np.repeat(np.array(classes, np.int64), counts),
        layout_reason=f"{what} of {extents.said}, a file each, in folders of {len(tree.classes)} classes",
        status=status,
        location=location,
        extents=extents,
        classes=tree.classes,
    )
    return _files_of(root, tree), index


def _stamps_of(tree: _Tree) -> tuple[ShardStamp, ...]:
    """One for each folder that holds images, with the bytes of all of them."""
    held = np.flatnonzero(tree.counts)
    firsts = (np.cumsum(tree.counts) - tree.counts)[held]
    rows = zip(held.tolist(), np.add.reduceat(tree.lengths, firsts).tolist(), tree.times[held].tolist(), strict=True)
    return tuple(ShardStamp(tree.folders[number], size, time) for number, size, time in rows)


def _files_of(root: Path, tree: _Tree) -> ImageFiles:
    return ImageFiles(root, tree.folders, tree.counts, tree.names, tree.ends)


def _pack(tree: _Tree) -> tuple[dict[str, Any], Arrays]:
    header = {
        "kind": "image folder",
        "codec": tree.codec,
        "classes": tree.classes,
        "folders": tree.folders,
        "name_bytes": len(tree.names),
    }
    names = np.frombuffer(tree.names.ljust(-(-len(tree.names) // 8) * 8, b"\0"), np.int64)
    columns = {"times": tree.times, "counts": tree.counts, "lengths": tree.lengths, "ends": tree.ends}
    return header, {**columns, "names": names}


def _unpack(header: dict[str, Any], arrays: Arrays, location: Path) -> _Tree:
    try:
        if header.get("kind") != "image folder":
            raise IndexCacheError(f"{location.name} is of shards, and this is an image folder")
        names = arrays["names"].tobytes()[: int(header["name_bytes"])]
        tree = _Tree(
            tuple(map(str, header["classes"])),
            tuple(map(str, header["folders"])),
            arrays["times"],
            arrays["counts"],
            arrays["lengths"],
            names,
            arrays["ends"],
            str(header["codec"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise IndexCacheError(f"{location.name} is damaged ({type(error).__name__})") from error
    if not _agrees(tree):
        raise IndexCacheError(f"{location.name} is damaged (counts do not agree)")
    return tree


def _agrees(tree: _Tree) -> bool:
    """Whether there are a length and a name for each file, and each lies in a folder of a class."""
    number, folders = len(tree.lengths), len(tree.folders)
    sizes = (len(tree.times), len(tree.counts), len(tree.ends), int(tree.counts.sum()))
    if sizes != (folders, folders, number, number) or not number or (tree.counts < 0).any():
        return False
    starts = np.append(0, tree.ends[:-1])
    known = {folder.partition("/")[0] for folder in tree.folders} == set(tree.classes)
    named = (starts < tree.ends).all() and int(tree.ends[-1]) == len(tree.names)
    return bool(known and named and (tree.lengths > 0).all())
