"""Encoded images under ranks: who decoded them, what was left out, and which hop limits.

of each block   log["hop_s"]       seconds of a rank's threads, and of its batches, by hop -> the point's metrics
of each rank    result["images"]   who decoded for it (storage_bench/decoded.py) -> together -> record, warnings
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ..results.record import Metric, Point
from ..storage_bench.decoded import Decoded, together
from ..storage_bench.image_hops import ImageHops, hops_in, hops_of
from .outcome import Outcome

SomeOutcome = TypeVar("SomeOutcome", bound=Outcome)


@dataclass(frozen=True, slots=True)
class ImagesTold:
    """What a run says of its encoded images, of which it may have none; each rank reads with `num_threads`."""

    decoded: Decoded | None
    num_threads: int

    def workload(self, best: Point | None) -> dict[str, Any]:
        """What the record's workload says of them, and of the hops of this point, where one was run."""
        if self.decoded is None:
            return {}
        hops = None if best is None else self._hops(best)
        return {"images": {**self.decoded.described(), **(hops.described() if hops else {})}}

    def sentence(self, point: Point) -> str:
        """Which hop of this point's images limits; nothing where it has none."""
        hops = self._hops(point)
        return "" if hops is None else hops.sentence

    @property
    def warnings(self) -> tuple[str, ...]:
        """What must be said of them."""
        decoded = self.decoded
        if decoded is None:
            return ()
        share = decoded.num_skipped / decoded.num_images
        also = [f"rates are of whole batches, images that were left out ({share:.2%}) included"] if share else []
        return (*decoded.warnings(), *also)

    def named(self, copies: Mapping[Path, Path]) -> ImagesTold:
        """The same, with images in a key of `copies` named by its value, which they were copied from."""
        return self if self.decoded is None else replace(self, decoded=self.decoded.named(copies))

    def _hops(self, point: Point) -> ImageHops | None:
        waited = point.metrics["data_stall_fraction"].value
        if self.decoded is None or waited is None:
            return None
        ranks = int(point.params["num_ranks"] or 1)
        return hops_in(point.metrics, self.decoded, num_threads=self.num_threads, waited=waited, num_ranks=ranks)


def as_json(parts: Iterable[Decoded | None]) -> dict[str, Any] | None:
    """What a rank has decoded in all its parts, as it tells it; None where that is nothing."""
    told = together(parts)
    return None if told is None else told.model_dump(mode="json")


def told_of_images(results: Iterable[Mapping[str, Any]], *, num_threads: int) -> ImagesTold:
    """What all ranks have decoded."""
    told = together(
        Decoded.model_validate(result["images"]).at(result["rank"], result["host"])
        for result in results
        if result.get("images") is not None
    )
    return ImagesTold(told, num_threads)


def added_up(spent: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Seconds by hop of several blocks or ranks together."""
    found: Counter[str] = Counter()
    for each in spent:
        found.update(each)
    return dict(found)


def hop_metrics(
    hop_s: Mapping[str, float], told: ImagesTold, *, wall_s: float, waited: Metric, to_gpu: bool
) -> dict[str, Metric]:
    """Threads in each hop and batches before it, on the average of all ranks; nothing where nothing was decoded.

    `hop_s` are the seconds of all ranks together, as is `wall_s`, from asking for the first batch to having the last:
    what threads do for batches that nobody takes is not counted.
    """
    if told.decoded is None or not hop_s or not wall_s or waited.value is None:
        return {}
    hops = hops_of(hop_s, told.decoded, num_threads=told.num_threads, wall_s=wall_s, waited=waited.value, to_gpu=to_gpu)
    return hops.metrics()


def with_images(outcome: SomeOutcome, told: ImagesTold, *, lines: Sequence[str] | None = None) -> SomeOutcome:
    """The outcome with all that is told of its images; `lines` are said instead of what limits the best point's."""
    said = [told.sentence(outcome.best)] if lines is None else lines
    return replace(
        outcome,
        workload={**outcome.workload, **told.workload(outcome.best)},
        warnings=(*outcome.warnings, *told.warnings),
        sentence="\n".join(filter(None, (outcome.sentence, *said))),
    )
