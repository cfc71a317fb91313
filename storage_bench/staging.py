"""The local copy: timed and verified, the baseline that reading in place has to beat.

    shard -> O_DIRECT or evicted reads, 8 MiB each -> digest on the way -> temporary name -> fdatasync -> rename
    then, timed apart: evict, read back, compare digests

`streams` shards are copied at once.  What is already there with the right size and digest is not copied again.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import ClassVar, TypeVar

import xxhash

from ..loaders.buffers import Buffer
from ..loaders.discovery import SHARD_SUFFIXES, find_shards, is_shard_name
from ..loaders.evidence import counter_for
from ..loaders.page_cache import evict
from ..loaders.readers import BufferedReader, DirectReader, Reader, direct_refused
from ..loaders.tensors import DESCRIPTION_NAME
from ..results.record import Metric, Point, not_measured, write_whole

Item = TypeVar("Item")
Result = TypeVar("Result")

BLOCK_BYTES = 8 << 20
SYS_BLOCK = Path("/sys/dev/block")
RESERVE_BYTES = 64 << 20
TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".iobench-", ".tmp"


class StagingError(ValueError):
    """The copy cannot be made, or is not what the source is."""

    exit_status: ClassVar[int] = 4


@dataclass(frozen=True, slots=True)
class StageResult:
    """What the copy took; `copied_bytes` excludes what was already there."""

    source: Path
    target: Path
    num_files: int
    total_bytes: int
    copied_bytes: int
    copy_s: float
    verify_s: float
    streams: int
    same_device: bool

    @property
    def copy_gbps(self) -> float | None:
        """Decimal GB/s of the copy; None where nothing had to be copied."""
        return self.copied_bytes / self.copy_s / 1e9 if self.copied_bytes else None


@dataclass(slots=True)
class _Copied:
    """One shard's copy: its digest, and how many bytes had to be written for it."""

    path: Path
    digest: str
    written_bytes: int


def on_same_device(source: Path, target: Path) -> bool:
    """Whether both lie on one file system or one disk: a copy between them proves nothing about another disk."""
    place = _existing_parent(target)
    if source.stat().st_dev == place.stat().st_dev:
        return True
    return bool(_disks(counter_for([source]).leaves) & _disks(counter_for([place]).leaves))


def _disks(leaves: Sequence[str]) -> set[str]:
    """The whole disks of block devices, by name: partitions of one disk, and volumes on them, share its heads."""
    nodes = ((SYS_BLOCK / leaf).resolve() for leaf in leaves)
    return {(node.parent if (node / "partition").exists() else node).name for node in nodes}


def room_for(total_bytes: int, target: Path) -> str | None:
    """Why `total_bytes` do not fit below `target`, or None; without its name, which may be nobody's business."""
    free = shutil.disk_usage(_existing_parent(target)).free
    if total_bytes + RESERVE_BYTES <= free:
        return None
    return (
        f"the copy needs {total_bytes / 1e6:.0f} MB and a reserve of {RESERVE_BYTES / 1e6:.0f} MB, "
        f"{free / 1e6:.0f} MB are free; name a folder on another disk"
    )


def stage(
    source: Path,
    target: Path,
    *,
    streams: int = 4,
    limit_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> StageResult:
    """Copy the shard set in `source` to the folder `target` and verify it; an interrupted copy goes on next time.

    With `limit_bytes` only as many whole shards as fit into it are copied: a sample, described as that.

    Raises StagingError where space is short, the target lies in the source, or a digest does not agree.
    """
    shards = find_shards(source)
    _check_names(shards, target)
    whole = len(shards)
    if limit_bytes is not None:
        shards = _first_shards(shards, limit_bytes)
    total = sum(path.stat().st_size for path in shards)
    digests = _digests(shards[0].parent)
    try:
        present = sum(path.stat().st_size for path in shards if _may_be_there(path, target, digests))
        if reason := room_for(total - present, target):
            raise StagingError(f"{target}: {reason}")
        target.mkdir(parents=True, exist_ok=True)
        _remove_temporaries(target)
    except OSError as error:
        raise StagingError(f"{target}: cannot be written ({error.strerror}); name another folder") from error
    run = _Run(target, digests, total, progress)
    begin = perf_counter()
    copied = run.in_threads(run.copy, shards, streams)
    copy_s = perf_counter() - begin
    begin = perf_counter()
    run.in_threads(run.verify, copied, streams)
    verify_s = perf_counter() - begin
    _copy_description(source, target, shards=None if len(shards) == whole else shards)
    written = sum(item.written_bytes for item in copied)
    same = on_same_device(shards[0], target)
    return StageResult(source, target, len(shards), total, written, copy_s, verify_s, streams, same)


def remove_stage(target: Path) -> None:
    """Delete a copy that was made for one run, whole or not: every file in `target`, and the folder."""
    if target.is_dir():
        for path in target.iterdir():
            path.unlink(missing_ok=True)
        target.rmdir()


def require_folder(target: Path) -> None:
    """Raise StagingError where no folder `target` can be made and written, before anything is measured for it."""
    place = _existing_parent(target)
    if not place.is_dir():
        raise StagingError(f"{target}: {place} is no folder; name another one")
    if not os.access(place, os.W_OK | os.X_OK):  # false on a read-only file system too, whoever asks
        raise StagingError(f"{target}: cannot be written ({place} is read-only for this user); name another folder")


def stage_point(result: StageResult) -> Point:
    """A copy in the record's form; one copy is one sample and has no interval."""
    rate = result.copy_gbps
    metrics = {"verify_time_s": Metric(value=result.verify_s, unit="s", n=1)}
    if rate is None:
        nothing = "every shard was there already, nothing had to be copied"
        metrics |= {"stage_time_s": not_measured("s", nothing), "read_gbps": not_measured("GB/s", nothing)}
    else:
        metrics["stage_time_s"] = Metric(value=result.copy_s, unit="s", n=1, samples=(result.copy_s,))
        metrics["read_gbps"] = Metric(value=rate, unit="GB/s", n=1)
    return Point(
        params={"stage": "stage", "streams": result.streams, "bytes": result.copied_bytes, "files": result.num_files},
        metrics=metrics,
    )


class _Run:
    """One copy on its way: threads, a stop flag and the count of bytes done."""

    def __init__(
        self, target: Path, digests: dict[str, str], total: int, progress: Callable[[int, int], None] | None
    ) -> None:
        self._target = target
        self._digests = digests
        self._total = total
        self._progress = progress
        self._done = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def in_threads(self, work: Callable[[Item], Result], items: Sequence[Item], streams: int) -> list[Result]:
        """Do `work` on all items, `streams` at once; the first error, or an interrupt, stops the others."""
        pool = ThreadPoolExecutor(streams, thread_name_prefix="iobench-stage")
        try:
            futures: list[Future[Result]] = [pool.submit(work, item) for item in items]
            for done in wait(futures, return_when=FIRST_EXCEPTION).done:
                done.result()  # raises the first error at once, while others are still at work
            return [future.result() for future in futures]
        except BaseException:
            self._stop.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def copy(self, shard: Path) -> _Copied:
        """Copy one shard under a temporary name, durable before it gets its own."""
        target = self._target / shard.name
        promised = self._digests.get(shard.name)
        size = shard.stat().st_size
        if promised and _may_be_there(shard, self._target, self._digests) and self._digest(target) == promised:
            self._count(size)
            return _Copied(target, promised, 0)
        temporary = self._target / f"{TEMPORARY_PREFIX}{shard.name}{TEMPORARY_SUFFIX}"
        try:
            digest = self._copy_bytes(shard, temporary, size)
            if promised and digest != promised:
                raise StagingError(
                    f"{shard}: its bytes do not have the digest of {DESCRIPTION_NAME}; generate it again"
                )
            os.replace(temporary, target)
        except OSError as error:
            raise StagingError(
                f"{target}: copying {shard} failed ({error.strerror}); make room or name another folder, shards that "
                f"are whole are not copied again"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
        return _Copied(target, digest, size)

    def verify(self, copied: _Copied) -> None:
        """Read one copy back from its device and compare digests; one that differs is removed."""
        evict([copied.path])
        if self._digest(copied.path) != copied.digest:
            copied.path.unlink()
            raise StagingError(
                f"{copied.path}: the copy did not read back as it was written and was removed; the target is unsound, "
                f"name another folder"
            )

    def _copy_bytes(self, shard: Path, temporary: Path, size: int) -> str:
        digest = xxhash.xxh3_128()
        buffer = Buffer(BLOCK_BYTES)
        reader = _cold_reader(shard)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            for offset in range(0, size, BLOCK_BYTES):
                part = self._read(reader, shard, offset, size, buffer)
                digest.update(part)
                _write_fully(fd, part)
                self._count(len(part))
            os.fdatasync(fd)
        finally:
            os.close(fd)
            reader.close()
        return digest.hexdigest()

    def _digest(self, path: Path) -> str:
        digest = xxhash.xxh3_128()
        buffer = Buffer(BLOCK_BYTES)
        reader = _cold_reader(path)
        size = path.stat().st_size
        try:
            for offset in range(0, size, BLOCK_BYTES):
                digest.update(self._read(reader, path, offset, size, buffer))
        finally:
            reader.close()
        return digest.hexdigest()

    def _read(self, reader: Reader, path: Path, offset: int, size: int, buffer: Buffer) -> memoryview:
        if self._stop.is_set():
            raise StagingError("stopped")
        need = min(BLOCK_BYTES, size - offset)
        reader.read(path, offset, buffer.memory, need=need)
        return buffer.memory[:need]

    def _count(self, num_bytes: int) -> None:
        with self._lock:
            self._done += num_bytes
            if self._progress is not None:
                self._progress(self._done, self._total)


def _cold_reader(sample: Path) -> Reader:
    return BufferedReader(evict_behind=True) if direct_refused(sample) else DirectReader()


def _write_fully(fd: int, part: memoryview) -> None:
    while part:
        part = part[os.write(fd, part) :]


def _first_shards(shards: Sequence[Path], limit_bytes: int) -> list[Path]:
    sizes = itertools.accumulate(path.stat().st_size for path in shards)
    chosen = [path for path, size in zip(shards, sizes, strict=True) if size <= limit_bytes]
    if not chosen:
        raise StagingError(f"{shards[0]}: one shard is larger than the {limit_bytes} bytes a copy may take")
    return chosen


def _check_names(shards: Sequence[Path], target: Path) -> None:
    """Every shard needs a name of its own in the target, which must not lie in a folder of the source."""
    folders = {path.resolve().parent for path in shards}
    if inside := sorted(folders & {target.resolve(), *target.resolve().parents}):
        raise StagingError(f"{target}: the target lies in the source {inside[0]}; name another folder")
    names = [path.name for path in shards]
    if odd := [name for name in names if not is_shard_name(name)]:
        raise StagingError(f"{odd[0]}: a copy of it would be no shard to anybody; name it {odd[0]}{SHARD_SUFFIXES[0]}")
    if len(set(names)) < len(names):
        raise StagingError(f"two shards of the source are named {max(names, key=names.count)}; stage them one by one")
    theirs, ours = target / DESCRIPTION_NAME, shards[0].parent / DESCRIPTION_NAME
    if theirs.is_file() and (not ours.is_file() or theirs.read_bytes() != ours.read_bytes()):
        raise StagingError(f"{target}: holds another data set; name another folder, or empty this one")
    if foreign := sorted({path.name for path in target.glob("*") if is_shard_name(path.name)} - set(names)):
        raise StagingError(f"{target / foreign[0]}: not a shard of {folders.pop()}; name another folder")


def _may_be_there(shard: Path, target: Path, digests: Mapping[str, str]) -> bool:
    """Whether the target holds a file that could be this shard, and there is a digest to tell."""
    copy = target / shard.name
    return shard.name in digests and copy.is_file() and copy.stat().st_size == shard.stat().st_size


def _digests(source: Path) -> dict[str, str]:
    """The digests dataset.json promises; none where there is no such file."""
    description = source / DESCRIPTION_NAME
    if not description.is_file():
        return {}
    try:
        return {str(row["name"]): str(row["xxh3_128"]) for row in json.loads(description.read_text())["shards"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StagingError(
            f"{description}: no digest of every shard ({type(error).__name__}: {error}); generate the data again"
        ) from error


def _copy_description(source: Path, target: Path, *, shards: Sequence[Path] | None) -> None:
    """The set's description, or with `shards` what it says of these alone."""
    if not (source / DESCRIPTION_NAME).is_file():
        return
    text = (source / DESCRIPTION_NAME).read_text()
    if shards is not None:
        document, names = json.loads(text), {path.name for path in shards}
        document["shards"] = [row for row in document["shards"] if row["name"] in names]
        document["num_images"] = sum(row["num_images"] for row in document["shards"])
        text = json.dumps(document, indent=1)
    write_whole(target / DESCRIPTION_NAME, text)


def _remove_temporaries(folder: Path) -> None:
    for path in folder.glob(f"{TEMPORARY_PREFIX}*{TEMPORARY_SUFFIX}"):
        path.unlink()


def _existing_parent(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
