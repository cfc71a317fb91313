"""What a person sees on the terminal: progress with rate and time left, aligned tables, a line of meaning.

Everything goes to stderr; stdout belongs to --json.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import zip_longest
from textwrap import wrap
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from .results.legible import legible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from .results.record import Metric

QUIET_INTERVAL_S = 5.0
WHOLE = ("accelerators", "epochs")
GAP = 2  # blanks before each column
LEAST_TEXT = 20  # letters of a line of text beside figures

Column = tuple[str, ...]  # its head, and a cell for each row


class Screen:
    """Progress of named parts: a bar each on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line: dict[str, float] = {}
        self._ended: set[str] = set()

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
            with suppress(OSError):  # the terminal may be gone
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
        ends = share >= 1.0 and part not in self._ended  # what comes once more is told now and then
        if not ends and now - self._last_line.get(part, 0.0) < QUIET_INTERVAL_S:
            return
        self._last_line[part] = now
        if ends:
            self._ended.add(part)
        say(detail if part == "plan" else f"{part:<12} {share:>4.0%}  {detail}")


def say(text: str = "") -> None:
    """One line on stderr, more where a terminal would cut a word; where nobody reads it, what is measured goes on."""
    room, lines = terminal_columns(), legible(text).split("\n")
    if room is not None:
        lines = [line if line.startswith(" ") else _in_words(line, room) for line in lines]
    try:
        print("\n".join(lines), file=sys.stderr, flush=True)
    except OSError:
        forget(sys.stderr)


def _in_words(text: str, room: int) -> str:
    """The text in lines that break between words; paths and options stay whole, for who copies them."""
    return "\n".join(wrap(text, room, break_long_words=False, break_on_hyphens=False)) if len(text) > room else text


def forget(stream: TextIO) -> None:
    """Have a stream that cannot be written lead to nowhere: what it still holds would fail again at the end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def terminal_columns() -> int | None:
    """Columns of the terminal that a person looks at; None where stderr goes elsewhere, and lines may be any length."""
    if not sys.stderr.isatty():
        return None
    told = os.environ.get("COLUMNS", "")
    with suppress(OSError):
        return int(told) if told.isdecimal() else os.get_terminal_size(sys.stderr.fileno()).columns or None
    return None


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "", keys: int = 1, spare: Sequence[str] = ()
) -> None:
    """An aligned table; columns that hold only figures and dashes stand to the right.

    On a terminal that is too narrow what is the same in all rows is told below them, then columns of `spare` are left
    out, the first named first, and what is still too wide goes on in a second table.  The first `keys` columns tell
    rows apart and are in each; the last column, where it has no head, stands below its row.
    """
    if title:
        say(title)
    columns = list(zip(headers, *rows, strict=True))
    room = terminal_columns()
    if room is None or _width_of(columns) <= room:
        _print_columns(columns)
    else:
        _print_narrow(columns, room, keys, spare)


def _print_narrow(columns: list[Column], room: int, keys: int, spare: Sequence[str]) -> None:
    below = columns.pop() if not columns[-1][0] else None
    same: list[Column] = []
    gone: list[Column] = []
    if len(columns[0]) > 2:  # of a single row nothing is the same as elsewhere, and nothing need be left out
        alike = [column for column in columns if len(set(column[1:])) == 1]
        telling = columns[:keys]
        same = _taken(columns, alike, room)
        keys = max(1, sum(column not in same for column in telling))
        gone = _taken(columns, [column for head in spare for column in columns if column[0] == head], room)
    for part in _parts(columns, room, keys):
        _print_columns(_wrapped(part, room), below)
        below = None
    if same:
        _say_wrapped(f"every row: {', '.join(f'{column[0]} {column[1]}' for column in same)}", room)
    if gone:
        _say_wrapped(
            f"no room for {', '.join(column[0] for column in gone)}: see the report, or a wider terminal", room
        )


def _taken(columns: list[Column], candidates: Sequence[Column], room: int) -> list[Column]:
    """Candidates taken out of `columns`, in their order, until the others fit."""
    taken = []
    for column in candidates:
        if _width_of(columns) <= room:
            break
        columns.remove(column)
        taken.append(column)
    return taken


def _parts(columns: Sequence[Column], room: int, keys: int) -> list[list[Column]]:
    """The columns in as many tables as it takes, the keys in each; a last column of text may be wrapped."""
    first = list(columns[:keys])
    parts = [list(first)]
    for number, column in enumerate(columns[keys:], keys):
        last_text = number == len(columns) - 1 and not _is_figures(column)
        needed = min(LEAST_TEXT, _cell_width(column)) if last_text else _cell_width(column)
        if len(parts[-1]) > len(first) and _width_of(parts[-1]) + GAP + needed > room:
            parts.append(list(first))
        parts[-1].append(column)
    return parts


def _wrapped(columns: list[Column], room: int) -> list[Column]:
    """The columns with the last one, where it is text and too wide, in lines of the room that is left."""
    left = room - _width_of(columns[:-1]) - GAP
    if _width_of(columns) <= room or _is_figures(columns[-1]) or left < LEAST_TEXT:
        return columns
    return [*columns[:-1], tuple("\n".join(wrap(cell, left)) for cell in columns[-1])]


def _say_wrapped(text: str, room: int) -> None:
    for line in wrap(text, room, initial_indent="  ", subsequent_indent="    "):
        say(line)


def _cell_width(column: Column) -> int:
    return max(len(line) for cell in column for line in cell.split("\n"))


def _width_of(columns: Sequence[Column]) -> int:
    return sum(GAP + _cell_width(column) for column in columns)


def _is_figures(column: Column) -> bool:
    return all(cell[:1].isdigit() or cell in ("-", "") for cell in column[1:])


def _print_columns(columns: Sequence[Column], below: Column | None = None) -> None:
    widths, rights = [_cell_width(column) for column in columns], [_is_figures(column) for column in columns]
    rows = list(zip(*columns, strict=True))
    for number, row in enumerate([rows[0], tuple("-" * width for width in widths), *rows[1:]]):
        for line in zip_longest(*(cell.split("\n") for cell in row), fillvalue=""):
            cells = (
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(line, widths, rights, strict=True)
            )
            say(f"{' ' * GAP}{(' ' * GAP).join(cells)}".rstrip())
        if below is not None and number > 1 and below[number - 1]:
            say(f"{' ' * 3 * GAP}{below[number - 1]}")


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


def shortened(text: str | None, limit: int = 70) -> str:
    """A text of at most `limit` letters."""
    return "" if not text else text if len(text) <= limit else text[: limit - 3] + "..."
