"""Samples in WebDataset's tar shards: an image and its label are members side by side, with one key.

    a/0001.jpg | a/0001.cls | a/0001.json | a/0002.png | a/0002.cls | ...
    `key-' `ext'                left out     `---- one sample ----'

A key is all of the name up to the first dot behind the last slash, an extension what follows, in any case (upper or
lower).  The image is `jpg`, `jpeg` or `png`, the label `cls`: one whole number as ASCII text.  Other members are left
out and counted, as are names like `__index__`, which are WebDataset's own.  Source: the WebDataset format, "The
WebDataset Format" (v0.2), and the reader of the package of that name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from ..plan import Indices
from ..remote import ShardPath
from .fields import NO_LABEL, Fields, encoding_of
from .tar import Member, TarFile

TAR_SUFFIX = ".tar"
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png")
LABEL_EXTENSION = "cls"

_MAX_LABEL_BYTES = 32
_LABEL = re.compile(rb"\s*([+-]?\d{1,19})\s*")
_META = re.compile(r"__[^/]*__(/|$)")
_CODECS = {"jpg": "jpeg"}


class WebDatasetError(ValueError):
    """A tar shard whose samples are not an image and a label each."""

    exit_status: ClassVar[int] = 4


@dataclass(frozen=True, slots=True)
class TarFormat:
    """Extensions of the members that are meant: image and label, None for no labels (each is then -1).

    `opaque`: an image's bytes are taken as they are.
    """

    images: tuple[str, ...] = IMAGE_EXTENSIONS
    label: str | None = LABEL_EXTENSION
    opaque: bool = False

    @classmethod
    def of(cls, fields: Fields | None) -> TarFormat:
        """What `fields` names: extensions, of images several with semicolons; what it leaves is as the class has it."""
        if fields is None:
            return cls()
        default = Fields()
        images = IMAGE_EXTENSIONS if fields.image == default.image else tuple(fields.image.lower().split(";"))
        label = LABEL_EXTENSION if fields.label == default.label else fields.label and fields.label.lower()
        return cls(images, label, fields.opaque)


class TarSamples(NamedTuple):
    """The samples of one shard: where their images lie, labels, and how many members were left out."""

    offsets: Indices
    lengths: Indices
    labels: Indices
    num_left_out: int
    codec: str


class _Sample(NamedTuple):
    """What was found of one key."""

    image: Member
    label: Member | None


def read_samples(fd: int, size_bytes: int, wanted: TarFormat, *, path: ShardPath) -> TarSamples:
    """Find the samples of an open shard; TarError and WebDatasetError name the byte, what is wrong and the way out."""
    file = TarFile(fd, size_bytes, path=path)
    offsets, lengths, labels, num_meant = [], [], [], 0
    first: Member | None = None
    counted = _Counted(file.members())
    for image, label in _samples(counted, wanted, path):
        first = first or image
        offsets.append(image.offset)
        lengths.append(image.length)
        labels.append(NO_LABEL if label is None else _label(file, label, path))
        num_meant += 1 + (label is not None)
    if first is None:
        raise WebDatasetError(f"{path}: no sample in it ({_said(wanted)}); take it out of the data folder")
    places, sizes, classes = (np.array(column, np.int64) for column in (offsets, lengths, labels))
    return TarSamples(places, sizes, classes, counted.num_files - num_meant, _codec(file, first))


class _Counted:
    """Members, of which files are counted on the way."""

    def __init__(self, members: Iterator[Member]) -> None:
        self._members = members
        self.num_files = 0

    def __iter__(self) -> Iterator[Member]:
        for member in self._members:
            self.num_files += member.is_file
            yield member


def _samples(members: _Counted, wanted: TarFormat, path: ShardPath) -> Iterator[_Sample]:
    """Image and label of each key, whose members stand side by side."""
    key: str | None = None
    found: dict[str, Member] = {}
    for member in members:
        mine, extension = _split(member.name)
        if mine is None:
            continue
        if mine != key:
            yield from _sample(found, wanted, path)
            key, found = mine, {}
        if extension in wanted.images or extension == wanted.label:
            _check_member(member, path)
            if extension in found:
                raise WebDatasetError(
                    f"{path}: {member.name!r} (header at byte {member.header_at}) is the second of its key and "
                    f"extension; give each sample a key of its own"
                )
            found[extension] = member
    yield from _sample(found, wanted, path)


def _split(name: str) -> tuple[str | None, str]:
    """Key and extension of a member's name; no key where it is not part of a sample."""
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not stem or not dot or _META.match(name):
        return None, ""
    return folder + slash + stem, extension.lower()


def _check_member(member: Member, path: ShardPath) -> None:
    if member.is_file and member.length:
        return
    kind = "a link" if member.is_link else "empty" if member.is_file else f"a member of type {member.kind!r}"
    raise WebDatasetError(
        f"{path}: {member.name!r} (header at byte {member.header_at}) is {kind}, not a file with bytes of its own; "
        f"write this tar of plain files (tar --dereference --hard-dereference)"
    )


def _sample(found: dict[str, Member], wanted: TarFormat, path: ShardPath) -> Iterator[_Sample]:
    images = [member for extension, member in found.items() if extension in wanted.images]
    label = found.get(wanted.label) if wanted.label is not None else None
    if len(images) == 1 and (label is not None or wanted.label is None):
        yield _Sample(images[0], label)
    elif len(images) > 1:
        raise WebDatasetError(
            f"{path}: {images[0].name!r} and {images[1].name!r} (header at byte {images[1].header_at}) are both the "
            f"image of one sample; name the one that is meant with fields=Fields(image='jpg')"
        )
    elif images:
        raise WebDatasetError(
            f"{path}: {images[0].name!r} (header at byte {images[0].header_at}) has no .{wanted.label} beside it; "
            f"members of a sample stand side by side (tar --sort=name): write the label, name it with "
            f"fields=Fields(label=...), or give label=None for none"
        )
    elif label is not None:
        raise WebDatasetError(
            f"{path}: {label.name!r} (header at byte {label.header_at}) has no image beside it "
            f"({', '.join('.' + name for name in wanted.images)}); members of a sample stand side by side "
            f"(tar --sort=name): write the image, or name it with fields=Fields(image=...)"
        )


def _label(file: TarFile, member: Member, path: ShardPath) -> int:
    text = file.read(min(member.length, _MAX_LABEL_BYTES + 1), member.offset)
    found = _LABEL.fullmatch(text) if member.length <= _MAX_LABEL_BYTES else None
    value = int(found[1]) if found else 1 << 63
    if not -(1 << 63) <= value < 1 << 63:
        raise WebDatasetError(
            f"{path}: {member.name!r} (byte {member.offset}) holds {text!r}, no whole number; write the class as one, "
            f"or give fields=Fields(label=None) for no label"
        )
    return value


def _codec(file: TarFile, image: Member) -> str:
    """How the first image is encoded, by its bytes; else by what it is called."""
    extension = _split(image.name)[1]
    kind = encoding_of(file.read(min(image.length, 4), image.offset))
    return kind.lower() if kind else _CODECS.get(extension, extension)


def _said(wanted: TarFormat) -> str:
    images = ", ".join("." + name for name in wanted.images)
    return f"an image ({images})" + ("" if wanted.label is None else f" and a .{wanted.label} with one key")
