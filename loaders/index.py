"""The index: where every record lies, its label, and the proof that all records have one layout.

The layout is proven on the bytes, not assumed: record 0 of the set is parsed, and in every other record each byte
around the pixels must equal record 0's, but for the values that may differ (label, text, crc).  Equal structure bytes
mean an equal parse, so one stride and one payload offset hold for the whole set.

Kept in `.iobench-index.npz` beside the data, or in the user's cache where the folder cannot be written:
a JSON header (version, each shard's name, size and mtime, the layout) and the labels.  Nothing in it is unpickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .layout import prove_layout
from .plan import Indices
from .tfrecord import FRAMING_BYTES, verify_payload_crc, walk_frames

INDEX_NAME = ".iobench-index.npz"
INDEX_VERSION = 1


class IndexCacheError(ValueError):
    """A cached index is damaged; it is built again."""


class ShardFormatError(ValueError):
    """A shard is not what its name or the data set's description says."""

    exit_status: ClassVar[int] = 4


@dataclass(frozen=True, slots=True)
class RecordLayout:
    """One layout for every record of a set: `stride_bytes` from record to record, pixels at `payload_offset`."""

    stride_bytes: int | None
    payload_offset: int
    shape: tuple[int, int, int]
    dtype: str

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return np.dtype(self.dtype).itemsize

    @property
    def payload_bytes(self) -> int:
        """Bytes of one record's pixels."""
        height, width, channels = self.shape
        return height * width * channels * self.item_bytes

    @property
    def slot_bytes(self) -> int:
        """Bytes from record to record in a batch: the stride, or the pixels alone where there is none."""
        return self.payload_bytes if self.stride_bytes is None else self.stride_bytes


@dataclass(frozen=True, slots=True)
class ShardStamp:
    """What tells a shard from a changed one."""

    name: str
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Every record of a set: shard k holds records first_records[k] .. first_records[k] + shard_sizes[k] - 1."""

    layout: RecordLayout
    stamps: tuple[ShardStamp, ...]
    shard_sizes: tuple[int, ...]
    first_records: Indices
    labels: npt.NDArray[np.int64]
    payload_offsets: npt.NDArray[np.int64] | None = None
    status: str = "built"
    location: Path | None = None

    @property
    def num_records(self) -> int:
        """Records of all shards."""
        return len(self.labels)


def stamp(path: Path) -> ShardStamp:
    """The shard's name, size and time of change."""
    status = path.stat()
    return ShardStamp(path.name, status.st_size, status.st_mtime_ns)


def load_index(paths: Sequence[Path], *, progress: Callable[[int, int], None] | None = None) -> ShardIndex:
    """The cached index where it is whole and still true, else a newly built one; `status` says which and why."""
    stamps = tuple(stamp(path) for path in paths)
    reasons = []
    for location in index_locations(paths[0].parent):
        try:
            cached = _read(location)
        except FileNotFoundError:
            continue
        except (IndexCacheError, OSError) as error:
            reasons.append(str(error))
            continue
        if cached.stamps == stamps:
            return cached
        reasons.append(_difference(cached.stamps, stamps))
    built = build_index(paths, progress=progress)
    return save_index(built, paths[0].parent, status=f"rebuilt: {reasons[0]}" if reasons else "built")


def build_index(paths: Sequence[Path], *, progress: Callable[[int, int], None] | None = None) -> ShardIndex:
    """Walk and prove every shard; raises ShardFormatError or TFRecordError with file, record and offset."""
    stamps = tuple(stamp(path) for path in paths)
    layout: RecordLayout | None = None
    sizes: list[int] = []
    labels: list[npt.NDArray[np.int64]] = []
    for number, path in enumerate(paths):
        with _opened(path) as fd:
            found = prove_layout(fd, walk_frames(fd, stamps[number].size_bytes, path=path), path=path)
        mine = RecordLayout(found.stride_bytes, found.payload_offset, found.shape, "uint8")
        if layout is not None and mine != layout:
            raise ShardFormatError(f"{path}: its records are laid out as {mine}, those of {paths[0].name} as {layout}")
        layout = mine
        sizes.append(len(found.labels))
        labels.append(found.labels)
        if progress is not None:
            progress(number + 1, len(paths))
    assert layout is not None  # there is at least one shard
    firsts = np.cumsum([0, *sizes[:-1]], dtype=np.int64)
    return ShardIndex(layout, stamps, tuple(sizes), firsts, np.concatenate(labels))


def verify_shards(
    paths: Sequence[Path], index: ShardIndex, *, progress: Callable[[int, int], None] | None = None
) -> int:
    """Check the crc of every record's payload; returns the bytes read, raises at the first wrong one."""
    done, total = 0, sum(stamp.size_bytes for stamp in index.stamps)
    for path, count in zip(paths, index.shard_sizes, strict=True):
        stride = index.layout.stride_bytes
        offsets = np.arange(count, dtype=np.int64) * stride
        with _opened(path) as fd:
            verify_payload_crc(fd, offsets, np.full(count, stride - FRAMING_BYTES, dtype=np.int64), path=path)
        done += count * stride
        if progress is not None:
            progress(done, total)
    return done


def index_locations(folder: Path) -> tuple[Path, ...]:
    """Beside the data, and in the user's cache; without a home there is no cache."""
    beside = folder / INDEX_NAME
    key = hashlib.blake2b(os.fsencode(folder.resolve()), digest_size=16).hexdigest()
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return (beside,)
    return beside, cache / "iobench" / "index" / f"{key}.npz"


def save_index(index: ShardIndex, folder: Path, *, status: str) -> ShardIndex:
    """Keep the index beside the data, else in the user's cache, else nowhere; `location` says where."""
    stored: Path | None = None
    for location in index_locations(folder):
        try:
            location.parent.mkdir(parents=True, exist_ok=True)
            # who may read the shards may read their index, nobody else
            _write(index, location, mode=(folder / index.stamps[0].name).stat().st_mode & 0o666)
        except OSError:
            continue  # a folder that cannot be written; the status tells where it was kept instead
        stored = location
        break
    where = "" if stored and stored.parent == folder else f" (kept in {'the cache' if stored else 'memory only'})"
    return replace(index, status=status + where, location=stored)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _write(index: ShardIndex, location: Path, *, mode: int) -> None:
    header = {
        "version": INDEX_VERSION,
        "layout": asdict(index.layout),
        "stamps": [asdict(stamp) for stamp in index.stamps],
        "shard_sizes": index.shard_sizes,
    }
    handle, temporary = tempfile.mkstemp(prefix=".iobench-", suffix=".tmp", dir=location.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
            np.savez(file, header=text, labels=index.labels)
            file.flush()
            with suppress(OSError):  # a file system without modes
                os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, location)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(location: Path) -> ShardIndex:
    content = location.read_bytes()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            header: dict[str, Any] = json.loads(arrays["header"].tobytes())
            labels = arrays["labels"]
        if header["version"] != INDEX_VERSION:
            raise IndexCacheError(f"{location.name} has version {header['version']}, not {INDEX_VERSION}")
        sizes = tuple(int(size) for size in header["shard_sizes"])
        fields = header["layout"]
        layout = RecordLayout(**{**fields, "shape": tuple(fields["shape"])})
        stamps = tuple(ShardStamp(**fields) for fields in header["stamps"])
    except IndexCacheError:
        raise
    except Exception as error:
        raise IndexCacheError(f"{location.name} is damaged ({type(error).__name__})") from error
    expected = tuple(size * layout.stride_bytes for size in sizes)
    if (
        labels.dtype != np.int64
        or labels.shape != (sum(sizes),)
        or expected != tuple(stamp.size_bytes for stamp in stamps)
        or layout.payload_offset + layout.payload_bytes > layout.stride_bytes
    ):
        raise IndexCacheError(f"{location.name} is damaged (counts do not agree)")
    firsts = np.cumsum([0, *sizes[:-1]], dtype=np.int64)
    return ShardIndex(layout, stamps, sizes, firsts, labels, status="cached", location=location)


def _difference(cached: Sequence[ShardStamp], present: Sequence[ShardStamp]) -> str:
    if [stamp.name for stamp in cached] != [stamp.name for stamp in present]:
        return "the cached index is of other shards"
    changed = next(now.name for was, now in zip(cached, present, strict=True) if was != now)
    return f"{changed} has changed since it was indexed"
