"""Batches on a device: every byte arrives, in stream order, and none is overwritten under a consumer that lags."""

import gc
import random
import threading
from functools import partial

import numpy as np
import pytest
import torch

from iobench.loaders import DataLoader, ShardSet
from iobench.loaders.engines.readers import DirectReader


def expected(known, records):
    return torch.from_numpy(known.images[records]).permute(0, 3, 1, 2), torch.from_numpy(known.labels[records])


def epoch(loader, device):
    """One epoch of a loop whose every step looks at its batch late, on the device; returns what it saw."""
    seen = []

    def look(images, labels):
        seen.append((images.clone(), labels.clone()))

    for images, labels in loader:
        device.run([images, labels], look)
    device.settle()
    return seen


SETS = ["page_set", "sector_set", "odd_set"]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("mode", ["blocks", "records"])
def test_every_byte_and_label_arrives(request, new_device, name, mode, num_workers):
    known, device = request.getfixturevalue(name), new_device()
    shards = ShardSet.open(known.folder, device=device, shuffle_mode=mode)
    loader = DataLoader(shards, batch_size=16, shuffle=True, num_workers=num_workers)
    records = list(loader._plan)
    for batch, (images, labels) in zip(records, epoch(loader, device), strict=True):
        wanted = expected(known, batch)
        assert torch.equal(images, wanted[0])
        assert torch.equal(labels, wanted[1])
        assert labels.dtype == torch.int64
    assert not device.sanitizer.races


@pytest.mark.parametrize("road", ["copied", "in place"])
@pytest.mark.parametrize("slow", ["copy", "compute"])
def test_a_consumer_that_lags_sees_the_batch_it_was_given(page_set, new_device, fake_gpu, road, slow):
    delays = {f"{slow}_delay_s": 0.003}
    device = new_device(**delays)
    reader = fake_gpu.WatchedReader(device) if road == "copied" else fake_gpu.IntoDevice()
    shards = ShardSet.open(page_set.folder, engine=reader, device=device, shuffle_mode="records")
    loader = DataLoader(shards, batch_size=2, shuffle=True, num_workers=2)
    wanted = [expected(page_set, batch) for batch in loader._plan]
    for (images, labels), (right, numbers) in zip(epoch(loader, device), wanted, strict=True):
        assert torch.equal(images, right)
        assert torch.equal(labels, numbers)
    assert device.sanitizer.races == []
    assert loader._road.destination.pool.num_allocated <= 2 * 2 + 3  # they go round, however far the device is behind


@pytest.mark.parametrize(("forgets", "delays"), [("copy", (0.0, 0.005)), ("compute", (0.01, 0.0))])
def test_without_a_wait_torchs_sanitizer_and_the_bytes_would_say_so(page_set, new_device, fake_gpu, forgets, delays):
    """What the tests above rest on: a device that leaves out one kind of wait is found out, both ways."""
    device = new_device(copy_delay_s=delays[0], compute_delay_s=delays[1], forgets=forgets)
    shards = ShardSet.open(page_set.folder, engine=fake_gpu.WatchedReader(device), device=device)
    loader = DataLoader(shards, batch_size=2, num_workers=2)
    wanted = [expected(page_set, batch)[0] for batch in loader._plan]
    seen = [images for images, _ in epoch(loader, device)]
    assert device.sanitizer.races
    assert not all(torch.equal(images, right) for images, right in zip(seen, wanted, strict=True))


def test_memory_that_the_loops_own_work_still_reads_is_not_written_to(page_set, new_device, fake_gpu):
    """The loop let go of a tensor, as of any in between; a kernel on it is under way when the first copies run."""
    device, copied = new_device(), threading.Event()
    mine, seen = fake_gpu.FakeMemory(1 << 20), []
    batches = iter(DataLoader(ShardSet.open(page_set.folder, device=device), batch_size=4, num_workers=2))
    device.compute.put(lambda: seen.append(copied.wait(20) and mine.bytes.copy()))
    device.let_go(mine, stream=device.compute)
    images, labels = next(batches)
    device.run([images, labels], lambda *_: None)
    device.streams[-1].put(copied.set)  # behind the first copies
    device.settle()
    assert (seen[0] == fake_gpu.POISON).all()


def test_a_batch_the_user_keeps_is_never_written_to_again(page_set, new_device):
    device = new_device(copy_delay_s=0.001)
    shards = ShardSet.open(page_set.folder, device=device)
    loader = DataLoader(shards, batch_size=4, num_workers=2)
    kept = [(images, labels) for images, labels in loader]
    device.settle()
    for batch, (images, labels) in zip(loader._plan, kept, strict=True):
        right, numbers = expected(page_set, batch)
        assert torch.equal(images, right)
        assert torch.equal(labels, numbers)


def test_labels_alone_keep_their_batch(page_set, device):
    loader = DataLoader(ShardSet.open(page_set.folder, device=device), batch_size=4)
    kept = [labels for _, labels in loader]
    device.settle()
    assert torch.equal(torch.cat(kept), torch.from_numpy(page_set.labels))


def test_a_batch_is_the_devices_memory_and_one_copy(page_set, device):
    """Framing and skew travel along, so that the strides are the host's; the labels lie right behind."""
    shards = ShardSet.open(page_set.folder, device=device)
    images, labels = next(iter(DataLoader(shards, batch_size=8)))
    host, _ = next(iter(DataLoader(ShardSet.open(page_set.folder, device="cpu"), batch_size=8)))
    assert images.stride() == host.stride()
    assert images.data_ptr() % 64 == 0
    assert device.piece_of(images) == device.piece_of(labels)
    slots = 8 * shards.index.layout.slot_bytes
    assert len(device.copies) == 1
    assert slots + 8 * 8 <= device.copies[0] < slots + 8 * 8 + 8


def test_nobody_waits_for_the_device_in_the_loop(page_set, new_device):
    """Host threads wait for a copy out of their own buffer at most; the loop's thread waits for nothing."""
    device = new_device(compute_delay_s=0.01)
    loader = DataLoader(ShardSet.open(page_set.folder, device=device), batch_size=4, num_workers=2)
    batches = iter(loader)
    before = len(device.host_waits)  # the meter looks at what an empty pair of events takes
    for images, labels in batches:
        device.run([images, labels], lambda *_: None)
    assert threading.main_thread().name not in device.host_waits[before:]


def test_a_profiler_is_shown_who_sends_and_who_waits(page_set, device):
    loader = DataLoader(ShardSet.open(page_set.folder, device=device), batch_size=8, num_workers=1)
    list(loader)
    sent = ("iobench-reader-0", "batch to device")
    waited = (threading.main_thread().name, "wait for a batch")
    assert device.ranges.count(sent) == device.ranges.count(waited) == len(loader)
    assert len(device.ranges) == 2 * len(loader)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_late_no_batch_changes_and_nothing_races(page_set, new_device, fake_gpu, seed):
    """Engines, orders, sizes and delays as they fall; some batches are kept, one epoch is left early."""
    chance = random.Random(seed)
    device = new_device(copy_delay_s=chance.choice([0, 0.002]), compute_delay_s=chance.choice([0, 0.003]))
    engines = [fake_gpu.WatchedReader(device), fake_gpu.IntoDevice(), "mmap", "buffered"]
    mode = chance.choice(["records", "blocks", "shards"])
    shards = ShardSet.open(page_set.folder, engine=chance.choice(engines), device=device, shuffle_mode=mode, seed=seed)
    size, workers = chance.choice([1, 3, 8, 16]), chance.choice([0, 1, 2, 4])
    loader = DataLoader(shards, batch_size=size, shuffle=True, num_workers=workers)
    kept, differ = [], []

    def compare(images, labels, batch):
        right, numbers = expected(page_set, batch)
        if not (torch.equal(images, right) and torch.equal(labels, numbers)):
            differ.append(batch)

    for number in range(2):
        loader.set_epoch(number)
        for batch, (images, labels) in zip(list(loader._plan)[: 12 if number else None], loader, strict=False):
            device.run([images, labels], partial(compare, batch=batch))
            kept = [each for each in [*kept, (images, labels, batch)] if chance.random() < 0.5]
    device.settle()
    for images, labels, batch in kept:
        compare(images, labels, batch)
    assert differ == []
    assert device.sanitizer.races == []


def test_memory_is_given_back_with_the_loader_and_its_batches(page_set, device):
    loader = DataLoader(ShardSet.open(page_set.folder, device=device), batch_size=4, num_workers=2)
    images = next(iter(loader))[0]
    del loader
    gc.collect()
    device.settle()  # what is still to be copied keeps its memory until then
    assert sum(piece() is not None for piece in device.pieces) == 1
    assert torch.equal(images, expected(page_set, np.arange(4))[0])
    del images
    gc.collect()
    assert not any(piece() is not None for piece in device.pieces)


def test_an_epoch_left_early_leaves_no_buffer_in_use(page_set, new_device):
    device = new_device(copy_delay_s=0.002)
    loader = DataLoader(ShardSet.open(page_set.folder, device=device), batch_size=4, num_workers=2)
    for _ in range(5):
        batches = iter(loader)
        next(batches)
        batches.close()
    made = loader._road.destination.pool.num_allocated
    for wanted, (images, _) in zip(loader._plan, epoch(loader, device), strict=True):
        assert torch.equal(images, expected(page_set, wanted)[0])
    assert made <= 2 * 2 + 3


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("mode", ["off", "records"])
def test_a_reader_of_device_memory_needs_no_copy_of_the_records(request, device, fake_gpu, name, mode):
    known = request.getfixturevalue(name)
    shards = ShardSet.open(known.folder, engine=fake_gpu.IntoDevice(), device=device, shuffle_mode=mode)
    loader = DataLoader(shards, batch_size=8, shuffle=mode != "off", num_workers=2)
    wanted = list(loader._plan)
    for batch, (images, labels) in zip(wanted, epoch(loader, device), strict=True):
        right, numbers = expected(known, batch)
        assert torch.equal(images, right)
        assert torch.equal(labels, numbers)
    assert sorted(device.copies) == sorted(8 * len(batch) for batch in wanted)  # of the labels
    assert not device.sanitizer.races


def test_direct_reads_are_copied_with_their_skew(sector_set, device):
    shards = ShardSet.open(sector_set.folder, engine=DirectReader(), device=device, shuffle_mode="blocks", seed=3)
    loader = DataLoader(shards, batch_size=7, shuffle=True, num_workers=1)
    wanted = list(loader._plan)
    for batch, (images, _) in zip(wanted, epoch(loader, device), strict=True):
        assert torch.equal(images, expected(sector_set, batch)[0])


def test_mapped_files_go_through_page_locked_memory(page_set, device):
    shards = ShardSet.open(page_set.folder, engine="mmap", device=device)
    loader = DataLoader(shards, batch_size=8, num_workers=2)
    for _ in loader:  # the next epoch is from pages that stay mapped
        pass
    for batch, (images, _) in zip(loader._plan, epoch(loader, device), strict=True):
        assert torch.equal(images, expected(page_set, batch)[0])


def test_what_collate_fn_is_given(page_set, device):
    loader = DataLoader(ShardSet.open(page_set.folder, device=device), batch_size=4, collate_fn=list)
    samples = next(iter(loader))
    device.settle()
    assert [label for _, label in samples] == page_set.labels[:4].tolist()
    assert all(isinstance(label, int) for _, label in samples)
    assert torch.equal(samples[2][0], expected(page_set, [2])[0][0])


def test_samples_and_torchs_own_loader_stay_on_the_host(page_set, device):
    shards = ShardSet.open(page_set.folder, device=device)
    image, label = shards[3]
    assert torch.equal(image, expected(page_set, [3])[0][0])
    assert label == page_set.labels[3]
    assert not device.copies


def test_an_error_of_a_read_is_raised_and_nothing_hangs(copied, page_set, device):
    shards = ShardSet.open(copied(page_set).folder, device=device)
    shards.files[0].write_bytes(b"")
    loader = DataLoader(shards, batch_size=8, num_workers=2)
    with pytest.raises(OSError, match="the file ends at byte 0"):
        list(loader)


def test_other_threads_may_take_batches_too(page_set, new_device):
    device, found = new_device(compute_delay_s=0.002), []

    def loop():
        loader = DataLoader(ShardSet.open(page_set.folder, device=device), batch_size=8, num_workers=2)
        found.extend(epoch(loader, device))

    thread = threading.Thread(target=loop)
    thread.start()
    thread.join(60)
    assert torch.equal(torch.cat([images for images, _ in found]), expected(page_set, np.arange(len(page_set)))[0])
    assert device.sanitizer.races == []


def test_the_wait_of_the_stream_that_computes_is_measured(page_set, new_device):
    """Copies of 20 ms each, and no work: the stream waits for nearly all of them."""
    device = new_device(copy_delay_s=0.02)
    loader = DataLoader(ShardSet.open(page_set.folder, device=device), batch_size=16, num_workers=1, prefetch_factor=1)
    steps = sum(1 for _ in loader)
    found = loader.stall
    assert found["num_steps"] == steps
    assert 0.02 * (steps - 1) * 0.5 < found["gpu_data_wait_s"]
    assert found["transfer_not_covered"] is False
