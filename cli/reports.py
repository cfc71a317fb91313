"""Commands over records: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..terminal import say
from .journal import print_json
from .options import Json, app


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="run folders or record.json files")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the page to write")] = Path("report.html"),
    json: Json = False,
) -> None:
    """One self-contained HTML page from one or several records."""
    from ..results.record import read_record
    from ..results.report import write_report

    write_report([read_record(path) for path in runs], output)
    if json:
        print_json({"report": str(output)})
    say(f"report: {output}")
