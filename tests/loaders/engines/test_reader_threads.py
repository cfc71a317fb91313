"""Reader threads that outlive an epoch: what they keep, what ends them, what an epoch that was left leaves behind."""

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from functools import partial
from time import perf_counter, sleep

import numpy as np
import pytest

from iobench.loaders import DataLoader, ShardSet, prefetch
from iobench.loaders.engines import reader_threads as ends
from iobench.loaders.engines.readers import BufferedReader, ReadError


class ActingReader(BufferedReader):
    """A real reader that first does what a test wants done, told which read this is."""

    def __init__(self) -> None:
        super().__init__()
        self.num_reads = 0
        self.readers: set[int] = set()
        self.act = lambda number: None

    def read(self, path, offset, target, *, need=None) -> int:
        self.num_reads += 1
        self.readers.add(threading.get_ident())
        self.act(self.num_reads)
        return super().read(path, offset, target, need=need)


@pytest.fixture
def shards(page_set) -> ShardSet:
    found = ShardSet.open(page_set.folder)
    return ShardSet(found.paths, found.index, ActingReader())


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    gc.collect()
    wait_for(lambda: not reader_threads())


def reader_threads() -> list[int]:
    return [thread.ident for thread in threading.enumerate() if thread.name.startswith("iobench-reader")]


def wait_for(condition) -> None:
    deadline = perf_counter() + 10
    while not condition() and perf_counter() < deadline:
        sleep(0.01)
    assert condition()


def persistent(shards, num_workers=2, **options) -> DataLoader:
    return DataLoader(shards, batch_size=10, num_workers=num_workers, persistent_workers=True, **options)


def labels_of(batches) -> list[int]:
    return [label for _, labels in batches for label in labels.tolist()]


def fail(number: int) -> None:
    raise ReadError(errno.EIO, "read of 10 bytes at byte 7 failed: Input/output error", "some.tfrecord")


def test_the_same_threads_read_every_epoch(page_set, shards):
    loader = persistent(shards)
    assert labels_of(loader) == page_set.labels.tolist()
    threads = sorted(reader_threads())
    assert len(threads) == 2
    for _ in range(3):
        assert labels_of(loader) == page_set.labels.tolist()
        assert sorted(reader_threads()) == threads
    assert shards.reader.readers <= set(threads)


def test_what_a_worker_init_fn_did_to_its_thread_holds_in_the_next_epoch(shards):
    local = threading.local()

    def init(number: int) -> None:
        local.number = number

    found: set[int] = set()
    loader = persistent(shards, worker_init_fn=init)
    labels_of(loader)
    shards.reader.act = lambda number: found.add(local.number)
    labels_of(loader)
    assert found <= {0, 1}
    assert found


def test_an_epoch_that_is_left_leaves_nothing_to_the_next(page_set, shards):
    loader = persistent(shards, prefetch_factor=3)
    threads = None
    for stop in (1, 5, 2, 12):
        batches = iter(loader)
        for _ in range(stop):
            next(batches)
        threads = threads or sorted(reader_threads())
        del batches
        assert labels_of(loader) == page_set.labels.tolist()
        assert sorted(reader_threads()) == threads
    assert loader._road.pool.num_allocated <= 6 + 2 + 1


def test_reads_of_an_epoch_that_was_left_are_not_done(shards):
    going, reached = threading.Event(), threading.Event()

    def wait_at_third(number: int) -> None:
        if number == 3:
            reached.set()
            going.wait()

    shards.reader.act = wait_at_third
    loader = persistent(shards, 1, prefetch_factor=8)
    batches = iter(loader)
    next(batches)
    reached.wait()
    threading.Timer(0.05, going.set).start()
    batches.close()
    assert shards.reader.num_reads == 3


def test_two_epochs_at_once_share_the_threads(page_set, shards):
    loader = persistent(shards)
    one, two = iter(loader), iter(loader)
    pairs = list(zip(one, two, strict=True))
    assert labels_of(pair[0] for pair in pairs) == labels_of(pair[1] for pair in pairs) == page_set.labels.tolist()
    assert len(reader_threads()) == 2


def test_an_error_ends_the_threads_and_the_next_epoch_has_others(page_set, shards):
    started: list[int] = []
    loader = persistent(shards, worker_init_fn=started.append)
    labels_of(loader)
    shards.reader.act = fail
    with pytest.raises(ReadError, match="at byte 7 failed"):
        labels_of(loader)
    assert not reader_threads()
    shards.reader.act = lambda number: None
    assert labels_of(loader) == page_set.labels.tolist()
    assert sorted(started) == [0, 0, 1, 1]


def test_an_error_of_worker_init_fn_is_raised_in_each_epoch(shards):
    def init(number: int) -> None:
        raise RuntimeError("no device")

    loader = persistent(shards, worker_init_fn=init)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no device"):
            labels_of(loader)
        assert not reader_threads()


def test_a_time_out_leaves_the_hanging_thread_and_the_next_epoch_has_others(page_set, shards, monkeypatch):
    monkeypatch.setattr(prefetch, "JOIN_TIMEOUT_S", 0.05)
    answered = threading.Event()
    loader = persistent(shards, 1, timeout=0.3)
    labels_of(loader)
    shards.reader.act = lambda number: answered.wait()
    with pytest.raises(RuntimeError, match="the storage hangs or is too slow"):
        labels_of(loader)
    shards.reader.act = lambda number: None
    assert labels_of(loader) == page_set.labels.tolist()
    answered.set()
    wait_for(lambda: len(reader_threads()) == 1)


def test_an_interrupt_ends_the_threads(page_set, shards, monkeypatch):
    monkeypatch.setattr(prefetch, "JOIN_TIMEOUT_S", 0.05)
    answered = threading.Event()
    loader = persistent(shards, 1)
    labels_of(loader)

    def interrupt(number: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        answered.wait()

    shards.reader.act = interrupt
    with pytest.raises(KeyboardInterrupt):
        labels_of(loader)
    shards.reader.act = lambda number: None
    answered.set()
    wait_for(lambda: not reader_threads())
    assert labels_of(loader) == page_set.labels.tolist()


def test_dropping_the_loader_ends_the_threads(shards):
    loader = persistent(shards)
    labels_of(loader)
    loader = weakref.ref(loader)
    assert loader() is None
    wait_for(lambda: not reader_threads())


def test_dropping_the_loader_in_an_epoch_ends_the_threads_with_the_epoch(page_set, shards):
    loader = persistent(shards)
    batches = iter(loader)
    first = next(batches)
    del loader
    assert labels_of([first, *batches]) == page_set.labels.tolist()
    del batches
    gc.collect()
    wait_for(lambda: not reader_threads())


@pytest.mark.filterwarnings("error")
def test_a_loader_in_a_cycle_may_be_collected_by_one_of_its_own_threads(shards):
    unheld = threading.Event()
    collected: list[int] = []

    def collect(number: int) -> None:
        if number == 3:
            unheld.wait()
            collected.append(gc.collect())

    shards.reader.act = collect
    gc.disable()
    try:
        loader = persistent(shards, 1)
        batches = iter(loader)
        next(batches)
        cycle = [batches, loader]
        cycle.append(cycle)
        del batches, loader, cycle
        unheld.set()
        wait_for(lambda: not reader_threads())
    finally:
        gc.enable()
    assert collected
    assert collected[0] > 0


def test_a_forked_child_has_threads_of_its_own(page_set, shards):
    loader = persistent(shards)
    labels_of(loader)
    child = os.fork()
    if not child:
        status = 1
        try:
            status = 0 if labels_of(loader) == page_set.labels.tolist() else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert labels_of(loader) == page_set.labels.tolist()


@pytest.mark.slow
def test_a_program_may_end_between_two_epochs(page_set):
    script = (
        "import sys\n"
        "from iobench.loaders import DataLoader, ShardSet\n"
        "loader = DataLoader(ShardSet.open(sys.argv[1]), batch_size=8, num_workers=3, persistent_workers=True)\n"
        "print(sum(len(labels) for _ in range(2) for _, labels in loader))\n"
    )
    command = [sys.executable, "-c", script, str(page_set.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "260\n", "")


def test_direct_reads_that_are_moved_are_right_after_an_epoch_that_was_left(odd_set, direct_io):
    shards = ShardSet.open(odd_set.folder, engine="direct")
    loader = persistent(shards, shuffle=True)
    for _ in range(3):
        next(iter(loader))
        records = np.concatenate(list(loader._plan._batches(loader.epoch)))
        assert labels_of(loader) == odd_set.labels[records].tolist()


def test_an_epoch_whose_threads_another_one_has_ended_says_so(shards):
    loader = persistent(shards, prefetch_factor=1)
    one, two = iter(loader), iter(loader)
    next(one)
    next(two)
    shards.reader.act = fail
    with pytest.raises(ReadError, match="at byte 7 failed"):
        list(two)
    shards.reader.act = lambda number: None
    with pytest.raises(RuntimeError, match=r"the reader threads of this epoch are gone: .*iter\(loader\)"):
        list(one)


@pytest.mark.parametrize("persists", [True, False])
def test_an_epoch_does_not_go_on_in_a_forked_child_and_says_so(page_set, shards, persists):
    loader = DataLoader(shards, batch_size=10, num_workers=2, persistent_workers=persists)
    batches = iter(loader)
    begun = labels_of([next(batches)])
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.alarm(10)  # where it waits for ever
            next(batches)
        except RuntimeError as error:
            status = 0 if "a forked process has none of its parent's" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert begun + labels_of(batches) == page_set.labels.tolist()


def test_an_interrupt_while_worker_init_fn_runs_leaves_no_thread_waiting(page_set, shards):
    answered, interrupted = threading.Event(), threading.Event()

    def init(number: int) -> None:
        if not interrupted.is_set():
            interrupted.set()
            os.kill(os.getpid(), signal.SIGINT)
        answered.wait()

    loader = persistent(shards, worker_init_fn=init)
    with pytest.raises(KeyboardInterrupt):
        list(loader)
    answered.set()
    del loader
    wait_for(lambda: not reader_threads())


@pytest.mark.parametrize("persists", [True, False])
def test_loaders_that_are_gone_leave_nothing_to_be_done_at_the_end_of_the_program(shards, persists):
    def begin() -> None:
        loader = DataLoader(shards, batch_size=10, num_workers=2, persistent_workers=persists)
        next(iter(loader))

    for _ in range(3):
        begin()
    wait_for(lambda: not reader_threads())
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one) is partial and one.func is ends._leave]
