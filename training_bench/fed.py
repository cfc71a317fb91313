"""How many ranks are fed: which numbers of ranks give a verdict, and what they say together."""

from __future__ import annotations

from collections.abc import Sequence

from ..results.fed import Fed, decide_fed, missed_in_spite_of_few_steps, settles
from ..results.record import Point
from .summary import find_point

FEW_STEPS = "too few steps were counted within the time; allow more (--measure-seconds; of train --seconds)"
DECODE = (
    "the storage gave enough: decoding on this host was the limit; give it more cores or --set train.reader_threads=N, "
    "or measure the storage alone with --set train.decoder=none"
)
HARNESS = "the harness itself was the limit; run fewer ranks on this host, or longer steps"


def fed_by_ranks(points: Sequence[Point], *, threshold: float) -> Fed:
    """The largest number of ranks on the direct source whose AU reached `threshold`, beside its synthetic control."""
    counts = sorted({int(point.params["num_ranks"] or 0) for point in points if point.params.get("source") == "direct"})
    unusable = {count: why for count in counts if (why := why_unusable(points, count, threshold=threshold)) is not None}
    rates = {count: point.metrics["au_mlperf"] for count in counts if (point := find_point(points, "direct", count))}
    return decide_fed(rates, threshold=threshold, unusable=unusable)


def why_unusable(points: Sequence[Point], num_ranks: int, *, threshold: float) -> str | None:
    """Why these ranks give no verdict; None where they do."""
    point, control = find_point(points, "direct", num_ranks), find_point(points, "synthetic", num_ranks)
    if point is None:
        return "not run"
    rate = point.metrics["au_mlperf"]
    if rate.value is None:
        return rate.reason or "no AU"
    if "decode_limited" in point.flags:
        return DECODE
    if "insufficient" in point.flags and not missed_in_spite_of_few_steps(rate, threshold=threshold):
        return FEW_STEPS
    if "harness_limited" in point.flags:
        reached = control.metrics["au_mlperf"].value if control else None
        if settles(rate.value, control=reached, threshold=threshold) is None:
            return HARNESS
    return None
