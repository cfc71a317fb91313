"""The command that checks a machine with a GPU: `iobench gpu-check`, also `python -m iobench.gpu_check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..terminal import Screen, say, table
from .journal import print_json
from .options import Json, app

if TYPE_CHECKING:
    from ..gpu_check import CheckOutcome

DATA = Path("iobench-data/gpu-check")
RESULTS = {True: "met", False: "missed", None: "not decided"}


@app.command(name="gpu-check")
def gpu_check(
    data: Annotated[Path, typer.Option(metavar="DIR", help="holds raw/ and jpeg/, or will hold generated ones")] = DATA,
    out: Annotated[Path | None, typer.Option("--out", help="folder of this run  [default: ./iobench-runs/RUN]")] = None,
    minutes: Annotated[float, typer.Option(help="all parts together take no longer")] = 9.0,
    parts: Annotated[str | None, typer.Option(metavar="NAME,...", help="these parts only  [all]")] = None,
    twin: Annotated[bool, typer.Option("--twin", help="no GPU: every part small on the CPU, judged by nobody")] = False,
    json: Json = False,
) -> None:
    """Check this machine's GPU: tests, routes, rates against their limits, training and inference from storage."""
    from ..gpu_check import gpu_check as check
    from ..results.record import new_run_id

    folder = out or Path("iobench-runs") / new_run_id("doctor").replace("doctor", "gpu-check")
    names = [name.strip() for name in (parts or "").split(",") if name.strip()]
    with Screen() as screen:
        outcome = check(data=data, folder=folder, minutes=minutes, names=names, twin=twin, show=screen.show)
    show_check(outcome)
    if json:
        print_json(outcome.document())
    raise typer.Exit(outcome.exit_status)


def show_check(outcome: CheckOutcome) -> None:
    """A row for each part and each requirement, and where the rest is."""
    rows = [(each.part.name, each.ended.ending, f"{each.seconds:.1f}", each.sentence) for each in outcome.parts]
    table(("part", "how it ended", "s", "what it says"), rows, title=f"GPU check ({outcome.device})")
    required = [
        (
            item.text,
            "-" if item.measured is None else f"{item.measured:.3f}",
            f"{item.required:g}",
            RESULTS[item.passed],
        )
        for each in outcome.parts
        for item in each.requirements
    ]
    if required:
        table(("requirement", "measured", "required", ""), required)
    say(f"records and report: {outcome.folder}; {outcome.result}, {outcome.seconds:.0f} s")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
