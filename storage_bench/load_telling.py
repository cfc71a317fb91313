"""What `iobench load` says of its run: the record's part of it, and what the loader hands over, in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..results.quantities import counted, interval_text, quantity
from ..results.record import Metric, Point

if TYPE_CHECKING:
    from .load import LoadResult
    from .load_setup import LoadConfig
    from .peers import PeersConfig, PeersResult


@dataclass(frozen=True, slots=True)
class LoadOutcome:
    """Ours first, then peers, if any; what was asked for and found, and what is to be said."""

    points: Sequence[Point]
    workload: dict[str, Any]
    warnings: Sequence[str]
    invalid: Sequence[str]
    sentence: str

    @property
    def best(self) -> Point:
        """Ours."""
        return self.points[0]

    @property
    def metrics(self) -> dict[str, Metric]:
        """The record's own figures: ours."""
        return self.best.metrics


def outcome_of(result: LoadResult, config: LoadConfig) -> LoadOutcome:
    """Our loader by itself."""
    found = {
        "chosen": result.chosen,
        "engine_reason": result.engine_reason,
        "index": result.index_status,
        "layout": result.layout_reason,
        "images": result.images,
    }
    return LoadOutcome(
        points=[result.point],
        workload={**config.model_dump(mode="json"), **found},
        warnings=result.warnings,
        invalid=[result.invalid] if result.invalid else [],
        sentence="\n".join(sentences_of(result)),
    )


def outcome_of_peers(result: PeersResult, config: PeersConfig) -> LoadOutcome:
    """Our loader beside others."""
    return LoadOutcome(
        points=result.points,
        workload={**config.model_dump(mode="json"), "roads": list(result.roads), "images": result.images},
        warnings=result.warnings,
        invalid=result.invalid,
        sentence="\n".join(result.sentences),
    )


def sentences_of(result: LoadResult) -> list[str]:
    """What the loader hands over; of encoded images which hop limits; and why with so many threads, where it chose."""
    said = [sentence_of(result.point)]
    if result.images is not None:
        said.append(result.images["sentence"])
    if result.chosen["rates"]:
        said.append(f"{counted(int(result.chosen['num_workers']), 'thread')}: {result.chosen['reason']}.")
    return said


def sentence_of(point: Point) -> str:
    """What one process is handed, at which load, and whether to rely on it."""
    metrics, params = point.metrics, point.params
    rate = metrics["images_per_s"]
    span = f" (95 %: {interval_text(rate)})" if rate.ci95 else ""
    load = f"batches of {params['batch_size']}, {counted(int(params['num_workers'] or 0), 'reader thread')}"
    rely = "; blocks differ widely: take longer ones (--seconds)" if "noisy" in point.flags else ""
    return (
        f"The loader hands over {quantity(rate)}{span}, {quantity(metrics['read_gbps'])} of what is stored, "
        f"{params['page_cache']}, in {load}{rely}."
    )
