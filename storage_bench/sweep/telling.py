"""What a sweep says of its points: what the best one means, what must be known of them, why one does not count."""

from __future__ import annotations

from collections.abc import Sequence

from ...results.quantities import binary_size, counted, interval_text, quantity
from ...results.record import Point
from ..evidence import doubts
from ..workload import DataFile
from .points import PointResult
from .proof import write_doubt
from .recorded import NOTHING_MOVED
from .streams import crowding

NAMED = 4  # points that one warning names


def sentence_of(best: Point, *, num_points: int) -> str:
    """What the best of so many points, or the knee, gave, and whether to rely on it; "" where it gave nothing."""
    params, operation = best.params, str(best.params["operation"])
    metric = best.metrics[f"{operation}_gbps"]
    if metric.value is None:
        return ""
    how = f"{params['engine']} {operation}s of {binary_size(float(params['block_size_bytes'] or 0))}"
    load = f"{counted(int(params['threads'] or 1), 'thread')}, queue depth {params['queue_depth']}"
    span = f" (95 %: {interval_text(metric)})" if metric.ci95 else ""
    most = f", the most of {num_points} points" if num_points > 1 else ""
    if "knee" in best.flags:
        most = ", the smallest load that is within 3 % of the peak"
    rely = "; blocks differ widely: take longer ones (--seconds)" if "noisy" in best.flags else ""
    return f"{how} with {load} give {quantity(metric)}{span}{most}{rely}."


def said_of(results: Sequence[PointResult], files: Sequence[DataFile]) -> list[str]:
    """What must be said of points that count, or that failed; what is the same of several of them once."""
    said = [text for result in results for text in _of_one(result)]
    limited = [result.point.words for result in results if result.harness_limited and result.error is None]
    if limited:
        more = f" and {len(limited) - NAMED} more" if len(limited) > NAMED else ""
        said.append(
            f"{'; '.join(limited[:NAMED])}{more}: this program was the limit, the storage may give more; share the "
            f"work with --np"
        )
    return list(dict.fromkeys([*said, *_crowded(results, files)]))


def against(result: PointResult) -> list[str]:
    """Why a point does not count."""
    if result.moved_nothing:
        return [f"{result.point.words}: {NOTHING_MOVED}; take longer ones (--seconds)"]
    if result.evidence is None:
        return []
    rule = write_doubt if result.point.operation == "write" else type(result.evidence).invalid_reason
    reason = rule(result.evidence)
    return [f"{result.point.words}: {reason}"] if reason else []


def _of_one(result: PointResult) -> list[str]:
    point = result.point
    said = [f"{point.words}: failed: {result.error}"] if result.error is not None else []
    slow = max((read for block in result.blocks for read in block.slow), key=lambda read: read.seconds, default=None)
    if slow is not None:
        said.append(
            f"{point.words}: a {point.operation} at byte {slow.offset} of {slow.path} took {slow.seconds:.1f} s"
        )
    if point.operation == "read" and result.evidence is not None:
        said += doubts(result.evidence)
    return said


def _crowded(results: Sequence[PointResult], files: Sequence[DataFile]) -> list[str]:
    """Of each block size the point with the most reads in flight, where these are too many for the data."""
    most: dict[int, int] = {}
    for result in results:
        point = result.point
        if point.operation == "read" and point.access != "shard-replay":
            load = point.load * max(1, len(result.clients))
            most[point.block_bytes] = max(load, most.get(point.block_bytes, 0))
    found = (crowding(files, block_bytes=block, load=load) for block, load in most.items())
    return [text for text in found if text is not None]
