"""What a sweep says: the best point in a sentence, and what holds for many points once."""

from pathlib import Path

import pytest

from iobench.results.record import Metric, Point, not_measured
from iobench.storage_bench.sweep.points import PointResult, SweepPoint
from iobench.storage_bench.sweep.telling import said_of, sentence_of
from iobench.storage_bench.workload import DataFile

PARAMS = {
    "stage": "storage",
    "engine": "direct",
    "operation": "read",
    "block_size_bytes": 1 << 20,
    "threads": 1,
    "queue_depth": 4,
}


def point(metric: Metric, *flags: str) -> Point:
    return Point(params=PARAMS, metrics={"read_gbps": metric}, flags=flags)


@pytest.mark.parametrize(
    ("flags", "num_points", "ends"),
    [
        ((), 1, "(95 %: 1.90 to 2.10)."),
        ((), 8, "(95 %: 1.90 to 2.10), the most of 8 points."),
        (("noisy",), 1, "(95 %: 1.90 to 2.10); blocks differ widely: take longer ones (--seconds)."),
        (("knee", "noisy"), 8, "the smallest load that is within 3 % of the peak; blocks differ widely: take longer "),
    ],
)
def test_the_best_point_is_a_sentence_with_its_interval(flags, num_points, ends):
    said = sentence_of(point(Metric(value=2.0, unit="GB/s", ci95=(1.9, 2.1), n=8), *flags), num_points=num_points)
    assert said.startswith("direct reads of 1 MiB with 1 thread, queue depth 4 give 2.00 GB/s (95 %: 1.90 to 2.10)")
    assert ends in said
    assert said.endswith(".")


def test_where_nothing_was_measured_there_is_no_sentence():
    assert sentence_of(point(not_measured("GB/s", "it failed")), num_points=1) == ""


def test_what_holds_for_many_points_is_said_once():
    files = [DataFile(Path("a"), 6 << 20)]
    results = [
        PointResult(SweepPoint("direct", "sequential", 1 << 20, depth, threads, "cold"), "asked for", ceiling_gbps=None)
        for threads in (1, 2, 4)
        for depth in (1, 4)
    ]
    (crowded,) = said_of(results, files)
    assert crowded.startswith("16 reads in flight share 6 blocks of 1 MiB: ")
    results[3].error = "the disk failed"
    assert said_of(results, files) == ["direct cold sequential read 1 MiB, 2 x 4: failed: the disk failed", crowded]
