"""The source that a path or an address names."""

from __future__ import annotations

from pathlib import Path

from ...loaders.discovery import find_image_folder
from ...loaders.remote import is_remote
from .local import LocalSource
from .objects import RemoteSource
from .place import StagingUsageError
from .source import Source


def open_source(source: str | Path) -> Source:
    """The source under a path, a glob, or an address; raises StagingError, or what finding shards raises."""
    if (root := find_image_folder(source)) is not None:
        raise StagingUsageError(
            f"{root}: folders of images, each a file of its own, which are not copied as they are; write shards of "
            f"them with `iobench convert {root} DST --format tfrecord-jpeg`"
        )
    if is_remote(source):
        return RemoteSource(str(source))
    return LocalSource(source)
