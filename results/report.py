"""A page that shows what runs saw: one HTML file that opens without a network and asks for nothing.

    records -> Chapter (one a run) -> sections of plots and tables -> templates/report.html.j2 -> one file

Every string of a record is escaped: in the page by jinja2, in the pictures by `marks`.  Scripts run only if the page's
content policy names their hash, so that even a string that slipped through would stay text.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from .comparison.changes import change_tables
from .facts import facts
from .headlines import Answer, Fact, answer_of, headline_facts
from .plots import every as plots
from .plots.changes import change_plot
from .plots.scaling import scaling_plots
from .plots.svg import NARROW, WIDE, picture
from .quantities import amount, duration, interval_text, quantity, span_of_time
from .rank_places import PLACES, client_lines, place_table
from .record import write_whole
from .record_tables import (
    hop_table,
    metrics_table,
    rank_tables,
    reading_table,
    requirement_table,
    route_table,
    stage_tables,
)
from .wording import points_of, shell_line, title_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .plots.drawing import Plot
    from .record import RunRecord, Verdict
    from .tables import Table

TEMPLATES = Path(__file__).parent / "templates"
DEVICE_PLOTS = ("rates", "latencies", "write")
GRID_PLOTS = ("throughput", "efficiency", "stalls", "bandwidth")
NOT_PLAIN = ("copy_or_not", "objects", *PLACES)  # of a workload: shown in parts of their own
ABSENT = {  # a picture, and what would fill its place
    "steps": "Where a step's time goes: iobench train, or iobench qualify.",
    "hops": "What each hop adds to a step: iobench train --hops.",
    "rates": "Device curves: iobench storage with several block sizes or queue depths.",
    "utilisation": "Predicted and measured accelerators: iobench qualify.",
    "copy": "Copy or read in place: iobench qualify --local FOLDER, or iobench stage.",
    "throughput": "Scaling: iobench scale.",
    "ranks": "The last rank: iobench train --np 2, or more.",
    "percentiles": "Latency percentiles: iobench storage.",
    "roofline": "Roofs over a model: iobench train --model NAME --roofline.",
    "energy": "Energy: iobench train on a machine that counts it (RAPL, or an NVIDIA GPU).",
}
MEASURING = ("qualify", "storage", "load", "stage", "train", "infer", "scale")


class ReportError(ValueError):
    """There is nothing to report."""

    exit_status: ClassVar[int] = 2


@dataclass(frozen=True)
class Section:
    """One part of a run's chapter; empty parts are left out."""

    name: str
    heading: str
    intro: str = ""
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: tuple[Table, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    lines: tuple[str, ...] = ()
    command: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show but the heading."""
        parts = (self.plots, self.tables, self.folded, self.pairs, self.lines, self.command)
        return not any(parts) and not self.intro


@dataclass(frozen=True)
class Chapter:
    """One run as the page shows it."""

    name: str
    title: str
    when: str
    record: RunRecord
    answer: Answer
    facts: tuple[Fact, ...]
    basis: str
    requirements: Table | None
    sections: tuple[Section, ...]


def write_report(records: Sequence[RunRecord], path: Path) -> None:
    """Write the page of these records whole or not at all."""
    write_whole(path, render(records))


def render(records: Sequence[RunRecord]) -> str:
    """The page of these records as one HTML document; raises ReportError without records."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    if not records:
        raise ReportError("a report needs at least one run; give a run's folder or its record.json")
    chapters = [chapter(record, name=f"run{place}") for place, record in enumerate(records)]
    together = side_by_side(records)
    folds = any(section.plots or section.folded for part in chapters for section in part.sections)
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8") if folds else ""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawn"] = lambda plot, width: Markup(picture(plot.traces, plot.layout, width=width))
    return environment.get_template("report.html.j2").render(
        chapters=chapters,
        together=together,
        widths={"wide": WIDE, "narrow": NARROW},
        policy=_policy([script] if script else []),
        script=Markup(script),
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
    )


def side_by_side(records: Sequence[RunRecord]) -> Section | None:
    """The grids of several runs in the same axes; None where fewer than two of them have one."""
    grids = [record for record in records if points_of(record, "scale")]
    if len(grids) < 2:
        return None
    intro = f"The grids of {len(grids)} runs in the same axes. Only cells of one workload share a picture."
    return Section("together", "Systems beside each other", intro=intro, plots=tuple(scaling_plots(grids)))


def chapter(record: RunRecord, *, name: str) -> Chapter:
    """Everything the page says about one run."""
    return Chapter(
        name=name,
        title=title_of(record),
        when=span_of_time(record.started_at, record.finished_at),
        record=record,
        answer=answer_of(record),
        facts=tuple(headline_facts(record)),
        basis=_basis(record.verdict) if record.verdict and record.kind != "compare" else "",
        requirements=requirement_table(record),
        sections=tuple(section for section in _sections(record) if not section.is_empty),
    )


def _sections(record: RunRecord) -> list[Section]:
    """The parts of a chapter in the order they are read."""
    drawn = {plot.name: plot for plot in plots.all_plots(record)}

    def of(*names: str) -> tuple[Plot, ...]:
        return tuple(drawn[name] for name in names if name in drawn)

    def named(begins: tuple[str, ...]) -> tuple[Plot, ...]:
        return tuple(plot for plot in drawn.values() if plot.name.startswith(begins))

    route, metrics, places = route_table(record), metrics_table(record), place_table(record)
    return [
        _history_section(record),
        Section("steps", "Where a step's time goes", plots=of("steps", "hops")),
        Section("device", "Device rates", plots=named(DEVICE_PLOTS)),
        Section("fed", "Predicted and measured", plots=of("utilisation", "supply")),
        Section("loader", "Loader", plots=named(("loader",))),
        _copy_section(record, of("copy"), of("chain")),
        Section("scaling", "Scaling", plots=named(GRID_PLOTS)),
        Section("ranks", "Ranks", plots=of("ranks"), folded=tuple(rank_tables(record))),
        Section(
            "places",
            "Cores and clients of the ranks",
            intro=" ".join(client_lines(record)),
            tables=(places,) if places else (),
        ),
        Section("percentiles", "Latency percentiles", plots=of("percentiles")),
        Section("names", "Many small files", plots=of("names")),
        Section("checkpoints", "Checkpoints", plots=of("checkpoints")),
        Section("roofline", "Roofline", plots=of("roofline")),
        Section("energy", "Energy", plots=of("energy")),
        Section("route", "Proof of the route", intro=_route_intro(route), tables=(route,) if route else ()),
        Section(
            "metrics",
            "All metrics",
            tables=(metrics,) if metrics else (),
            folded=tuple(stage_tables(record)),
        ),
        Section("workload", "Workload", pairs=tuple(facts(_plain_workload(record)))),
        Section("environment", "Environment", pairs=tuple(facts(record.environment))),
        Section("warnings", "Warnings", lines=record.warnings),
        Section("absent", "Not in this record", lines=absent_lines(record, drawn)),
        Section("repeat", "Repeat this run", command=shell_line(record.command)),
    ]


def _basis(verdict: Verdict) -> str:
    """How much measurement a verdict rests on."""
    seconds, num_bytes = verdict.measured_seconds, verdict.measured_bytes
    time = "an unrecorded time" if seconds is None else duration(seconds)
    read = "an unrecorded number of bytes" if num_bytes is None else amount(num_bytes, "bytes")
    return f"Rests on {time} of measurement and {read} read."


def _history_section(record: RunRecord) -> Section:
    """What changed since the last good run, where there is one."""
    heading = "What changed" if record.kind == "compare" else "Since the last good run"
    if record.history is None:
        return Section("history", heading)
    found, plot = change_tables(record.history), change_plot(record.history)
    if plot is None:
        return Section("history", heading, intro=record.history.sentence, tables=tuple(found))
    rest = tuple(found[1:])  # the first is the picture's own
    return Section("history", heading, intro=record.history.sentence, plots=(plot,), tables=rest)


def _copy_section(record: RunRecord, drawn: tuple[Plot, ...], chain: tuple[Plot, ...]) -> Section:
    """Copy or not: a picture where there are both roads, the sentence otherwise; and what each hop took."""
    case = record.workload.get("copy_or_not")
    sentence = str(case.get("sentence") or case.get("outcome") or "") if isinstance(case, dict) else ""
    even = record.metrics.get("break_even_epochs")
    if even is not None and even.value is not None and even.ci95 is not None:
        sentence += f" Break-even after {quantity(even)} ({interval_text(even)})."
    return Section(
        "copy",
        "Copy to local storage, or not",
        intro="" if drawn else sentence,
        plots=(*drawn, *chain),
        tables=tuple(table for table in (None if chain else hop_table(record), reading_table(record)) if table),
    )


def absent_lines(record: RunRecord, drawn: Mapping[str, Plot]) -> tuple[str, ...]:
    """What a run did not measure, and what would."""
    if record.kind not in MEASURING:
        return ()
    return tuple(line for name, line in ABSENT.items() if not any(plot.startswith(name) for plot in drawn))


def _route_intro(route: Table | None) -> str:
    if route is None:
        return ""
    return (
        "Counters read before and after each point say which way the bytes took. Exact counters can make a point "
        "invalid, bounding ones only limit it; without counters the route is not proven."
    )


def _plain_workload(record: RunRecord) -> dict[str, object]:
    return {name: value for name, value in record.workload.items() if name not in NOT_PLAIN}


def _policy(scripts: Sequence[str]) -> str:
    """A content policy that allows these scripts, the inline styles, and nothing from anywhere."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
