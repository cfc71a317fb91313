"""A run in a few lines on the terminal: the verdict and its figures, what changed against another run, warnings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..terminal import figure, say, shortened, table

if TYPE_CHECKING:
    from ..results.record import Comparison, RunRecord

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


def show_verdict(record: RunRecord) -> None:
    """The verdict, the figures it rests on, and the warnings."""
    if record.verdict is None or record.kind == "compare":  # which show_comparison tells of
        return
    from ..results.quantities import amount, duration

    verdict, metrics = record.verdict, record.metrics
    say()
    table(
        ("figure", "value", "unit", "blocks", "note"),
        [
            (name, figure(metric), metric.unit, str(metric.n), shortened(metric.reason))
            for name, metric in metrics.items()
            if name in HEADLINE
        ],
    )
    say()
    say(f"{verdict.outcome.upper()}: {verdict.sentence}")
    say(str(record.workload.get("copy_or_not", {}).get("sentence", "")))
    say(
        f"This rests on {duration(verdict.measured_seconds or 0)} of measuring and "
        f"{amount(verdict.measured_bytes or 0, 'bytes')} read."
    )
    if record.history is not None:
        show_changes(record.history)
    for warning in record.warnings:
        say(f"warning: {warning}")


def show_changes(comparison: Comparison) -> None:
    """What changed against another run, and what differs between the two."""
    from ..results.comparison.changes import change_label, figure_text, note_lines, ratio_text

    say()
    if comparison.changes:
        table(
            ("figure", "then", "now", "now / then", "finding"),
            [
                (
                    change_label(change),
                    figure_text(change.base, change.unit),
                    figure_text(change.candidate, change.unit),
                    ratio_text(change) or "-",
                    change.finding,
                )
                for change in comparison.changes
            ],
            title=f"Against {comparison.base_run_id}",
        )
    say(comparison.sentence)
    for text in note_lines(comparison.changes):
        say(f"  {text}")
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
