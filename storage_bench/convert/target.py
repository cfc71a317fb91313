"""Where parts of the converted set come into being, and how they get their names: shards of records, or image files.

    TARGET/.iobench-parts/train-00003-of-00016.tensors/     a room for each part, which is read from there as a set
               train-00003-of-00016.tensors                 written, on the disk, read back, then renamed to ...
    TARGET/train-00003-of-00016.tensors

A part of an image folder is a number of files, which are read back together and renamed into their classes' folders.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import xxhash

from ...loaders.formats.tensors import DESCRIPTION_NAME
from ...results.record import write_whole
from ..durable import sync_file_system, sync_folder
from ..generate.dataset import Dataset, ShardFile
from ..generate.record_stream import RecordStream
from ..generate.shard_writer import ShardWriter
from .forms import EXTENSIONS, Form
from .ledger import Row
from .samples import Sample

ROOMS_NAME = ".iobench-parts"
_ALL = "all"  # one folder for the images of all classes: a part has many, and of each few images
_BLOCK_BYTES = 4 << 20


class Made(NamedTuple):
    """One image as it was written: label, digest (xxh3_64) of its stored bytes, its number, and whether it is a PNG."""

    label: int
    digest: int
    number: int
    is_png: bool


class Target(Protocol):
    """One format's way of writing a part, from many threads at once."""

    def write(self, room: Path, name: str, samples: Iterator[Sample]) -> tuple[int, str]:
        """Write a part into its empty `room` and onto the disk; its bytes and their digest."""

    def expected(self, made: Sequence[Made]) -> list[Made]:
        """What was made, in the order and with the labels that the part has when it is read as a set of its own."""

    def publish(self, room: Path, name: str, made: Sequence[Made]) -> None:
        """Give the part, which is `made`, its names in the target."""

    def is_whole(self, row: Row, numbers: Iterable[int], labels: Mapping[int, int]) -> bool:
        """Whether a part that the ledger knows is there with the bytes that it was written with."""


@dataclass(frozen=True, slots=True)
class Shards:
    """Parts that are shards of records; `description` is what dataset.json says but for the shards."""

    folder: Path
    form: Form
    description: Dataset
    pool: ThreadPoolExecutor

    def write(self, room: Path, name: str, samples: Iterator[Sample]) -> tuple[int, str]:
        """See Target."""
        with ShardWriter(room / name, self.pool) as writer:
            stream, count = RecordStream(writer), 0
            for sample in samples:
                stream.write(np.frombuffer(self.form.record(sample), np.uint8))
                count += 1
            stream.write(np.frombuffer(self.form.end, np.uint8))
            stream.flush()
            digest = writer.finish()
        shard = ShardFile(name=name, num_images=count, bytes=writer.num_bytes, xxh3_128=digest)
        write_description(room, self.description, [shard])
        return writer.num_bytes, digest

    def expected(self, made: Sequence[Made]) -> list[Made]:
        """See Target."""
        return list(made)

    def publish(self, room: Path, name: str, made: Sequence[Made]) -> None:  # noqa: ARG002
        """See Target."""
        os.replace(room / name, self.folder / name)
        sync_folder(self.folder)

    def is_whole(self, row: Row, numbers: Iterable[int], labels: Mapping[int, int]) -> bool:  # noqa: ARG002  # of shards
        """See Target."""
        path = self.folder / row.name
        if not path.is_file() or path.is_symlink() or path.stat().st_size != row.bytes:
            return False
        return _digest([path]) == row.xxh3_128


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Parts that are image files in folders of their classes, which `classes` has by label."""

    folder: Path
    classes: Mapping[int, str]

    def write(self, room: Path, name: str, samples: Iterator[Sample]) -> tuple[int, str]:  # noqa: ARG002  # it has none
        """See Target."""
        found, num_bytes, paths = xxhash.xxh3_128(), 0, list[Path]()
        (room / _ALL).mkdir()
        for sample in samples:
            paths.append(room / _ALL / file_name(sample.number, is_png=sample.encoding == "png"))
            with paths[-1].open("xb") as file:
                file.write(sample.stored)
            found.update(sample.stored)
            num_bytes += len(sample.stored)
        sync_file_system(room)
        _forget(paths)
        return num_bytes, found.hexdigest()

    def expected(self, made: Sequence[Made]) -> list[Made]:
        """See Target."""
        return [one._replace(label=0) for one in made]

    def publish(self, room: Path, name: str, made: Sequence[Made]) -> None:  # noqa: ARG002
        """See Target."""
        for label in sorted({one.label for one in made}):
            (self.folder / self.classes[label]).mkdir(exist_ok=True)
        for one in made:
            file = file_name(one.number, is_png=one.is_png)
            os.replace(room / _ALL / file, self.folder / self.classes[one.label] / file)
        for label in sorted({one.label for one in made}):
            sync_folder(self.folder / self.classes[label])
        sync_folder(self.folder)

    def is_whole(self, row: Row, numbers: Iterable[int], labels: Mapping[int, int]) -> bool:
        """See Target."""
        pngs = set(row.pngs)
        paths = [
            self.folder / self.classes[labels[number]] / file_name(number, is_png=number in pngs) for number in numbers
        ]
        return all(path.is_file() and not path.is_symlink() for path in paths) and _digest(paths) == row.xxh3_128


def file_name(number: int, *, is_png: bool) -> str:
    """What image `number` is called in its class's folder."""
    return f"{number:012d}.{EXTENSIONS['png' if is_png else 'jpeg']}"


def write_description(folder: Path, description: Dataset, shards: Sequence[ShardFile]) -> None:
    """dataset.json of these shards."""
    mine = description.model_copy(
        update={"shards": tuple(shards), "num_images": sum(shard.num_images for shard in shards)}
    )
    write_whole(folder / DESCRIPTION_NAME, mine.model_dump_json(indent=1, exclude_defaults=True) + "\n")


def new_room(folder: Path, name: str) -> Path:
    """An empty folder for a part."""
    room = folder / ROOMS_NAME / name
    shutil.rmtree(room, ignore_errors=True)
    room.mkdir(parents=True)
    return room


def _forget(paths: Sequence[Path]) -> None:
    """Take files that are on the disk out of the page cache, so that they are read back from there."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def _digest(paths: Sequence[Path]) -> str:
    """xxh3_128 of the bytes of files, one behind the other."""
    found = xxhash.xxh3_128()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                found.update(block)
    return found.hexdigest()
