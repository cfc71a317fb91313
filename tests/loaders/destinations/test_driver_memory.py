"""Memory of the driver's own, by the C functions of a driver that is played, and registered once with cuFile."""

import ctypes
import gc
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from iobench.loaders import DataLoader, ShardSet
from iobench.loaders.destinations.device import DestinationError
from iobench.loaders.destinations.driver_memory import GPU_PAGE_BYTES, Driver
from iobench.loaders.destinations.memory import DevicePool
from iobench.loaders.destinations.torch_cuda import CudaMemory
from iobench.loaders.engines.kvikio_memory import COMPAT, RegisteredMemory

PLAYED = Path(__file__).parents[2] / "stub_libcuda" / "played_memory.c"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The path of a library with the driver's functions for memory."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc) to build the played driver with")
    path = tmp_path_factory.mktemp("driver") / "libplayed.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", path, PLAYED], check=True, timeout=60)
    return str(path)


def alive(library):
    """How many allocations there are; the context is nobody's."""
    return ctypes.CDLL(library).played_num_alive()


def test_memory_is_whole_gpu_pages_with_room_for_a_page_to_begin_at(library):
    allocation = Driver(0, library).allocate(100_000)
    assert allocation.size_bytes % GPU_PAGE_BYTES == 0
    assert allocation.size_bytes >= 100_000 + 4096
    assert allocation.address % 4096 == 512
    interface = allocation.__cuda_array_interface__
    assert (interface["data"], interface["shape"]) == ((allocation.address, False), (allocation.size_bytes,))
    host = (ctypes.c_ubyte * allocation.size_bytes).from_address(allocation.address)
    block = torch.frombuffer(host, dtype=torch.uint8)
    block[:] = 3  # all of it is there
    piece = CudaMemory(block, 100_000, None)
    assert piece.address % 4096 == 0
    assert len(piece.bytes) == 100_000


def test_memory_is_given_back_from_whatever_thread_lets_go_of_it(library):
    driver = Driver(0, library)
    kept = [driver.allocate(10) for _ in range(3)]
    assert alive(library) == 3
    kept.pop()
    assert alive(library) == 2
    thread = threading.Thread(target=kept.clear)
    thread.start()
    thread.join()
    gc.collect()
    assert alive(library) == 0


def test_what_the_driver_refuses_is_told_with_its_answer_and_leaves_the_context_alone(library):
    driver = Driver(0, library)
    with pytest.raises(DestinationError, match=r"cuMemAlloc_v2 answers 2\); use smaller batches") as caught:
        driver.allocate(1 << 30)
    assert caught.value.exit_status == 4
    assert alive(library) == 0
    with pytest.raises(DestinationError, match="cuDeviceGet answers 101"):
        Driver(1, library)


def test_without_a_driver_there_is_no_memory_of_its_own():
    with pytest.raises(DestinationError, match="the CUDA driver cannot be loaded"):
        Driver(0, "libnone.so.9")


# --- registered with cuFile ---------------------------------------------------------------------------------------


@pytest.fixture
def played_kvikio(monkeypatch):
    """kvikio's functions for memory, as they are called: `compat`, `fails` and what is registered now."""
    module, defaults = ModuleType("kvikio"), ModuleType("kvikio.defaults")
    module.registered, module.compat, module.fails = [], False, None

    def register(memory):
        if module.fails:
            raise RuntimeError(module.fails)
        module.registered.append(memory.__cuda_array_interface__["data"][0])

    module.memory_register = register
    module.memory_deregister = lambda memory: module.registered.remove(memory.__cuda_array_interface__["data"][0])
    defaults.is_compat_mode_preferred = lambda: module.compat
    module.defaults = defaults
    monkeypatch.setitem(sys.modules, "kvikio", module)
    monkeypatch.setitem(sys.modules, "kvikio.defaults", defaults)
    return module


class Registers:
    """A reader into device memory that registers it, as kvikio's does."""

    def __init__(self, reader):
        self._reader, self.memory = reader, RegisteredMemory()

    def __getattr__(self, name):
        return getattr(self._reader, name)

    def register(self, owner, memory):
        self.memory.add(owner, memory)

    @property
    def registration(self):
        return self.memory.words


def new_loader(known, device, fake_gpu):
    reader = Registers(fake_gpu.IntoDevice())
    shards = ShardSet.open(known.folder, engine=reader, device=device)
    return reader, DataLoader(shards, batch_size=8, num_workers=2)


def test_every_buffer_is_registered_once_and_no_longer_than_it_is_there(page_set, device, fake_gpu, played_kvikio):
    reader, loader = new_loader(page_set, device, fake_gpu)
    for _ in range(2):
        for (images, _), first in zip(loader, range(0, len(page_set), 8), strict=True):
            right = torch.from_numpy(page_set.images[first : first + 8]).permute(0, 3, 1, 2)
            assert torch.equal(images, right)
    pieces = [piece for made in device.pieces if (piece := made()) is not None]
    assert sorted(played_kvikio.registered) == sorted(piece.address for piece in pieces if piece.alone)
    assert (
        len(set(played_kvikio.registered))
        == len(played_kvikio.registered)
        == loader._road.destination.pool.num_allocated
    )
    found = loader.evidence()
    size = sum(piece.size_bytes for piece in pieces if piece.alone)
    assert (
        f"{len(played_kvikio.registered)} buffers of {size} bytes were registered with cuFile" in found.route_evidence
    )
    assert reader.memory.counters() == {"cufile_registered_bytes": size, "cufile_unregistered_bytes": 0}
    del pieces, images, right
    device.settle()
    del loader
    gc.collect()
    assert played_kvikio.registered == []


@pytest.mark.parametrize(
    ("compat", "fails", "why"),
    [(True, None, COMPAT), (False, "cuFile: internal error 5007", "cuFile: internal error 5007")],
)
def test_what_cannot_be_registered_is_read_into_all_the_same_and_told(
    page_set, device, fake_gpu, played_kvikio, compat, fails, why
):
    played_kvikio.compat, played_kvikio.fails = compat, fails
    reader, loader = new_loader(page_set, device, fake_gpu)
    assert sum(len(images) for images, _ in loader) == len(page_set)
    count = loader._road.destination.pool.num_allocated
    assert f"{count} buffers were not registered with cuFile: {why}" in loader.evidence().route_evidence
    assert reader.memory.counters()["cufile_registered_bytes"] == 0
    assert reader.memory.counters()["cufile_unregistered_bytes"] > 0


def test_a_reader_that_registers_nothing_has_buffers_as_they_were(page_set, device, fake_gpu):
    shards = ShardSet.open(page_set.folder, engine=fake_gpu.IntoDevice(), device=device)
    loader = DataLoader(shards, batch_size=8)
    list(loader)
    assert not any(piece.alone for made in device.pieces if (piece := made()) is not None)
    assert "cuFile" not in loader.evidence().route_evidence


def test_buffers_from_before_a_reader_registers_are_let_go(device):
    stream = device.new_stream()
    pool = DevicePool(4096, num_free_kept=2, device=device, copy_stream=stream)
    pool.release(pool.acquire())
    told = []
    pool.register_with(lambda owner, memory: told.append((owner, len(memory))))
    buffer = pool.acquire()
    assert buffer.piece.alone
    assert told == [(buffer, 4096)]
    pool.register_with(lambda owner, memory: told.append((owner, len(memory))))
    pool.release(buffer)
    assert pool.acquire() is buffer  # the next epoch: once is enough
    assert len(told) == 1
    assert np.shape(told) == (1, 2)
