"""The command that checks a machine with a GPU: `iobench gpu-check`, also `python -m iobench.gpu_check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..terminal import Screen, say, table
from .journal import print_json
from .options import Json, app

if TYPE_CHECKING:
    from ..gpu_check import CheckOutcome

DATA = Path("iobench-data/gpu-check")


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
    """A row for each part, the tables of parts, each figure beside what is asked of it, and where the rest is."""
    rows = [(each.part.name, each.ended.ending, f"{each.seconds:.1f}", each.sentence) for each in outcome.parts]
    table(("part", "how it ended", "s", "what it says"), rows, title=f"GPU check ({outcome.device})")
    for each in outcome.parts:
        if each.table is not None:
            table(each.table["columns"], each.table["rows"], title=each.table["title"])
    asked = [
        (row["text"], _figure(row), f"{row['bound']} {row['required']:g}", row["outcome"], _why(row))
        for row in outcome.asked
        if row["part"] in {each.part.name for each in outcome.parts}
    ]
    if asked:
        table(("figure", "measured", "asked", "outcome", ""), asked, title="What is asked of a GPU and what feeds it")
    say(f"records and report: {outcome.folder}; {outcome.result}, {outcome.seconds:.0f} s")


def _figure(row: dict[str, Any]) -> str:
    """The value, and in brackets the interval that decides."""
    if row["measured"] is None:
        return "-"
    interval = "" if row["ci95"] is None else " ({:.3f} to {:.3f})".format(*row["ci95"])
    return f"{row['measured']:.3f}{interval}"


def _why(row: dict[str, Any]) -> str:
    """Why there is no figure; of a part that was skipped its own row says more."""
    reason = str(row["reason"] or "") if row["outcome"] == "not measured" else ""
    return reason.split(": ")[0] if reason.startswith("part ") else reason
