"""Folders that were made for a copy, and go with it: --local may name one that is not there yet."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def missing_above(target: Path) -> list[Path]:
    """The folders above `target` that are not there, the innermost first."""
    return [folder for folder in target.absolute().parents if not folder.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove these folders, the innermost first, up to one that somebody else has put something into."""
    with suppress(OSError):  # not empty, or gone already
        for folder in folders:
            folder.rmdir()


def make_above(target: Path, *, maker: str) -> None:
    """Make the folders above `target`, and leave a note of them beside it for `remove_made` of the same maker."""
    missing = missing_above(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if missing:
        _note(target, maker).write_text(json.dumps([str(folder) for folder in missing]), encoding="utf-8")


def remove_made(target: Path, *, maker: str) -> None:
    """Remove what `make_above` has made, as far as it is empty; nothing where it has left no note."""
    note = _note(target, maker)
    with suppress(FileNotFoundError, NotADirectoryError):
        made = [Path(folder) for folder in json.loads(note.read_text(encoding="utf-8"))]
        note.unlink()
        remove_empty(made)


def _note(target: Path, maker: str) -> Path:
    return target.with_name(f".{target.name}-{maker}-made")
