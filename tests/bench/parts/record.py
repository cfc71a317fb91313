"""What scripts of tests/bench do with their figures: a record that names no machine, kept in results/reference/.

`make bench` runs the files of tests/bench itself; they find this folder because Python looks beside a script first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from iobench.results.record import Kind, Metric, Point, RunRecord, new_run_id, utc_now, write_whole
from iobench.terminal import say

REFERENCE = Path(__file__).parents[3] / "results" / "reference"
INTERRUPTED = 130


def record_of(
    kind: Kind,
    *,
    started: str,
    words: Sequence[str] = (),
    workload: dict[str, Any],
    environment: dict[str, Any],
    metrics: Mapping[str, Metric],
    points: Sequence[Point] = (),
    warnings: Sequence[str] = (),
) -> RunRecord:
    """The record of this script's run, begun at `started` with `words` behind its name.

    The data lay in a temporary folder: that, and the host's name, say nothing to others.
    """
    storage = {**(environment["storage"] or {}), "path": "a temporary folder"}
    return RunRecord(
        run_id=new_run_id(kind),
        kind=kind,
        started_at=started,
        finished_at=utc_now(),
        command=("python", f"tests/bench/{Path(sys.argv[0]).name}", *words),
        workload=workload,
        environment={**environment, "host": None, "storage": storage},
        metrics=dict(metrics),
        points=tuple(points),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def keep(record: RunRecord, name: str) -> None:
    """Put the record among those that documents quote, under `name` and the number of this machine's cores."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    path = REFERENCE / f"{name}-{os.cpu_count()}-cores.json"
    write_whole(path, record.model_dump_json(indent=1) + "\n")
    say(f"record: {path.name}")


def run(main: Callable[[], int | None]) -> NoReturn:
    """End with what `main` returns, and quietly where Ctrl-C ended it."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
