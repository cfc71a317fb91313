"""Each engine really reads what it is asked for, leaves nothing behind when cold, and names what goes wrong."""

import os
from pathlib import Path

import numpy as np
import pytest

from iobench.loaders.engines.readers import BufferedReader, ReadError
from iobench.loaders.page_cache import cache_fraction, evict
from iobench.storage_bench.sweep.block import open_way
from iobench.storage_bench.sweep.mapped import MappedReads, populating_refused
from iobench.storage_bench.sweep.points import SweepPoint
from iobench.storage_bench.sweep.refusals import choose_way
from iobench.storage_bench.sweep.run import sweep
from iobench.storage_bench.sweep.ways import HUGE_PAGE_BYTES, FileReads, HostMemory, HostTargets, huge_pages
from iobench.storage_bench.workload import StorageConfig, WorkloadError, WorkloadUsageError

PAGE = 4096
CONTENT = np.random.default_rng(0).bytes(2 << 20)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(CONTENT)
    return path


def needs_mappings(path: Path) -> None:
    if refused := populating_refused(path):
        pytest.skip(refused)


def needs_eviction(path: Path) -> None:
    evict([path])
    if cache_fraction([path]) != 0:
        pytest.skip("this file system does not evict, or does not tell")


def test_a_read_brings_the_bytes_of_its_place(file):
    way = FileReads(BufferedReader())
    handle, kept = way.handle(file)
    targets = way.targets()
    for offset, length in ((0, 10), (5000, 70_000), (PAGE, PAGE), (100, 10)):
        target = targets(length)
        assert way.do(handle, target, offset) == length
        assert bytes(target[0]) == CONTENT[offset : offset + length]
    assert kept.fd == handle
    way.close()


def address_of(memory):
    return np.frombuffer(memory, dtype=np.uint8).ctypes.data


def test_memory_of_a_thread_is_aligned_and_as_large_as_its_largest_read():
    targets = HostTargets(HostMemory())
    for length in (10, 1 << 20, 17, 1 << 21, 10):
        (view,) = targets(length)
        assert len(view) == length
        assert address_of(view) % PAGE == 0


def test_threads_share_huge_pages_but_no_byte():
    memory = HostMemory()
    taken = [memory.take(length) for length in (PAGE, 100, 1 << 20, 3 << 20, PAGE, 1 << 20)]
    for number, view in enumerate(taken):
        view[:] = bytes([number]) * len(view)
    for number, view in enumerate(taken):
        assert bytes(view) == bytes([number]) * len(view)
    assert address_of(taken[1]) - address_of(taken[0]) == PAGE


def test_a_piece_begins_on_a_huge_page_and_is_made_of_them_where_the_system_has_any():
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("transparent huge pages are off")
    before = huge_bytes()
    memory = huge_pages(32 << 20)
    assert address_of(memory) % HUGE_PAGE_BYTES == 0
    memory[::PAGE] = bytes(len(memory) // PAGE)
    if huge_bytes() == before:
        pytest.skip("the kernel gives no huge pages now: memory is short or in pieces")
    assert huge_bytes() - before >= 16 << 20


def huge_bytes():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages:")) << 10


@pytest.mark.parametrize(("offset", "length"), [(0, PAGE), (3 * PAGE, 100 * PAGE), (PAGE + 7, 9000)])
def test_a_mapped_read_has_its_pages_in_memory_and_no_others_and_a_cold_one_puts_them_out_again(file, offset, length):
    needs_mappings(file)
    needs_eviction(file)
    way = MappedReads(cold=True)
    handle = way.handle(file)[0]
    assert way.do(handle, length, offset) == length
    pages = (offset + length - 1) // PAGE - offset // PAGE + 1
    assert cache_fraction([file]) == pytest.approx(pages * PAGE / len(CONTENT))
    way.after(handle, length, offset, length)
    assert cache_fraction([file]) == 0
    way.close()


def test_a_mapped_read_that_is_not_cold_stays(file):
    needs_mappings(file)
    way = MappedReads(cold=False)
    assert way.after is None
    assert way.do(way.handle(file)[0], len(CONTENT), 0) == len(CONTENT)
    assert cache_fraction([file]) == 1
    way.close()


def test_a_mapping_of_a_file_cut_short_is_an_error_with_file_and_byte_and_no_signal(file):
    needs_mappings(file)
    way = MappedReads(cold=False)
    handle = way.handle(file)[0]
    os.truncate(file, 10_000)
    with pytest.raises(OSError, match="populating a mapping failed"):
        way.do(handle, PAGE, 5 * PAGE)
    with pytest.raises(ReadError, match=f"ends at byte 10000, {6 * PAGE - 10_000} bytes before") as caught:
        way.complete(file, 5 * PAGE, PAGE, PAGE)
    assert caught.value.filename == str(file)


def test_a_file_that_cannot_be_mapped_is_an_error_that_names_it(tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(ReadError, match="cannot be mapped") as caught:
        MappedReads(cold=False).handle(tmp_path / "empty")
    assert caught.value.filename == str(tmp_path / "empty")


@pytest.mark.parametrize("access", ["sequential", "random"])
def test_cold_mapped_reads_come_from_the_device(file, access):
    needs_mappings(file)
    needs_eviction(file)
    settings = {"engine": "mmap", "access": access, "block_size": "64K", "blocks": 2, "seconds": 0.05}
    (result,) = sweep(file, StorageConfig.model_validate({**settings, "threads": 1, "queue_depth": 1}))
    assert result.evidence.cache_fraction == 0
    if result.evidence.observed_route == "unknown":
        pytest.skip(result.evidence.route_evidence)
    assert result.evidence.invalid_reason() is None
    assert result.evidence.device_bytes >= 0.98 * result.evidence.delivered_bytes


def test_loaders_reads_can_be_replayed_through_mappings(page_set):
    needs_mappings(page_set.shards[0])
    settings = {"engine": "mmap", "access": "shard-replay", "blocks": 2, "seconds": 0.05, "batch_size": 8}
    (result,) = sweep(page_set.folder, StorageConfig.model_validate(settings))
    assert all(block.delivered_bytes >= block.payload_bytes > 0 for block in result.blocks)


# --- what cannot be had ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"engine": "fast"}, "choose auto"),
        ({"engine": "mmap", "operation": "write"}, "does not write"),
        ({"engine": "kvikio", "operation": "write"}, "does not write"),
    ],
)
def test_what_never_works_is_a_mistake_of_usage(file, changes, word):
    with pytest.raises(WorkloadUsageError, match=word) as caught:
        choose_way(changes.pop("engine"), file, **changes)
    assert caught.value.exit_status == 2


def test_an_engine_without_a_way_is_refused():
    with pytest.raises(WorkloadError, match="no way to read"):
        open_way(SweepPoint("carrier pigeon", "random", PAGE, 1, 1, "cold"))
