"""The folder that data are generated into: held against others, and at the end whole or as it was.

Shards keep a temporary name until the last one is on the disk; dataset.json comes last and says that all are whole.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ...results.quantities import amount
from ...results.record import write_whole
from ..durable import sync_folder
from .dataset import DESCRIPTION, Dataset, GenerateError, GenerateUsageError

_RESERVE_BYTES = 64 << 20
_SHARD_NAME = re.compile(r"train-\d{5,}-of-\d{5,}\.(tfrecord|tensors|npz)")

Progress = Callable[[int, int], None]


@contextmanager
def prepared(folder: Path) -> Iterator[None]:
    """Make the folder, hold it against a second writer, sweep up after a killed one; unmake it if the body fails."""
    if folder.exists() and not folder.is_dir():
        raise GenerateUsageError(f"{folder}: is a file; give a folder")
    if (folder.absolute().parent / DESCRIPTION).is_file():
        raise GenerateUsageError(
            f"{folder}: would lie among the data in {folder.absolute().parent}, which may hold nothing but data; give "
            f"another folder"
        )
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
        raise GenerateError(f"{folder}: another process is writing here; wait for it or give another folder") from None
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise  # these say that the file system (NFS, some FUSE) cannot lock a folder


def replaceable(folder: Path, *, force: bool) -> list[Path]:
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


def check_space(folder: Path, *, num_images: int, total_bytes: int) -> None:
    """Refuse what would not fit, before a byte is written."""
    needed = total_bytes + max(total_bytes // 50, _RESERVE_BYTES)
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free < needed:  # a total of 0 means that the file system does not tell
        raise GenerateError(
            f"{folder}: {num_images:,} images take {amount(total_bytes, 'bytes')}, with a reserve "
            f"{amount(needed, 'bytes')} are needed and {amount(disk.free, 'bytes')} are free; free some or ask for "
            f"fewer images"
        )


@contextmanager
def put_in_place(folder: Path, replaced: list[Path]) -> Iterator[tuple[list[Path], Callable[[Dataset], None]]]:
    """A list for what is being made, and a call that puts it in place; whatever ends the block removes all of it."""
    made: list[Path] = []

    def publish(dataset: Dataset) -> None:
        # The description goes first and comes last: whenever this is cut, no half set looks whole.
        for path in sorted(replaced, key=lambda path: path.name != DESCRIPTION):
            path.unlink()
        for shard in dataset.shards:
            made.append(folder / shard.name)
            os.replace(temporary(folder, shard.name), made[-1])
        sync_folder(folder)
        made.append(folder / DESCRIPTION)
        write_whole(made[-1], dataset.model_dump_json(indent=1, exclude_defaults=True) + "\n")
        sync_folder(folder)

    try:
        yield made, publish
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise


def temporary(folder: Path, name: str) -> Path:
    """Where a shard is written until the last one is on the disk."""
    return folder / f".iobench-{name}.tmp"
