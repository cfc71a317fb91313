"""What inference came to, in a sentence for each network and for each latency bound."""

from __future__ import annotations

from collections.abc import Sequence

from ...results.record import Point
from ...results.wording import accelerator_name
from ..images import ImagesTold
from ..models import model_info
from .plan import InferConfig


def infer_sentences(config: InferConfig, asked: Sequence[Point], images: ImagesTold) -> list[str]:
    """Each network at the batch of its highest rate, with every source that was asked for, and what limits its images.

    `ResNet-50, 1 x emulated H100, batch 128: direct 1,780.2 images/s (3.1% of the time waiting for data).`
    """
    found = []
    for name in config.models:
        mine = [point for point in asked if point.params["model"] == name]
        best = max(mine, key=lambda point: point.metrics["images_per_s"].value or 0.0)
        beside = [point for point in mine if point.params["batch_size"] == best.params["batch_size"]]
        where = f"{best.params['num_ranks']} x {accelerator_name(best.params)}, batch {best.params['batch_size']}"
        found.append(f"{model_info(name).title}, {where}: {', '.join(map(_rate_words, beside))}.")
        found += [f"{point.params['source']}: {line}" for point in beside if (line := images.sentence(point))]
        if config.latency_bound_s is not None:
            found += [_bound_sentence(config.latency_bound_s, point) for point in beside]
    return found


def _rate_words(point: Point) -> str:
    rate, stall = (point.metrics[name].value for name in ("images_per_s", "data_stall_fraction"))
    if rate is None or stall is None:
        return f"{point.params['source']} no batch in time"
    return f"{point.params['source']} {rate:,.1f} images/s ({stall:.1%} of the time waiting for data)"


def _bound_sentence(bound_s: float, point: Point) -> str:
    """The highest rate of arrivals within the bound; that none was found is not that there is none."""
    rate, source = point.metrics["rate_within_bound_images_per_s"], point.params["source"]
    if rate.value is None:
        return f"{source}: no rate is known to keep p99 under {bound_s:g} s: {rate.reason}."
    return f"{source}: up to {rate.value:,.1f} images/s arrive with p99 under {bound_s:g} s."
