"""The doctor: looks at anything, says why, and never fails."""

import os

import pytest

from iobench.loaders.engines.readers import direct_refused
from iobench.storage_bench.doctor import examine

GROUPS = {
    "software": {"python", "torch", "numpy", "DALI", "JPEG crops", "obstore", "ranks (horovod)"},
    "gpu": {
        "driver",
        "GPU",
        "cores of ranks",
        "CUDA",
        "kvikio",
        "cuFile",
        "cuFile configuration",
        "nvidia-fs",
        "P2PDMA",
    },
    "storage": {
        "path",
        "file system",
        "mount options",
        "writing",
        "block device",
        "GDS support",
        "P2PDMA support",
        "network card",
        "byte counter",
        "engine direct",
        "O_DIRECT alignment",
        "engine mmap",
        "residency",
    },
    "network": {"interfaces", "RDMA"},
    "host": {
        "io_uring",
        "locked memory",
        "open files",
        "NUMA",
        "cores",
        "memory",
        "cgroup limits",
        "clock",
        "frequency",
        "IOMMU",
        "ACS",
    },
}
ROUTES = ["host/buffered", "host/direct", "mmap", "remote", "bounce", "gds", "p2pdma"]


def findings(path):
    return {finding.name: finding for finding in examine(path).findings}


def grouped(path):
    seen: dict[str, set[str]] = {}
    for finding in examine(path).findings:
        seen.setdefault(finding.group, set()).add(finding.name)
    return seen


def test_everything_is_looked_at_and_what_is_missing_has_a_way_out(page_set):
    diagnosis = examine(page_set.folder)
    assert [route.name for route in diagnosis.routes] == ROUTES
    assert all(finding.seen for finding in diagnosis.findings)
    silent = [finding.name for finding in diagnosis.findings if finding.available is False and not finding.advice]
    assert silent == []
    assert all(route.reason and (route.available or route.advice) for route in diagnosis.routes)
    found = {finding.name: finding for finding in diagnosis.findings}
    assert found["engine direct"].available is (direct_refused(page_set.shards[0]) is None)


@pytest.mark.parametrize("name", ["missing/far/below", "file", "pipe", "nothing", "loop", "file/x"])
def test_any_path_is_examined(tmp_path, name):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "nothing").touch()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    assert grouped(tmp_path / name) == GROUPS


def test_nothing_that_was_looked_at_failed(page_set):
    assert [found for found in examine(page_set.folder).findings if "cannot be told" in found.seen] == []


def test_without_a_file_what_needs_one_is_left_open(tmp_path):
    found = findings(tmp_path)
    needs_a_file = ("engine direct", "O_DIRECT alignment", "residency")
    assert [found[name].available for name in needs_a_file] == [None, None, None]


def test_a_memory_file_system_has_no_byte_counter_and_no_disk_and_says_so(memory_folder):
    found = findings(memory_folder)
    assert found["byte counter"].available is False
    assert "not proven" in found["byte counter"].advice
    assert found["block device"].available is None
    assert found["GDS support"].available is False
    assert found["file system"].seen.startswith("tmpfs from")


def test_an_objects_address_is_not_taken_for_a_folder_and_shows_no_credentials():
    diagnosis = examine("https://me:secret@host/bucket/set?signature=1")
    storage = [finding for finding in diagnosis.findings if finding.group == "storage"]
    assert {finding.name for finding in storage} == GROUPS["storage"]
    assert all(finding.seen.startswith("https://host/bucket/set is an object's") for finding in storage)
    assert "secret" not in str(diagnosis)
    routes = {route.name: route.available for route in diagnosis.routes}
    assert (routes["host/buffered"], routes["mmap"]) == (None, None)


def test_a_loop_device_is_seen_through_its_own_name(small_disk):
    assert findings(small_disk)["block device"].seen.startswith("loop")
