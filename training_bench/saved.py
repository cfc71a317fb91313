"""Checkpoints of training: one file a step, whole or not there, the last two kept.

    FOLDER/step-00000040.pt     {version, settings, step, model, optimizer, scaler, feed, losses}

Loaded as weights only: nothing in a file is run.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar

from ..storage_bench.durable import sync_folder

VERSION = 1
KEPT = 2
MAY_CHANGE = frozenset({"steps"})  # who has made those that were asked for may ask for more
_KEYS = {"version", "settings", "step", "model", "optimizer", "scaler", "feed", "losses"}
_NAME = re.compile(r"step-(\d{8})\.pt")


class SavedError(OSError):
    """A checkpoint cannot be written, or is not one that can be gone on from."""

    exit_status: ClassVar[int] = 4


class SavedUsageError(SavedError):
    """A checkpoint of another training, or none at all."""

    exit_status = 2


def save(folder: Path, document: Mapping[str, Any]) -> Path:
    """Write `document` as the checkpoint of its step, synced before it has its name; older ones but one go."""
    import torch

    path = folder / f"step-{document['step']:08d}.pt"
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save({"version": VERSION, **document}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(folder)
        for old in [*found(folder)[:-KEPT], *folder.glob(".step-*.pt.tmp")]:
            old.unlink()
    except (OSError, RuntimeError) as error:  # torch's writer makes a RuntimeError of a full disk
        temporary.unlink(missing_ok=True)
        raise SavedError(
            f"{path}: the checkpoint cannot be written ({error}); free space, or another --checkpoint"
        ) from error
    return path


def check_writable(folder: Path) -> None:
    """Refuse a folder that no checkpoint can be written to, before a step is made."""
    probe = folder / ".iobench-probe.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SavedError(
            f"{folder}: no checkpoint can be written there ({error.strerror}); give another --checkpoint"
        ) from error


def last(folder: Path) -> Path:
    """The checkpoint of the highest step; SavedUsageError where there is none."""
    paths = found(folder)
    if not paths:
        raise SavedUsageError(
            f"{folder}: there is no checkpoint to go on from; leave --resume out, or name the --checkpoint folder of "
            f"the training that was interrupted"
        )
    return paths[-1]


def parse(data: bytes, *, path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint whose bytes these are; its settings must be `settings`, but for those that MAY_CHANGE."""
    import torch

    try:
        document = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0]
        raise SavedError(
            f"{path}: this is no checkpoint, or a damaged one ({reason}); remove it to go on from the one before"
        ) from error
    if not isinstance(document, dict) or set(document) != _KEYS or document["version"] != VERSION:
        raise SavedError(
            f"{path}: this is no checkpoint of iobench train, version {VERSION}; name another --checkpoint"
        )
    theirs = document["settings"]
    for name in sorted({*settings, *theirs} - (MAY_CHANGE & set(theirs))):
        if theirs.get(name) != settings.get(name):
            raise SavedUsageError(
                f"{path}: this training has {name}={settings.get(name)!r}, the checkpoint {name}={theirs.get(name)!r}; "
                f"go on with the same, or begin anew with another --checkpoint"
            )
    return document


def found(folder: Path) -> list[Path]:
    """Checkpoints by their steps."""
    return sorted(path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name))
