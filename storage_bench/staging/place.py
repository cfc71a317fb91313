"""Where copies lie: folders that can be written, with room for them, on a disk of their own; one copier at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from ...loaders.evidence import counter_for

SYS_BLOCK = Path("/sys/dev/block")
RESERVE_BYTES = 64 << 20
TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".iobench-", ".tmp"


class StagingError(ValueError):
    """The copy cannot be made, or is not what the source is."""

    exit_status: ClassVar[int] = 4


class StagingUsageError(StagingError):
    """The places named do not make a chain of copies: what is copied, or where it would go."""

    exit_status = 2


def on_same_device(source: Path, target: Path) -> bool:
    """Whether both lie on one file system or one disk: a copy between them proves nothing about another disk."""
    place = existing_parent(target)
    if source.stat().st_dev == place.stat().st_dev:
        return True
    return bool(disks(counter_for([source]).leaves) & disks(counter_for([place]).leaves))


def disks(leaves: Sequence[str]) -> set[str]:
    """The whole disks of block devices, by name: partitions of one disk, and volumes on them, share its heads."""
    nodes = ((SYS_BLOCK / leaf).resolve() for leaf in leaves)
    return {(node.parent if (node / "partition").exists() else node).name for node in nodes}


def room_for(total_bytes: int, target: Path) -> str | None:
    """Why `total_bytes` do not fit below `target`, or None; without its name, which may be nobody's business."""
    free = shutil.disk_usage(existing_parent(target)).free
    if total_bytes + RESERVE_BYTES <= free:
        return None
    return (
        f"the copy needs {total_bytes / 1e6:.0f} MB and a reserve of {RESERVE_BYTES / 1e6:.0f} MB, "
        f"{free / 1e6:.0f} MB are free; name a folder on another disk"
    )


def require_room(copies: Sequence[tuple[Path, int]]) -> None:
    """Raise StagingError where these (target, bytes) do not fit, those on one file system taken together."""
    asked: dict[int, int] = {}
    for target, num_bytes in copies:
        if not num_bytes:
            continue
        device = existing_parent(target).stat().st_dev
        asked[device] = asked.get(device, 0) + num_bytes
        if reason := room_for(asked[device], target):
            raise StagingError(f"{target}: {reason}")


def require_folder(target: Path) -> None:
    """Raise StagingError where no folder `target` can be made and written, before anything is measured for it."""
    place = existing_parent(target)
    if not place.is_dir():
        raise StagingError(f"{target}: {place} is no folder; name another one")
    if not os.access(place, os.W_OK | os.X_OK):  # false on a read-only file system too, whoever asks
        raise StagingError(f"{target}: cannot be written ({place} is read-only for this user); name another folder")


def require_apart(folders: Sequence[Path]) -> None:
    """Raise StagingUsageError where two places of a chain are one, or one lies in the other."""
    for number, folder in enumerate(folders):
        for other in folders[:number]:
            mine, theirs = folder.resolve(), other.resolve()
            if mine == theirs:
                raise StagingUsageError(f"{folder}: named twice; give every hop a folder of its own")
            if mine.is_relative_to(theirs) or theirs.is_relative_to(mine):
                inner, outer = (folder, other) if mine.is_relative_to(theirs) else (other, folder)
                raise StagingUsageError(f"{inner}: lies in {outer}; give every hop a folder of its own")


def remove_stage(target: Path) -> None:
    """Delete a copy that was made for one run, whole or not: every file in `target`, and the folder."""
    if target.is_dir():
        for path in target.iterdir():
            path.unlink(missing_ok=True)
        target.rmdir()


def remove_temporaries(folder: Path) -> None:
    """Delete what a killed copy left."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*{TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)


def temporary_of(target: Path) -> Path:
    """The name a shard has while it is written."""
    return target.with_name(f"{TEMPORARY_PREFIX}{target.name}{TEMPORARY_SUFFIX}")


@contextmanager
def only_copier(target: Path) -> Iterator[None]:
    """Hold the folder for this copy: two at once would remove each other's temporary files.

    Where the file system has no locks (some network ones) nothing is held.
    """
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
            os.close(fd)
            raise StagingError(f"{target}: another `iobench stage` is copying into it; wait for its end") from error
    try:
        yield
    finally:
        os.close(fd)


def existing_parent(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
