"""How the minutes are shared out: a pure function, asked again before each part.

    left |-- least of each part that is still to come --|-- slack: shared as parts would like to have more --|

Parts stand in the order of their worth.  Where not even the least of all of them fits, nothing is kept for the last
ones; what a part did not use goes to those behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

from .part import Part


def plan(parts: Sequence[Part], left_s: float) -> list[float | None]:
    """Seconds of each part, should each take what it is given; None of those that are left out."""
    given: list[float | None] = []
    for number in range(len(parts)):
        seconds = share(parts[number:], left_s)
        given.append(seconds)
        left_s -= seconds or 0.0
    return given


def share(parts: Sequence[Part], left_s: float) -> float | None:
    """Seconds for the first of the parts that are still to come; None where it does not fit at all.

    Between its least and what it would like to have, in proportion to what all that fit would like.
    """
    fitting = fit(parts, left_s)
    if not fitting:
        return None
    first = fitting[0]
    slack = left_s - sum(part.least_s for part in fitting)
    wanted = sum(part.seconds - part.least_s for part in fitting)
    more = (first.seconds - first.least_s) * min(1.0, slack / wanted) if wanted > 0 else 0.0
    return first.least_s + more


def fit(parts: Sequence[Part], left_s: float) -> Sequence[Part]:
    """The first of these parts whose least fits into the time that is left."""
    taken = 0.0
    for number, part in enumerate(parts):
        taken += part.least_s
        if taken > left_s:
            return parts[:number]
    return parts
