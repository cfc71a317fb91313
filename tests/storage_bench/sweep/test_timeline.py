"""A window takes its share of every read, and the tail tells how evenly threads ran; expectations by hand."""

import numpy as np
import pytest

from iobench.storage_bench.sweep.timeline import SlotLog, Timeline, timeline_of


def test_a_window_takes_of_each_read_the_share_that_lies_in_it():
    # window 100..200: a read before it, one into it (half), one inside, one over both ends (a third), one after it
    starts = np.array([0, 50, 120, 50, 250])
    ends = np.array([90, 150, 140, 350, 300])
    timeline = Timeline(starts, ends, np.full(5, 4096), np.full(5, 600), (100, 200))
    assert timeline.window_reads == pytest.approx(0.5 + 1 + 1 / 3)
    assert timeline.window_bytes == pytest.approx(600 * (0.5 + 1 + 1 / 3))
    assert timeline.inside.tolist() == [False, True, True, False, False]
    assert timeline.total_s == pytest.approx(350e-9)


def test_the_tail_tells_when_streams_were_done_and_how_far_apart_they_ran():
    # window 100..200; stream 0 has two threads; its last read ends 30 after the window, stream 1's ended in it
    logs = [SlotLog(0), SlotLog(0), SlotLog(1)]
    for log, reads in zip(logs, ([(100, 200)], [(110, 210), (210, 230)], [(100, 150)]), strict=True):
        for start, end in reads:
            log.starts.append(start)
            log.ends.append(end)
            log.counts.append(4096)
            log.needs.append(1000)
    tail = timeline_of(logs, (100, 200)).tail()
    assert tail.first_done_s == 0
    assert tail.last_done_s == pytest.approx(30e-9)
    assert tail.slowest_gbps == pytest.approx(1000 / 100)  # bytes per ns: stream 1, one read
    assert tail.fastest_gbps == pytest.approx((1000 + 0.9 * 1000) / 100)


def test_there_is_no_tail_without_a_read():
    assert timeline_of([SlotLog(0)], (0, 1)).tail() is None
