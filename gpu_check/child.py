"""A part's own process: runs it, and writes its record whenever the part has found more."""

from __future__ import annotations

import json
import signal
import sys
import traceback
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..results.environment import collect
from ..results.record import Outcome, RunRecord, Verdict, new_run_id, utc_now, write_record, write_whole
from ..storage_bench.launching.rank_process import die_with, name_process
from .part import Bench, Findings, Part, PartSkippedError
from .parts import PARTS, run_of
from .process import ENVIRONMENT, Ended

INVALID = 3


def main(folder: Path, parent: int) -> int:
    """Run the part that task.json in `folder` names; how it ended stands in ended.json."""
    die_with(parent, signal.SIGKILL)
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    part = next(part for part in PARTS if part.name == task["part"])
    name_process(f"gpu-{part.name}")
    try:
        run(part, _bench_of(task["bench"]))
        ended = Ended("done")
    except PartSkippedError as error:
        ended = Ended("skipped", str(error))
    except Exception as error:
        traceback.print_exc()
        ended = Ended("failed", f"{type(error).__name__}: {error}".split("\n")[0], status_of(error))
    write_whole(folder / "ended.json", json.dumps(ended._asdict()))
    return 0


def status_of(error: Exception) -> int:
    """3 of an error that says so, a measurement that is not valid; else 4: a part is asked for by us, never wrongly."""
    return INVALID if getattr(error, "exit_status", None) == INVALID else ENVIRONMENT


def run(part: Part, bench: Bench) -> None:
    """Run a part here, and keep its record up to date in the part's folder."""
    started, run_id, environment = utc_now(), new_run_id(part.kind), collect(bench.raw)
    for found in run_of(part)(bench):
        write_record(
            record_of(part, bench, found, started=started, run_id=run_id, environment=environment), bench.folder
        )


def record_of(
    part: Part, bench: Bench, found: Findings, *, started: str, run_id: str, environment: dict[str, Any]
) -> RunRecord:
    """What a part has found so far, as a run's record; each of its points names the device."""
    points = [point.model_copy(update={"params": {**point.params, "device": bench.label}}) for point in found.points]
    return RunRecord(
        run_id=run_id,
        kind=part.kind,
        started_at=started,
        finished_at=utc_now(),
        command=("iobench", "gpu-check", "--parts", part.name),
        workload={
            "gpu_check": part.name,
            "title": part.title,
            "device": bench.label,
            "sentence": found.sentence,
            "unmeasured": dict(found.unmeasured),
            **found.workload,
        },
        environment=environment,
        metrics=dict(found.metrics),
        points=tuple(points),
        verdict=_verdict(found),
        warnings=found.warnings,
    )


def _verdict(found: Findings) -> Verdict | None:
    """What was required of the part; None where nothing was."""
    if not found.requirements:
        return None
    met = [requirement.passed for requirement in found.requirements]
    passed = False if False in met else None if None in met else True
    outcomes: dict[bool | None, Outcome] = {True: "pass", False: "fail", None: "insufficient"}
    return Verdict(outcome=outcomes[passed], passed=passed, sentence=found.sentence, requirements=found.requirements)


def _bench_of(told: dict[str, Any]) -> Bench:
    paths = {field.name: Path(told[field.name]) for field in fields(Bench) if field.type == "Path"}
    return Bench(**{**told, **paths})


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
