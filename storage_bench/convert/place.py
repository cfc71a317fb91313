"""The folder that is converted into: apart from the source, with room, and with nothing else in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ...loaders.discovery import ShardSource
from ...loaders.formats.tensors import DESCRIPTION_NAME
from ...loaders.remote import is_remote
from ...results.quantities import amount
from .plan import Plan
from .settings import ConvertError, ConvertUsageError

RESERVE_BYTES = 64 << 20


def default_jobs() -> int:
    """Parts that are made at once: as many as this process has processors."""
    return len(os.sched_getaffinity(0))


def require_apart(source: ShardSource, target: Path) -> None:
    """Raise ConvertUsageError where the target is the source, or one lies in the other."""
    if not isinstance(source, str | Path) or is_remote(source) or not Path(source).is_dir():
        return  # what lies in the target is looked at when it is opened
    folder, mine = Path(source).resolve(), target.resolve()
    if mine.is_relative_to(folder):
        raise ConvertUsageError(f"{target}: lies in the source {folder}; name a folder elsewhere")
    if folder.is_relative_to(mine):
        raise ConvertUsageError(f"{target}: the source {folder} lies in it; name a folder elsewhere")


def require_only_ours(folder: Path, begun: bool, plan: Plan) -> None:
    """Raise ConvertUsageError where the folder holds anything that this conversion does not make."""
    ours = {*plan.classes.values()} if plan.classes else {DESCRIPTION_NAME, *(part.name for part in plan.parts)}
    visible = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    foreign = [name for name in visible if not begun or name not in ours]
    if foreign:
        raise ConvertUsageError(
            f"{folder}: holds {foreign[0]!r}, which is no part of this conversion; give an empty or new folder"
        )


def require_room(folder: Path, plan: Plan, *, num_images: int) -> None:
    """Raise ConvertError where so many images would not fit, before one is made."""
    expected = num_images * plan.record_bytes
    needed = expected + max(expected // 50, RESERVE_BYTES)
    disk = shutil.disk_usage(folder)
    if num_images and disk.total and disk.free < needed:  # a total of 0 means that the file system does not tell
        raise ConvertError(
            f"{folder}: {num_images:,} images take about {amount(expected, 'bytes')}, with a reserve "
            f"{amount(needed, 'bytes')} are needed and {amount(disk.free, 'bytes')} are free; free some or name a "
            f"folder on another disk"
        )
    names = os.statvfs(folder)
    if plan.classes and names.f_files and names.f_favail < num_images:
        raise ConvertError(
            f"{folder}: {num_images} image files are to be made and the file system has room for {names.f_favail} "
            f"more (df -i); name a folder elsewhere, or convert to webdataset"
        )
