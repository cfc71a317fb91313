"""A tree of folders with an image in each file, in the order of torchvision's ImageFolder.

    root/cat/1.jpg, root/cat/more/2.png, root/dog/3.jpeg ...        a folder right under the root is a class

    classes    names of the folders under the root, sorted; hidden ones, too
    files      of each class by their folder's path, then by name; names that end in IMAGE_SUFFIXES, in any case

Files right under the root, and files that are called otherwise, are left out.  What is kept of 1.3 million files are
arrays: no Python object for each of them.  Source: torchvision.datasets.folder (`find_classes`, `make_dataset`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from stat import S_ISREG
from typing import ClassVar, NamedTuple, overload

import numpy as np

from ..plan import Indices

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SCAN_THREADS = 8  # on a file system over a network each status is a round trip
_MAX_SPREAD = 1024  # files that stand for all of them


class ImageFolderError(ValueError):
    """A tree of images that is not as ImageFolder wants it, or cannot be read whole."""

    exit_status: ClassVar[int] = 4


class ImageFolderUsageError(ImageFolderError):
    """A tree of images is asked to be read as what it is not."""

    exit_status = 2


class Folder(NamedTuple):
    """One folder of the tree: its path from the root, its time of change, and the images right in it.

    `names` holds their names one behind the other, `ends` where in it each one ends, `lengths` the files' bytes.
    """

    path: str
    mtime_ns: int
    names: bytes
    ends: Indices
    lengths: Indices


class ImageFiles(Sequence[Path]):
    """The images of a tree by their number; a path is made when it is asked for."""

    def __init__(self, root: Path, folders: Sequence[str], counts: Indices, names: bytes, ends: Indices) -> None:
        self.root = root
        self._prefixes = [os.path.join(root, folder, "") for folder in folders]
        self._firsts = np.cumsum(counts) - counts
        self._names = names
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, number: int) -> Path: ...
    @overload
    def __getitem__(self, number: slice) -> list[Path]: ...
    def __getitem__(self, number: int | slice) -> Path | list[Path]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(f"image {number} is not one of {len(self)}")
        number %= len(self)
        start, end = int(self._ends[number - 1]) if number else 0, int(self._ends[number])
        folder = int(np.searchsorted(self._firsts, number, side="right")) - 1
        return Path(self._prefixes[folder] + os.fsdecode(self._names[start:end]))

    def spread(self, most: int = _MAX_SPREAD) -> list[Path]:
        """At most so many of them, evenly spread."""
        return self[:: max(1, -(-len(self) // most))]

    def of_each_device(self) -> list[Path]:
        """A file of every device that one of those `spread` lies on."""
        return list({os.stat(path).st_dev: path for path in self.spread()}.values())


def is_image_name(name: str) -> bool:
    """Whether torchvision takes a file of this name for an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def find_classes(root: Path) -> list[str]:
    """Names of the folders right under the root, sorted."""
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def scan(
    root: Path, classes: Sequence[str], *, progress: Callable[[int, int], None] | None = None
) -> Iterator[list[Folder]]:
    """The folders of each class, in the order of their images; ImageFolderError where a class has none."""
    with ThreadPoolExecutor(SCAN_THREADS, thread_name_prefix="iobench-scan") as threads:
        try:
            for number, folders in enumerate(threads.map(lambda name: _scan_class(root, name), classes)):
                yield folders
                if progress is not None:
                    progress(number + 1, len(classes))
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _scan_class(root: Path, name: str) -> list[Folder]:
    found = sorted(_walk(root, name), key=lambda folder: folder.path)
    if not any(len(folder.ends) for folder in found):
        raise ImageFolderError(
            f"{root / name}: no image in this class ({', '.join(IMAGE_SUFFIXES)}); a folder without shards is read as "
            f"torchvision's ImageFolder, each folder in it a class: take this one out, or put its images there"
        )
    return found


def _walk(root: Path, top: str) -> Iterator[Folder]:
    """A folder and all below, in no order; links to folders are followed."""
    left: list[tuple[str, tuple[tuple[int, int], ...]]] = [(top, ())]  # with the folders above each
    while left:
        path, above = left.pop()
        status = os.stat(root / path)  # before its entries: what comes later makes it another time
        mine = (status.st_dev, status.st_ino)
        if mine in above:
            raise ImageFolderError(f"{root / path}: a link to a folder that it lies in; take the link out")
        images: list[tuple[str, int]] = []
        with os.scandir(root / path) as entries:
            for entry in entries:
                if entry.is_dir():
                    left.append((f"{path}/{entry.name}", (*above, mine)))
                elif is_image_name(entry.name):
                    images.append((entry.name, _size(entry)))
        yield _folder(path, status.st_mtime_ns, sorted(images))


def _folder(path: str, mtime_ns: int, images: Sequence[tuple[str, int]]) -> Folder:
    names = [os.fsencode(name) for name, _ in images]
    ends = np.cumsum([len(name) for name in names], dtype=np.int64)
    return Folder(path, mtime_ns, b"".join(names), ends, np.array([size for _, size in images], np.int64))


def _size(entry: os.DirEntry[str]) -> int:
    try:
        status = entry.stat()
    except OSError as error:
        raise ImageFolderError(
            f"{entry.path}: cannot be looked up ({error.strerror}); a link to a file that is gone? take it out"
        ) from error
    if not S_ISREG(status.st_mode) or not status.st_size:
        what = "an empty file" if S_ISREG(status.st_mode) else "a pipe, socket or device"
        raise ImageFolderError(f"{entry.path}: {what} with an image's name; take it out of the tree, or copy it again")
    return status.st_size
