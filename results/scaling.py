"""How a job scales: efficiency against the linear line, predictions from smaller cells, the first cell that is limited.

    linear line      images/s of N ranks = N times that of one rank, of the same source
    prediction       min(what N ranks compute, what the source gives N readers), both carried on from smaller cells
    limited          by its source   slower than synthetic batches on the same ranks
                     by meetings     synthetic batches themselves fall below the linear line

Pure functions of samples: one sample is what one repetition of a cell came to, and repetitions are interleaved, so that
those of one number make a pair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar, Literal

from .record import Metric, not_measured
from .stats import ratio_interval

TOLERANCE = 0.05  # of the rate that is missed before a cell counts as limited

Limit = Literal["source", "meetings"]
Samples = Mapping[int, float]  # repetition -> images/s


class ScalingError(ValueError):
    """Cells from which the asked figure cannot be computed."""

    exit_status: ClassVar[int] = 3


@dataclass(frozen=True, slots=True, order=True)
class Layout:
    """Ranks in a grid: so many hosts, with so many ranks each."""

    nodes: int
    gpus_per_node: int

    @property
    def num_ranks(self) -> int:
        """Ranks in all."""
        return self.nodes * self.gpus_per_node

    def __str__(self) -> str:
        return f"{self.nodes}x{self.gpus_per_node}"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a cell that was run says about larger ones: images/s computed without waiting, and given without computing.

    `given` is None for a source that reads nothing.
    """

    num_ranks: int
    computed: float
    given: float | None


@dataclass(frozen=True, slots=True)
class Prediction:
    """Images/s expected of a cell before it is run, the range that smaller cells leave open, and what it rests on."""

    value: float
    low: float
    high: float
    basis: str


@dataclass(frozen=True, slots=True)
class Limited:
    """The first cell of a source that is limited, by what, and the share of the rate that is missed."""

    layout: Layout
    source: str
    by: Limit
    missed: float
    ci95: tuple[float, float] | None

    def __str__(self) -> str:
        what = {"source": "waits for its data", "meetings": "waits for other ranks and shared cores"}[self.by]
        return f"{self.source}: {self.layout} is the first cell that {what}, and loses {self.missed:.0%} by it"


def rate_ratio(candidate: Samples, base: Samples, *, per: float = 1.0) -> Metric:
    """`candidate` / `base` / `per` over the repetitions that both have, as pairs; one pair has no interval."""
    shared = sorted(candidate.keys() & base.keys())
    if not shared:
        return not_measured("fraction", "no repetition has both cells")
    above, below = [candidate[each] / per for each in shared], [base[each] for each in shared]
    if min(*above, *below) <= 0:
        raise ScalingError("a rate of 0 images/s has no ratio; run the cell again")
    pairs = tuple(high / low for high, low in zip(above, below, strict=True))
    if len(shared) == 1:
        return Metric(value=pairs[0], unit="fraction", n=1, samples=pairs)
    value, low, high = ratio_interval(above, below)
    return Metric(value=value, unit="fraction", ci95=(low, high), n=len(shared), samples=pairs)


def efficiency(candidate: Samples, num_ranks: int, base: Samples, base_ranks: int) -> Metric:
    """Images/s of a rank in the cell over those of a rank in the base cell: 1 is on the linear line."""
    return rate_ratio(candidate, base, per=num_ranks / base_ranks)


def predict(num_ranks: int, smaller: Sequence[Seen]) -> Prediction | None:
    """What a cell of `num_ranks` will do, from cells with fewer ranks; None without one.

    Both sides of the minimum grow with a power of the number of ranks between 0 (a shared limit) and 1 (a limit of each
    rank), taken from the two largest sizes.  One size does not tell the power: computing is then taken as linear, the
    source as shared, which is the low end of the range; at the high end it grows with its readers.  The high end of
    computing is linear always: that a smaller cell fell behind may have been chance.
    """
    below = sorted((cell for cell in smaller if cell.num_ranks < num_ranks), key=lambda cell: cell.num_ranks)
    if not below:
        return None
    rates = [(cell.num_ranks, cell.computed) for cell in below]
    largest = below[-1].num_ranks
    linear, _ = _carry_on([each for each in rates if each[0] == largest], num_ranks)
    computed, _ = _carry_on(rates, num_ranks)
    basis = f"{len({size for size, _ in rates})} smaller size(s), up to {largest} ranks"
    given = [(cell.num_ranks, cell.given) for cell in below if cell.given is not None]
    if not given:
        return Prediction(computed, computed, max(linear, computed), basis)
    most, least = _carry_on(given, num_ranks)
    low, high = min(computed, least), min(linear, most)
    return Prediction(low, low, max(low, high), basis)


def prediction_error(predicted: Prediction, measured: float) -> float:
    """By which share of the measured rate the prediction was too high; negative where it was too low."""
    if measured <= 0:
        raise ScalingError("a rate of 0 images/s has no share; run the cell again")
    return predicted.value / measured - 1


def cycle_rate(train: float, validate: float, validate_share: float) -> float:
    """Images/s of a training epoch and its validation, which has `validate_share` of the images of training."""
    return (1 + validate_share) / (1 / train + validate_share / validate)


def first_limited(
    cells: Mapping[tuple[Layout, str], Samples], source: str, *, tolerance: float = TOLERANCE
) -> Limited | None:
    """The cell with the fewest ranks in which `source` is limited; None where none is.

    A cell is limited if its whole interval misses more than `tolerance`; without an interval its value decides.
    """
    layouts = sorted((key[0] for key in cells if key[1] == source), key=lambda each: (each.num_ranks, each.nodes))
    for layout in layouts:
        if (found := _limit_of(cells, layout, source, tolerance)) is not None:
            return found
    return None


def same_size(layouts: Sequence[Layout]) -> list[tuple[Layout, ...]]:
    """Layouts with one number of ranks, where there are several: 1x4, 2x2, 4x1; fewest nodes first."""
    ordered = sorted(set(layouts), key=lambda each: (each.num_ranks, each.nodes))
    groups = (tuple(group) for _, group in groupby(ordered, key=lambda each: each.num_ranks))
    return [group for group in groups if len(group) > 1]


def base_layout(layouts: Sequence[Layout]) -> Layout:
    """The cell that the linear line goes through: the fewest ranks, on the fewest nodes."""
    return min(layouts, key=lambda each: (each.num_ranks, each.nodes))


def _limit_of(
    cells: Mapping[tuple[Layout, str], Samples], layout: Layout, source: str, tolerance: float
) -> Limited | None:
    control = cells.get((layout, "synthetic"))
    if source != "synthetic":
        ratio = None if control is None else rate_ratio(cells[layout, source], control)
        return None if ratio is None else _if_missed(ratio, layout, source, "source", tolerance)
    base = base_layout([key[0] for key in cells if key[1] == source])
    ratio = efficiency(cells[layout, source], layout.num_ranks, cells[base, source], base.num_ranks)
    return _if_missed(ratio, layout, source, "meetings", tolerance)


def _if_missed(ratio: Metric, layout: Layout, source: str, by: Limit, tolerance: float) -> Limited | None:
    if ratio.value is None or (ratio.ci95[1] if ratio.ci95 else ratio.value) >= 1 - tolerance:
        return None
    interval = None if ratio.ci95 is None else (1 - ratio.ci95[1], 1 - ratio.ci95[0])
    return Limited(layout, source, by, 1 - ratio.value, interval)


def _carry_on(points: Sequence[tuple[int, float]], num_ranks: int) -> tuple[float, float]:
    """The high and the low value at `num_ranks` of what (ranks, images/s) say; the same where two sizes are known."""
    sizes = {size: _geometric_mean([rate for each, rate in points if each == size]) for size, _ in points}
    *before, last = sorted(sizes)
    growth = num_ranks / last
    if not before:
        return sizes[last] * growth, sizes[last]
    power = math.log(sizes[last] / sizes[before[-1]]) / math.log(last / before[-1])
    value = sizes[last] * growth ** min(max(power, 0.0), 1.0)
    return value, value


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))
