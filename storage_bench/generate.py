"""Data with known content: TFRecord or tensor shards whose every byte can be computed again from (seed, index).

    (seed, index) -> random stream -> word 0: label     words 1 ...: pixels, class patch set in the middle
                                        |                   |
    record   see forms.py: a framed tf.Example, or pixels and label alone
    shard    | record | record | ...
    folder   train-00000-of-00008.tfrecord (or .tensors) ...  dataset.json

Pixels do not compress and no block comes twice, so storage that compresses or deduplicates gains nothing.  The label is
a function of the pixels: the top bits of a centred square spell one of ten 4x4 patterns, 8 of 16 cells apart pairwise.

Threads fill 4 MiB buffers some way ahead; the caller's thread hashes them in order while one more writes, past the
page cache (O_DIRECT) where the file system has it: several times faster than write-back, and nothing stays cached.
Shards keep a temporary name until the last one is on the disk; dataset.json comes last and says that all are whole.
"""

from __future__ import annotations

import errno
import fcntl
import math
import mmap
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from threading import Event
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from ..results.record import Model, write_whole
from .forms import ALIGNMENT_BYTES, Form, FormatName, record_form

NUM_CLASSES = 10
GENERATOR = "iobench 1"
DESCRIPTION = "dataset.json"

_CHUNK_BYTES = 4 << 20
_SYNC_BYTES = 64 << 20  # bounds the wait in fsync, and so the answer to Ctrl-C, where writes go through the page cache
_RESERVE_BYTES = 64 << 20
_SHARD_NAME = re.compile(r"train-\d{5,}-of-\d{5,}\.(tfrecord|tensors)")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# Rows 1 to 10 of the 16x16 Walsh-Hadamard matrix: any two differ in 8 of 16 places.
_CODES = np.array([[(row & cell).bit_count() & 1 for cell in range(16)] for row in range(1, NUM_CLASSES + 1)], np.uint8)

Progress = Callable[[int, int], None]


class GenerateError(RuntimeError):
    """The data set cannot be written: no space, no permission, a disk that fails."""

    exit_status: ClassVar[int] = 4


class GenerateUsageError(GenerateError):
    """What was asked for would overwrite or mix with something else."""

    exit_status: ClassVar[int] = 2


class Generate(Model):
    """What to generate: `num_images` of `size` x `size` x 3 bytes."""

    num_images: int = Field(gt=0, lt=10**12)
    size: int = Field(default=300, ge=8, le=4096)
    images_per_shard: int = Field(default=256, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**63)
    format: FormatName = "tfrecord"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image: height, width, channels."""
        return self.size, self.size, 3


class ShardFile(Model):
    """One shard as it was written, and the digest of its bytes."""

    name: str
    num_images: int
    bytes: int
    xxh3_128: str


class Dataset(Model):
    """What dataset.json says about the folder it lies in."""

    format: FormatName
    shape: tuple[int, int, int]
    dtype: Literal["uint8"]
    num_images: int
    seed: int
    images_per_shard: int
    num_classes: int
    record_bytes: int
    generator: str
    shards: tuple[ShardFile, ...]


def sample_label(seed: int, index: int) -> int:
    """The class of image `index`, 0 to 9."""
    return int(_stream(seed, index).random_raw() % NUM_CLASSES)


def sample_pixels(seed: int, index: int, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Image `index` alone, uint8 (height, width, channels), as it stands in its record."""
    return _draw(seed, index, shape)[0]


def label_of_pixels(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The class that the pixels of each image (..., H, W, C) spell, int64 (...); of a single image a scalar."""
    patch = images[(..., *_patch(images.shape[-3:]), slice(None))] >> 7
    ones = patch.reshape(*patch.shape[:-3], -1).astype(np.float32)
    patterns = _patterns(*patch.shape[-2:]).reshape(NUM_CLASSES, -1) / np.float32(64) - 1
    return np.asarray(np.argmax(ones @ patterns.T, axis=-1), np.int64)[()]


def _stream(seed: int, index: int) -> np.random.SFC64:
    # A spawn key keeps (seed, index) pairs apart whatever their sizes; raw words are the same in every numpy (NEP 19).
    return np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(index,)))


def _draw(seed: int, index: int, shape: tuple[int, int, int]) -> tuple[NDArray[np.uint8], int]:
    num_bytes = math.prod(shape)
    words = _stream(seed, index).random_raw(1 + -(-num_bytes // 8)).astype("<u8", copy=False)
    label = int(words[0] % NUM_CLASSES)
    image: NDArray[np.uint8] = words[1:].view(np.uint8)[:num_bytes].reshape(shape)
    patch = image[_patch(shape)]
    patch &= 0x7F
    patch |= _patterns(*patch.shape[1:])[label]
    return image, label


def _patch(shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of the centred square that carries the class."""
    side = min(32, min(shape[:2]) // 2)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    return slice(top, top + side), slice(left, left + side)


@lru_cache(maxsize=8)
def _patterns(side: int, channels: int) -> NDArray[np.uint8]:
    """The top bits of each class's square, 0 or 128, (classes, side, side, channels)."""
    cell = np.arange(side) * 4 // side
    bits = _CODES.reshape(NUM_CLASSES, 4, 4)[:, cell[:, None], cell] * np.uint8(128)
    return np.repeat(bits[..., None], channels, axis=-1)


def record_bytes(config: Generate) -> int:
    """Bytes of one record on disk, framing included; `num_images` times this is what a data set takes."""
    return len(record_form(config.format, config.shape).record)


def read_dataset(folder: Path) -> Dataset:
    """What the folder's dataset.json says; GenerateError where it is damaged or of another kind."""
    path = folder / DESCRIPTION
    try:
        return Dataset.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the document"
        raise GenerateError(f"{path}: {field}: {first['msg']}; generate with --force to write it again") from error


def find_dataset(folder: Path, config: Generate) -> Dataset | None:
    """The data set of `config` if the folder holds it whole, None if the folder holds no dataset.json.

    Another data set there is a GenerateUsageError, a shard that is missing or of another size a GenerateError.
    Digests are not read again: `index --verify` does that.
    """
    if not (folder / DESCRIPTION).exists():
        return None
    found, planned = read_dataset(folder), _describe(config, ())
    for name, value in planned.model_dump(exclude={"shards"}).items():
        if getattr(found, name) != value:
            raise GenerateUsageError(
                f"{folder}: holds a data set with {name} = {getattr(found, name)}, asked for is {value}; "
                f"give another folder, ask for what is there, or --force to replace it"
            )
    for shard in found.shards:
        path = folder / shard.name
        size_bytes = path.stat().st_size if path.exists() else None
        if size_bytes != shard.bytes:
            state = "is missing" if size_bytes is None else f"has {size_bytes} bytes instead of {shard.bytes}"
            raise GenerateError(f"{path}: this shard {state}; generate with --force to write the data set again")
    return found


def _describe(config: Generate, shards: tuple[ShardFile, ...]) -> Dataset:
    return Dataset(
        format=config.format,
        shape=config.shape,
        dtype="uint8",
        num_images=config.num_images,
        seed=config.seed,
        images_per_shard=config.images_per_shard,
        num_classes=NUM_CLASSES,
        record_bytes=record_bytes(config),
        generator=GENERATOR,
        shards=shards,
    )


def generate(
    folder: Path,
    config: Generate,
    *,
    progress: Progress | None = None,
    num_threads: int | None = None,
    force: bool = False,
) -> Dataset:
    """Write the data set into an empty or new folder, or find it there already, and return its description.

    `progress(done_bytes, total_bytes)` is called as each chunk goes to the disk.  `force` replaces an older data set,
    which stays until the new one is whole.  Whatever ends the call early, Ctrl-C included, removes all that it made.
    GenerateUsageError: the folder holds something else.  GenerateError: no space, no permission, a failing disk.
    """
    try:
        if not force and (found := find_dataset(folder, config)):
            return found
        with _prepared(folder):
            replaced = _replaceable(folder, force=force)
            _check_space(folder, config)
            return _write(folder, config, replaced, progress, num_threads or _spare_cpus())
    except OSError as error:
        if error.errno in _NO_SPACE:
            rule = f"no space left ({error.strerror}); free some or ask for fewer images"
        else:
            rule = f"cannot write {error.filename or 'here'} ({error.strerror}); give a folder that can be written"
        raise GenerateError(f"{folder}: {rule}; what this run wrote has been removed") from error


def _spare_cpus() -> int:
    return min(8, max(1, len(os.sched_getaffinity(0)) - 1))  # one is left to hash and write


@contextmanager
def _prepared(folder: Path) -> Iterator[None]:
    """Make the folder, hold it against a second writer, sweep up after a killed one; unmake it if the body fails."""
    if folder.exists() and not folder.is_dir():
        raise GenerateUsageError(f"{folder}: is a file; give a folder")
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _lock(folder, handle)
            for stale in folder.glob(".iobench-*.tmp"):
                stale.unlink()
            yield
        finally:
            os.close(handle)
    except BaseException:
        for path in missing:
            with suppress(OSError):
                path.rmdir()
        raise


def _lock(folder: Path, handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise GenerateError(
            f"{folder}: another process is generating here; wait for it or give another folder"
        ) from None
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise  # these say that the file system (NFS, some FUSE) cannot lock a folder


def _replaceable(folder: Path, *, force: bool) -> list[Path]:
    """The files of an older data set; anything else in the folder is refused."""
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    ours = [path for path in visible if path.name == DESCRIPTION or _SHARD_NAME.fullmatch(path.name)]
    foreign = [path.name for path in visible if path not in ours]
    if foreign:
        raise GenerateUsageError(f"{folder}: holds {foreign[0]!r}, which is no generated data; give an empty folder")
    if ours and not force:
        raise GenerateUsageError(
            f"{folder}: holds {ours[0].name!r} but no {DESCRIPTION}, which comes last and says that all is whole; "
            f"give an empty folder, or --force to replace these {len(ours)} files"
        )
    return ours


def _check_space(folder: Path, config: Generate) -> None:
    total = config.num_images * record_bytes(config)
    needed = total + max(total // 50, _RESERVE_BYTES)
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free < needed:  # a total of 0 means that the file system does not tell
        raise GenerateError(
            f"{folder}: {config.num_images} images take {total} bytes, with a reserve {needed} bytes are needed and "
            f"{disk.free} bytes are free; free some or ask for fewer images"
        )


def _write(
    folder: Path, config: Generate, replaced: list[Path], progress: Progress | None, num_threads: int
) -> Dataset:
    made: list[Path] = []
    try:
        dataset = _describe(config, tuple(_write_shards(folder, config, made, progress, num_threads)))
        # The description goes first and comes last: whenever this is cut, no half set looks whole.
        for path in sorted(replaced, key=lambda path: path.name != DESCRIPTION):
            path.unlink()
        for shard in dataset.shards:
            made.append(folder / shard.name)
            os.replace(_temporary(folder, shard.name), made[-1])
        _sync_folder(folder)
        made.append(folder / DESCRIPTION)
        write_whole(made[-1], dataset.model_dump_json(indent=1) + "\n")
        _sync_folder(folder)
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise
    return dataset


def _temporary(folder: Path, name: str) -> Path:
    return folder / f".iobench-{name}.tmp"


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class _Chunk(NamedTuple):
    """Records of one shard that are filled and written together."""

    shard: str
    first: int
    num_records: int


def _write_shards(
    folder: Path, config: Generate, made: list[Path], progress: Progress | None, num_threads: int
) -> Iterator[ShardFile]:
    """Write all shards under their temporary names, which are added to `made`."""
    stride, done = record_bytes(config), 0
    with closing(_filled(config, num_threads)) as filled, ThreadPoolExecutor(1, "write") as pool:
        for name, parts in groupby(filled, key=lambda part: part[0].shard):
            made.append(_temporary(folder, name))
            with _ShardWriter(made[-1], pool) as writer:
                for chunk, buffer in parts:
                    writer.append(buffer, chunk.num_records * stride)
                    done += chunk.num_records * stride
                    if progress:
                        progress(done, config.num_images * stride)
                digest = writer.finish()
            num_bytes = writer.num_bytes
            yield ShardFile(name=name, num_images=num_bytes // stride, bytes=num_bytes, xxh3_128=digest)


def _chunks(config: Generate, chunk_records: int) -> Iterator[_Chunk]:
    num_shards = -(-config.num_images // config.images_per_shard)
    for shard in range(num_shards):
        name = f"train-{shard:05d}-of-{num_shards:05d}.{config.format}"
        stop = min((shard + 1) * config.images_per_shard, config.num_images)
        for first in range(shard * config.images_per_shard, stop, chunk_records):
            yield _Chunk(name, first, min(chunk_records, stop - first))


def _filled(config: Generate, num_threads: int) -> Generator[tuple[_Chunk, memoryview]]:
    """All chunks in order, each with the aligned buffer that holds it until the one after next is asked for."""
    form, stride, stop = record_form(config.format, config.shape), record_bytes(config), Event()
    whole = ALIGNMENT_BYTES // math.gcd(stride, ALIGNMENT_BYTES)  # so many records end on an aligned byte
    wanted = min(_CHUNK_BYTES // stride, min(config.images_per_shard, config.num_images) + whole - 1)
    chunk_records = max(wanted // whole, 1) * whole
    chunks = _chunks(config, chunk_records)
    free = [_buffer(form, chunk_records) for _ in range(num_threads + 3)]
    pending: deque[tuple[_Chunk, memoryview, Future[None]]] = deque()
    handed_out: list[memoryview] = []
    pool = ThreadPoolExecutor(num_threads, "fill")
    try:
        while True:
            while free and (chunk := next(chunks, None)):
                buffer = free.pop()
                pending.append((chunk, buffer, pool.submit(_fill, buffer, form, config, chunk, stop)))
            if not pending:
                return
            chunk, buffer, future = pending.popleft()
            future.result()
            yield chunk, buffer
            free += handed_out
            handed_out = [buffer]
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _buffer(form: Form, num_records: int) -> memoryview:
    """Page-aligned memory for `num_records`, with all that is the same in every record in place."""
    stride = len(form.record)
    buffer = memoryview(mmap.mmap(-1, -(-num_records * stride // ALIGNMENT_BYTES) * ALIGNMENT_BYTES))
    for start in range(0, num_records * stride, stride):
        buffer[start : start + stride] = form.record
    return buffer


def _fill(buffer: memoryview, form: Form, config: Generate, chunk: _Chunk, stop: Event) -> None:
    stride = len(form.record)
    for i in range(chunk.num_records):
        if stop.is_set():
            return
        image, label = _draw(config.seed, chunk.first + i, config.shape)
        form.fill(buffer[i * stride : (i + 1) * stride], image, label, seed=config.seed, index=chunk.first + i)


class _ShardWriter:
    """One shard under its temporary name, from first byte to fsync; one chunk is being written behind the caller."""

    def __init__(self, path: Path, pool: ThreadPoolExecutor) -> None:
        self.num_bytes = 0
        self._pool = pool
        self._behind: Future[None] | None = None
        self._hash = xxhash.xxh3_128()
        self._unsynced_bytes = 0
        self._fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        self._direct = self._set_direct(True)

    def __enter__(self) -> _ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._behind:
            self._behind.exception()
        os.close(self._fd)

    def append(self, buffer: memoryview, num_bytes: int) -> None:
        """Start to write the first `num_bytes` of `buffer`, which is in use until the next call or `finish` returns.

        Past the page cache they go out rounded up; `finish` cuts the surplus off.
        """
        self._hash.update(buffer[:num_bytes])
        self._wait()
        data = buffer[: -(-num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES]
        self._behind = self._pool.submit(self._write, data, self.num_bytes)
        self.num_bytes += num_bytes

    def finish(self) -> str:
        """Bring everything to the disk and return the digest."""
        self._wait()
        os.ftruncate(self._fd, self.num_bytes)
        os.fsync(self._fd)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return self._hash.hexdigest()

    def _wait(self) -> None:
        if self._behind:
            self._behind.result()

    def _write(self, data: memoryview, at: int) -> None:
        while data:
            try:
                written = os.pwrite(self._fd, data, at)
            except OSError as error:
                if not self._direct or error.errno != errno.EINVAL:
                    raise
                self._direct = self._set_direct(False)  # taken before, refused now: some FUSE file systems do that
                continue
            data, at = data[written:], at + written
            self._unsynced_bytes += written
        if not self._direct and self._unsynced_bytes >= _SYNC_BYTES:
            os.fdatasync(self._fd)
            self._unsynced_bytes = 0

    def _set_direct(self, wanted: bool) -> bool:
        flags = fcntl.fcntl(self._fd, fcntl.F_GETFL) & ~os.O_DIRECT
        try:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, flags | (os.O_DIRECT if wanted else 0))
        except OSError:
            return False
        return wanted
