"""What a person sees on the terminal: progress with rate and time left, aligned tables, a line of meaning.

Everything goes to stderr; stdout belongs to --json.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from .results.record import Comparison, Metric, Point, RunRecord

QUIET_INTERVAL_S = 5.0
WHOLE = ("accelerators", "epochs")


class Screen:
    """Progress of named parts: a bar each on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line: dict[str, float] = {}

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description:<12}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[detail]}"),
            )
            self._bars = Progress(*columns, console=Console(stderr=True))
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, part: str, share: float, detail: str) -> None:
        """`part` is done to `share` (0..1); `detail` is the current rate or step."""
        if self._bars is None:
            self._line(part, share, detail)
        elif part == "plan":
            self._bars.console.print(detail)
        else:
            if part not in self._tasks:
                self._tasks[part] = self._bars.add_task(part, total=1.0, detail="")
            self._bars.update(self._tasks[part], completed=share, detail=detail)

    def _line(self, part: str, share: float, detail: str) -> None:
        now = time.monotonic()
        if share < 1.0 and now - self._last_line.get(part, 0.0) < QUIET_INTERVAL_S:
            return
        self._last_line[part] = now
        print(detail if part == "plan" else f"{part:<12} {share:>4.0%}  {detail}", file=sys.stderr, flush=True)


def say(text: str = "") -> None:
    """One line on stderr."""
    print(text, file=sys.stderr)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """An aligned table; columns that hold only figures and dashes stand to the right."""
    if title:
        say(title)
    columns = list(zip(headers, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    figures = [all(cell[:1].isdigit() or cell in ("-", "") for cell in column[1:]) for column in columns]
    lines = [headers, tuple("-" * width for width in widths), *rows]
    for line in lines:
        cells = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, figures, strict=True)
        )
        say(f"  {'  '.join(cells)}".rstrip())


def figure(metric: Metric | None, *, digits: int = 3) -> str:
    """`2.035 ± 0.012`, or a dash where nothing was measured."""
    if metric is None or metric.value is None:
        return "-"
    if metric.unit in WHOLE:
        spread = "" if metric.ci95 is None or metric.ci95[0] == metric.ci95[1] else " ({:.0f} to {:.0f})"
        return f"{metric.value:.0f}" + spread.format(*(metric.ci95 or ()))
    text = f"{metric.value:.{digits}f}" if abs(metric.value) < 10_000 else f"{metric.value:,.0f}"
    if metric.ci95 is None:
        return text
    half = (metric.ci95[1] - metric.ci95[0]) / 2
    return f"{text} ± {half:.{digits}f}" if half < 10_000 else f"{text} ± {half:,.0f}"


def show_points(points: Sequence[Point]) -> None:
    """The points of each stage as a table of their own."""
    storage = [point for point in points if point.params["stage"] == "storage"]
    if storage:
        table(
            (
                "engine",
                "access",
                "block KiB",
                "depth",
                "threads",
                "cache",
                "GB/s",
                "ops/s",
                "p50 us",
                "p99 us",
                "max us",
                "cached",
                "route",
                "",
            ),
            [_storage_row(point) for point in storage],
            title="Storage rate (mean and 95 % interval over time blocks)",
        )
    roads = [point for point in points if "road" in point.params]
    if roads:
        table(
            ("road", "way", "threads", "consumer", "cache", "images/s", "GB/s", "CPU s/GB", "peak MB", "ours/it", ""),
            [_road_row(point) for point in roads],
            title="Loaders side by side (mean and 95 % interval over interleaved time blocks)",
        )
    hops = [point for point in points if point.params["stage"] == "stage"]
    if hops:
        table(
            ("hop", "from", "to", "files", "GB", "copy s", "GB/s", "verify s", "GB/s", "in flight MB", "route"),
            [_hop_row(point) for point in hops],
            title="Copy, hop by hop",
        )
    readings = [point for point in points if point.params["stage"] == "load" and "source" in point.params]
    if readings:
        last = f"epoch {readings[0].params.get('epochs', '-')}"
        table(
            ("read", "images/s", "GB/s", "first batch s", "since start: first batch", "epoch 1", last, "route"),
            [_reading_row(point) for point in readings],
            title="Reading, cold (mean and 95 % interval over interleaved time blocks; since start: with the copying)",
        )
    loads = [p for p in points if p.params["stage"] == "load" and p not in roads and p not in readings]
    if loads:
        table(
            ("engine", "batch", "shuffle", "threads", "cache", "images/s", "GB/s", "CPU s/GB", "route"),
            [_load_row(point) for point in loads],
            title="Loader",
        )
    for point in (point for point in points if point.params["stage"] == "metadata"):
        _show_names(point)
    checkpoints = [point for point in points if point.params["stage"] == "checkpoint"]
    if checkpoints:
        _show_checkpoints(checkpoints)
    trains = [point for point in points if point.params["stage"] == "train"]
    if trains:
        table(
            (
                "source",
                "ranks",
                "step ms",
                "compute",
                "data wait",
                "sync wait",
                "other",
                "images/s",
                "AU",
                "predicted",
                "",
            ),
            [_train_row(point) for point in trains],
            title=f"Ranks on {trains[0].params['accelerator']}"
            + (" (emulated)" if trains[0].params["emulated"] else ""),
        )
    trained = [point for point in points if point.params["stage"] == "real"]
    if trained:
        table(
            ("network", "ranks", "source", "step ms", "compute", "data wait", "allreduce", "images/s", "right", "seen"),
            [_trained_row(point) for point in trained],
            title=f"Training on {trained[0].params['accelerator']} (mean and 95 % interval over time blocks; of 100 "
            "images so many are right, at the end and of the validation data)",
        )


def _show_names(point: Point) -> None:
    """One row an operation: what is measured of each is the same, how fast they are is not."""
    params, metrics = point.params, point.metrics
    operations = [name.removesuffix("_per_s") for name in metrics if name.endswith("_per_s")]
    table(
        ("operation", "rate", "unit", "p99 us", ""),
        [
            (
                name.replace("_", " "),
                figure(metrics[f"{name}_per_s"], digits=0),
                metrics[f"{name}_per_s"].unit,
                figure(metrics.get(f"{name}_p99_us"), digits=0),
                _short(metrics[f"{name}_per_s"].reason, 60),
            )
            for name in operations
        ],
        title=f"Folder of {params['files']:,} files, {params['threads']} threads, {params['page_cache']} "
        f"(mean and 95 % interval over time blocks) {' '.join(point.flags)}",
    )


def _show_checkpoints(points: Sequence[Point]) -> None:
    """One row a figure, a column for what went on beside it, and the ratio of each pair of rounds."""
    names = dict.fromkeys(name for point in points for name in point.metrics if not name.endswith("_ratio"))
    table(
        ("figure", "unit", *(f"beside {point.params['beside']}" for point in points), "ratio"),
        [
            (
                name.removesuffix("_gbps").removesuffix("_s").replace("_", " "),
                next(point.metrics[name].unit for point in points if name in point.metrics),
                *(figure(point.metrics.get(name)) for point in points),
                _span(points[-1].metrics.get(f"{name}_ratio")),
            )
            for name in names
        ],
        title=f"Checkpoints of {float(points[0].params['checkpoint_bytes'] or 0) / 1e9:.2f} GB "
        f"(mean and 95 % interval over checkpoints) {' '.join(points[0].flags)}",
    )


def show_verdict(record: RunRecord) -> None:
    """The verdict, the figures it rests on, and the warnings."""
    if record.verdict is None or record.kind == "compare":  # which show_comparison tells of
        return
    verdict, metrics = record.verdict, record.metrics
    say()
    table(
        ("figure", "value", "unit", "blocks", "note"),
        [
            (name, figure(metric), metric.unit, str(metric.n), _short(metric.reason))
            for name, metric in metrics.items()
            if name in HEADLINE
        ],
    )
    say()
    say(f"{verdict.outcome.upper()}: {verdict.sentence}")
    say(str(record.workload.get("copy_or_not", {}).get("sentence", "")))
    say(
        f"This rests on {verdict.measured_seconds or 0:.0f} s of measuring and "
        f"{(verdict.measured_bytes or 0) / 1e9:.1f} GB read."
    )
    if record.history is not None:
        show_changes(record.history)
    for warning in record.warnings:
        say(f"warning: {warning}")


def show_changes(comparison: Comparison) -> None:
    """What changed against another run, and what differs between the two."""
    from .results.changes import change_label, ratio_text

    say()
    if comparison.changes:
        table(
            ("figure", "then", "now", "now / then", "finding"),
            [
                (
                    change_label(change),
                    "-" if change.base is None else f"{change.base:.4g}",
                    "-" if change.candidate is None else f"{change.candidate:.4g}",
                    ratio_text(change) or "-",
                    change.finding,
                )
                for change in comparison.changes
            ],
            title=f"Against {comparison.base_run_id}",
        )
    say(comparison.sentence)
    for item in comparison.differences:
        say(f"  {item.name}: {item.base} -> {item.candidate}")


def show_comparison(record: RunRecord) -> None:
    """What changed between two runs, how many figures did not, and whether limits were kept."""
    if record.history is None:
        return
    changes = record.history.changes
    told = [item for item in changes if not item.where or item.finding not in ("no difference", "not comparable")]
    show_changes(record.history.model_copy(update={"changes": tuple(told)}))
    if len(told) < len(changes):
        say(f"{len(changes) - len(told)} more, of points: no difference shown, or not comparable; see the record")
    for warning in record.warnings:
        say(f"warning: {warning}")
    if record.verdict is not None:
        say(f"{record.verdict.outcome.upper()}: {record.verdict.sentence}")


HEADLINE = (
    "gpus_fed_predicted",
    "gpus_fed_measured",
    "read_gbps",
    "images_per_s",
    "au_mlperf",
    "data_stall_fraction",
    "stage_time_s",
    "break_even_epochs",
)


def _storage_row(point: Point) -> tuple[str, ...]:
    params, path = point.params, point.read_path
    cached = "-" if path is None or path.cache_fraction is None else f"{path.cache_fraction:.3f}"
    operation = params.get("operation", "read")
    return (
        str(params["engine"]),
        f"{params['access']} {operation}",
        f"{int(params['block_size_bytes'] or 0) / 1024:g}",
        str(params["queue_depth"]),
        str(params["threads"]),
        str(params["page_cache"] or "-"),
        figure(point.metrics[f"{operation}_gbps"]),
        figure(point.metrics[f"{operation}_iops"], digits=0),
        figure(point.metrics["latency_p50_us"], digits=0),
        figure(point.metrics["latency_p99_us"], digits=0),
        figure(point.metrics.get("latency_max_us"), digits=0),
        cached,
        "-" if path is None else f"{path.observed_route} ({path.counter_class})",
        " ".join(point.flags),
    )


def _load_row(point: Point) -> tuple[str, ...]:
    params, path = point.params, point.read_path
    return (
        str(params["engine"]),
        str(params["batch_size"]),
        str(params["shuffle"]),
        str(params["num_workers"]),
        str(params["page_cache"]),
        figure(point.metrics["images_per_s"], digits=0),
        figure(point.metrics["read_gbps"]),
        figure(point.metrics["cpu_seconds_per_gb"]),
        "-" if path is None else f"{path.observed_route} ({path.counter_class})",
    )


def _hop_row(point: Point) -> tuple[str, ...]:
    params, metrics = point.params, point.metrics

    def short(name: str, digits: int, factor: float = 1.0) -> str:
        value = metrics[name].value if name in metrics else None
        return "-" if value is None else f"{value * factor:.{digits}f}"

    return (
        str(params.get("hop", 1)),
        str(params.get("source", "-")),
        str(params.get("target", "-")),
        str(params["files"]),
        f"{float(params['bytes'] or 0) / 1e9:.2f}",
        short("stage_time_s", 2),
        short("read_gbps", 3),
        short("verify_time_s", 2),
        short("verify_gbps", 3),
        short("peak_in_flight_bytes", 0, 1e-6),
        _route(point),
    )


def _reading_row(point: Point) -> tuple[str, ...]:
    metrics = point.metrics
    return (
        str(point.params["source"]),
        figure(metrics["images_per_s"], digits=0),
        figure(metrics["read_gbps"]),
        figure(metrics["first_batch_s"]),
        figure(metrics["until_first_batch_s"]),
        figure(metrics["until_first_epoch_s"], digits=2),
        figure(metrics["until_last_epoch_s"], digits=2),
        _route(point),
    )


def _route(point: Point) -> str:
    path = point.read_path
    return "-" if path is None else f"{path.observed_route} ({path.counter_class})"


def _road_row(point: Point) -> tuple[str, ...]:
    params, metrics = point.params, point.metrics
    peak = metrics["peak_rss_bytes"].value
    missing = metrics["images_per_s"].value is None
    return (
        str(params["road"]),
        str(params.get("engine", "-")),
        str(params.get("threads", "-")),
        str(params["consumer"]),
        str(params["page_cache"]),
        figure(metrics["images_per_s"], digits=0),
        figure(metrics["read_gbps"]),
        figure(metrics["cpu_seconds_per_gb"]),
        "-" if peak is None else f"{peak / 1e6:.0f}",
        figure(metrics.get("images_per_s_ratio"), digits=2),
        "not installed" if missing else " ".join(point.flags),
    )


def _train_row(point: Point) -> tuple[str, ...]:
    metrics = point.metrics

    def milliseconds(name: str) -> str:
        value = metrics[name].value
        return "-" if value is None else f"{value * 1e3:.1f}"

    return (
        str(point.params["source"]),
        str(point.params["num_ranks"]),
        milliseconds("step_time_s"),
        milliseconds("compute_s"),
        milliseconds("data_wait_s"),
        milliseconds("sync_wait_s"),
        milliseconds("overhead_s"),
        figure(metrics["images_per_s"], digits=0),
        figure(metrics["au_mlperf"]),
        figure(metrics.get("au_predicted")),
        " ".join(point.flags),
    )


def _trained_row(point: Point) -> tuple[str, ...]:
    params, metrics = point.params, point.metrics

    def share(name: str, scale: float, digits: int) -> str:
        value = metrics[name].value
        return "-" if value is None else f"{value * scale:.{digits}f}"

    return (
        f"{params['model']} {params['precision']}",
        str(params["num_ranks"]),
        str(params["source"]),
        *(share(name, 1e3, 1) for name in ("step_time_s", "compute_s", "data_wait_s", "sync_wait_s")),
        figure(metrics["images_per_s"], digits=0),
        *(share(name, 100, 1) for name in ("train_accuracy", "validation_accuracy")),
    )


def _span(metric: Metric | None) -> str:
    """`0.79 (0.65 to 0.93)`: the interval of a ratio is not symmetrical."""
    if metric is None or metric.value is None:
        return "-"
    return f"{metric.value:.2f}" + ("" if metric.ci95 is None else " ({:.2f} to {:.2f})".format(*metric.ci95))


def _short(text: str | None, limit: int = 70) -> str:
    return "" if not text else text if len(text) <= limit else text[: limit - 3] + "..."
