"""Bringing what was written to the disk: whether it was is the kernel's to say, and where it cannot it is told."""

import os

import pytest

from iobench.storage_bench.durable import sync_file_system, sync_folder


@pytest.mark.parametrize("sync", [sync_folder, sync_file_system])
def test_a_folder_is_synced_and_no_descriptor_stays(sync, tmp_path):
    (tmp_path / "some").write_bytes(b"abc")
    before = os.listdir("/proc/self/fd")
    sync(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize("sync", [sync_folder, sync_file_system])
def test_what_is_no_folder_is_named(sync, tmp_path):
    (tmp_path / "some").write_bytes(b"abc")
    with pytest.raises(NotADirectoryError) as caught:
        sync(tmp_path / "some")
    assert caught.value.filename == str(tmp_path / "some")


def test_a_folder_that_cannot_be_synced_is_an_error():
    with pytest.raises(OSError, match="Invalid argument"):
        sync_folder("/proc/self/fd")
