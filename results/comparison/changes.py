"""What changed between two runs, as tables and lines for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..quantities import amount, counted
from ..tables import Cell, Column, Table, text_column
from ..wording import metric_label

if TYPE_CHECKING:
    from ..record import Change, Comparison

MARKS = {"better": "good", "worse": "bad", "not comparable": "missing"}
WORDS = {"no difference": "no difference that this data shows"}


def change_tables(comparison: Comparison) -> list[Table]:
    """The changes, and what differs in the machine or in what was asked; empty tables are left out."""
    changes, differences = comparison.changes, comparison.differences
    tables = []
    if changes:
        tables.append(
            Table(
                f"Against {comparison.base_run_id}",
                (
                    text_column("figure", [change_label(change) for change in changes]),
                    text_column("then", [figure_text(change.base, change.unit) for change in changes], numeric=True),
                    text_column(
                        "now", [figure_text(change.candidate, change.unit) for change in changes], numeric=True
                    ),
                    text_column("now / then", [ratio_text(change) for change in changes], numeric=True),
                    Column("finding", tuple(_finding(change) for change in changes)),
                ),
            )
        )
    if differences:
        tables.append(
            Table(
                f"{counted(len(differences), 'difference')} in the machine or in what was asked",
                (
                    text_column("what", [item.name for item in differences]),
                    text_column("then", [item.base for item in differences]),
                    text_column("now", [item.candidate for item in differences]),
                ),
            )
        )
    return tables


def change_label(change: Change) -> str:
    """What a change is of: `read rate, shard-replay, 4 threads`."""
    return f"{metric_label(change.name)}, {change.where}" if change.where else metric_label(change.name)


def ratio_text(change: Change) -> str:
    """`0.750 (0.741 to 0.759)`, or nothing where there is no ratio."""
    if change.ratio is None or change.ci95 is None:
        return ""
    return f"{change.ratio:.3f} ({change.ci95[0]:.3f} to {change.ci95[1]:.3f})"


def note_lines(changes: Iterable[Change]) -> list[str]:
    """What is to be said of figures, a line for each: `peak memory (RSS): a figure of one block has no interval`."""
    said: dict[str, list[str]] = {}
    for change in changes:
        if change.reason:
            said.setdefault(change.reason, []).append(change_label(change))
    return [f"{', '.join(labels)}: {reason}" for reason, labels in said.items()]


def figure_text(value: float | None, unit: str) -> str:
    """`1.95 GB/s`, or that it was not measured."""
    return "not measured" if value is None else amount(value, unit)


def _finding(change: Change) -> Cell:
    return Cell(WORDS.get(change.finding, change.finding), note=change.reason or "", mark=MARKS.get(change.finding, ""))
