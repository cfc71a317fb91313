"""Which earlier run of the same target is the one to be held against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..record import RecordError, RunRecord, read_record

HISTORY_RUNS = 500  # as many records are looked through


def last_good(folder: Path, candidate: RunRecord, *, keys: Sequence[str]) -> tuple[RunRecord | None, list[str]]:
    """The newest earlier run in `folder` of the candidate's kind that has these keys of its workload and passed.

    Without a run that passed it is the newest that failed on valid measurements.  Second, what is to be said of
    records that cannot be read.
    """
    found: list[RunRecord] = []
    notes: list[str] = []
    for path in _record_files(folder):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
            if f'"{candidate.kind}"' not in text:  # most are of other commands: not worth reading whole
                continue
            record = read_record(path)
        except (OSError, RecordError) as error:
            notes.append(f"history: {error}")
            continue
        same = record.kind == candidate.kind and all(
            record.workload.get(key) == candidate.workload.get(key) for key in keys
        )
        if same and record.run_id != candidate.run_id and record.started_at <= candidate.started_at:
            found.append(record)
    for outcome in ("pass", "fail"):
        good = [record for record in found if record.verdict is not None and record.verdict.outcome == outcome]
        if good:
            return max(good, key=lambda record: (record.started_at, record.run_id)), notes
    return None, notes


def _record_files(folder: Path) -> list[Path]:
    """The newest records of the runs in a folder."""
    try:
        found = [(path.stat().st_mtime, path) for path in folder.glob("*/record.json")]
    except OSError:
        return []
    return [path for _, path in sorted(found, reverse=True)[:HISTORY_RUNS]]
