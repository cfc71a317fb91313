"""The journal of a grid: a file that grows by a line with every prediction and every trial, and outlives interrupts.

FOLDER/cells.jsonl
    {"grid": {...}}                                                 what is run; a grid is gone on with only as it began
    {"predicted": {"layout": {...}, "source": ..., ...}}            before the cell is run for the first time
    {"trial": {"repetition": ..., "layout": {...}, "sources": {...}, "failed": null}}

A line that an interrupt or a crash cut short is the last one; it is dropped.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ...results.record import RankReport, ReadPath
from ...results.scaling import Layout, Prediction
from ...storage_bench.decoded import Decoded
from ..plan import Source

FILE = "cells.jsonl"


def is_unfinished(folder: Path) -> bool:
    """Whether a run's folder is that of a grid that was interrupted: it has trials, and no record yet."""
    return (folder / FILE).exists() and not (folder / "record.json").exists()


class GridJournalError(ValueError):
    """A journal is there and not wanted, wanted and not there, damaged, or of another grid."""

    exit_status: ClassVar[int] = 2


class SourceTrial(BaseModel):
    """What one source came to in one trial; images/s of all ranks, `given` where nothing is computed.

    `hops` are threads and batches by hop, where images were decoded (storage_bench/image_hops.py).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images_per_s: float
    data_stall_fraction: float
    given_images_per_s: float | None = None
    phases: dict[str, float]
    counted_steps: int
    read_path: ReadPath | None = None
    ranks: tuple[RankReport, ...] = ()
    flags: tuple[str, ...] = ()
    invalid: str | None = None
    hops: dict[str, float] = {}


class Trial(BaseModel):
    """One launch of one layout, with every source, and who decoded its images; `failed` says why there are none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repetition: int
    layout: Layout
    sources: dict[Source, SourceTrial]
    failed: str | None = None
    images: Decoded | None = None


class GridJournal:
    """The predictions and trials of a grid, in memory and in the file."""

    def __init__(self, folder: Path, grid: dict[str, Any], *, resume: bool) -> None:
        """Begin a journal for `grid`, or go on with the one that is there; raises GridJournalError."""
        self._path = folder / FILE
        self._trials: dict[tuple[int, Layout], Trial] = {}
        self.predictions: dict[tuple[Layout, str], Prediction | None] = {}
        self.resumed = resume
        if resume:
            self._take_up(grid)
            return
        if self._path.exists():
            raise GridJournalError(f"{self._path}: a grid was begun here; go on with --resume, or give another --out")
        folder.mkdir(parents=True, exist_ok=True)
        self._write({"grid": grid})

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials, in the order in which they ran."""
        return tuple(self._trials.values())

    def has(self, repetition: int, layout: Layout) -> bool:
        """Whether this trial is done; one that failed is tried again when a grid is gone on with."""
        return (repetition, layout) in self._trials

    def add(self, trial: Trial) -> None:
        """Put a trial on record."""
        self._write({"trial": trial.model_dump(mode="json")})
        self._trials[trial.repetition, trial.layout] = trial

    def predict(self, layout: Layout, source: str, prediction: Prediction | None) -> None:
        """Put a prediction on record, before the cell is run."""
        told = None if prediction is None else asdict(prediction)
        self._write({"predicted": {"layout": asdict(layout), "source": source, "prediction": told}})
        self.predictions[layout, source] = prediction

    def _write(self, document: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(document) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _take_up(self, grid: dict[str, Any]) -> None:
        lines = self._whole_lines()
        begun = lines[0].get("grid") if lines else None
        if begun != json.loads(json.dumps(grid)):
            differs = sorted(name for name in {*grid, *(begun or {})} if (begun or {}).get(name) != grid.get(name))
            raise GridJournalError(
                f"{self._path}: this grid was begun with other settings ({', '.join(differs)}); "
                f"repeat the command as it was, or give another --out"
            )
        for number, line in enumerate(lines[1:], start=2):
            try:
                self._take_line(line)
            except (ValidationError, KeyError, TypeError) as error:
                raise GridJournalError(f"{self._path}: line {number} is damaged; give another --out") from error

    def _take_line(self, line: dict[str, Any]) -> None:
        if "trial" in line:
            trial = Trial.model_validate(line["trial"])
            if trial.failed is None:
                self._trials[trial.repetition, trial.layout] = trial
            return
        told = line["predicted"]
        prediction = None if told["prediction"] is None else Prediction(**told["prediction"])
        self.predictions.setdefault((Layout(**told["layout"]), told["source"]), prediction)

    def _whole_lines(self) -> list[dict[str, Any]]:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            raise GridJournalError(f"{self._path}: there is no grid to go on with; leave out --resume") from None
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:  # what a crash cut short would run into the next line
            os.truncate(self._path, len(whole))
        try:
            return [dict(json.loads(line)) for line in whole.splitlines()]
        except ValueError as error:
            raise GridJournalError(f"{self._path}: a line is not JSON ({error}); give another --out") from error
