"""Reads into a GPU by way of the host, on a played one: the bytes arrive, and what cannot be is refused by name."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from iobench.loaders.destinations.device import DestinationError
from iobench.loaders.engines.readers import BufferedReader, ReadError
from iobench.storage_bench.sweep.block import open_way
from iobench.storage_bench.sweep.copied import CopiedReads, own_gpu, share_gpus
from iobench.storage_bench.sweep.mapped import MappedReads, populating_refused
from iobench.storage_bench.sweep.points import PointResult, SweepPoint
from iobench.storage_bench.sweep.recorded import storage_point
from iobench.storage_bench.sweep.refusals import choose_way
from iobench.storage_bench.sweep.run import sweep
from iobench.storage_bench.sweep.ways import FileReads
from iobench.storage_bench.workload import StorageConfig, WorkloadError, WorkloadUsageError

PAGE = 4096
CONTENT = np.random.default_rng(0).bytes(1 << 20)
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(CONTENT)
    return path


def open_reads(path, engine):
    if engine == "mmap" and (refused := populating_refused(path)):
        pytest.skip(refused)
    return MappedReads(cold=False) if engine == "mmap" else FileReads(BufferedReader())


def on_device(place):
    return bytes(place._memory.piece.bytes[: place.length])


@pytest.mark.parametrize("engine", ["buffered", "mmap"])
@pytest.mark.parametrize(("offset", "length"), [(0, PAGE), (3 * PAGE, 100 * PAGE), (PAGE + 7, 9000)])
def test_when_a_read_is_over_its_bytes_are_on_the_device(file, new_device, engine, offset, length):
    device = new_device(copy_delay_s=0.02)
    way = CopiedReads(open_reads(file, engine), device, size_bytes=PAGE)
    handle, _ = way.handle(file)
    place = way.targets()(length)
    assert way.do(handle, place, offset) == length
    assert on_device(place) == CONTENT[offset : offset + length]
    assert device.copies == [length]
    way.close()


def test_reads_of_one_thread_take_turns_in_its_memory(file, new_device):
    device = new_device(copy_delay_s=0.005)
    way = CopiedReads(FileReads(BufferedReader()), device, size_bytes=PAGE)
    handle, kept = way.handle(file)
    targets = way.targets()
    for offset, length in ((0, PAGE), (PAGE, 16 * PAGE), (50, 100), (0, len(CONTENT))):
        place = targets(length)
        assert way.do(handle, place, offset) == length
        assert on_device(place) == CONTENT[offset : offset + length]
    assert [size for _, size, alive in device.pinned if alive() is not None] == [len(CONTENT)]
    assert kept.fd == handle
    way.close()


def test_a_read_that_comes_up_short_is_read_again_and_arrives_whole(file, device):
    way = CopiedReads(FileReads(BufferedReader()), device, size_bytes=PAGE)
    place = way.targets()(2 * PAGE)
    end = len(CONTENT) - PAGE
    assert way.do(way.handle(file)[0], place, end) == PAGE
    assert way.complete(file, end, place, PAGE) == PAGE
    assert on_device(place)[:PAGE] == CONTENT[end:]
    with pytest.raises(ReadError, match=f"the file ends at byte {len(CONTENT)}"):
        way.complete(file, end, place, 2 * PAGE)
    way.close()


@pytest.mark.parametrize("engine", ["buffered", "mmap"])
def test_a_sweep_into_a_gpu_copies_all_that_it_reads(file, new_device, engine):
    open_reads(file, engine).close()
    device = new_device(copy_delay_s=0.001)
    settings = {"engine": engine, "destination": "gpu", "page_cache": "warm", "block_size": "64K"}
    config = StorageConfig.model_validate({**settings, "threads": 2, "queue_depth": 2, "blocks": 2, "seconds": 0.05})
    (result,) = sweep(file, config, device=device)
    assert sum(device.copies) == sum(block.delivered_bytes for block in result.blocks) > 0
    assert result.evidence.requested_route == "bounce"
    assert result.evidence.observed_route in ("bounce", "unknown")  # unknown where nothing counts what is read here
    if result.evidence.observed_route == "bounce":
        assert "copied to the device" in result.evidence.route_evidence
    assert "page-locked memory" in result.engine_reason
    assert result.point.words.startswith(f"{engine} warm sequential read into the GPU")
    device.settle()


def test_host_and_gpu_are_two_points_of_one_sweep(file, device):
    config = StorageConfig.model_validate(
        {"engine": "buffered", "destination": "host,gpu", "page_cache": "warm", "blocks": 2, "seconds": 0.03}
    )
    results = sweep(file, config, device=device)
    points = [storage_point(result, file) for result in results]
    assert [point.params["destination"] for point in points] == ["host", "gpu"]
    assert len({tuple(sorted(point.params.items())) for point in points}) == 2
    host, gpu = points
    assert {name for name, value in host.params.items() if gpu.params[name] != value} == {"destination"}
    device.settle()


def test_reads_in_flight_are_so_until_they_have_arrived(file, new_device):
    """Four streams at once: each has memory and a stream of its own, and nobody waits for another's copy."""
    device = new_device(copy_delay_s=0.05)
    way = CopiedReads(FileReads(BufferedReader()), device, size_bytes=PAGE)
    arrived = []

    def read(number):
        place = way.targets()(PAGE)
        way.do(way.handle(file)[0], place, number * PAGE)
        arrived.append(on_device(place) == CONTENT[number * PAGE : (number + 1) * PAGE])

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert arrived == [True] * 4
    assert len(set(device.host_waits)) == 4
    assert len(device.streams) == 1 + 4  # the one that computes, and one for each
    way.close()


def test_memory_is_there_before_the_block_begins_and_what_has_none_is_an_error(file, new_device):
    """Page-locking takes milliseconds for each thread; a GPU may be full."""
    device = new_device()
    way = CopiedReads(FileReads(BufferedReader()), device, size_bytes=1 << 16)
    way.targets()
    assert [size for _, size, _ in device.pinned] == [1 << 16]

    def allocate(*_, **__):
        raise DestinationError("the GPU is full")

    device.allocate = allocate
    settings = {"engine": "buffered", "destination": "gpu", "page_cache": "warm", "blocks": 2}
    with pytest.raises(DestinationError, match="the GPU is full"):
        sweep(file, StorageConfig.model_validate(settings), device=device)


def test_sleeping_for_a_copy_is_not_waiting_for_the_interpreters_lock():
    """Every read sleeps twice then: for the device, and for its copy."""

    class Block:
        lock_waits, gbps = 1.0, 1.0

    for destination, limited in (("host", True), ("gpu", False)):
        point = SweepPoint("direct", "random", PAGE, 1, 1, "cold", destination=destination)
        assert PointResult(point, "asked for", blocks=[Block()]).harness_limited == limited


@pytest.mark.twin("test_when_a_read_is_over_its_bytes_are_on_the_device")
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("engine", ["buffered", "mmap"])
def test_on_a_gpu_the_bytes_of_a_read_are_there_when_it_is_over(file, engine):
    way = CopiedReads(open_reads(file, engine), own_gpu(), size_bytes=PAGE)
    place = way.targets()(100 * PAGE)
    for offset in (0, 3 * PAGE, PAGE + 7):
        assert way.do(way.handle(file)[0], place, offset) == 100 * PAGE
        arrived = place._memory.piece.bytes[: 100 * PAGE].cpu().numpy()
        assert arrived.tobytes() == CONTENT[offset : offset + 100 * PAGE]
    way.close()


@pytest.mark.twin("test_a_sweep_into_a_gpu_copies_all_that_it_reads")
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_on_a_gpu_a_sweep_reads_into_it(file):
    settings = {"engine": "buffered", "destination": "gpu,host", "page_cache": "warm", "block_size": "64K", "blocks": 2}
    for result in sweep(file, StorageConfig.model_validate({**settings, "seconds": 0.05})):
        assert all(block.gbps > 0 for block in result.blocks)


@without_gpu
@pytest.mark.parametrize("engine", ["auto", "buffered", "direct", "mmap"])
def test_without_a_gpu_nothing_is_read_into_one(file, engine):
    with pytest.raises(WorkloadError, match="no GPU to copy to: torch sees no CUDA device") as caught:
        choose_way(engine, file, destination="gpu")
    assert caught.value.exit_status == 4
    assert "use --destination host" in str(caught.value)


@without_gpu
def test_a_client_without_a_gpu_says_so(file):
    point = SweepPoint("buffered", "random", PAGE, 1, 1, "warm", destination="gpu")
    with pytest.raises(DestinationError, match="no GPU to copy to") as caught:
        open_way(point)
    assert caught.value.exit_status == 4
    with pytest.raises(DestinationError):
        own_gpu()


@pytest.mark.parametrize(("count", "taken"), [(0, []), (1, [0, 0, 0]), (2, [0, 1, 0])])
def test_clients_of_one_host_share_its_gpus(monkeypatch, count, taken):
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for local_rank in range(3):
        share_gpus(local_rank)
    assert chosen == taken


def test_writes_do_not_come_from_a_gpu(file, device):
    with pytest.raises(WorkloadUsageError, match="leave --destination gpu to --operation read") as caught:
        choose_way("direct", file.parent, operation="write", destination="gpu", device=device)
    assert caught.value.exit_status == 2
