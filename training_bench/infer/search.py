"""The figures of the latency-bound mode, and the agreement of a reduced precision with fp32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...results.record import Metric, not_measured
from .plan import InferConfig, InferPlan

CONFIDENCE = 0.95


def rate_metrics(
    searches: Sequence[Mapping[str, Any]], size: int, source: str, plan: InferPlan, config: InferConfig
) -> dict[str, Metric]:
    """The highest rate of all ranks whose 99th percentile kept the bound, and the latencies of its proof."""
    found = next(each for each in searches if (each["size"], each["source"]) == (size, source))
    names = ("p50", "p90", "p99", "max")
    if found["batches_per_s"] is None:
        reason = _why_none(found, config)
        return {
            "rate_within_bound_images_per_s": not_measured("images/s", reason),
            **{f"arrival_latency_{name}_s": not_measured("s", reason) for name in names},
        }
    proof = found["trials"][-1]
    images_per_s = found["batches_per_s"] * config.num_ranks * plan.sizes[size].batch_size
    return {
        "rate_within_bound_images_per_s": Metric(value=images_per_s, unit="images/s", n=1, samples=(images_per_s,)),
        **{
            f"arrival_latency_{name}_s": Metric(value=proof[f"{name}_s"], unit="s", n=1, samples=(proof[f"{name}_s"],))
            for name in names
        },
    }


def _why_none(search: Mapping[str, Any], config: InferConfig) -> str:
    trials = search["trials"]
    if not search["in_time"]:
        return f"the search was not over within {config.seconds:g} s; raise --seconds, or lower trial_batches"
    if not trials:
        return "no batch was counted in the closed loop, so that no rate was known to begin with"
    if trials[-1]["proof"]:
        return "the rate that the search found did not hold when it was measured again"
    rate, bound = trials[-1]["rate"], config.latency_bound_s
    return f"even at {rate:.3g} batches/s and rank more than 1 % of the batches took longer than {bound:g} s"


def agreement_metric(per_rank: Sequence[Sequence[tuple[int, int]]], precision: str) -> Metric:
    """The share of images whose best class is that of fp32, over all ranks.

    Its interval is the exact one of a share (Clopper and Pearson 1934); n counts batches.
    """
    batches = [pair for rank in per_rank for pair in rank]
    if not batches:
        return not_measured("fraction", f"computed in {precision} only")
    same, total = (sum(column) for column in zip(*batches, strict=True))
    return Metric(
        value=same / total,
        unit="fraction",
        ci95=share_interval(same, total),
        n=len(batches),
        samples=tuple(right / count for right, count in batches),
    )


def share_interval(count: int, total: int) -> tuple[float, float]:
    """The exact 95 % interval of a share of which `count` of `total` were seen."""
    from scipy.special import betaincinv

    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if count == 0 else float(betaincinv(count, total - count + 1, tail))
    high = 1.0 if count == total else float(betaincinv(count + 1, total - count, 1 - tail))
    return low, high
