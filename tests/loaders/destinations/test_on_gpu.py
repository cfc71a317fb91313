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
    assert loader._destination.pool.num_allocated <= 2 * 2 + 3
    assert loader.evidence().observed_route != "host"


def test_a_batch_is_a_strided_view_that_begins_at_whole_vectors(page_set):
    images, labels = next(iter(DataLoader(ShardSet.open(page_set.folder, device="cuda"), batch_size=8)))
    host, _ = next(iter(DataLoader(ShardSet.open(page_set.folder, device="cpu"), batch_size=8)))
    assert images.is_cuda
    assert labels.is_cuda
    assert images.stride() == host.stride()
    assert images.data_ptr() % 64 == 0


def test_a_process_that_uses_cuda_gets_its_batches_there(page_set):
    torch.zeros(1, device="cuda")
    images, labels = next(iter(DataLoader(ShardSet.open(page_set.folder), batch_size=8, num_workers=1)))
    assert images.is_cuda
    assert labels.is_cuda
    pinned, _ = next(iter(DataLoader(ShardSet.open(page_set.folder), batch_size=8, pin_memory=True)))
    assert pinned.is_pinned()


def test_decoded_images_come_normalised(page_set):
    """Raw pixels, transformed by reader threads, in half precision."""

    def batches(device):
        transform = transforms.ImageNetValidation(32, dtype=torch.bfloat16)
        shards = ShardSet.open(page_set.folder, device=device, transform=transform)
        return [images.cpu() for images, _ in DataLoader(shards, batch_size=8, num_workers=2)]

    assert all(torch.equal(one, two) for one, two in zip(batches("cuda"), batches("cpu"), strict=True))


def test_memory_is_given_back(page_set):
    before = torch.cuda.memory_allocated()
    loader = DataLoader(ShardSet.open(page_set.folder, device="cuda"), batch_size=8, num_workers=2)
    assert sum(len(images) for images, _ in loader) == len(page_set)
    assert torch.cuda.memory_allocated() > before
    del loader
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


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


def test_the_streams_wait_is_told_by_the_loader_and_by_a_meter(page_set):
    loader = DataLoader(ShardSet.open(page_set.folder, device="cuda"), batch_size=8, num_workers=1)
    meter = StallMeter()
    steps = sum(1 for _ in meter.watch(loader))
    for summary in (loader.stall, meter.summary()):
        assert summary["num_steps"] == steps
        assert summary["gpu_data_wait_s"] is not None
        assert not summary["transfer_not_covered"]


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


SANITIZED = """
import sys, torch
from iobench.loaders import DataLoader, ShardSet

loader = DataLoader(ShardSet.open(sys.argv[1], device="cuda"), batch_size=8, num_workers=2)
print(sum(int(images.float().sum() > 0) for images, _ in loader))
"""


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
