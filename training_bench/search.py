"""The search for the largest number of ranks that is fed: short blocks that bisect, before the rounds that prove it.

    launch of `high` ranks --short blocks: 4 fed, 6 not, 5 not--> 4 --rounds of 3, 4 and 5 ranks, interleaved--> verdict

What the short blocks saw only chooses what to measure: the verdict rests on the rounds alone.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping

from pydantic import BaseModel, ConfigDict

PATIENCE = 2.0  # times the nominal time; who is fed at an AU of 0.5 or more is done by then


class Search(BaseModel):
    """Between which numbers of ranks to look, where to begin, and what counts as fed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: int = 1
    high: int
    hint: int | None = None
    threshold: float
    drop_steps: int = 3
    count_steps: int = 6

    def trial_s(self, step_time_s: float) -> float:
        """The longest that one short block may take."""
        return PATIENCE * (self.drop_steps + self.count_steps) * step_time_s

    @property
    def num_trials(self) -> int:
        """How many short blocks a search without a hint takes at most; with a good hint two are enough."""
        return math.ceil(math.log2(self.high - self.low + 2))


def bisect(low: int, high: int, *, hint: int | None = None) -> Generator[int, bool, int]:
    """Numbers of ranks to try, each answered by whether they were fed; returns the largest fed, low - 1 for none.

    From a hint the steps double until one number is fed and a larger one is not; then, as without a hint, the
    interval is halved.
    """
    fed, starved = low - 1, high + 1
    near = hint is not None
    count, stride = (min(max(hint, low), high) if hint is not None else (fed + starved) // 2), 1
    while starved - fed > 1:
        if (yield count):
            fed = count
        else:
            starved = count
        near = near and (fed < low or starved > high)
        if near:
            count = min(fed + stride, high) if fed >= low else max(starved - stride, low)
            stride *= 2
        else:
            count = (fed + starved) // 2
    return fed


def window(fed: int, *, low: int, high: int) -> tuple[int, ...]:
    """The numbers of ranks that prove that `fed` is the largest: one less, itself, one more."""
    return tuple(count for count in (fed - 1, fed, fed + 1) if low <= count <= high)


def next_window(reached: Mapping[int, bool], *, low: int, high: int) -> tuple[int, ...]:
    """What is still to be measured around the largest number that the rounds saw fed."""
    fed = max((count for count, is_fed in reached.items() if is_fed), default=min(reached) - 1)
    return tuple(count for count in window(fed, low=low, high=high) if count not in reached)
