"""What `iobench load` says of its run: what the loader hands over, in a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..results.quantities import counted, interval_text, quantity
from ..results.record import Point

if TYPE_CHECKING:
    from .load import LoadResult


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
