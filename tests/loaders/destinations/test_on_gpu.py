"""The same on a real GPU; twins on a played one are in the other files here."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from iobench.loaders import DataLoader, ShardSet, StallMeter, transforms
from iobench.loaders.destinations.choice import open_device
from iobench.loaders.engines.kvikio_probe import kvikio_unavailable

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")]

CYCLES = 20_000_000  # some 10 ms of a GPU's time


def right(known, batch):
    return torch.from_numpy(known.images[batch]).permute(0, 3, 1, 2)


def slowly_seen(loader):
    """Copies of every batch, made by the stream that computes long after the loop has gone on."""
    seen = []
    for images, labels in loader:
        torch.cuda._sleep(CYCLES)
        seen.append((images.clone(), labels.clone()))
    return [(images.cpu(), labels.cpu()) for images, labels in seen]


@pytest.mark.twin(
    "test_destination.py::test_every_byte_and_label_arrives",
    "test_destination.py::test_a_consumer_that_lags_sees_the_batch_it_was_given",
    "test_roads.py::test_kvikios_real_code_fills_device_memory",
)
@pytest.mark.parametrize("name", ["page_set", "sector_set", "odd_set"])
@pytest.mark.parametrize("mode", ["blocks", "records"])
@pytest.mark.parametrize("engine", ["auto", "kvikio"])
def test_a_consumer_that_lags_sees_every_batch_it_was_given(request, name, mode, engine):
    if engine == "kvikio" and (missing := kvikio_unavailable()):
        pytest.skip(missing)
    known = request.getfixturevalue(name)
    shards = ShardSet.open(known.folder, engine=engine, device="cuda", shuffle_mode=mode)
    loader = DataLoader(shards, batch_size=8, shuffle=True, num_workers=2)
    records = list(loader._plan)
    for batch, (images, labels) in zip(records, slowly_seen(loader), strict=True):
        assert torch.equal(images, right(known, batch))
        assert torch.equal(labels, torch.from_numpy(known.labels[batch]))
    assert loader._road.destination.pool.num_allocated <= 2 * 2 + 3
    assert loader.evidence().observed_route != "host"


@pytest.mark.twin("test_destination.py::test_a_batch_is_the_devices_memory_and_one_copy")
def test_a_batch_is_a_strided_view_that_begins_at_whole_vectors(page_set):
    images, labels = next(iter(DataLoader(ShardSet.open(page_set.folder, device="cuda"), batch_size=8)))
    host, _ = next(iter(DataLoader(ShardSet.open(page_set.folder, device="cpu"), batch_size=8)))
    assert images.is_cuda
    assert labels.is_cuda
    assert images.stride() == host.stride()
    assert images.data_ptr() % 64 == 0


@pytest.mark.twin(
    "test_choice.py::test_a_loader_that_begins_on_the_host_goes_on_on_the_device",
    "test_choice.py::test_what_pin_memory_asks_for_wins_over_a_device_nobody_asked_for",
)
def test_a_process_that_uses_cuda_gets_its_batches_there(page_set):
    torch.zeros(1, device="cuda")
    images, labels = next(iter(DataLoader(ShardSet.open(page_set.folder), batch_size=8, num_workers=1)))
    assert images.is_cuda
    assert labels.is_cuda
    pinned, _ = next(iter(DataLoader(ShardSet.open(page_set.folder), batch_size=8, pin_memory=True)))
    assert pinned.is_pinned()


@pytest.mark.twin("test_roads.py::test_raw_pixels_are_transformed_on_their_way")
def test_decoded_images_come_normalised(page_set):
    """Raw pixels, transformed by reader threads, in half precision."""

    def batches(device):
        transform = transforms.ImageNetValidation(32, dtype=torch.bfloat16)
        shards = ShardSet.open(page_set.folder, device=device, transform=transform)
        return [images.cpu() for images, _ in DataLoader(shards, batch_size=8, num_workers=2)]

    assert all(torch.equal(one, two) for one, two in zip(batches("cuda"), batches("cpu"), strict=True))


@pytest.mark.twin("test_destination.py::test_memory_is_given_back_with_the_loader_and_its_batches")
def test_memory_is_given_back(page_set):
    before = torch.cuda.memory_allocated()
    loader = DataLoader(ShardSet.open(page_set.folder, device="cuda"), batch_size=8, num_workers=2)
    assert sum(len(images) for images, _ in loader) == len(page_set)
    assert torch.cuda.memory_allocated() > before
    del loader
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


@pytest.mark.twin(
    "test_driver_memory.py::test_memory_is_whole_gpu_pages_with_room_for_a_page_to_begin_at",
    "test_driver_memory.py::test_memory_is_given_back_from_whatever_thread_lets_go_of_it",
)
def test_memory_of_its_own_is_the_drivers_and_goes_back_to_it():
    device = open_device("cuda")
    before, (free, _) = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()
    memory = device.allocate(64 << 20, stream=device.new_stream(), alone=True)
    assert memory.address % 4096 == 0
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.mem_get_info()[0] <= free - (64 << 20)
    memory.bytes[:] = 7
    assert int(memory.bytes.sum()) == 7 * (64 << 20)
    del memory
    assert torch.cuda.mem_get_info()[0] >= free - (4 << 20)


@pytest.mark.twin("test_destination.py::test_the_wait_of_the_stream_that_computes_is_measured")
def test_the_streams_wait_is_told_by_the_loader_and_by_a_meter(page_set):
    loader = DataLoader(ShardSet.open(page_set.folder, device="cuda"), batch_size=8, num_workers=1)
    meter = StallMeter()
    steps = sum(1 for _ in meter.watch(loader))
    for summary in (loader.stall, meter.summary()):
        assert summary["num_steps"] == steps
        assert summary["gpu_data_wait_s"] is not None
        assert not summary["transfer_not_covered"]


@pytest.mark.twin("test_destination.py::test_other_threads_may_take_batches_too")
def test_other_threads_may_take_batches(page_set):
    found = []

    def loop():
        with torch.cuda.stream(torch.cuda.Stream()):
            loader = DataLoader(ShardSet.open(page_set.folder, device="cuda"), batch_size=8, num_workers=2)
            found.extend(slowly_seen(loader))

    thread = threading.Thread(target=loop)
    thread.start()
    thread.join()
    assert torch.equal(
        torch.cat([images for images, _ in found]), torch.from_numpy(page_set.images).permute(0, 3, 1, 2)
    )


@pytest.mark.twin("test_destination.py::test_a_profiler_is_shown_who_sends_and_who_waits")
def test_torchs_profiler_shows_the_loops_waits_by_their_name(page_set):
    loader = DataLoader(ShardSet.open(page_set.folder, device="cuda"), batch_size=8, num_workers=1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        list(loader)
    assert sum(event.name == "wait for a batch" for event in profiler.events()) >= len(loader)


@pytest.mark.twin("test_destination.py::test_memory_that_the_loops_own_work_still_reads_is_not_written_to")
def test_memory_that_the_loops_own_work_still_reads_is_not_written_to(page_set):
    """torch gives memory out again in the order of the stream it was of; copies go by another."""
    torch.cuda.empty_cache()
    mine = [torch.full((1 << 20,), 219, dtype=torch.uint8, device="cuda") for _ in range(16)]
    torch.cuda.synchronize()
    torch.cuda._sleep(20 * CYCLES)
    seen = [each.clone() for each in mine]
    del mine
    loader = DataLoader(ShardSet.open(page_set.folder, device="cuda"), batch_size=4, num_workers=2)
    assert sum(len(images) for images, _ in loader) == len(page_set)
    torch.cuda.synchronize()
    assert all(bool((each == 219).all()) for each in seen)


@pytest.mark.twin("test_choice.py::test_copies_go_by_streams_that_nobody_computes_on")
def test_copies_go_by_streams_that_nobody_computes_on():
    device = open_device("cuda")
    computed_on = {torch.cuda.Stream().cuda_stream for _ in range(64)} | {torch.cuda.default_stream().cuda_stream}
    assert not {device.new_stream().cuda_stream for _ in range(64)} & computed_on


SANITIZED = """
import sys, torch
from iobench.loaders import DataLoader, ShardSet

loader = DataLoader(ShardSet.open(sys.argv[1], device="cuda"), batch_size=8, num_workers=2)
print(sum(int(images.float().sum() > 0) for images, _ in loader))
"""


@pytest.mark.twin("test_destination.py::test_whatever_is_late_no_batch_changes_and_nothing_races")
def test_torchs_sanitizer_finds_no_race(page_set):
    """It follows torch's operators; the played device shows it our copies and events as well."""
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED, str(page_set.folder)],
        env={**os.environ, "TORCH_CUDA_SANITIZER": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "CSAN detected" not in done.stderr
