"""The hand-over when things go wrong: errors, time-outs, interrupts, and iterators that nobody finishes."""

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
from time import perf_counter, sleep

import numpy as np
import pytest

from iobench.loaders import prefetch
from iobench.loaders.engines.readers import BufferedReader, ReadError
from iobench.loaders.shards import ShardSet


class FakeReader(BufferedReader):
    """A real reader that first does what a test wants done at its n-th read."""

    def __init__(self, act) -> None:
        super().__init__()
        self.num_reads = 0
        self._act = act

    def read(self, path, offset, target, *, need=None) -> int:
        self.num_reads += 1
        self._act(self.num_reads)
        return super().read(path, offset, target, need=need)


@pytest.fixture
def open_with(page_set):
    """A shard set over page_set whose reader does `act(n)` at its n-th read."""
    found = ShardSet.open(page_set.folder)
    return lambda act: ShardSet(found.paths, found.index, FakeReader(act))


OTHERS: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def no_thread_is_left():
    """Counts those of the test: a loader of an earlier file of tests may not be collected yet."""
    OTHERS.clear()
    OTHERS.update(threading.enumerate())
    yield
    deadline = perf_counter() + 10
    while (left := reader_threads()) and perf_counter() < deadline:
        sleep(0.01)
    assert not left


def reader_threads() -> set[threading.Thread]:
    found = {thread for thread in threading.enumerate() if thread.name.startswith("iobench-reader")}
    return found - OTHERS


def in_batches(num_records=130, size=10):
    return (np.arange(first, min(num_records, first + size)) for first in range(0, num_records, size))


def start(shards, *, num_threads, batches=None, **options):
    batches = in_batches() if batches is None else batches
    return shards.prefetch(batches, batch_size=10, num_threads=num_threads, depth=4, **options)


def fail_at(number: int):
    def act(n: int) -> None:
        if n == number:
            raise ReadError(errno.EIO, "read of 10 bytes at byte 7 failed: Input/output error", "some.tfrecord")

    return act


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_a_readers_error_is_raised_by_next_and_ends_the_threads(open_with, num_threads, page_set):
    batches = start(open_with(fail_at(6)), num_threads=num_threads)
    got = []
    with pytest.raises(ReadError, match="at byte 7 failed"):
        got.extend(batch.records[0] for batch in batches)
    assert not reader_threads()
    assert got == list(range(0, 10 * len(got), 10))
    assert len(got) == 5 or num_threads == 3  # with several threads the sixth read need not be that of the sixth batch
    with pytest.raises(StopIteration):
        next(batches)


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_samplers_error_is_raised_by_next_and_ends_the_threads(open_with, num_threads):
    def broken():
        yield np.arange(10)
        raise LookupError("no more numbers")

    batches = start(open_with(lambda n: None), num_threads=num_threads, batches=broken())
    with pytest.raises(LookupError, match="no more numbers"):
        list(batches)
    assert not reader_threads()


@pytest.mark.parametrize("failure", [RuntimeError("no device"), SystemExit(3)], ids=["error", "exit"])
def test_an_error_of_worker_init_fn_is_raised_by_next(open_with, failure):
    def init(number: int) -> None:
        raise failure

    batches = start(open_with(lambda n: None), num_threads=2, on_thread_start=init)
    with pytest.raises(type(failure)) as caught:
        next(batches)
    assert caught.value is failure


def test_a_thread_that_is_made_to_exit_does_not_hang_the_loop(open_with):
    def act(n: int) -> None:
        if n == 2:
            sys.exit(5)

    with pytest.raises(SystemExit):
        list(start(open_with(act), num_threads=1))


def test_a_storage_that_hangs_is_met_with_the_time_out(open_with, monkeypatch):
    monkeypatch.setattr(prefetch, "JOIN_TIMEOUT_S", 0.05)
    answered = threading.Event()
    batches = start(open_with(lambda n: n < 2 or answered.wait()), num_threads=1, timeout_s=0.3)
    assert next(batches).records[0] == 0
    with pytest.raises(RuntimeError, match=r"no batch within 0\.3 s: the storage hangs or is too slow"):
        next(batches)
    answered.set()


@pytest.mark.parametrize("num_threads", [1, 3])
def test_leaving_a_loop_early_ends_the_threads(open_with, num_threads):
    batches = start(open_with(lambda n: None), num_threads=num_threads)
    next(batches)
    assert reader_threads()
    del batches
    assert not reader_threads()


@pytest.mark.filterwarnings("error")
def test_an_iterator_in_a_cycle_may_be_collected_by_its_own_reader_thread(open_with):
    """The garbage collector runs in whichever thread allocates; a thread cannot wait for its own end."""
    unheld = threading.Event()
    collected = []

    def act(n: int) -> None:
        if n == 3:
            unheld.wait()
            collected.append(gc.collect())

    gc.disable()
    try:
        batches = start(open_with(act), num_threads=1)
        next(batches)
        cycle = [batches]
        cycle.append(cycle)
        del batches, cycle
        unheld.set()
        deadline = perf_counter() + 10
        while reader_threads() and perf_counter() < deadline:
            sleep(0.01)
    finally:
        gc.enable()
    assert collected
    assert collected[0] > 0


@pytest.mark.parametrize("num_threads", [0, 2])
def test_an_interrupt_in_next_ends_the_epoch_and_its_threads(open_with, num_threads, monkeypatch):
    monkeypatch.setattr(prefetch, "JOIN_TIMEOUT_S", 0.05)
    asked, answered = threading.Event(), threading.Event()

    def act(n: int) -> None:
        if n == 3:
            asked.wait()
            sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)
            answered.wait()

    batches = start(open_with(act), num_threads=num_threads)
    assert [int(next(batches).records[0]) for _ in range(2)] == [0, 10]
    asked.set()
    with pytest.raises(KeyboardInterrupt):
        next(batches)
    answered.set()
    with pytest.raises(StopIteration):
        next(batches)


def test_a_batch_whose_read_was_interrupted_is_never_handed_out(open_with):
    def act(n: int) -> None:
        if n == 2:
            raise KeyboardInterrupt

    shards = open_with(act)
    batches = start(shards, num_threads=0, batches=iter([np.array([3, 100, 50]), np.array([1])]))
    with pytest.raises(KeyboardInterrupt):
        next(batches)
    assert list(batches) == []


def test_an_empty_batch_is_refused(open_with):
    with pytest.raises(ValueError, match="a batch of no records"):
        next(start(open_with(lambda n: None), num_threads=0, batches=iter([np.array([], dtype=np.int64)])))


def test_closing_gives_the_buffers_back_and_leaves_handed_out_batches_valid(open_with, page_set):
    shards = open_with(lambda n: None)
    pool = shards.new_pool(10, depth=4)
    for _ in range(20):
        batches = start(shards, num_threads=2, pool=pool)
        first = next(batches)
        batches.close()
        assert (first.images == page_set.images[:10]).all()
    assert pool.num_allocated <= 4 + 2 + 1


def test_a_program_may_end_in_the_middle_of_an_epoch(page_set):
    """Daemon threads that still read must not crash or hold up the interpreter's end."""
    script = (
        "import sys, gc\n"
        "from iobench.loaders.shards import ShardSet\n"
        "import numpy as np\n"
        "shards = ShardSet.open(sys.argv[1])\n"
        "batches = shards.prefetch((np.arange(20) for _ in range(10**6)), batch_size=20, num_threads=3, depth=6)\n"
        "held = [next(batches) for _ in range(3)]\n"
        "error = None if len(sys.argv) < 3 else sys.exit('left')\n"
    )
    for arguments, status, text in ([], 0, ""), (["exit"], 1, "left\n"):
        begin = perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", script, str(page_set.folder), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (status, "", text)
        assert perf_counter() - begin < 30
