"""Writes go to files of their own, really reach the device, and leave nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.loaders.evidence import counter_for
from iobench.storage_bench.sweep import writing
from iobench.storage_bench.sweep.points import SweepPoint
from iobench.storage_bench.sweep.proof import write_doubt
from iobench.storage_bench.sweep.run import scratch_size, sweep
from iobench.storage_bench.sweep.ways import HostMemory
from iobench.storage_bench.sweep.writing import (
    PageStamps,
    ScratchFile,
    Writes,
    WriteSource,
    scratch_files,
    written_bytes,
)
from iobench.storage_bench.workload import StorageConfig, WorkloadError

BLOCK = 4096


def config(**settings):
    defaults = {"operation": "write", "block_size": "64K", "seconds": 0.05, "blocks": 2, "write_bytes": "2M"}
    return StorageConfig.model_validate({**defaults, **settings})


def open_descriptors(folder: Path) -> list[str]:
    links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return [place for link in links if os.path.lexists(link) and str(folder) in (place := os.readlink(link))]


def test_files_have_no_name_while_they_are_written_and_are_gone_afterwards(tmp_path):
    with scratch_files(tmp_path, num_files=3, file_bytes=10 * BLOCK) as scratch:
        assert list(tmp_path.iterdir()) == []
        assert [os.fstat(file.buffered).st_size for file in scratch.files] == [10 * BLOCK] * 3
        assert [os.fstat(file.buffered).st_nlink for file in scratch.files] == [0] * 3
    assert open_descriptors(tmp_path) == []


def test_files_are_gone_whatever_happens(tmp_path):
    with pytest.raises(RuntimeError), scratch_files(tmp_path, num_files=2, file_bytes=BLOCK):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    assert open_descriptors(tmp_path) == []


def test_a_program_that_is_killed_leaves_no_file(tmp_path):
    program = f"""
import os, signal
from pathlib import Path
from iobench.storage_bench.sweep.writing import scratch_files
with scratch_files(Path({str(tmp_path)!r}), num_files=2, file_bytes=1 << 20):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert list(tmp_path.iterdir()) == []


def test_writes_that_would_fill_the_file_system_are_refused_and_nothing_is_written(small_disk):
    with (
        pytest.raises(WorkloadError, match=r"write_bytes=SIZE"),
        scratch_files(small_disk, num_files=1, file_bytes=31 << 20),
    ):
        pytest.fail("was let through")
    assert [entry.name for entry in small_disk.iterdir()] == ["lost+found"]


def test_a_disk_that_is_full_before_its_time_is_an_error_and_leaves_nothing(small_disk, monkeypatch):
    monkeypatch.setattr(writing, "_require_space", lambda folder, num_bytes: None)
    with (
        pytest.raises(OSError, match="No space left") as caught,
        scratch_files(small_disk, num_files=2, file_bytes=20 << 20),
    ):
        pytest.fail("was let through")
    assert caught.value.exit_status == 4
    assert [entry.name for entry in small_disk.iterdir()] == ["lost+found"]


@given(
    num_blocks=st.integers(4, 60),
    depth=st.integers(1, 4),
    access=st.sampled_from(["sequential", "random"]),
    seed=st.integers(0, 9),
)
def test_each_pass_of_all_slots_writes_every_block_once(num_blocks, depth, access, seed):
    file = ScratchFile(Path("x"), num_blocks * BLOCK, -1, -1)
    slots = [
        WriteSource(file, engine="direct", access=access, block_bytes=BLOCK, slot=slot, depth=depth, seed=seed)
        for slot in range(depth)
    ]
    for _ in range(2):
        offsets = [request.offset for slot in slots for request in slot.following(None)]
        assert sorted(offsets) == [number * BLOCK for number in range(num_blocks)]


def test_a_thread_syncs_its_file_before_it_writes_a_block_again(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    file = ScratchFile(tmp_path / "x", 4 * BLOCK, 7, 8)
    for engine, expected in (("buffered", [7, 7]), ("direct", [])):
        synced.clear()
        source = WriteSource(file, engine=engine, access="sequential", block_bytes=BLOCK, slot=0, depth=1, seed=0)
        for _ in range(3):
            source.following(None)
        assert synced == expected


def test_no_page_is_written_twice():
    (view,) = target = PageStamps(HostMemory())(64 * BLOCK)
    pages = set()
    for _ in range(5):
        pages |= {bytes(view[start : start + BLOCK]) for start in range(0, len(view), BLOCK)}
        Writes._change(0, target, 0, len(view))
    assert len(pages) == 5 * 64


def test_there_is_a_block_for_each_slot_of_the_largest_point():
    points = [
        SweepPoint("direct", "sequential", block, depth, threads, "cold", "write")
        for block, depth, threads in ((1 << 20, 1, 8), (4096, 64, 2))
    ]
    assert scratch_size(points, 1 << 20) == {"num_files": 8, "file_bytes": 4 << 20}
    assert scratch_size(points, 80 << 20) == {"num_files": 8, "file_bytes": 10 << 20}


def test_bytes_written_to_a_device_are_the_seventh_figure_of_its_stat_in_sectors(tmp_path):
    for name, sectors in (("8:0", 100), ("8:16", 3)):
        (tmp_path / "dev/block" / name).mkdir(parents=True)
        (tmp_path / "dev/block" / name / "stat").write_text(f"1 2 3 4 5 6 {sectors} 8 9 10 11\n")
    assert written_bytes(("8:0", "8:16"), sys=tmp_path) == 103 * 512
    assert written_bytes((), sys=tmp_path) is None
    assert written_bytes(("8:0", "9:9"), sys=tmp_path) is None


@pytest.mark.parametrize("engine", ["buffered", "direct"])
@pytest.mark.parametrize("access", ["sequential", "random"])
def test_every_byte_that_counts_went_to_the_device(tmp_path, engine, access):
    counter = counter_for([tmp_path])
    if counter.counter_class != "exact":
        pytest.skip(counter.reason)
    (result,) = sweep(tmp_path, config(engine=engine, access=access, queue_depth=2, threads=2))
    assert all(block.payload_bytes > 0 and block.payload_bytes % 65536 == 0 for block in result.blocks)
    assert result.evidence.device_bytes >= 0.98 * result.evidence.delivered_bytes
    assert write_doubt(result.evidence) is None
    assert list(tmp_path.iterdir()) == []


def test_a_rate_of_writes_through_the_page_cache_is_over_the_sync_too(tmp_path):
    (result,) = sweep(tmp_path, config(engine="buffered", threads=1, queue_depth=1))
    for block in result.blocks:
        assert block.gbps <= block.payload_bytes / 0.05 / 1e9  # the window alone
        assert block.iops == pytest.approx(block.gbps * 1e9 / 65536)


def test_writes_that_a_cache_took_are_told(tmp_path):
    (result,) = sweep(tmp_path, config(engine="buffered"))
    import dataclasses

    short = dataclasses.replace(result.evidence, counter_class="exact", device_bytes=90, delivered_bytes=100)
    assert "only 90.0% of the bytes written went to the device" in write_doubt(short)
    assert write_doubt(dataclasses.replace(short, counter_class="none")) is None


def test_writes_need_a_folder_that_is_there_and_no_data(tmp_path):
    with pytest.raises(WorkloadError, match="no such folder"):
        sweep(tmp_path / "missing", config())
    with pytest.raises(WorkloadError, match="cannot be replayed as writes"):
        sweep(tmp_path, config(access="shard-replay"))


def test_what_is_written_is_what_was_meant(tmp_path):
    with scratch_files(tmp_path, num_files=1, file_bytes=8 * BLOCK) as scratch:
        way = Writes(scratch.files, engine="buffered")
        handle, _ = way.handle(scratch.files[0].path)
        target = way.targets()(BLOCK)
        assert way.do(handle, target, 3 * BLOCK) == BLOCK
        assert os.pread(scratch.files[0].buffered, BLOCK, 3 * BLOCK) == bytes(target[0])
        assert np.frombuffer(os.pread(scratch.files[0].buffered, BLOCK, 4 * BLOCK), dtype=np.uint8).any()
