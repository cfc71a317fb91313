"""A run's folder, its record and what of it goes to the terminal and to stdout."""

from __future__ import annotations

import json as json_format
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..results.legible import legible_values
from ..terminal import say
from .options import ENVIRONMENT, INVALID, TRACED, USAGE
from .points import show_points
from .streams import give
from .verdicts import show_verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..results.record import Kind, Metric, Point, RunRecord
    from .outcome import Outcome


class Journal:
    """A run's folder: made before anything is measured, so that a full or read-only disk is noticed at once."""

    def __init__(
        self, kind: Kind, path: Path | str, out: Path | None, *, json: bool, also: Sequence[Path] = ()
    ) -> None:
        """`path` is what is measured, or its address; `also` names other folders that hold nothing but data."""
        from ..results.record import new_run_id, utc_now

        self._kind: Kind = kind
        self._path = path
        self._json = json
        self._run_id = new_run_id(kind)
        self._started = utc_now()
        self._folder = out or Path("iobench-runs") / self._run_id
        for data in (path, *also) if isinstance(path, Path) else also:
            if self._joins(data):
                text = f"{self._folder}: the run's folder would lie among the data in {data}; give another --out"
                raise OutputUsageError(text)
        made = [folder for folder in (self._folder, *self._folder.parents) if not folder.exists()]
        probe = self._folder / ".iobench-probe.tmp"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"\0" * 4096)
        except OSError as error:
            text = f"{self._folder}: the run's folder cannot be written ({error.strerror}); give another --out"
            raise OutputError(text) from error
        finally:
            with suppress(OSError):
                probe.unlink()
            with suppress(OSError):
                for folder in made:
                    folder.rmdir()  # made again when there is a record to put into it

    @property
    def run_id(self) -> str:
        """The name of this run, and of its folder where --out gives no other."""
        return self._run_id

    @property
    def folder(self) -> Path:
        """The run's own folder; there from the record on, or once somebody makes it."""
        return self._folder

    @property
    def runs(self) -> Path:
        """The folder that this run's own folder lies in, beside those of earlier runs."""
        return self._folder.resolve().parent

    def _joins(self, data: Path) -> bool:
        """Whether the run's folder would be a new entry of the data folder, which may hold nothing but data."""
        folder, data = self._folder.resolve(), data.resolve()
        if not folder.is_relative_to(data) or data.is_file():
            return False
        parts = folder.relative_to(data).parts
        return not parts or not (data / parts[0]).exists()

    def finish(
        self,
        *,
        workload: dict[str, Any],
        points: Sequence[Point],
        metrics: dict[str, Metric],
        best: Point,
        warnings: Sequence[str] = (),
        invalid: Sequence[str] = (),
        sentence: str = "",
        trace: tuple[Path, Callable[[], str]] | None = None,
    ) -> None:
        """Write the record of a run without a requirement, and say what it means; exit 3 where it is not valid.

        Of the lines of `sentence` those that are sentences stand in the record; rows of figures are its points.
        `trace` is its file, and what makes its text: written behind the record, which is there whatever comes of it.
        """
        warnings = (*warnings, *([TRACED] if trace else []))
        record = self._record(workload, points, metrics, best, warnings, invalid, sentence)
        try:
            self.write(record, trace=trace)
        finally:  # where it cannot be written, this is all that is left of it
            if sentence:
                say(sentence)
            for warning in record.warnings:
                say(f"warning: {warning}")
        if invalid:
            raise typer.Exit(INVALID)

    def finish_with(
        self,
        outcome: Outcome,
        *,
        workload: dict[str, Any] | None = None,
        trace: tuple[Path, Callable[[], str]] | None = None,
    ) -> None:
        """As `finish`, with what a bench came to; `workload` where more is to be told than the bench knows."""
        self.finish(
            workload=outcome.workload if workload is None else workload,
            points=outcome.points,
            metrics=outcome.metrics,
            best=outcome.best,
            warnings=outcome.warnings,
            invalid=outcome.invalid,
            sentence=outcome.sentence,
            trace=trace,
        )

    def keep_with(self, outcome: Outcome) -> None:
        """As `keep`, with what a bench had come to when it was interrupted; its sentence would be of a whole run."""
        from ..results.record import INTERRUPTED, stopped_early

        workload = {**outcome.workload, "failed": INTERRUPTED}
        warnings = (stopped_early(INTERRUPTED), *outcome.warnings)
        figures = outcome.points, outcome.metrics, outcome.best
        self.keep(self._record(workload, *figures, warnings, outcome.invalid, sentence=""))

    def keep(self, record: RunRecord) -> None:
        """record.json and report.html of a run that ended on its way; stdout is left to the error."""
        from ..results.record import write_record
        from ..results.report import write_report

        record = self._named(record)
        path = write_record(record, self._folder)
        write_report([record], self._folder / "report.html")
        say(f"record of what was measured until then: {path}")

    def write(self, record: RunRecord, *, trace: tuple[Path, Callable[[], str]] | None = None) -> None:
        """The tables on the terminal, record.json and report.html into the run's folder, the JSON on stdout."""
        from ..results.record import write_record, write_whole
        from ..results.report import write_report

        record = self._named(record)
        show_points(record.points)
        show_verdict(record)
        path = write_record(record, self._folder)
        say(f"record: {path}")
        write_report([record], self._folder / "report.html")
        say(f"report: {self._folder / 'report.html'}")
        if trace is not None:
            write_whole(trace[0], trace[1]())
            say(f"trace: {trace[0]}  (open it in ui.perfetto.dev)")
        if self._json:
            print_json(record.model_dump(mode="json"))

    def _record(
        self,
        workload: dict[str, Any],
        points: Sequence[Point],
        metrics: dict[str, Metric],
        best: Point,
        warnings: Sequence[str],
        invalid: Sequence[str],
        sentence: str,
    ) -> RunRecord:
        """The record of a run without a requirement, which ends now."""
        from ..results.environment import collect
        from ..results.privacy import public_text
        from ..results.record import INVALID_MARK, RunRecord, utc_now

        return RunRecord(
            run_id=self._run_id,
            kind=self._kind,
            started_at=self._started,
            finished_at=utc_now(),
            command=command_line(),
            workload={"path": _public(str(self._path)), **workload},
            environment=collect(self._path if isinstance(self._path, Path) else None),
            read_path=best.read_path,
            metrics=metrics,
            ranks=best.ranks,
            points=tuple(points),
            warnings=(*warnings, *(f"{INVALID_MARK}{text}" for text in invalid)),
            summary=tuple(public_text(line) for line in sentence.splitlines() if line.endswith(".")),
        )

    def _named(self, record: RunRecord) -> RunRecord:
        """The record under the folder's name, and every text in it one that can be written: paths may be any bytes."""
        from pydantic_core import PydanticSerializationError

        record = record.model_copy(update={"run_id": self._run_id})
        try:
            record.model_dump_json()
        except PydanticSerializationError:
            return type(record).model_validate(legible_values(record.model_dump()))
        return record


def require_writable(path: Path | None) -> None:
    """Notice before anything is measured that a file cannot be written; raises OutputError."""
    if path is None:
        return
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(f"{path}: cannot be written; name a file in a folder that exists and is yours to write")


class OutputError(OSError):
    """The run's folder cannot be written."""

    exit_status = ENVIRONMENT


class OutputUsageError(OutputError):
    """The run's folder is named where it may not be."""

    exit_status = USAGE


def command_line() -> tuple[str, ...]:
    """The command as it was given, without what is private in its paths."""
    return ("iobench", *(_public(word) if "/" in word else word for word in sys.argv[1:]))


def _public(word: str) -> str:
    """A path or an address that may be shown to others."""
    from ..loaders.remote import without_credentials
    from ..results.privacy import public_path

    return without_credentials(word) if "://" in word else public_path(word)


def print_json(document: object) -> None:
    """The one document of --json."""
    give(f"{json_format.dumps(legible_values(document))}\n")
