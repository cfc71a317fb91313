"""The check, on one page: is there a GPU, data to read, then part after part, a record each, one report.

require_gpu -> prepare -> for each part: its share of the time -> a process -> record.json
                                                               -> summary.json after each of them, report.html
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from ..results.environment import collect
from ..results.privacy import public_path
from ..results.record import Requirement, RunRecord, WriteError, read_record, write_whole
from .budget import share
from .data import prepare
from .machine import require_gpu
from .part import TWIN, Bench, GpuCheckError, Part, parts_named
from .parts import PARTS
from .process import Ended, run_part

END_S = 8.0  # for the report
GRACE_S = {"cuda": 15.0, "cpu": 60.0}  # that a part may take beyond its time before it is killed; CPUs may be busy
START_S = 6.0  # that its process takes before it begins: Python, torch, CUDA
MOST_THREADS = 8
EXIT = {"done": 0, "missed": 1, "not decided": 3, "failed": 4}

Show = Callable[[str, float, str], None]


@dataclass(frozen=True, slots=True)
class PartOutcome:
    """How one part ended: its seconds, its folder, and its record where there is one."""

    part: Part
    ended: Ended
    seconds: float
    folder: Path
    record: RunRecord | None = None

    @property
    def requirements(self) -> tuple[Requirement, ...]:
        """What was required of it."""
        return self.record.verdict.requirements if self.record is not None and self.record.verdict is not None else ()

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
        """done, missed (a requirement), not decided (too wide an interval, or cut off), or failed (a part)."""
        met = [requirement.passed for outcome in self.parts for requirement in outcome.requirements]
        endings = {outcome.ended.ending for outcome in self.parts}
        if "failed" in endings:
            return "failed"
        return "missed" if False in met else "not decided" if None in met or "cut off" in endings else "done"

    @property
    def exit_status(self) -> int:
        """As every command has it."""
        return EXIT[self.result]

    def document(self) -> dict[str, Any]:
        """The summary, as JSON."""
        return {
            "kind": "gpu-check",
            "device": self.device,
            "result": self.result,
            "exit_status": self.exit_status,
            "seconds": round(self.seconds, 3),
            "folder": public_path(self.folder),
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
    for number, part in enumerate(parts):
        show(part.name, 0.0, part.title)
        left_s = minutes * 60 - END_S - (perf_counter() - begin)
        seconds = share([_with_start(each) for each in parts[number:]], left_s)
        bench = Bench(
            "cpu" if twin else "cuda", raw, jpeg, folder / part.name, (seconds or START_S) - START_S, _threads()
        )
        outcomes.append(_outcome(part, bench, left_s))
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


def _outcome(part: Part, bench: Bench, left_s: float) -> PartOutcome:
    if reason := part.lacks():
        return PartOutcome(part, Ended("skipped", reason), 0.0, bench.folder)
    if not bench.seconds:
        reason = f"it needs {START_S + part.least_s:.0f} s, and {max(0.0, left_s):.0f} s are left; raise --minutes"
        return PartOutcome(part, Ended("skipped", reason), 0.0, bench.folder)
    begin = perf_counter()
    ended = run_part(part, bench, limit_s=min(START_S + bench.seconds + GRACE_S[bench.device], left_s))
    record = read_record(bench.folder) if (bench.folder / "record.json").exists() else None
    return PartOutcome(part, ended, perf_counter() - begin, bench.folder, record)


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
        "seconds": round(outcome.seconds, 3),
        "record": f"{outcome.part.name}/record.json" if outcome.record is not None else None,
        "sentence": outcome.sentence,
        "requirements": [requirement.model_dump(mode="json") for requirement in outcome.requirements],
        "warnings": list(outcome.record.warnings) if outcome.record is not None else [],
    }
