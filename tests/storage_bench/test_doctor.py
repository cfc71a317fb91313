"""The doctor: looks at anything, says why, and never fails or hangs."""

import os

import pytest

from iobench.loaders.readers import direct_refused
from iobench.storage_bench.doctor import examine

EXPECTED = {
    "python",
    "torch",
    "numpy",
    "ranks (horovod)",
    "GPU",
    "route gds",
    "file system",
    "byte counter",
    "engine direct",
    "residency",
    "open files",
}


def findings(path):
    return {finding.name: finding for finding in examine(path)}


def test_everything_is_looked_at_and_what_is_missing_has_a_way_out(page_set):
    found = findings(page_set.folder)
    assert found.keys() == EXPECTED
    assert all(finding.seen for finding in found.values())
    assert all(finding.advice for finding in found.values() if finding.available is False)
    assert found["engine direct"].available is (direct_refused(page_set.shards[0]) is None)


@pytest.mark.parametrize("name", ["missing", "missing/far/below", "empty", "file", "pipe", "nothing", "loop", "file/x"])
def test_any_path_is_examined(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "nothing").touch()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    assert findings(tmp_path / name).keys() == EXPECTED


def test_without_a_file_what_needs_one_is_left_open(tmp_path):
    found = findings(tmp_path)
    assert found["engine direct"].available is None
    assert found["residency"].available is None


def test_a_memory_file_system_has_no_byte_counter_and_says_so(memory_folder):
    found = findings(memory_folder)["byte counter"]
    assert found.available is False
    assert "not proven" in found.advice
