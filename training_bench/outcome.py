"""What a command's run came to, in the form in which its record tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..results.record import Metric, Point


@dataclass(frozen=True, slots=True)
class Outcome:
    """The points, the one that was asked for or stands for the others, and what the record says about the run."""

    points: list[Point]
    best: Point
    workload: dict[str, Any]
    warnings: tuple[str, ...]
    invalid: tuple[str, ...]
    metrics: dict[str, Metric]
    sentence: str = ""


@dataclass(frozen=True, slots=True)
class TrainOutcome(Outcome):
    """With what a trace is made of: the ranks' own `logs`, and what the blocks that they name are."""

    logs: tuple[dict[str, Any], ...] = ()
    block_labels: tuple[str, ...] = ()
