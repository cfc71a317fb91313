"""What is recorded of a point: every promised figure with its blocks, or null and why."""

import numpy as np
import pytest

from iobench.storage_bench.latency import LatencyHistogram
from iobench.storage_bench.sweep.points import BlockResult, PointResult, SweepPoint, Tail
from iobench.storage_bench.sweep.recorded import PERCENTILES, storage_point
from iobench.storage_bench.sweep.telling import against

READ = SweepPoint("direct", "random", 4096, 2, 3, "cold")
WRITE = SweepPoint("buffered", "sequential", 4096, 2, 3, "cold", "write")


def block(latencies_ns, *, gbps=1.0, tail=None, lock_waits=None):
    histogram = LatencyHistogram()
    histogram.add(np.asarray(latencies_ns, dtype=np.int64))
    return BlockResult(gbps, gbps * 1e9 / 4096, histogram, 100, 90, None, 1.0, None, tail=tail, lock_waits=lock_waits)


def result(*blocks, point=READ, **settings):
    return PointResult(point, "asked for", blocks=list(blocks), **settings)


def test_percentiles_are_over_all_reads_with_the_interval_of_the_blocks():
    fast, slow = np.full(600, 10_000), np.full(600, 30_000)
    metrics = storage_point(result(block(fast), block(slow)), ".").metrics
    for name in PERCENTILES:
        assert metrics[name].samples == pytest.approx([10, 30], rel=0.016)
        assert metrics[name].n == 2
    assert metrics["latency_p50_us"].value == pytest.approx(10, rel=0.016)
    assert metrics["latency_p90_us"].value == pytest.approx(30, rel=0.016)
    assert metrics["latency_max_us"].value == 30.0
    assert metrics["latency_max_us"].ci95 is None


def test_a_percentile_of_one_in_a_thousand_needs_a_thousand_reads():
    few = storage_point(result(block(np.arange(1, 500)), block(np.arange(1, 500))), ".").metrics["latency_p99_9_us"]
    assert few.value is None
    assert "998 reads are too few" in few.reason
    enough = storage_point(result(block(np.arange(1, 502)), block(np.arange(1, 502))), ".").metrics
    assert enough["latency_p99_9_us"].value == pytest.approx(0.5, rel=0.03)


def test_the_tail_of_the_threads_is_recorded_over_blocks():
    metrics = storage_point(
        result(block([1], tail=Tail(0.1, 0.4, 1.0, 3.0)), block([1], tail=Tail(0.3, 0.6, 2.0, 3.0))), "."
    ).metrics
    found = {name: metrics[name].value for name in ("first_done_s", "last_done_s", "slowest_thread_gbps")}
    assert found == pytest.approx({"first_done_s": 0.2, "last_done_s": 0.5, "slowest_thread_gbps": 1.5})
    assert metrics["fastest_thread_gbps"].value == 3.0
    assert storage_point(result(block([1]), block([1])), ".").metrics["last_done_s"].value is None


def test_a_point_that_failed_has_no_figures_and_says_why():
    point = storage_point(result(block([1]), error="/data/x: byte 4096 cannot be read"), ".")
    assert point.flags == ("failed",)
    assert {metric.value for metric in point.metrics.values()} == {None}
    assert {metric.reason for metric in point.metrics.values()} == {"/data/x: byte 4096 cannot be read"}


def test_blocks_in_which_nothing_moved_have_no_figures_and_do_not_count():
    empty = result(block([], gbps=0.0), block([], gbps=0.0))
    metrics = storage_point(empty, ".").metrics
    assert {metric.value for metric in metrics.values()} == {None}
    assert {metric.reason for metric in metrics.values()} == {"its blocks were over before a byte was there"}
    (said,) = against(empty)
    assert said.endswith("before a byte was there; take longer ones (--seconds)")
    assert against(result(block([], gbps=0.0), block([1]))) == []


def test_writes_have_their_own_names_and_no_cache_state():
    point = storage_point(result(block([1]), block([1]), point=WRITE), ".")
    assert point.metrics["write_gbps"].value == 1.0
    assert point.metrics["write_iops"].unit == "writes/s"
    assert not any(name.startswith("read_") for name in point.metrics)
    assert point.params["page_cache"] is None


@pytest.mark.parametrize(
    ("point", "waits", "limited"),
    [
        (READ, 0.2, False),
        (READ, 0.3, True),
        (SweepPoint("buffered", "random", 4096, 2, 3, "cold"), 0.6, False),  # such a read may sleep several times
        (SweepPoint("direct", "random", 1 << 20, 2, 3, "cold"), 0.6, False),
    ],
)
def test_small_direct_reads_that_wait_for_the_interpreter_are_limited_by_the_harness(point, waits, limited):
    measured = result(*[block([1], lock_waits=waits)] * 3, point=point)
    assert measured.harness_limited is limited
    assert ("harness_limited" in storage_point(measured, ".").flags) is limited
