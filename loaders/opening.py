"""From what a user names to what is read: files of shards or of images, and their index.

path | glob | address | list -> discovery: shards, or an image folder -> plain copies of compressed ones -> index
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .discovery import ShardSource, find_image_folder, find_shards
from .formats.compressed import plain_shards
from .formats.fields import Fields, Shape
from .formats.image_index import open_image_folder
from .index import Progress, ShardIndex, load_index
from .remote import ShardPath


def open_index(
    source: ShardSource,
    *,
    fields: Fields | None = None,
    shape: Shape | None = None,
    dtype: str | None = None,
    progress: Progress | None = None,
    anew: bool = False,
) -> tuple[Sequence[ShardPath], ShardIndex]:
    """The files to read and their index; of compressed shards these are plain copies, which the status says.

    With `anew` an image folder's tree is walked again, whatever its kept index says.
    """
    if (root := find_image_folder(source)) is not None:
        return open_image_folder(root, fields=fields, shape=shape, dtype=dtype, anew=anew, progress=progress)
    paths, said = plain_shards(find_shards(source), progress=progress)
    index = load_index(paths, fields=fields, shape=shape, dtype=dtype, progress=progress)
    return paths, replace(index, status=f"{index.status}; {said}") if said else index
