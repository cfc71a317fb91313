"""The ledger of a conversion: what is being made of what, and which shards are whole.

    .iobench-converting.jsonl    first line: the plan; then a line for each shard that has its name
    .iobench-converted.jsonl     the same file, once all of them are whole

    {"plan": {"format": "tensors", "num_images": 4096, "source": "xxh3_128 ...", ...}}
    {"name": "train-00000-of-00016.tensors", "num_images": 256, "bytes": ..., "xxh3_128": "...", "skipped": [...]}

With it an interrupted conversion goes on where it stopped.  While the first of both names is there no reader takes the
folder for a whole set.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...loaders.discovery import UNFINISHED_NAME
from ...results.record import Model, write_whole
from ..durable import sync_folder
from .settings import ConvertError, ConvertUsageError

FINISHED_NAME = ".iobench-converted.jsonl"

Plan = Mapping[str, Any]


class Broken(Model):
    """An image that was left out: its record in the source, and what is wrong with it."""

    record: int
    reason: str


class Row(Model):
    """One part of the target that is whole; `xxh3_128` is of all its bytes, of files one behind the other.

    `pngs` are those images of a part of a folder that are PNG files; all others are JPEGs.
    """

    name: str
    num_images: int
    bytes: int
    xxh3_128: str
    skipped: tuple[Broken, ...] = ()
    pngs: tuple[int, ...] = ()
    seconds: float = 0.0


class Ledger:
    """The ledger of one folder, held against the plan; a line that was cut short by a crash counts for nothing."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._folder = folder
        self._plan = dict(plan)
        self._lock = threading.Lock()
        self.rows: dict[str, Row] = {}
        self.finished = (folder / FINISHED_NAME).is_file()
        lines = _lines(folder / (FINISHED_NAME if self.finished else UNFINISHED_NAME))
        self.begun = bool(lines)
        if lines:
            _require_same(folder, lines[0], self._plan)
        for line in lines[1:]:
            try:
                row = Row.model_validate_json(line)
            except ValidationError:
                continue  # this part is made again
            self.rows[row.name] = row

    def begin(self) -> None:
        """Write the plan down before anything else is in the folder, or take back that all is whole; raises OSError."""
        if self.finished:
            os.replace(self._folder / FINISHED_NAME, self._folder / UNFINISHED_NAME)
            self.finished = False
        if not self.begun:
            write_whole(self._folder / UNFINISHED_NAME, json.dumps({"plan": self._plan}) + "\n")
            self.begun = True

    def add(self, row: Row) -> None:
        """Note that a part is whole and has its name; raises OSError."""
        with self._lock:
            self._append(row.model_dump(mode="json", exclude_defaults=True))
            self.rows[row.name] = row

    def finish(self) -> None:
        """All parts are whole: from here on this is a set like any other."""
        os.replace(self._folder / UNFINISHED_NAME, self._folder / FINISHED_NAME)
        sync_folder(self._folder)
        self.finished = True

    def _append(self, row: Mapping[str, Any]) -> None:
        fd = os.open(self._folder / UNFINISHED_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, b"\n" + json.dumps(row).encode() + b"\n")  # apart from a line that was cut short
            os.fsync(fd)
        finally:
            os.close(fd)


def classes_in(folder: Path) -> dict[int, str]:
    """The names of classes that the ledger of a converted set has; none where there is no such ledger."""
    try:
        plan = json.loads(_lines(folder / FINISHED_NAME)[0])["plan"]
        return {int(label): str(name) for label, name in plan["classes"].items()}
    except (OSError, IndexError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # they are a convenience: labels are in the shards


def _lines(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().splitlines() if line] if path.is_file() else []


def _require_same(folder: Path, line: bytes, plan: Plan) -> None:
    """Raise ConvertUsageError where the folder holds what another plan made, naming the first difference."""
    try:
        found = dict(json.loads(line)["plan"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConvertError(f"{folder}: its ledger is damaged ({error}); convert into an empty folder") from error
    for name, value in json.loads(json.dumps(plan)).items():
        if found.get(name) == value:
            continue
        if name == "source":
            raise ConvertError(
                f"{folder}: was begun from another version of the source, or from another one: names, sizes, times or "
                f"labels differ; convert into an empty folder"
            )
        raise ConvertUsageError(
            f"{folder}: holds, or was begun as, a conversion with {name} = {found.get(name)}, asked for is {value}; "
            f"ask for the same, or give an empty folder"
        )
