"""The check, on one page: is there a GPU, data to read, then part after part, a record each, one report.

require_gpu -> prepare -> plan -> for each part: its share of the time -> a process -> record.json
                                                                       -> summary.json after each of them, report.html

What goes wrong in a part is kept in that part's record, and takes no other part along.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from ..results.environment import collect
from ..results.privacy import public_path
from ..results.record import (
    Requirement,
    RunRecord,
    WriteError,
    new_run_id,
    read_record,
    utc_now,
    write_record,
    write_whole,
)
from .asked import rows
from .budget import plan, share
from .child import record_of
from .data import prepare
from .machine import require_gpu
from .part import TWIN, Bench, Findings, GpuCheckError, Part, parts_named
from .parts import PARTS
from .process import Ended, run_part

END_S = 8.0  # for the report
GRACE_S = {"cuda": 15.0, "cpu": 60.0}  # that a part may take beyond its time before it is killed; CPUs may be busy
START_S = 6.0  # that its process takes before it begins: Python, torch, CUDA
MOST_THREADS = 8
EXIT = {"done": 0, "missed": 1, "not decided": 3}

Show = Callable[[str, float, str], None]


@dataclass(frozen=True, slots=True)
class PartOutcome:
    """How one part ended: its seconds, its folder, and its record where there is one."""

    part: Part
    ended: Ended
    seconds: float
    folder: Path
    planned_s: float | None = None
    record: RunRecord | None = None
    twin: bool = False

    @property
    def requirements(self) -> tuple[Requirement, ...]:
        """What was required of it."""
        return self.record.verdict.requirements if self.record is not None and self.record.verdict is not None else ()

    @property
    def table(self) -> dict[str, Any] | None:
        """A table that it made: title, columns, rows, all of them text."""
        found: dict[str, Any] | None = self.record.workload.get("table") if self.record is not None else None
        return found

    @property
    def unmeasured(self) -> Mapping[str, str]:
        """Figures that it could not measure, and why."""
        return dict(self.record.workload.get("unmeasured", {})) if self.record is not None else {}

    @property
    def why_not(self) -> str:
        """Why it measured nothing, where it did not."""
        if self.ended.ending != "done":
            return f"part {self.part.name} {self.ended.ending}: {self.ended.reason}"
        return "the twin's figures are judged by nobody" if self.twin else f"part {self.part.name} did not tell"

    @property
    def sentence(self) -> str:
        """What it says, in one line."""
        said = self.record.workload.get("sentence", "") if self.record is not None else ""
        if self.ended.ending == "done":
            return str(said)
        return f"{self.ended.ending}: {self.ended.reason}{f'; until then: {said}' if said else ''}"


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """All parts, where the report lies, and what it all comes to."""

    device: str
    parts: tuple[PartOutcome, ...]
    folder: Path
    seconds: float
    environment: dict[str, Any]

    @property
    def result(self) -> str:
        """done, missed (a figure), not decided (too wide an interval, or a part was cut off), or failed (a part)."""
        met = [requirement.passed for outcome in self.parts for requirement in outcome.requirements]
        endings = {outcome.ended.ending for outcome in self.parts}
        if "failed" in endings:
            return "failed"
        return "missed" if False in met else "not decided" if None in met or "cut off" in endings else "done"

    @property
    def exit_status(self) -> int:
        """As every command has it; of parts that failed the worst: 4 before 3."""
        failed = [outcome.ended.exit_status for outcome in self.parts if outcome.ended.ending == "failed"]
        return max(failed) if failed else EXIT[self.result]

    @property
    def asked(self) -> list[dict[str, Any]]:
        """Every figure that is asked for, and what was found of it or why nothing was; see `asked.py`."""
        return rows({outcome.part.name: outcome for outcome in self.parts})

    def document(self) -> dict[str, Any]:
        """The summary, as JSON."""
        return {
            "kind": "gpu-check",
            "device": self.device,
            "result": self.result,
            "exit_status": self.exit_status,
            "seconds": round(self.seconds, 3),
            "folder": public_path(self.folder),
            "asked": self.asked,
            "parts": [_told(outcome) for outcome in self.parts],
            "environment": self.environment,
        }


def gpu_check(
    *, data: Path, folder: Path, minutes: float, names: Sequence[str] = (), twin: bool = False, show: Show
) -> CheckOutcome:
    """Run the parts called `names`, or all, within `minutes`; writes records, summary.json and report.html to `folder`.

    Raises GpuMissingError where there is no GPU, unless the CPU `twin` is asked for; GpuCheckError for a wrong wish,
    GenerateError where the data cannot be written.  What goes wrong within a part is that part's outcome.
    """
    begin = perf_counter()
    parts = tuple(part.of_twin() if twin else part for part in parts_named(names, PARTS))
    if not 0 < minutes <= 24 * 60:
        raise GpuCheckError(f"--minutes {minutes:g}: give more than 0, as in 9; a day at most")
    if not twin:
        require_gpu()
    with _place_for(folder):
        raw, jpeg = prepare(data, twin=twin, show=show)
    environment, outcomes = collect(raw), []
    planned = planned_seconds(parts, minutes * 60 - END_S - (perf_counter() - begin))
    show("plan", 1.0, _plan_told(planned))
    for number, part in enumerate(parts):
        show(part.name, 0.0, part.title)
        left_s = minutes * 60 - END_S - (perf_counter() - begin)
        seconds = share([_with_start(each) for each in parts[number:]], left_s)
        bench = Bench(
            "cpu" if twin else "cuda", raw, jpeg, folder / part.name, (seconds or START_S) - START_S, _threads()
        )
        outcomes.append(_outcome(part, bench, left_s, planned[part.name], environment))
        show(part.name, 1.0, outcomes[-1].sentence)
        found = CheckOutcome(TWIN if twin else "cuda", tuple(outcomes), folder, perf_counter() - begin, environment)
        write_whole(folder / "summary.json", json.dumps(found.document(), indent=1))
    _write_report(found)
    return found


@contextmanager
def _place_for(folder: Path) -> Iterator[None]:
    """The run's folder: one that cannot be written is noticed before the work, and where that fails none is left."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(error.errno, f"{error.strerror}; give another --out", str(folder)) from error
    write_whole(folder / "summary.json", "{}")
    try:
        yield
    except BaseException:
        (folder / "summary.json").unlink(missing_ok=True)
        with suppress(OSError):  # something else lies there
            folder.rmdir()
        raise


def _with_start(part: Part) -> Part:
    """The part with the time that its process takes before it begins."""
    return replace(part, seconds=part.seconds + START_S, least_s=part.least_s + START_S)


def planned_seconds(parts: Sequence[Part], left_s: float) -> dict[str, float | None]:
    """Seconds of each part by its name, its process's start not counted; None of those there is no time for."""
    given = plan([_with_start(part) for part in parts], left_s)
    return {
        part.name: None if seconds is None else seconds - START_S for part, seconds in zip(parts, given, strict=True)
    }


def _plan_told(planned: Mapping[str, float | None]) -> str:
    fit = [f"{name} {seconds:.0f} s" for name, seconds in planned.items() if seconds is not None]
    out = [name for name, seconds in planned.items() if seconds is None]
    return ", ".join(fit) + (f"; no time for {', '.join(out)}" if out else "")


def _outcome(
    part: Part, bench: Bench, left_s: float, planned_s: float | None, environment: dict[str, Any]
) -> PartOutcome:
    def ending(ended: Ended, seconds: float = 0.0, record: RunRecord | None = None) -> PartOutcome:
        return PartOutcome(part, ended, seconds, bench.folder, planned_s, record, twin=bench.twin)

    if reason := part.lacks():
        return ending(Ended("skipped", reason))
    if not bench.seconds:
        reason = f"it needs {START_S + part.least_s:.0f} s, and {max(0.0, left_s):.0f} s are left; raise --minutes"
        return ending(Ended("skipped", reason))
    started, begin = utc_now(), perf_counter()
    ended = run_part(part, bench, limit_s=min(START_S + bench.seconds + GRACE_S[bench.device], left_s))
    record = read_record(bench.folder) if (bench.folder / "record.json").exists() else None
    if ended.ending in ("failed", "cut off"):
        if record is None:
            run_id = new_run_id(part.kind)
            record = record_of(part, bench, Findings(), started=started, run_id=run_id, environment=environment)
        record = with_error(record, ended)
        write_record(record, bench.folder)
    return ending(ended, perf_counter() - begin, record)


def with_error(record: RunRecord, ended: Ended) -> RunRecord:
    """The record of what was found until then, and what ended it."""
    error = {"ending": ended.ending, "reason": ended.reason, "exit_status": ended.exit_status or EXIT["not decided"]}
    warnings = (*record.warnings, f"{ended.ending}: {ended.reason}")
    return record.model_copy(update={"workload": {**record.workload, "error": error}, "warnings": warnings})


def _threads() -> int:
    """Reader threads of every road: as many as processors may be used, eight at most."""
    return min(MOST_THREADS, len(os.sched_getaffinity(0)))


def _write_report(found: CheckOutcome) -> None:
    from ..results.report import write_report

    records = [outcome.record for outcome in found.parts if outcome.record is not None]
    if records:
        write_report(records, found.folder / "report.html")


def _told(outcome: PartOutcome) -> dict[str, Any]:
    return {
        "name": outcome.part.name,
        "title": outcome.part.title,
        "ending": outcome.ended.ending,
        "reason": outcome.ended.reason,
        "exit_status": outcome.ended.exit_status,
        "planned_s": None if outcome.planned_s is None else round(outcome.planned_s, 3),
        "seconds": round(outcome.seconds, 3),
        "record": f"{outcome.part.name}/record.json" if outcome.record is not None else None,
        "sentence": outcome.sentence,
        "requirements": [requirement.model_dump(mode="json") for requirement in outcome.requirements],
        "warnings": list(outcome.record.warnings) if outcome.record is not None else [],
    }
