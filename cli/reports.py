"""Commands over records: report, compare."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ..terminal import say
from .journal import Journal, command_line, print_json
from .options import DONE, INVALID, MISSED, Json, Out, app
from .streams import give
from .verdicts import show_comparison

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..results.record import RunRecord


STDOUT = Path("-")


class Format(StrEnum):
    """What a report is written as."""

    HTML = "html"
    MD = "md"
    CSV = "csv"
    PARQUET = "parquet"
    OPENMETRICS = "openmetrics"


class CompareFormat(StrEnum):
    """What a comparison is written as."""

    HTML = "html"
    MD = "md"
    JSON = "json"


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="run folders or record.json files")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="the file to write  [report.FORMAT]")] = None,
    format: Annotated[Format | None, typer.Option(help="what to write  [by the file's name, else html]")] = None,  # noqa: A002
    json: Json = False,
) -> None:
    """One self-contained page from one or several records, or their figures in another format."""
    from ..results.record import read_record

    chosen = format or _named(output, Format)
    if chosen is None and output is not None and output != STDOUT and output.suffix:
        raise typer.BadParameter(f"-o {output}: add --format {', '.join(Format)}, or end the name so")
    chosen = chosen or Format.HTML
    target = output or Path(f"report.{chosen}")
    _refuse_two_documents(target, json=json)
    _write([read_record(path) for path in _with_records(runs)], chosen, target)
    if json:
        print_json({"report": str(target)})
    if target != STDOUT:
        say(f"report: {target}")


@app.command()
def schema(json: Json = False) -> None:  # noqa: ARG001  # a JSON document it is in any case
    """The JSON schema of record.json, on stdout."""
    from ..results.schemas import schema_text

    give(schema_text())


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(help="the run to compare with: its folder or record.json")],
    candidate: Annotated[Path, typer.Argument(help="the run that may be better or worse")],
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIMIT",
            help="exit 1 if so for certain, 3 if undecided, as 'images_per_s < -5%'; may be given again",
        ),
    ] = None,
    format: Annotated[CompareFormat | None, typer.Option(help="of FILE  [by its name]")] = None,  # noqa: A002
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="the comparison as a file, - for stdout")
    ] = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """What changed from one run to another: ratios with intervals, better or worse, and whether limits are kept."""
    from ..results.comparison.comparing import compare_record
    from ..results.comparison.limits import parse_limit
    from ..results.record import read_record, utc_now

    started, limits = utc_now(), [parse_limit(text) for text in fail_if or ()]
    chosen = format or _named(output, CompareFormat)
    if output is not None and chosen is None:
        raise typer.BadParameter(f"-o {output}: add --format md, json or html, or end the name so")
    target = output or (Path(f"compare.{chosen}") if chosen else None)
    _refuse_two_documents(target, json=json)
    read = read_record(base), read_record(candidate)
    journal = Journal("compare", f"{base} {candidate}", out, json=json)
    record = compare_record(*read, limits=limits, run_id=journal.run_id, command=command_line(), started=started)
    if target is not None and chosen is not None:
        _write([record, *(read if chosen == CompareFormat.HTML else ())], chosen, target)
    journal.write(record)
    show_comparison(record)
    if record.verdict is not None and limits:
        raise typer.Exit({"pass": DONE, "fail": MISSED}.get(record.verdict.outcome, INVALID))


def _with_records(runs: Sequence[Path]) -> Sequence[Path]:
    """Of several runs, as a pattern gives them, those that are over: an interrupted grid has trials but no record."""
    from ..training_bench.scaling.journal import is_unfinished

    unfinished = [path for path in runs if is_unfinished(path)]
    if len(unfinished) == len(runs):
        return runs
    for path in unfinished:
        say(f"left out: {path}: an interrupted grid without a record; end it: iobench scale ... --out {path} --resume")
    return [path for path in runs if path not in unfinished]


Choice = TypeVar("Choice", bound=StrEnum)


def _named(output: Path | None, formats: type[Choice]) -> Choice | None:
    """The format that a file's name tells, if it tells one."""
    suffix = "" if output is None else output.suffix.removeprefix(".").lower()
    return formats(suffix) if suffix in list(formats) else None


def _refuse_two_documents(target: Path | None, *, json: bool) -> None:
    if json and target == STDOUT:
        raise typer.BadParameter("-o - and --json both write to stdout; give a file's name, or leave one out")


def _write(records: Sequence[RunRecord], format: StrEnum, target: Path) -> None:  # noqa: A002
    """Write whole or not at all; `-` is stdout."""
    from ..results.exports import export
    from ..results.record import write_whole

    content = export(records, str(format))
    if target != STDOUT:
        write_whole(target, content)
    else:
        give(content)
