"""The index: where every record lies, its label, and the proof of the layout that this follows from.

    TFRecords   each record is parsed, or spelled as one that was (layout.py)      ->  places of all pixels, labels
    tensors     dataset.json or the shape given, held against sizes and padding    ->  one stride, labels
    npz         directory, local headers and npy headers of each file (npz.py)     ->  extents, labels
    all pixels at one stride?   yes: `layout` says where they are      no: `payload_offsets` has each one's place

Samples that need not have one size (opaque TFRecords, npz) have `extents`: place, length and shape of each.

One stride lets a batch be a view of what was read; without it records are gathered.  `layout_reason` tells which and
why.  An index is kept in `.iobench-index` beside the data, or in the user's cache where the folder cannot be written,
and used as long as names, sizes and times of the shards, and what was asked of them, stay the same.  Objects on a
server are fetched one after the other, each as a temporary copy; etags stand beside times, and their index is in the
user's cache.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .fields import NO_LABEL, Fields, Shape, Wanted
from .index_file import Arrays, IndexCacheError, cache_folder, read_index_file, write_index_file
from .layout import LayoutProof, ShardLayout
from .npz import NPZ_SUFFIX, NpzError, NpzFormat, NpzSample, read_sample, verify_npz
from .objects import ObjectStat, fetched, stat_objects
from .plan import Indices
from .ragged import Extents
from .read_errors import naming
from .remote import RemotePath, ShardPath, folder_of
from .tensors import SUFFIX, TensorFormat, count_records, find_format, read_labels, verify_digest
from .tfrecord import FRAMING_BYTES, verify_payload_crc, walk_frames

INDEX_NAME = ".iobench-index"

Progress = Callable[[int, int], None]


class ShardFormatError(ValueError):
    """A shard is not what its name or the data set's description says."""

    exit_status: ClassVar[int] = 4


@dataclass(frozen=True, slots=True)
class RecordLayout:
    """One layout for every record of a set: `stride_bytes` from record to record, pixels at `payload_offset`.

    Where records do not lie at one stride it is None, `payload_offset` is 0, and the index has `payload_offsets`; where
    samples need not have one size, its `extents`, and `mean_bytes` stands for a sample's bytes wherever room is
    estimated.  `shape` is then (): there is none that all have.
    """

    stride_bytes: int | None
    payload_offset: int
    shape: tuple[int, ...]
    dtype: str
    mean_bytes: int | None = None

    @property
    def ragged(self) -> bool:
        """Whether samples need not have one size: batches are then lists."""
        return self.mean_bytes is not None

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return np.dtype(self.dtype).itemsize

    @property
    def payload_bytes(self) -> int:
        """Bytes of one record's pixels; on average where samples differ."""
        return math.prod(self.shape) * self.item_bytes if self.mean_bytes is None else self.mean_bytes

    @property
    def slot_bytes(self) -> int:
        """Bytes from record to record in a batch: the stride, or the pixels alone where there is none."""
        return self.payload_bytes if self.stride_bytes is None else self.stride_bytes


@dataclass(frozen=True, slots=True)
class ShardStamp:
    """What tells a shard from a changed one; only objects on a server have an `etag`, and not all of those."""

    name: str
    size_bytes: int
    mtime_ns: int
    etag: str = ""


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Every record of a set: shard k holds records first_records[k] .. first_records[k] + shard_sizes[k] - 1.

    `payload_offsets` (n,), exactly where the layout has no stride, is where in its shard each record's pixels start.
    """

    layout: RecordLayout
    stamps: tuple[ShardStamp, ...]
    shard_sizes: tuple[int, ...]
    first_records: Indices
    labels: npt.NDArray[np.int64]
    payload_offsets: npt.NDArray[np.int64] | None = None
    layout_reason: str = ""
    status: str = "built"
    location: Path | None = None
    extents: Extents | None = None

    @property
    def num_records(self) -> int:
        """Records of all shards."""
        return len(self.labels)

    @property
    def record_bytes(self) -> int:
        """Bytes on disk of one record, framing included; the mean where records differ."""
        return sum(stamp.size_bytes for stamp in self.stamps) // max(1, self.num_records)


def stamps_of(paths: Sequence[ShardPath]) -> tuple[ShardStamp, ...]:
    """Name, size and time of change of each shard; of objects, which are asked for together, also the etag."""
    objects = [path for path in paths if isinstance(path, RemotePath)]
    found = dict(zip(objects, stat_objects(objects), strict=True)) if objects else {}
    return tuple(_stamp(path, found) for path in paths)


def _stamp(path: ShardPath, found: Mapping[RemotePath, ObjectStat]) -> ShardStamp:
    if isinstance(path, RemotePath):
        return ShardStamp(path.name, found[path].size_bytes, found[path].mtime_ns, found[path].etag)
    status = path.stat()
    return ShardStamp(path.name, status.st_size, status.st_mtime_ns)


def load_index(
    paths: Sequence[ShardPath],
    *,
    fields: Fields | None = None,
    shape: Shape | None = None,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> ShardIndex:
    """The cached index where it is whole and still true, else a newly built one; `status` says which and why."""
    wanted = _wanted(paths, fields, shape, dtype)
    name = _index_name(None if (fields, shape, dtype) == (None, None, None) else wanted)
    stamps = stamps_of(paths)
    reasons = []
    for location in index_locations(folder_of(paths[0]), name=name):
        try:
            header, arrays = read_index_file(location)
            cached = _unpack(header, arrays, location)
        except FileNotFoundError:
            continue
        except (IndexCacheError, OSError) as error:
            reasons.append(str(error))
            continue
        if header["wanted"] == _as_json(wanted) and cached.stamps == stamps:
            return cached
        reasons.append(_difference(cached.stamps, stamps))
    built = _build(paths, stamps, wanted, progress)
    return save_index(
        built, folder_of(paths[0]), wanted, name=name, status=f"rebuilt: {reasons[0]}" if reasons else "built"
    )


def build_index(
    paths: Sequence[ShardPath],
    *,
    fields: Fields | None = None,
    shape: Shape | None = None,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> ShardIndex:
    """Walk and prove every shard; the errors name file, record and byte."""
    return _build(paths, stamps_of(paths), _wanted(paths, fields, shape, dtype), progress)


def verify_shards(paths: Sequence[ShardPath], index: ShardIndex, *, progress: Progress | None = None) -> int:
    """Check every record's or member's crc, or every tensor shard's digest; raises at the first wrong one.

    Returns the bytes read.  ShardFormatError where nothing was written down that bytes could be held against.
    """
    done, total = 0, sum(stamp.size_bytes for stamp in index.stamps)
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
        if progress is not None:
            progress(done, total)
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


def index_locations(folder: Path | str, *, name: str = INDEX_NAME) -> tuple[Path, ...]:
    """Beside the data, and in the user's cache; without a home there is no cache.  Nothing is put beside objects."""
    beside = (folder / name,) if isinstance(folder, Path) else ()
    key = hashlib.blake2b(os.fsencode(folder.resolve() if isinstance(folder, Path) else folder), digest_size=16)
    cache = cache_folder()
    return beside if cache is None else (*beside, cache / "index" / f"{key.hexdigest()}{name}")


def save_index(
    index: ShardIndex,
    folder: Path | str,
    wanted: Wanted | TensorFormat | NpzFormat,
    *,
    name: str = INDEX_NAME,
    status: str,
) -> ShardIndex:
    """Keep the index beside the data, else in the user's cache, else nowhere; `location` says where."""
    stored: Path | None = None
    header, arrays = _pack(index, wanted)
    for location in index_locations(folder, name=name):
        try:
            location.parent.mkdir(parents=True, exist_ok=True)
            write_index_file(location, header, arrays, mode=_mode(folder, index))
        except OSError:
            continue  # a folder that cannot be written; the status tells where it was kept instead
        stored = location
        break
    where = "" if stored and stored.parent == folder else f" (kept in {'the cache' if stored else 'memory only'})"
    return replace(index, status=status + where, location=stored)


def _mode(folder: Path | str, index: ShardIndex) -> int:
    """Who may read the shards may read their index, nobody else; who may read objects is not known here."""
    return (folder / index.stamps[0].name).stat().st_mode & 0o666 if isinstance(folder, Path) else 0o600


def _wanted(
    paths: Sequence[ShardPath], fields: Fields | None, shape: Shape | None, dtype: str | None
) -> Wanted | TensorFormat | NpzFormat:
    """What the records should be: tensor shards have no fields, TFRecords say their shape themselves, npz always."""
    if paths[0].suffix == NPZ_SUFFIX:
        if shape is not None or dtype is not None:
            raise ShardFormatError(f"{paths[0]}: an npz file says shape and dtype of its array itself; leave them out")
        return NpzFormat.of(fields)
    if paths[0].suffix != SUFFIX:
        return Wanted(fields or Fields(), shape, dtype or "uint8")
    if fields is not None:
        raise ShardFormatError(
            f"{paths[0]}: fields name features of TFRecords, a tensor shard has none; leave them out"
        )
    return find_format(paths, shape=shape, dtype=dtype)


def _build(
    paths: Sequence[ShardPath],
    stamps: tuple[ShardStamp, ...],
    wanted: Wanted | TensorFormat | NpzFormat,
    progress: Progress | None,
) -> ShardIndex:
    if isinstance(wanted, TensorFormat):
        return _build_tensors(paths, stamps, wanted, progress)
    if isinstance(wanted, NpzFormat):
        return _build_npz(paths, stamps, wanted, progress)
    proof = LayoutProof(wanted)
    found: list[ShardLayout] = []
    for number, path in enumerate(paths):
        with opened(path, stamps[number]) as fd:
            found.append(proof.prove(fd, walk_frames(fd, stamps[number].size_bytes, path=path), path=path))
        if progress is not None:
            progress(number + 1, len(paths))
    assert proof.first is not None  # there is at least one shard, and none without a record
    labels = np.concatenate([shard.labels for shard in found])
    sizes = tuple(len(shard.labels) for shard in found)
    offsets = np.concatenate([shard.payload_offsets for shard in found])
    if proof.wanted.fields.opaque:
        extents = Extents(offsets, np.concatenate([shard.payload_bytes for shard in found]))
        reason = f"opaque samples of {extents.said}, each proven on its record's bytes"
        return _ragged(stamps, sizes, labels, extents, reason)
    layout, reason = _common_layout(found, paths, proof.first.shape, wanted.dtype)
    if layout.stride_bytes is not None:
        return ShardIndex(layout, stamps, sizes, _first_records(sizes), labels, None, reason)
    return ShardIndex(layout, stamps, sizes, _first_records(sizes), labels, offsets, reason)


def _build_tensors(
    paths: Sequence[ShardPath], stamps: tuple[ShardStamp, ...], wanted: TensorFormat, progress: Progress | None
) -> ShardIndex:
    labels: list[npt.NDArray[np.int64]] = []
    for number, path in enumerate(paths):
        count = count_records(path, stamps[number].size_bytes, wanted)
        with opened(path, stamps[number]) as fd:
            labels.append(read_labels(fd, count, wanted, path=path))
        if progress is not None:
            progress(number + 1, len(paths))
    layout = RecordLayout(wanted.record_bytes, 0, wanted.shape, wanted.dtype)
    reason = (
        "constant stride, as dataset.json says; the padding of every record agrees"
        if wanted.labelled
        else "constant stride, from the shape and dtype given; headerless shards prove nothing but their size"
    )
    sizes = tuple(map(len, labels))
    return ShardIndex(layout, stamps, sizes, _first_records(sizes), np.concatenate(labels), None, reason)


def _build_npz(
    paths: Sequence[ShardPath], stamps: tuple[ShardStamp, ...], wanted: NpzFormat, progress: Progress | None
) -> ShardIndex:
    found: list[NpzSample] = []
    for number, path in enumerate(paths):
        with opened(path, stamps[number]) as fd:
            found.append(read_sample(fd, wanted, path=path))
        first, sample = found[0], found[-1]
        if (sample.dtype, len(sample.shape)) != (first.dtype, len(first.shape)):
            raise NpzError(
                f"{path}: its array is {sample.dtype} {sample.shape}, that of {paths[0].name} {first.dtype} "
                f"{first.shape}; a set has one dtype and number of dimensions: name those that go together with a glob"
            )
        if progress is not None:
            progress(number + 1, len(paths))
    offsets, lengths, _, shapes, fortran, labels = (np.array(column) for column in zip(*found, strict=True))
    extents = Extents(
        offsets, lengths, found[0].dtype, shapes.astype(np.int64), fortran.astype(np.int64) if fortran.any() else None
    )
    told = "labels are theirs" if (labels != NO_LABEL).any() else "without labels"
    reason = f"one stored array of {extents.said} in each file, {told}"
    return _ragged(stamps, (1,) * len(found), labels.astype(np.int64), extents, reason)


def _ragged(
    stamps: tuple[ShardStamp, ...],
    sizes: tuple[int, ...],
    labels: npt.NDArray[np.int64],
    extents: Extents,
    reason: str,
) -> ShardIndex:
    layout = RecordLayout(None, 0, (), extents.dtype, extents.mean_bytes)
    return ShardIndex(layout, stamps, sizes, _first_records(sizes), labels, None, reason, extents=extents)


def _common_layout(
    found: Sequence[ShardLayout], paths: Sequence[ShardPath], shape: Shape, dtype: str
) -> tuple[RecordLayout, str]:
    """One stride where all records have the same length, pixels at the same place, and elements at whole addresses."""
    stride = int(found[0].frames.lengths[0]) + FRAMING_BYTES
    place, item = int(found[0].payload_offsets[0]), np.dtype(dtype).itemsize
    apart = RecordLayout(None, 0, shape, dtype)
    for shard, path in zip(found, paths, strict=True):
        places = shard.payload_offsets - shard.frames.offsets
        other = (shard.frames.lengths != stride - FRAMING_BYTES) | (places != place)
        if other.any():
            number = int(other.argmax())
            length = int(shard.frames.lengths[number]) + FRAMING_BYTES
            mine = f"{length} bytes, its pixels from byte {places[number]} on"
            return apart, (
                f"varying stride: record {number} of {path.name} takes {mine}; record 0 of {paths[0].name} {stride}, "
                f"from byte {place} on"
            )
    if stride % item or place % item:
        return apart, f"records of {stride} bytes with pixels from byte {place} on do not keep {dtype} aligned"
    return RecordLayout(stride, place, shape, dtype), "constant stride, proven on the bytes"


def _first_records(sizes: Sequence[int]) -> Indices:
    return np.cumsum([0, *sizes[:-1]], dtype=np.int64)


@contextmanager
def opened(path: ShardPath, mark: ShardStamp) -> Iterator[int]:
    """A file descriptor of a shard; of an object as `mark` describes it that of a copy, which goes with the block."""
    if isinstance(path, RemotePath):
        with fetched(path, ObjectStat(mark.size_bytes, mark.etag, mark.mtime_ns)) as fd:
            yield fd
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with naming(path):
            yield fd
    finally:
        os.close(fd)


def _as_json(wanted: Wanted | TensorFormat | NpzFormat) -> Any:
    """What was asked for, as a kept index repeats it."""
    asked = asdict(wanted) | {"kind": type(wanted).__name__, "digests": None}
    return json.loads(json.dumps(asked))


def _index_name(wanted: Wanted | TensorFormat | NpzFormat | None) -> str:
    """Where something particular is asked of the records, the index of that has a name of its own."""
    if wanted is None:
        return INDEX_NAME
    text = json.dumps(_as_json(wanted), sort_keys=True)
    return f"{INDEX_NAME}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def _pack(index: ShardIndex, wanted: Wanted | TensorFormat | NpzFormat) -> tuple[dict[str, Any], Arrays]:
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
            _first_records(sizes),
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
