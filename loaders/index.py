"""The index: where every record lies, its label, and the proof of the layout that this follows from.

    TFRecords   each record is parsed, or spelled as one that was (layout.py)      ->  places of all pixels, labels
    tensors     dataset.json or the shape given, held against sizes and padding    ->  one stride, labels
    npz         directory, local headers and npy headers of each file (npz.py)     ->  extents, labels
    tars        header by header (tar.py), images, labels by key (webdataset.py)   ->  extents, labels
    all pixels at one stride?   yes: `layout` says where they are      no: `payload_offsets` has each one's place

Samples that need not have one size (opaque TFRecords, npz, images) have `extents`: place, length and shape of each.

One stride lets a batch be a view of what was read; without it records are gathered.  `layout_reason` tells which and
why.  Objects on a server are fetched one after the other, each as a temporary copy.  What was built is kept
(index_cache.py), and held against the bytes where asked to (verify.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from .formats.fields import Fields, Shape
from .formats.records import RecordLayout, ShardFormatError, ShardIndex, stamps_of
from .index_build import Progress, asked_of, build
from .index_cache import INDEX_NAME, index_locations, index_name, kept_index, one_builder, save_index
from .remote import ShardPath, folder_of
from .verify import verify_shards

__all__ = [
    "INDEX_NAME",
    "Progress",
    "RecordLayout",
    "ShardFormatError",
    "ShardIndex",
    "build_index",
    "index_locations",
    "load_index",
    "save_index",
    "verify_shards",
]


def load_index(
    paths: Sequence[ShardPath],
    *,
    fields: Fields | None = None,
    shape: Shape | None = None,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> ShardIndex:
    """The cached index where it is whole and still true, else a newly built one; `status` says which and why."""
    wanted, folder = asked_of(paths, fields, shape, dtype), folder_of(paths[0])
    name = index_name(None if (fields, shape, dtype) == (None, None, None) else wanted)
    stamps = stamps_of(paths)
    kept, _ = kept_index(folder, name, wanted, stamps)
    if kept is not None:
        return kept
    with one_builder(folder, name=name):
        kept, reason = kept_index(folder, name, wanted, stamps)  # who was before us may have built it
        if kept is not None:
            return kept
        built = build(paths, stamps, wanted, progress)
        return save_index(built, folder, wanted, name=name, status=f"rebuilt: {reason}" if reason else "built")


def build_index(
    paths: Sequence[ShardPath],
    *,
    fields: Fields | None = None,
    shape: Shape | None = None,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> ShardIndex:
    """Walk and prove every shard; the errors name file, record and byte."""
    return build(paths, stamps_of(paths), asked_of(paths, fields, shape, dtype), progress)
