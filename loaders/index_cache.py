"""Where an index is kept, and whether one that is kept is still true.

It is in `.iobench-index` beside the data, or in the user's cache where the folder cannot be written, and used as long
as names, sizes and times of the shards (of objects their etags, too), and what was asked of them, stay the same.  That
of objects is in the user's cache.  Of several processes that open a set at once one builds its index, and the others
wait for it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from .formats.fields import NO_LABEL
from .formats.ragged import Extents
from .formats.records import RecordLayout, ShardIndex, ShardStamp, first_records_of
from .index_build import Asked
from .index_file import Arrays, IndexCacheError, cache_folder, read_index_file, write_index_file
from .locking import locked

INDEX_NAME = ".iobench-index"


def kept_index(
    folder: Path | str, name: str, wanted: Asked, stamps: tuple[ShardStamp, ...]
) -> tuple[ShardIndex | None, str]:
    """The index that is kept and still true; else None, and what is wrong with the first that is kept ("": none is)."""
    reasons = []
    for location in index_locations(folder, name=name):
        try:
            header, arrays = read_index_file(location)
            cached = _unpack(header, arrays, location)
        except FileNotFoundError:
            continue
        except (IndexCacheError, OSError) as error:
            reasons.append(str(error))
            continue
        if header["wanted"] == _as_json(wanted) and cached.stamps == stamps:
            return cached, ""
        reasons.append(_difference(cached.stamps, stamps))
    return None, reasons[0] if reasons else ""


def index_locations(folder: Path | str, *, name: str = INDEX_NAME) -> tuple[Path, ...]:
    """Beside the data, and in the user's cache; without a home there is no cache.  Nothing is put beside objects."""
    beside = (folder / name,) if isinstance(folder, Path) else ()
    key = hashlib.blake2b(os.fsencode(folder.resolve() if isinstance(folder, Path) else folder), digest_size=16)
    cache = cache_folder()
    return beside if cache is None else (*beside, cache / "index" / f"{key.hexdigest()}{name}")


def index_name(wanted: Asked | None) -> str:
    """Where something particular is asked of the records, the index of that has a name of its own."""
    if wanted is None:
        return INDEX_NAME
    text = json.dumps(_as_json(wanted), sort_keys=True)
    return f"{INDEX_NAME}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


@contextmanager
def one_builder(folder: Path | str, *, name: str) -> Iterator[None]:
    """Of several processes of this user one after the other: the first builds the index, the others find it kept.

    Without a cache, or where it cannot be written, each builds for itself.
    """
    with ExitStack() as stack:
        if cache_folder() is not None:
            location = index_locations(folder, name=name)[-1]
            with suppress(OSError):
                location.parent.mkdir(parents=True, exist_ok=True)
                lock = location.with_name(f".{location.name}.lock")
                stack.enter_context(locked(lock, wait=True, doing=f"builds the index of {folder}"))
        yield


def save_index(
    index: ShardIndex,
    folder: Path | str,
    wanted: Asked,
    *,
    name: str = INDEX_NAME,
    status: str,
) -> ShardIndex:
    """Keep the index beside the data, else in the user's cache, else nowhere; `location` says where."""
    stored, where = keep_index(*_pack(index, wanted), folder, name=name, mode=_mode(folder, index))
    return replace(index, status=status + where, location=stored)


def keep_index(
    header: Mapping[str, Any], arrays: Arrays, folder: Path | str, *, name: str, mode: int
) -> tuple[Path | None, str]:
    """Write an index beside the data, else in the user's cache, else nowhere: the place, and a status's words on it."""
    for location in index_locations(folder, name=name):
        try:
            location.parent.mkdir(parents=True, exist_ok=True)
            write_index_file(location, header, arrays, mode=mode)
        except OSError:
            continue  # a folder that cannot be written; the status tells where it was kept instead
        return location, "" if location.parent == folder else " (kept in the cache)"
    return None, " (kept in memory only)"


def _mode(folder: Path | str, index: ShardIndex) -> int:
    """Who may read the shards may read their index, nobody else; who may read objects is not known here."""
    return (folder / index.stamps[0].name).stat().st_mode & 0o666 if isinstance(folder, Path) else 0o600


def _as_json(wanted: Asked) -> Any:
    """What was asked for, as a kept index repeats it."""
    asked = asdict(wanted) | {"kind": type(wanted).__name__, "digests": None}
    return json.loads(json.dumps(asked))


def _pack(index: ShardIndex, wanted: Asked) -> tuple[dict[str, Any], Arrays]:
    header = {
        "wanted": _as_json(wanted),
        "layout": asdict(index.layout),
        "layout_reason": index.layout_reason,
        "stamps": [asdict(stamp) for stamp in index.stamps],
        "shard_sizes": index.shard_sizes,
    }
    arrays: Arrays = {}
    if (index.labels != NO_LABEL).any():
        arrays["labels"] = index.labels
    if index.payload_offsets is not None:
        arrays["payload_offsets"] = index.payload_offsets
    if (extents := index.extents) is not None:
        arrays |= {"offsets": extents.offsets, "lengths": extents.lengths}
        arrays |= {} if extents.shapes is None else {"shapes": extents.shapes.ravel()}
        arrays |= {} if extents.fortran is None else {"fortran": extents.fortran}
    return header, arrays


def _unpack_extents(layout: RecordLayout, arrays: Arrays) -> Extents | None:
    if not layout.ragged:
        return None
    offsets, shapes = arrays["offsets"], arrays.get("shapes")
    rows = None if shapes is None else shapes.reshape(len(offsets), -1)
    return Extents(offsets, arrays["lengths"], layout.dtype, rows, arrays.get("fortran"))


def _unpack(header: dict[str, Any], arrays: Arrays, location: Path) -> ShardIndex:
    try:
        sizes = tuple(int(size) for size in header["shard_sizes"])
        fields = header["layout"]
        layout = RecordLayout(**{**fields, "shape": tuple(fields["shape"])})
        stamps = tuple(ShardStamp(**fields) for fields in header["stamps"])
        offsets = arrays.get("payload_offsets")
        labels = arrays["labels"] if "labels" in arrays else np.broadcast_to(np.int64(NO_LABEL), sum(sizes))
        reason = str(header["layout_reason"])
        index = ShardIndex(
            layout,
            stamps,
            sizes,
            first_records_of(sizes),
            labels,
            offsets,
            reason,
            "cached",
            location,
            _unpack_extents(layout, arrays),
        )
        agrees = "wanted" in header and _agrees(index)
    except Exception as error:
        raise IndexCacheError(f"{location.name} is damaged ({type(error).__name__})") from error
    if not agrees:
        raise IndexCacheError(f"{location.name} is damaged (counts do not agree)")
    return index


def _agrees(index: ShardIndex) -> bool:
    """Whether labels and places are as many as records, and lie inside the shards."""
    layout, offsets = index.layout, index.payload_offsets
    bounds = np.array([stamp.size_bytes for stamp in index.stamps], dtype=np.int64)
    counts = np.array(index.shard_sizes, dtype=np.int64)
    if index.labels.shape != (counts.sum(),) or len(counts) != len(bounds) or counts.min() < 1:
        return False
    if index.extents is not None:
        return offsets is None and layout.stride_bytes is None and index.extents.fits(index.shard_sizes, bounds)
    if layout.stride_bytes is not None:
        inside = 0 <= layout.payload_offset <= layout.stride_bytes - layout.payload_bytes
        return offsets is None and inside and bool((counts * layout.stride_bytes == bounds).all())
    if offsets is None or offsets.shape != index.labels.shape or layout.payload_offset:
        return False
    lowest = np.minimum.reduceat(offsets, index.first_records)
    highest = np.maximum.reduceat(offsets, index.first_records)
    return bool((lowest >= 0).all() and (highest + layout.payload_bytes <= bounds).all())


def _difference(cached: Sequence[ShardStamp], present: Sequence[ShardStamp]) -> str:
    if [stamp.name for stamp in cached] != [stamp.name for stamp in present]:
        return "the cached index is of other shards"
    changed = next((now.name for was, now in zip(cached, present, strict=True) if was != now), None)
    return f"{changed} has changed since it was indexed" if changed else "the cached index is of another description"
