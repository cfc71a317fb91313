"""Where the knee lies: the smallest load within 3 % of the peak, decided from blocks without running every load.

    doubling    loads 1, 2, 4 ... alone, a few blocks each, until two doublings bring no more than 3 % -> the peak
    search      a load beside the peak's, in pairs of blocks of one round: within 3 % of it, or not, as soon as the
                interval of the ratio says so; first where the doubling saw the knee, then halving what is left;
                a load that is surely better than the peak's takes its place

Pure: from all rounds so far to what the next one measures, or to the knee.  The blocks of the doubling choose where to
look and which load is the peak; they are not counted again in the pairs that decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...results.stats import ratio_interval

Round = Mapping[int, float]  # of one interleaved round: load -> rate


@dataclass(frozen=True, slots=True)
class Rules:
    """How near the peak is near, and how many blocks decide."""

    tolerance: float = 0.03
    pilot_rounds: int = 2
    min_pairs: int = 4
    max_pairs: int = 8


@dataclass(frozen=True, slots=True)
class Knee:
    """The knee's load and the peak's, and the ratio of their rates (None where they are the same load).

    `decided` is false where the interval still held both answers when the blocks were used up, at any step on the way;
    `rising` is true where the largest load that may be tried was the peak by more than the tolerance.
    """

    load: int
    peak_load: int
    ratio: float | None
    ratio_ci95: tuple[float, float] | None
    decided: bool
    rising: bool


def next_step(rounds: Sequence[Round], loads: Sequence[int], rules: Rules = Rules()) -> tuple[int, ...] | Knee:
    """The loads to measure in the next round, or the knee.  `loads` are all that may be tried, rising."""
    pilot: dict[int, float] = {}
    for load in _doubling(loads):
        alone = [rates[load] for rates in rounds if set(rates) == {load}]
        if len(alone) < rules.pilot_rounds:
            return (load,)
        pilot[load] = sum(alone[: rules.pilot_rounds]) / rules.pilot_rounds
        if _is_flat(list(pilot.values()), rules.tolerance):
            break
    peak = max(pilot, key=lambda load: pilot[load])
    return _search(rounds, loads, pilot, peak, rules)


def _search(
    rounds: Sequence[Round], loads: Sequence[int], pilot: Mapping[int, float], peak: int, rules: Rules
) -> tuple[int, ...] | Knee:
    """Narrow down from the peak: the load at `high` is near the peak, that at `low` is not."""
    low, high, decided = -1, loads.index(peak), True
    while high - low > 1:
        probe = _probe(loads, low, high, pilot, (1 - rules.tolerance) * pilot[peak])
        pairs = _pairs(rounds, loads[probe], peak)
        near, sure = _is_near(pairs, rules)
        if near is None:
            return loads[probe], peak
        ratio, least, _ = ratio_interval(*pairs)
        if least > 1 + rules.tolerance:  # the doubling went past the peak
            return _search(rounds, loads, {**pilot, loads[probe]: ratio * pilot[peak]}, loads[probe], rules)
        decided = decided and sure
        low, high = (low, probe) if near else (probe, high)
    rates = list(pilot.values())
    rising = peak == loads[-1] and len(rates) > 1 and rates[-1] > (1 + rules.tolerance) * rates[-2]
    if loads[high] == peak:
        return Knee(peak, peak, None, None, decided, rising)
    ratio, least, most = ratio_interval(*_pairs(rounds, loads[high], peak))
    return Knee(loads[high], peak, ratio, (least, most), decided, rising)


def _doubling(loads: Sequence[int]) -> list[int]:
    """The smallest load and about twice the one before each time, the largest last."""
    chosen = [loads[0]]
    while chosen[-1] != loads[-1]:
        chosen.append(max(load for load in loads if load <= max(2 * chosen[-1], _above(loads, chosen[-1]))))
    return chosen


def _above(loads: Sequence[int], load: int) -> int:
    return min(other for other in loads if other > load)


def _is_flat(rates: Sequence[float], tolerance: float) -> bool:
    """Whether the last two of these rates are no higher than those before them."""
    return len(rates) > 2 and max(rates[-2:]) <= (1 + tolerance) * max(rates[:-2])


def _probe(loads: Sequence[int], low: int, high: int, pilot: Mapping[int, float], near: float) -> int:
    """Which load to try between two: where the doubling saw the edge, else the middle."""
    between = [place for place in range(low + 1, high) if loads[place] in pilot]
    above = [place for place in between if pilot[loads[place]] >= near]
    if above:
        return above[0]
    return between[-1] if between else (low + high) // 2


def _pairs(rounds: Sequence[Round], load: int, peak: int) -> tuple[list[float], list[float]]:
    both = [rates for rates in rounds if load in rates and peak in rates]
    return [rates[load] for rates in both], [rates[peak] for rates in both]


def _is_near(pairs: tuple[list[float], list[float]], rules: Rules) -> tuple[bool | None, bool]:
    """Whether the rate is within the tolerance of the peak's (None: it takes more pairs), and whether that is sure."""
    count, limit = len(pairs[0]), 1 - rules.tolerance
    if count < min(rules.min_pairs, rules.max_pairs):
        return None, False
    ratio, low, high = ratio_interval(*pairs)
    if low >= limit or high < limit:
        return low >= limit, True
    return (ratio >= limit, False) if count >= rules.max_pairs else (None, False)
