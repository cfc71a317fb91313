"""Shards held against what was written down of their bytes: a crc of each record or member, a digest of each file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .formats.npz import NPZ_SUFFIX, verify_npz
from .formats.records import ShardFormatError, ShardIndex, opened
from .formats.tensors import SUFFIX, find_format, verify_digest
from .formats.tfrecord import verify_payload_crc, walk_frames
from .formats.webdataset import TAR_SUFFIX
from .index_build import Progress
from .remote import ShardPath


def verify_shards(paths: Sequence[ShardPath], index: ShardIndex, *, progress: Progress | None = None) -> int:
    """Check every record's or member's crc, or every tensor shard's digest; raises at the first wrong one.

    Returns the bytes read.  ShardFormatError where nothing was written down that bytes could be held against.
    """
    if paths[0].suffix == TAR_SUFFIX or (index.extents is not None and index.extents.files):
        what = "tars hold no checksum of their members' bytes" if paths[0].suffix == TAR_SUFFIX else "files hold none"
        raise ShardFormatError(
            f"{paths[0]}: there is nothing to verify against: {what}; leave --verify out (reading decodes every image)"
        )
    done = looked_at = 0
    total = sum(stamp.size_bytes for stamp in index.stamps)
    digests = _digests_of(paths, index) if paths[0].suffix == SUFFIX else {}
    for number, (path, mark) in enumerate(zip(paths, index.stamps, strict=True)):
        with opened(path, mark) as fd:
            if path.suffix == SUFFIX:
                done += verify_digest(fd, digests.get(path.name), path=path)
            elif path.suffix == NPZ_SUFFIX:
                done += verify_npz(fd, sample=number, path=path)
            else:
                verify_payload_crc(fd, *walk_frames(fd, mark.size_bytes, path=path), path=path)
                done += mark.size_bytes
        looked_at += mark.size_bytes
        if progress is not None:
            progress(looked_at, total)
    return done


def _digests_of(paths: Sequence[ShardPath], index: ShardIndex) -> Mapping[str, str]:
    height, width, channels = index.layout.shape
    digests = find_format(paths, shape=(height, width, channels), dtype=index.layout.dtype).digests
    if not digests:
        raise ShardFormatError(
            f"{paths[0]}: there is nothing to verify against: headerless tensor shards hold no checksum; take a set "
            f"with a dataset.json, or leave --verify out"
        )
    return digests
