"""A page that shows what runs saw: one HTML file that opens without a network and asks for nothing.

    records -> Chapter (one a run) -> sections of plots and tables -> templates/report.html.j2 -> one file

Every string of a record is escaped: in the page by jinja2, in the plots' data as JSON without <, > and &.  Scripts run
only if the page's content policy names their hash, so that even a string that slipped through would stay text.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from . import plots, tables
from .changes import change_tables
from .quantities import amount, duration, interval_text, percent, quantity, scale_for, span_of_time, value_text
from .record import write_whole
from .scaling_plots import scaling_plots
from .wording import accelerator_name, fed_text, metric_label, points_of, shell_line, stage_of, title_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .drawing import Plot
    from .record import RunRecord, Verdict
    from .tables import Table

TEMPLATES = Path(__file__).parent / "templates"
HEADLINES = {
    "qualify": ("gpus_fed_measured", "read_gbps", "au_mlperf"),
    "storage": ("read_gbps", "read_iops", "latency_p99_us"),
    "metadata": ("create_per_s", "stat_per_s", "small_read_per_s"),
    "checkpoint": ("write_gbps", "restore_gbps", "fsync_s"),
    "load": ("images_per_s", "read_gbps", "cpu_seconds_per_gb"),
    "stage": ("stage_time_s", "read_gbps", "break_even_epochs"),
    "train": ("images_per_s", "data_stall_fraction", "au_mlperf"),
    "infer": ("images_per_s", "data_stall_fraction", "au_mlperf"),
    "scale": ("images_per_s", "scaling_efficiency", "data_stall_fraction"),
}
GRID_PLOTS = ("throughput", "efficiency", "stalls", "bandwidth")
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
OUTCOMES = {
    "pass": ("\N{CHECK MARK}", "PASS"),
    "fail": ("\N{MULTIPLICATION X}", "FAIL"),
    "insufficient": ("?", "INSUFFICIENT"),
    "invalid": ("!", "INVALID"),
}


class ReportError(ValueError):
    """There is nothing to report."""

    exit_status: ClassVar[int] = 2


@dataclass(frozen=True)
class Fact:
    """One figure behind the verdict: its words, value, interval, and what it is to be held against."""

    label: str
    value: str
    unit: str = ""
    interval: str = ""
    notes: tuple[str, ...] = ()


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
    badge: tuple[str, str] | None
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
    shown = [(part.name, section) for part in chapters for section in part.sections]
    figures = {
        f"{prefix}-{section.name}-{plot.name}": {"data": plot.traces, "layout": plot.layout}
        for prefix, section in ([("all", together)] if together else []) + shown
        for plot in section.plots
    }
    scripts = _scripts() if figures else []
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        chapters=chapters,
        together=together,
        figures=figures,
        policy=_policy(scripts),
        scripts=[Markup(text) for text in scripts],
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
        badge=OUTCOMES[record.verdict.outcome] if record.verdict else None,
        facts=tuple(_facts(record)),
        basis=_basis(record.verdict) if record.verdict else "",
        requirements=tables.requirement_table(record),
        sections=tuple(section for section in _sections(record) if not section.is_empty),
    )


def _sections(record: RunRecord) -> list[Section]:
    """The parts of a chapter in the order they are read."""
    drawn = {plot.name: plot for plot in plots.all_plots(record)}

    def of(*names: str) -> tuple[Plot, ...]:
        return tuple(drawn[name] for name in names if name in drawn)

    route, metrics = tables.route_table(record), tables.metrics_table(record)
    return [
        _history_section(record),
        Section("steps", "Where a step's time goes", plots=of("steps", "hops")),
        Section("device", "Device rates", plots=of("rates-size", "latencies-size", "rates-depth", "latencies-depth")),
        Section("fed", "Predicted and measured", plots=of("utilisation", "supply")),
        Section("loader", "Loader", plots=of("loader")),
        _copy_section(record, of("copy")),
        Section("scaling", "Scaling", plots=tuple(plot for plot in drawn.values() if plot.name.startswith(GRID_PLOTS))),
        Section("ranks", "Ranks", plots=of("ranks"), folded=tuple(tables.rank_tables(record))),
        Section("percentiles", "Latency percentiles", plots=of("percentiles")),
        Section("roofline", "Roofline", plots=of("roofline")),
        Section("energy", "Energy", plots=of("energy")),
        Section("route", "Proof of the route", intro=_route_intro(route), tables=(route,) if route else ()),
        Section(
            "metrics", "All metrics", tables=(metrics,) if metrics else (), folded=tuple(tables.stage_tables(record))
        ),
        Section("workload", "Workload", pairs=tuple(tables.facts(_plain_workload(record)))),
        Section("environment", "Environment", pairs=tuple(tables.facts(record.environment))),
        Section("warnings", "Warnings", lines=record.warnings),
        Section("absent", "Not in this record", lines=absent_lines(record, drawn)),
        Section("repeat", "Repeat this run", command=shell_line(record.command)),
    ]


def _facts(record: RunRecord) -> list[Fact]:
    """The three figures behind the verdict, or behind the run where it has none."""
    stages = {stage_of(record, point) for point in record.points}
    names = HEADLINES.get(stages.pop() if len(stages) == 1 else record.kind, tuple(record.metrics)[:3])
    return [_fact(record, name) for name in names if name in record.metrics]


def _fact(record: RunRecord, name: str) -> Fact:
    metric, label = record.metrics[name], metric_label(name)
    notes = [*_against(record, name), metric.reason or ""]
    predicted = record.metrics.get("gpus_fed_predicted")
    if name == "gpus_fed_measured":
        label = f"{accelerator_name(record.workload)} fed, measured"
        if metric.value is None and predicted is not None and predicted.value is not None:
            notes = [f"not measured: {metric.reason}"]
            metric, label = predicted, f"{accelerator_name(record.workload)} fed, predicted only"
    if metric.value is None:
        return Fact(label, "not measured", notes=(metric.reason or "",))
    interval = interval_text(metric)
    if interval:
        interval = f"{interval}, {metric.n} blocks"
    notes = [note for note in notes if note]
    if name.startswith("gpus_fed"):
        return Fact(label, fed_text(metric), interval=interval, notes=tuple(notes))
    unit = scale_for(metric.unit, [metric.value]).unit
    return Fact(label, value_text(metric), unit, interval, tuple(notes))


def _against(record: RunRecord, name: str) -> list[str]:
    """What a headline figure is to be held against."""
    workload, metrics = record.workload, record.metrics
    threshold, demand = workload.get("au_threshold"), workload.get("demand_gbps")
    if name == "gpus_fed_measured" and "gpus_fed_predicted" in metrics:
        predicted = metrics["gpus_fed_predicted"]
        span = f", {interval_text(predicted)} over the read rate's interval" if predicted.ci95 else ""
        return [f"predicted {fed_text(predicted)}{span}"]
    if name == "read_gbps" and isinstance(demand, int | float):
        return [f"each {accelerator_name(workload)} takes {amount(demand, 'GB/s')}"]
    if name == "au_mlperf" and isinstance(threshold, int | float):
        stall = metrics.get("data_stall_fraction")
        waiting = [f"{percent(stall.value)} of the time waits for data"] if stall and stall.value is not None else []
        return [f"threshold {threshold:.2f}", *waiting]
    return []


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
    found = change_tables(record.history)
    return Section("history", heading, intro=record.history.sentence, tables=tuple(found))


def _copy_section(record: RunRecord, drawn: tuple[Plot, ...]) -> Section:
    """Copy or not: a picture where there are both roads, the sentence otherwise."""
    case = record.workload.get("copy_or_not")
    sentence = str(case.get("sentence") or case.get("outcome") or "") if isinstance(case, dict) else ""
    even = record.metrics.get("break_even_epochs")
    if even is not None and even.value is not None and even.ci95 is not None:
        sentence += f" Break-even after {quantity(even)} ({interval_text(even)})."
    return Section(
        "copy",
        "Copy to local storage, or not",
        intro="" if drawn else sentence,
        plots=drawn,
        tables=tuple(tables.copy_tables(record)),
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
    return {name: value for name, value in record.workload.items() if name not in ("copy_or_not", "objects")}


def _scripts() -> list[str]:
    """The scripts of a page with plots, as the browser reads them: line ends are \\n."""
    from plotly.offline import get_plotlyjs

    texts = (get_plotlyjs(), (TEMPLATES / "report.js").read_text(encoding="utf-8"))
    return [text.replace("\r\n", "\n").replace("\r", "\n") for text in texts]


def _policy(scripts: Sequence[str]) -> str:
    """A content policy that allows these scripts, the inline styles, and nothing from anywhere."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
