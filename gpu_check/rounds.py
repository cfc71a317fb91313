"""Contestants in interleaved time blocks: what moves the whole machine moves all of them.

round r    one block of each, in a random order  ->  a rate each; ratios are of blocks of one round
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import TypeVar

import numpy as np

from ..results.record import Metric
from ..results.stats import ratio_interval, summarise

BLOCKS = 8
LEAST_BLOCK_S = 0.02
Block = Callable[[float], float]  # seconds -> rate
Rates = dict[str, list[float]]
Name = TypeVar("Name")


def rounds(
    contestants: Mapping[Name, Block], *, seconds: float, seed: int = 0, blocks: int = BLOCKS
) -> Iterator[dict[Name, list[float]]]:
    """Rates of each contestant after every round, of `blocks` in all, at most as many as fit into `seconds`.

    Each has run one short block before, which is not counted.  A block that takes longer than it was given leaves less
    rounds, never fewer than two.
    """
    begin = perf_counter()
    for block in contestants.values():
        block(LEAST_BLOCK_S)
    left = max(seconds - (perf_counter() - begin), 2 * len(contestants) * LEAST_BLOCK_S)
    block_s = max(LEAST_BLOCK_S, left / (blocks * len(contestants)))
    found: dict[Name, list[float]] = {name: [] for name in contestants}
    random, names = np.random.default_rng(seed), list(contestants)
    for number in range(blocks):
        if number > 1 and perf_counter() - begin > seconds:
            break
        for which in random.permutation(len(names)).tolist():
            found[names[which]].append(contestants[names[which]](block_s))
        yield found


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Metric:
    """ours / theirs, over the pairs of blocks of one round."""
    pairs = tuple(a / b for a, b in zip(ours, theirs, strict=True))
    if len(pairs) < 2:
        return summarise(pairs, unit="ours/theirs")
    middle, low, high = ratio_interval(ours, theirs)
    return Metric(value=middle, unit="ours/theirs", ci95=(low, high), n=len(pairs), samples=pairs)
