"""Where batches go: what is asked for is taken by its word, and what is not there is said before anything is read."""

import pickle

import pytest
import torch

from iobench.loaders import DataLoader, ShardSet
from iobench.loaders.destinations.choice import check_choice, open_device
from iobench.loaders.destinations.device import DestinationError, DestinationUsageError
from iobench.loaders.destinations.torch_cuda import TorchCuda
from iobench.loaders.route import RouteRefusedError
from iobench.loaders.stall_cuda import CopyStream

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")


@without_gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_refused_at_opening(page_set, device):
    with pytest.raises(DestinationError, match=f"device='{device}' is not possible: torch sees no CUDA") as caught:
        ShardSet.open(page_set.folder, device=device)
    assert caught.value.exit_status == 4
    assert "use device='cpu'" in str(caught.value)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CUDA", ""])
def test_what_is_no_device_is_refused_by_name(page_set, device):
    with pytest.raises(DestinationUsageError, match="is not auto, cpu, cuda or cuda:N") as caught:
        ShardSet.open(page_set.folder, device=device)
    assert caught.value.exit_status == 2


def test_a_gpu_without_room_is_an_error_that_says_what_to_do(monkeypatch):
    """The first sentence is torch's own: what looks for a batch size that fits goes by it."""

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(DestinationError, match=r"^CUDA out of memory\. A batch of 1048576 bytes .* on cuda:0; use"):
        TorchCuda(0).allocate(1 << 20, stream=None)


def test_copies_go_by_streams_that_nobody_computes_on(monkeypatch):
    """torch gives its 32 streams of each priority out in turn: a loop's own may be any of those of priority 0."""
    asked = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device, priority=0: asked.append((str(device), priority)))
    TorchCuda(1).new_stream()
    CopyStream("cuda:1")
    assert asked == [("cuda:1", -1)] * 2


def test_asking_for_a_gpu_does_not_start_its_driver_and_taking_it_says_where_that_fails(monkeypatch):
    """NVML counts one; what asks CUDA itself would poison a later fork."""
    asked = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: asked.append("CUDA"))
    check_choice("cuda")
    check_choice("cuda:0")
    assert asked == []
    with pytest.raises(DestinationError, match="there are 1 GPUs here"):
        check_choice("cuda:1")
    with pytest.raises(DestinationError, match="a GPU is counted, and CUDA does not start"):
        open_device("cuda")
    assert asked == ["CUDA"]


def test_a_process_that_does_not_use_cuda_gets_host_memory():
    if torch.cuda.is_initialized():
        pytest.skip("this process uses CUDA")
    check_choice("auto")
    assert open_device("auto") is None
    assert open_device("cpu") is None


def test_what_pin_memory_asks_for_wins_over_a_device_nobody_asked_for(page_set, device, monkeypatch):
    """`auto` on a machine whose process uses a GPU; the device itself is played."""
    monkeypatch.setattr("iobench.loaders.fast_road.open_device", lambda choice: device if choice == "auto" else None)
    shards = ShardSet.open(page_set.folder)
    plain, pinned = DataLoader(shards, batch_size=4), DataLoader(shards, batch_size=4, pin_memory=True)
    assert plain._road.target(pin_memory=plain.pin_memory) is device
    assert pinned._road.target(pin_memory=pinned.pin_memory) is None


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set")
def test_batches_on_a_device_are_not_pinned_again(page_set, device):
    loader = DataLoader(ShardSet.open(page_set.folder, device=device), batch_size=4, pin_memory=True)
    images, _ = next(iter(loader))
    device.settle()
    assert torch.equal(images, torch.from_numpy(page_set.images[:4]).permute(0, 3, 1, 2))


def test_a_loader_that_begins_on_the_host_goes_on_on_the_device(page_set, device, monkeypatch):
    """A process may start CUDA between two epochs: buffers of the first are not those of the second."""
    there = []
    monkeypatch.setattr("iobench.loaders.fast_road.open_device", lambda _: there[0] if there else None)
    loader = DataLoader(ShardSet.open(page_set.folder), batch_size=4, num_workers=1)
    first = [images.clone() for images, _ in loader]
    assert not device.copies
    there.append(device)
    second = [images for images, _ in loader]
    device.settle()
    assert len(device.copies) == len(loader)
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


def test_a_loader_is_copied_without_its_device_buffers(page_set):
    loader = DataLoader(ShardSet.open(page_set.folder, device="cpu"), batch_size=4)
    list(loader)
    copy = pickle.loads(pickle.dumps(loader))  # it was just made
    assert copy._road.destination is None
    assert len(list(copy)) == len(loader)


@pytest.mark.parametrize("route", ["gds", "p2pdma"])
def test_a_direct_route_needs_the_engine_that_takes_it(page_set, device, route):
    with pytest.raises(RouteRefusedError, match="reads into host memory; ask for engine='kvikio'"):
        ShardSet.open(page_set.folder, device=device, require_route=route)


def test_batches_that_go_on_to_a_device_do_not_end_on_the_host(page_set, device):
    with pytest.raises(RouteRefusedError, match="batches go on to a device, which is route 'bounce'"):
        ShardSet.open(page_set.folder, device=device, require_route="host")


def test_batches_that_stay_on_the_host_take_no_way_to_a_device(page_set):
    with pytest.raises(RouteRefusedError, match="batches stay in host memory"):
        ShardSet.open(page_set.folder, device="cpu", require_route="bounce")
