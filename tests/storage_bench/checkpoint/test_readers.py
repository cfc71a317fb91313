"""Readers beside something else: they read all data, say what they got in any span, and fail loudly."""

import os
import time
from time import perf_counter_ns

import pytest

from iobench.loaders.engines.readers import ReadError
from iobench.storage_bench.checkpoint.readers import ReadLoad
from iobench.storage_bench.workload import DataFile


@pytest.fixture
def data(tmp_path):
    paths = [tmp_path / f"{number}.bin" for number in range(2)]
    for path in paths:
        path.write_bytes(os.urandom(3 << 20))
    return [DataFile(path, 3 << 20) for path in paths]


@pytest.mark.parametrize("engine", ["buffered", "direct"])
def test_readers_read_until_they_are_told_to_stop(data, engine, direct_io):
    with ReadLoad(data, engine=engine, threads=2, block_bytes=1 << 20) as readers:
        begin = perf_counter_ns()
        time.sleep(0.3)
        end = perf_counter_ns()
    after = readers.delivered_bytes
    assert after >= 2 << 20
    assert 0 < readers.gbps(begin, end) * (end - begin) <= after
    assert readers.gbps(end + 10**10, end + 2 * 10**10) == 0
    time.sleep(0.05)
    assert readers.delivered_bytes == after


def test_a_file_that_is_cut_short_is_told(data):
    os.truncate(data[1].path, 1000)

    def read_for_a_while():
        with ReadLoad(data, engine="buffered", threads=2, block_bytes=1 << 20):
            time.sleep(0.3)

    with pytest.raises(ReadError, match=data[1].path.name):
        read_for_a_while()
