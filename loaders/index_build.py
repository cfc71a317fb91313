"""Build an index: each format's shards walked and proven, and what they have in common.

    TFRecords   walk_frames -> LayoutProof -> one stride, or places, or extents of opaque samples
    tensors     dataset.json or what is given -> one stride
    npz         headers of each file -> extents
    tars        headers of each member -> extents of encoded images

Errors are those of the format, at the first shard that is not as it should be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from .formats.fields import NO_LABEL, Fields, Shape, Wanted
from .formats.layout import LayoutProof, ShardLayout
from .formats.npz import NPZ_SUFFIX, NpzError, NpzFormat, NpzSample, read_sample
from .formats.ragged import Extents
from .formats.records import RecordLayout, ShardFormatError, ShardIndex, ShardStamp, first_records_of, opened
from .formats.tensors import SUFFIX, TensorFormat, count_records, find_format, read_labels
from .formats.tfrecord import FRAMING_BYTES, walk_frames
from .formats.webdataset import TAR_SUFFIX, TarFormat, TarSamples, read_samples
from .remote import ShardPath

Asked = Wanted | TensorFormat | NpzFormat | TarFormat
Progress = Callable[[int, int], None]


def asked_of(paths: Sequence[ShardPath], fields: Fields | None, shape: Shape | None, dtype: str | None) -> Asked:
    """What the records should be: tensor shards have no fields, TFRecords say their shape themselves, npz always.

    Images in tars are encoded, and say it too.
    """
    if paths[0].suffix == NPZ_SUFFIX:
        if shape is not None or dtype is not None:
            raise ShardFormatError(f"{paths[0]}: an npz file says shape and dtype of its array itself; leave them out")
        return NpzFormat.of(fields)
    if paths[0].suffix == TAR_SUFFIX:
        if shape is not None or dtype is not None:
            raise ShardFormatError(f"{paths[0]}: images in a tar say their shape themselves; leave shape and dtype out")
        return TarFormat.of(fields)
    if paths[0].suffix != SUFFIX:
        return Wanted(fields or Fields(), shape, dtype or "uint8")
    if fields is not None:
        raise ShardFormatError(
            f"{paths[0]}: fields name features of TFRecords, a tensor shard has none; leave them out"
        )
    return find_format(paths, shape=shape, dtype=dtype)


def build(
    paths: Sequence[ShardPath],
    stamps: tuple[ShardStamp, ...],
    wanted: Asked,
    progress: Progress | None,
) -> ShardIndex:
    """Walk and prove every shard; raises the format's own error at the first that is not as asked."""
    if isinstance(wanted, TensorFormat):
        return _build_tensors(paths, stamps, wanted, progress)
    if isinstance(wanted, NpzFormat):
        return _build_npz(paths, stamps, wanted, progress)
    if isinstance(wanted, TarFormat):
        return _build_tars(paths, stamps, wanted, progress)
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
        what = "opaque samples" if proof.codec is None else f"encoded images ({proof.codec})"
        reason = f"{what} of {extents.said}, each proven on its record's bytes"
        return _ragged(stamps, sizes, labels, extents, reason, codec=proof.codec)
    layout, reason = _common_layout(found, paths, proof.first.shape, wanted.dtype)
    if layout.stride_bytes is not None:
        return ShardIndex(layout, stamps, sizes, first_records_of(sizes), labels, None, reason)
    return ShardIndex(layout, stamps, sizes, first_records_of(sizes), labels, offsets, reason)


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
    return ShardIndex(layout, stamps, sizes, first_records_of(sizes), np.concatenate(labels), None, reason)


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


def _build_tars(
    paths: Sequence[ShardPath], stamps: tuple[ShardStamp, ...], wanted: TarFormat, progress: Progress | None
) -> ShardIndex:
    found: list[TarSamples] = []
    for number, path in enumerate(paths):
        with opened(path, stamps[number]) as fd:
            found.append(read_samples(fd, stamps[number].size_bytes, wanted, path=path))
        if progress is not None:
            progress(number + 1, len(paths))
    offsets, lengths, labels = (np.concatenate([shard[column] for shard in found]) for column in range(3))
    extents, codec = Extents(offsets, lengths), None if wanted.opaque else found[0].codec
    what = "opaque samples" if codec is None else f"encoded images ({codec})"
    told = "without labels" if wanted.label is None else f"labels from .{wanted.label}"
    reason = f"{what} of {extents.said} in tars, {told}; {sum(shard.num_left_out for shard in found)} members left out"
    return _ragged(stamps, tuple(len(shard.labels) for shard in found), labels, extents, reason, codec=codec)


def _ragged(
    stamps: tuple[ShardStamp, ...],
    sizes: tuple[int, ...],
    labels: npt.NDArray[np.int64],
    extents: Extents,
    reason: str,
    *,
    codec: str | None = None,
) -> ShardIndex:
    layout = RecordLayout(None, 0, (), extents.dtype, extents.mean_bytes, codec)
    return ShardIndex(layout, stamps, sizes, first_records_of(sizes), labels, None, reason, extents=extents)


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
