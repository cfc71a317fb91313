"""What a command hands on of a bench, whichever it was: the part of its answer that makes a record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..results.record import Metric, Point


class Outcome(Protocol):
    """What a bench came to: its points, the one that its own figures are of, and what is to be said."""

    @property
    def points(self) -> Sequence[Point]:
        """Every combination that was measured."""

    @property
    def best(self) -> Point:
        """The point whose way of reading stands for the run."""

    @property
    def metrics(self) -> dict[str, Metric]:
        """The record's own figures."""

    @property
    def workload(self) -> dict[str, Any]:
        """What was asked for and what came of it."""

    @property
    def warnings(self) -> Sequence[str]:
        """What a reader must know of the figures."""

    @property
    def invalid(self) -> Sequence[str]:
        """Why the measurement does not count; empty where it does."""

    @property
    def sentence(self) -> str:
        """What it means; may be several lines."""
