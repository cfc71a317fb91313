"""Figures as tables: one column, one quantity, one unit; what is missing says why in a note below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from .labels import labels_of
from .quantities import (
    NOT_MEASURED,
    interval_text,
    quantity,
    scale_for,
    value_text,
)
from .wording import flag_text, metric_label

if TYPE_CHECKING:
    from .quantities import Scale
    from .record import Metric, Point

Item = TypeVar("Item")

MOST_ROWS = 200  # of one table; the record has them all
MOST_RANKS = 512


@dataclass(frozen=True)
class Cell:
    """One field: its text, what stands small below it, what a note below the table says, and how it looks."""

    text: str
    small: str = ""
    note: str = ""
    mark: str = ""  # good, bad, open or missing


@dataclass(frozen=True)
class Column:
    """One quantity: its head with the unit, and its cells from top to bottom."""

    head: str
    cells: tuple[Cell, ...]
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """Columns of equal length; a long table shows rows at equal distances, and says how many it left out."""

    title: str
    columns: tuple[Column, ...]
    left_out: int = 0  # rows that the record has beyond these

    @property
    def rows(self) -> list[tuple[Cell, ...]]:
        """The cells row by row."""
        return list(zip(*(column.cells for column in self.columns), strict=True))

    @property
    def notes(self) -> list[str]:
        """What is to be said below the table, once each, in the order of first use."""
        return list(dict.fromkeys(cell.note for column in self.columns for cell in column.cells if cell.note))


def out_of(all_rows: Sequence[object], shown: Sequence[object]) -> int:
    """How many rows a table leaves out."""
    return len(all_rows) - len(shown)


def thinned(items: Sequence[Item], most: int) -> list[Item]:
    """All items, or `most` of them at equal distances, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def text_column(head: str, texts: Sequence[str], *, numeric: bool = False) -> Column:
    """A column of words."""
    cells = tuple(Cell(text, mark="missing" if text == NOT_MEASURED else "") for text in texts)
    return Column(head, cells, numeric=numeric)


def metric_column(head: str, metrics: Sequence[Metric | None]) -> Column:
    """A column of one metric, in one unit if they have one, with intervals beside the values."""
    present = [metric for metric in metrics if metric is not None]
    if len({metric.unit for metric in present}) > 1:
        return Column(head, tuple(_metric_cell(metric, None) for metric in metrics), numeric=True)
    scale = scale_for(present[0].unit if present else "", [metric.value for metric in present])
    cells = tuple(_metric_cell(metric, scale) for metric in metrics)
    return Column(f"{head}, {scale.unit}" if scale.unit else head, cells, numeric=True)


def point_columns(points: Sequence[Point], names: Sequence[str]) -> list[Column]:
    """The named metrics of points, those left out that no point has."""
    return [
        metric_column(metric_label(name), [point.metrics.get(name) for point in points])
        for name in names
        if any(name in point.metrics for point in points)
    ]


def named_column(points: Sequence[Point]) -> Column:
    """What tells each point from its neighbours."""
    return text_column("point", labels_of(points))


def flag_columns(points: Sequence[Point]) -> list[Column]:
    """A column of flags, if any point has one."""
    texts = [flag_text(point.flags) for point in points]
    return [text_column("flags", texts)] if any(texts) else []


def _metric_cell(metric: Metric | None, scale: Scale | None) -> Cell:
    """A value in the column's unit, else with its own; without a value the reason."""
    if metric is None:
        return Cell("")
    if metric.value is None:
        return Cell(NOT_MEASURED, note=metric.reason or "", mark="missing")
    return Cell(value_text(metric, scale) if scale else quantity(metric), interval_text(metric, scale))
