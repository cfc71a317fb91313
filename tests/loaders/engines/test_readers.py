"""Both engines bring the right bytes or an error that names file and offset."""

import errno
import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest

from iobench.loaders.buffers import Buffer
from iobench.loaders.engines import readers
from iobench.loaders.engines.choice import open_reader
from iobench.loaders.engines.readers import (
    BufferedReader,
    DirectReader,
    DirectRefusedError,
    ReadError,
    direct_refused,
)
from iobench.loaders.page_cache import cache_fraction, evict

PAGE = 4096
SIZE_BYTES = 10 * PAGE + 123
CONTENT = np.random.default_rng(0).integers(0, 256, SIZE_BYTES, dtype=np.uint8).tobytes()


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "some.bin"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def reader(engine):
    return DirectReader() if engine == "direct" else BufferedReader()


@pytest.mark.parametrize(("offset", "length"), [(0, PAGE), (PAGE, 3 * PAGE), (0, 10 * PAGE)])
def test_a_read_fills_the_target_with_the_files_bytes(reader, file, offset, length):
    memory = Buffer(length).memory
    assert reader.read(file, offset, memory) == length
    assert bytes(memory[:length]) == CONTENT[offset : offset + length]
    assert reader.delivered_bytes == length


def test_the_superset_of_a_files_unaligned_end_is_enough(reader, file):
    memory = Buffer(4 * PAGE).memory
    assert reader.read(file, 8 * PAGE, memory, need=2 * PAGE + 123) == 2 * PAGE + 123
    assert bytes(memory[: 2 * PAGE + 123]) == CONTENT[8 * PAGE :]


@pytest.mark.parametrize("offset", [8 * PAGE, 10 * PAGE, 11 * PAGE, 50 * PAGE])
def test_a_read_past_the_end_names_file_and_byte(reader, file, offset):
    with pytest.raises(ReadError, match=f"the file ends at byte {SIZE_BYTES}, ") as caught:
        reader.read(file, offset, Buffer(4 * PAGE).memory, need=2 * PAGE + 124)
    assert caught.value.filename == str(file)
    assert caught.value.exit_status == 4


def test_a_file_cut_while_it_is_open_is_noticed(reader, file):
    reader.read(file, 0, Buffer(PAGE).memory)
    os.truncate(file, 5000)
    with pytest.raises(ReadError, match="ends at byte 5000, 3192 bytes before this read does"):
        reader.read(file, 0, Buffer(2 * PAGE).memory)


@pytest.mark.parametrize("most", [PAGE, 5000, 3 * PAGE])
def test_reads_the_kernel_cuts_short_are_gone_on_with(reader, file, monkeypatch, most):
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: whole_part(whole, fd, buffers, offset, most))
    memory = Buffer(11 * PAGE).memory
    assert reader.read(file, 0, memory, need=SIZE_BYTES) == SIZE_BYTES
    assert bytes(memory[:SIZE_BYTES]) == CONTENT


def whole_part(preadv, fd, buffers, offset, most):
    """What a file system does that returns at most `most` bytes: the rest of the target stays as it was."""
    wanted = buffers[0]
    scratch = Buffer(len(wanted)).memory
    count = min(preadv(fd, [scratch[: len(wanted)]], offset), most)
    wanted[:count] = scratch[:count]
    return count


def test_a_direct_read_that_never_reaches_a_page_is_an_error_and_no_endless_loop(direct_io, file, monkeypatch):
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: whole_part(whole, fd, buffers, offset, 512))
    with pytest.raises(ReadError, match="read of 8192 bytes at byte 0 brought only 512"):
        DirectReader().read(file, 0, Buffer(2 * PAGE).memory)


def test_an_error_of_the_disk_names_file_and_byte(reader, file, monkeypatch):
    def broken(fd, buffers, offset):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(ReadError, match="read of 4096 bytes at byte 8192 failed: Input/output error") as caught:
        reader.read(file, 2 * PAGE, Buffer(PAGE).memory)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(file))


def test_a_missing_file_is_named(reader, tmp_path):
    with pytest.raises(ReadError, match="cannot be opened: No such file or directory") as caught:
        reader.read(tmp_path / "none", 0, Buffer(PAGE).memory)
    assert caught.value.filename == str(tmp_path / "none")


def test_no_more_than_a_bounded_number_of_files_stays_open(reader, numbered_files, open_files, monkeypatch):
    monkeypatch.setattr(readers, "MAX_OPEN_FILES", 5)
    paths, memory = numbered_files(30), Buffer(PAGE).memory
    for number in [*range(30), *range(30)]:
        reader.read(paths[number], 0, memory)
        assert memory[17] == number
    assert sum(open_files(path) for path in paths) == 5


def test_a_reader_leaves_no_file_open_when_it_is_closed_or_dropped(engine, file, open_files):
    closed = DirectReader() if engine == "direct" else BufferedReader()
    dropped = DirectReader() if engine == "direct" else BufferedReader()
    memory = Buffer(PAGE).memory
    for one in (closed, dropped):
        one.read(file, 0, memory)
    assert open_files(file) == 2
    closed.close()
    assert open_files(file) == 1
    del dropped, one
    assert open_files(file) == 0
    closed.read(file, 0, memory)
    assert open_files(file) == 1


def test_many_threads_may_share_a_reader(reader, share_among_threads, open_files, monkeypatch):
    monkeypatch.setattr(readers, "MAX_OPEN_FILES", 3)
    paths = share_among_threads(reader)
    reader.close()
    assert not any(open_files(path) for path in paths)


def test_a_pickled_reader_reads_and_keeps_its_ways(engine, file):
    reader = DirectReader() if engine == "direct" else BufferedReader(evict_behind=True)
    reader.read(file, 0, Buffer(PAGE).memory)
    again = pickle.loads(pickle.dumps(reader))
    memory = Buffer(PAGE).memory
    again.read(file, PAGE, memory)
    assert bytes(memory) == CONTENT[PAGE : 2 * PAGE]
    assert vars(again).keys() == vars(reader).keys()


def test_a_child_forked_in_the_middle_of_an_open_reads_on(engine, file, tmp_path):
    """The parent's thread holds the reader's lock at the fork; the child must not wait for that thread."""
    reader = DirectReader() if engine == "direct" else BufferedReader()
    memory = Buffer(PAGE).memory
    reader.read(file, 0, memory)
    with reader._here().lock:
        child = os.fork()
        if not child:
            os._exit(0 if reader.read(file, 0, memory) == PAGE else 1)
        deadline = threading.Timer(10, os.kill, (child, 9))
        deadline.start()
        assert os.waitpid(child, 0)[1] == 0
        deadline.cancel()


def test_reads_that_evict_behind_leave_nothing_in_the_page_cache(tmp_path, read_at_random):
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(8 << 20))
    evict([path])
    if cache_fraction([path]) != 0:
        pytest.skip("this file system does not evict, or does not tell")
    read_at_random(BufferedReader(evict_behind=True), path)
    assert cache_fraction([path]) == 0


def test_a_file_system_without_direct_io_is_told_and_not_worked_around():
    path = Path("/proc/version")
    assert direct_refused(path) == "the file system refuses O_DIRECT"
    with pytest.raises(DirectRefusedError, match="the file system refuses O_DIRECT; use --engine buffered") as caught:
        open_reader("direct", path)
    assert caught.value.exit_status == 4


def test_the_reason_for_an_engine_is_recorded(file):
    reader, reason = open_reader("auto", file)
    assert (reader.engine, reason) == ("buffered", "auto: buffered, whose pages later epochs find in memory")
    with pytest.raises(ValueError, match="engine 'floppy' is not one of auto, buffered, direct"):
        open_reader("floppy", file)
