"""What changed against the last good qualification of the same target with the same preset and accelerators."""

from __future__ import annotations

from pathlib import Path

from ..results.comparison.compare import CompareError, compare_headline
from ..results.comparison.earlier import last_good
from ..results.record import RunRecord, merge_warnings

KEYS = ("target", "preset", "model", "accelerator", "batch_size", "step_time_s", "au_threshold")


def add_history(record: RunRecord, runs: Path) -> RunRecord:
    """The record with what changed since the last good run in the folder `runs`; as it is where there is none."""
    base, notes = last_good(runs, record, keys=KEYS)
    if base is not None:
        try:
            record = record.model_copy(update={"history": compare_headline(base, record)})
        except CompareError as error:
            notes.append(f"history: {error}")
    return record.model_copy(update={"warnings": merge_warnings(record.warnings, notes)})
