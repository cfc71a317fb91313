"""The threads of a block: every read is done and logged, and an error or a storage that hangs ends all of them."""

import errno
import gc
import itertools
import threading
from pathlib import Path

import pytest

from iobench.loaders.engines.readers import ReadError
from iobench.storage_bench.sweep import drive as drive_module
from iobench.storage_bench.sweep.drive import HangError, Slot, Timing, drive
from iobench.storage_bench.sweep.streams import ReadRequest, SharedBatches
from iobench.storage_bench.sweep.ways import HostMemory, HostTargets
from iobench.storage_bench.workload import WorkloadError


class CountingWay:
    """Reads nothing, and says so for every read but the one that it is told to treat otherwise."""

    after = None

    def __init__(self, odd_read=None, act=None):
        self.asked = []
        self._odd_read = odd_read
        self._act = act
        self._numbers = itertools.count()

    def handle(self, path):
        return path, None

    def targets(self):
        return HostTargets(HostMemory())

    def do(self, path, target, offset):
        if next(self._numbers) == self._odd_read:
            self._act()
        self.asked.append((path, offset, len(target[0])))
        return len(target[0])


def streams_of(path, *, total=1 << 20, length=4096):
    while True:
        yield [ReadRequest(path, offset, length, length - 96) for offset in range(0, total, length)]


def run(way, *, threads=2, depth=2, seconds=0.05, patience_s=60.0):
    slots = []
    for stream in range(threads):
        slots += [Slot(stream, SharedBatches(streams_of(Path("x"))))] * depth
    return drive(slots, way, Timing(0.01, seconds, patience_s), place=Path("x")).timeline


def test_bytes_delivered_are_the_sum_of_what_every_read_returned():
    way = CountingWay()
    timeline = run(way)
    assert int(timeline.counts.sum()) == 4096 * len(way.asked)
    assert int(timeline.needs.sum()) == 4000 * len(way.asked)
    assert timeline.window_bytes <= timeline.needs.sum()
    assert timeline.window_reads <= len(way.asked)


def test_each_stream_keeps_its_queue_depth_of_reads_in_flight():
    in_flight, most, lock = [0], [0], threading.Lock()
    gate = threading.Event()

    class Watching(CountingWay):
        def do(self, path, target, offset):
            with lock:
                in_flight[0] += 1
                most[0] = max(most[0], in_flight[0])
                if most[0] == 6:
                    gate.set()
            gate.wait(5)
            with lock:
                in_flight[0] -= 1
            return super().do(path, target, offset)

    run(Watching(), threads=3, depth=2)
    assert most[0] == 6


@pytest.mark.parametrize("odd_read", [0, 7])
def test_an_error_in_a_reader_thread_ends_the_block_and_is_raised_with_file_and_offset(odd_read):
    class FailingWay(CountingWay):
        def complete(self, path, offset, target, need):
            raise ReadError(errno.EIO, "read of 4096 bytes at byte 8192 failed", "/data/x")

    def fail():
        raise OSError(errno.EIO, "no")

    before = threading.active_count()
    with pytest.raises(ReadError, match="byte 8192") as caught:
        run(FailingWay(odd_read, fail), seconds=30)
    assert caught.value.filename == "/data/x"
    assert threading.active_count() == before


def test_a_storage_that_does_not_answer_is_an_error_after_a_while_that_names_file_and_byte():
    answered = threading.Event()
    try:
        with pytest.raises(HangError, match=r"x: byte \d+: 1 of 4 reads have not come back within 0.2 s"):
            run(CountingWay(3, lambda: answered.wait(30)), patience_s=0.2)
    finally:
        answered.set()


def test_a_system_without_threads_to_give_is_an_error_and_leaves_none_waiting(monkeypatch):
    start, started = threading.Thread.start, []

    def start_three(thread):
        if len(started) == 3:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_three)
    with pytest.raises(WorkloadError, match="use fewer --threads"):
        run(CountingWay())
    for thread in started:
        thread.join(5)
        assert not thread.is_alive()


def test_a_read_that_takes_too_long_is_remembered_with_file_and_byte(monkeypatch):
    monkeypatch.setattr(drive_module, "SLOW_READ_NS", 20_000_000)
    way = CountingWay(5, lambda: threading.Event().wait(0.05))
    slots = [Slot(0, SharedBatches(streams_of(Path("x"))))]
    slow = {read.offset: read for read in drive(slots, way, Timing(0.01, 0.2), place=Path("x")).slow}
    assert slow[5 * 4096].path == "x"  # on a busy machine others may have been slow, too
    assert slow[5 * 4096].seconds >= 0.05


def test_what_follows_a_read_is_outside_of_its_time():
    class Evicting(CountingWay):
        def after(self, path, target, offset, count):
            threading.Event().wait(0.2)

    timeline = run(Evicting(), threads=1, depth=1, seconds=0.5)
    assert len(timeline.ends_ns) <= 4
    assert (timeline.ends_ns - timeline.starts_ns).sum() < 200_000_000


def test_short_reads_are_completed_and_counted_once():
    class Short(CountingWay):
        def do(self, path, target, offset):
            return super().do(path, target, offset) - (4096 if offset else 0)

        def complete(self, path, offset, target, need):
            return need

    timeline = run(Short())
    assert set(timeline.counts.tolist()) == {4096, 4000}


def test_no_garbage_is_collected_while_threads_read_and_again_afterwards():
    seen = []

    class Watching(CountingWay):
        def do(self, path, target, offset):
            seen.append(gc.isenabled())
            return super().do(path, target, offset)

    run(Watching())
    assert set(seen) == {False}
    assert gc.isenabled()
