"""Names of classes: where a set has them, and how labels become the folders of an image folder.

image folder      its folders                                 ShardSet.classes
TFRecords         image/class/synset, else image/class/text   of the first record of each label
converted sets    the ledger beside them
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...loaders.formats.example import walk_example
from ...loaders.formats.fields import NO_LABEL
from ...loaders.formats.tfrecord import HEAD_BYTES, walk_frames
from .ledger import classes_in
from .settings import ConvertUsageError
from .source import Source

MAX_CLASSES = 100_000

_FEATURES = ("image/class/synset", "image/class/text")
_NO_TFRECORDS = (".tensors", ".npz", ".tar", *(".jpg", ".jpeg", ".png"))


def class_names(source: Source) -> dict[int, str]:
    """The names of labels, as far as the source has them; those of TFRecords are asked of one record each."""
    if source.classes:
        return dict(enumerate(source.classes))
    if isinstance(source.paths[0], Path) and (known := classes_in(source.paths[0].parent)):
        return known
    labels, firsts = np.unique(source.labels, return_index=True)
    if len(labels) > MAX_CLASSES:
        return {}
    names = {label: name for label, name in _said(source, np.sort(firsts)) if name}
    return names if len(names) == len(labels) else {}


def folder_classes(labels: npt.NDArray[np.int64], names: Mapping[int, str], *, relabel: bool) -> dict[int, str]:
    """The folder of each label: an image's label is its folder's place in the order of their names.

    Those are the classes' own names where these are in the labels' order, else the labels.  ConvertUsageError where
    labels are not 0, 1, 2 ... and may not become that.
    """
    distinct: list[int] = np.unique(labels).tolist()
    if distinct == [NO_LABEL]:
        raise ConvertUsageError("the source has no labels, and an image folder has nothing else to tell classes by")
    if distinct != list(range(len(distinct))) and not relabel:
        missing = next(number for number, label in enumerate([*distinct, None]) if number != label)
        raise ConvertUsageError(
            f"labels are {_few(distinct)}, and an image folder numbers its folders 0, 1, 2 ...: none would be "
            f"{missing}; with --relabel the labels become 0 to {len(distinct) - 1} in their order"
        )
    mine = [names.get(label, "") for label in distinct]
    if len(set(mine)) == len(mine) and mine == sorted(mine) and all(map(_is_folder_name, mine)):
        return dict(zip(distinct, mine, strict=True))
    width = len(str(len(distinct) - 1))
    return {label: f"{place:0{width}d}" for place, label in enumerate(distinct)}


def _few(labels: Sequence[int]) -> str:
    told = ", ".join(map(str, labels[:4]))
    return told if len(labels) <= 4 else f"{told} ... {labels[-1]}"


def _is_folder_name(name: str) -> bool:
    return bool(name) and not name.startswith(".") and "/" not in name and "\0" not in name and len(name.encode()) < 256


def _said(source: Source, records: npt.NDArray[np.int64]) -> Iterator[tuple[int, str]]:
    """Label and class name of these records, as far as TFRecords in files say them."""
    index = source.index
    shards = np.searchsorted(index.first_records, records, side="right") - 1
    for shard in np.unique(shards).tolist():
        path = source.paths[shard]
        if not isinstance(path, Path) or path.suffix in _NO_TFRECORDS:
            return
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            frames = walk_frames(fd, index.stamps[shard].size_bytes, path=path)
            for record in records[shards == shard].tolist():
                number = record - int(index.first_records[shard])
                payload = os.pread(fd, int(frames.lengths[number]), int(frames.offsets[number]) + HEAD_BYTES)
                yield int(source.labels[record]), _name(memoryview(payload))
        finally:
            os.close(fd)


def _name(payload: memoryview) -> str:
    """The class's name in a tf.Example; empty where it has none."""
    features = walk_example(payload)
    for feature in (features[name] for name in _FEATURES if name in features):
        if feature.kind == "bytes" and len(feature.spans) == 1:
            at, length = feature.span
            with suppress(UnicodeDecodeError):
                return str(payload[at : at + length], "utf-8")
    return ""
