"""What a person sees on the terminal: progress with rate and time left, aligned tables, a line of meaning.

Everything goes to stderr; stdout belongs to --json.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from .results.legible import legible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from .results.record import Metric

QUIET_INTERVAL_S = 5.0
WHOLE = ("accelerators", "epochs")


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
        print(detail if part == "plan" else f"{part:<12} {share:>4.0%}  {detail}", file=sys.stderr, flush=True)


def say(text: str = "") -> None:
    """One line on stderr."""
    print(legible(text), file=sys.stderr)


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


def shortened(text: str | None, limit: int = 70) -> str:
    """A text of at most `limit` letters."""
    return "" if not text else text if len(text) <= limit else text[: limit - 3] + "..."
