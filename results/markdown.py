"""Runs and comparisons as Markdown, for a pull request or a wiki: what it comes to, tables, and long ones folded.

GitHub's flavour.  Every string of a record is escaped: it stays text whatever it holds.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .comparison.changes import change_tables
from .headlines import answer_of
from .record_tables import metrics_table, requirement_table, route_table, stage_tables
from .tables import Table
from .wording import shell_line, title_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .headlines import Answer
    from .record import Comparison, RunRecord
    from .tables import Cell

SPECIAL = re.compile(r"([\\`*\[\]<>|~$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
FOLDED_FROM = 12  # rows; longer tables are opened by the reader
SAME = ("no difference", "not comparable")


def markdown_of(records: Sequence[RunRecord]) -> str:
    """The runs one after another; a comparison shows what changed, any other run its figures and their proof."""
    return "\n\n".join("\n\n".join(_parts(record)) for record in records) + "\n"


def escaped(text: str) -> str:
    """A string of a record as Markdown shows it unchanged, on one line."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;")


def table_text(table: Table, *, folds: bool = True) -> str:
    """One table with its notes; where it is long it is folded below its title, unless it may not be."""
    heads = [escaped(column.head) for column in table.columns]
    rules = ["---:" if column.numeric else "---" for column in table.columns]
    notes = table.notes
    rows = [[_cell(cell, notes) for cell in row] for row in table.rows]
    lines = ["| " + " | ".join(row) + " |" for row in (heads, rules, *rows)]
    below = [f"{number}. {escaped(note)}" for number, note in enumerate(notes, 1)]
    text = "\n".join(lines) + ("\n\n" + "\n".join(below) if below else "")
    title = escaped(table.title)
    if not folds or len(rows) < FOLDED_FROM:
        return f"**{title}**\n\n{text}"
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def _parts(record: RunRecord) -> list[str]:
    head = [f"## {escaped(title_of(record))}", _when(record)]
    if (answer := answer_of(record)).lines:
        head.append(_answer(answer))
    if requirements := requirement_table(record):
        head.append(table_text(requirements))
    if record.history is not None:
        head += _changes(record.history)
    if record.kind != "compare":
        head += _figures(record)
    warnings = [f"- {escaped(warning)}" for warning in record.warnings]
    if warnings:
        head.append("**Warnings**\n\n" + "\n".join(warnings))
    return [*head, _code(shell_line(record.command))]


def _when(record: RunRecord) -> str:
    host = record.environment.get("host")
    words = [f"`{record.run_id}`" if "`" not in record.run_id else escaped(record.run_id), escaped(record.started_at)]
    return ", ".join([*words, *([f"on {escaped(str(host))}"] if host else [])])


def _answer(answer: Answer) -> str:
    first, *more = (escaped(line) for line in answer.lines)
    return "\n\n".join([f"**{answer.badge}**: {first}" if answer.badge else first, *more])


def _changes(comparison: Comparison) -> list[str]:
    """What changed, then folded what did not, then in what the runs differ."""
    moved = [change for change in comparison.changes if change.finding not in SAME]
    still = [change for change in comparison.changes if change.finding in SAME]
    texts = [escaped(comparison.sentence)]
    for changes, title in ((moved, "What changed"), (still, "No difference shown, or not comparable")):
        part = comparison.model_copy(update={"changes": tuple(changes), "differences": ()})
        texts += [table_text(_titled(table, title), folds=changes is still) for table in change_tables(part)]
    rest = comparison.model_copy(update={"changes": ()})
    return texts + [table_text(table) for table in change_tables(rest)]


def _titled(table: Table, title: str) -> Table:
    return Table(f"{title} ({len(table.rows)})", table.columns)


def _figures(record: RunRecord) -> list[str]:
    found = [
        metrics_table(record),
        *stage_tables(record),
        route_table(record),
    ]
    return [table_text(table) for table in found if table is not None]


def _cell(cell: Cell, notes: Sequence[str]) -> str:
    note = f" <sup>{notes.index(cell.note) + 1}</sup>" if cell.note else ""
    small = f"<br>{escaped(cell.small)}" if cell.small else ""
    return escaped(cell.text) + note + small


def _code(text: str) -> str:
    """A block of code, fenced by more backticks than it holds."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text}\n{fence}"
