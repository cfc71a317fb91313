"""Which cores stand near a GPU, on made-up machines; and that reader threads really stand there.

Not shown: that it is worth anything with several GPUs and sockets, which no machine here has.
"""

import os
import threading
from types import SimpleNamespace

import pytest
import torch

from iobench.loaders import DataLoader, ShardSet
from iobench.loaders.nearness import (
    Near,
    address_of_gpu,
    addresses_of_gpus,
    cores_near,
    near_device,
    node_of,
    node_of_nic,
    standing_on,
)

GPU, OTHER = "0000:3b:00.0", "0000:af:00.0"


@pytest.fixture
def two_sockets(made_machine):
    """A machine of two nodes of eight cores, a GPU and a network card at each; the second card's name comes first."""
    devices = {GPU: 0, OTHER: 1, "0000:3c:00.0": 0, "0000:b0:00.0": 1}
    nics = {"ib0": "0000:b0:00.0", "ib1": "0000:3c:00.0"}
    return made_machine({0: "0-3,8-11", 1: "4-7,12-15"}, devices=devices, nics=nics)


def near(address, sysfs, **options):
    return cores_near(address, allowed=range(16), sysfs=sysfs, **options)


def test_threads_stand_on_the_cores_of_the_gpus_own_node(two_sockets):
    assert near(GPU, two_sockets).cores == {0, 1, 2, 3, 8, 9, 10, 11}
    found = near(OTHER.upper(), two_sockets)
    assert found.cores == {4, 5, 6, 7, 12, 13, 14, 15}
    assert found.reason == f"8 cores of NUMA node 1: {OTHER.upper()} is there, beside ib0"


def test_only_cores_that_the_process_may_use_are_taken(two_sockets):
    assert cores_near(GPU, allowed={2, 3, 4}, sysfs=two_sockets).cores == {2, 3}
    none = cores_near(GPU, allowed={4, 5}, sysfs=two_sockets)
    assert none.cores == frozenset()
    assert "may use no core of NUMA node 0" in none.reason


def test_where_a_job_has_the_gpus_node_alone_there_is_nothing_to_choose(two_sockets):
    found = cores_near(GPU, allowed={1, 2, 3}, sysfs=two_sockets)
    assert found.cores == frozenset()
    assert found.reason == f"all cores that this process may use are at NUMA node 0: {GPU} is there, beside ib1"


def test_where_there_is_one_node_nothing_is_chosen(two_sockets):
    (two_sockets / "devices/pci0000:00" / GPU / "numa_node").write_text("-1\n")
    assert near(GPU, two_sockets) == Near(frozenset(), None, f"{GPU}: the machine has one NUMA node, or does not tell")
    assert node_of("0000:99:00.0", sysfs=two_sockets) is None


def test_a_network_card_has_a_node_and_the_loopback_none(two_sockets):
    assert [node_of_nic(name, sysfs=two_sockets) for name in ("ib0", "ib1", "lo", "eth9")] == [1, 0, None, None]


def test_reader_threads_stand_where_they_are_told_and_nobody_else(page_set):
    before = os.sched_getaffinity(0)
    core = min(before)
    stand, stood = standing_on(Near(frozenset({core}), 0, "told")), {}

    def start(number):
        stand(number)
        stood[threading.current_thread().name] = os.sched_getaffinity(0)

    shards = ShardSet.open(page_set.folder, shuffle_mode="off")
    loader = DataLoader(shards, batch_size=32, num_workers=2, worker_init_fn=start)
    images = torch.cat([images for images, _ in loader])
    assert len(images) == len(page_set)
    assert list(stood.values()) == [{core}, {core}]
    assert os.sched_getaffinity(0) == before


def test_threads_that_feed_no_gpu_or_are_left_alone_stay_as_they_are():
    for near in (near_device("cpu"), near_device("cuda:0", wanted=False)):
        assert not near.cores
        assert standing_on(near) is None
    assert near_device("cpu").reason == "batches go to cpu, which is near all cores"
    assert near_device("cuda:0", wanted=False).reason == "left to the kernel, as was asked for"


@pytest.mark.parametrize(
    ("told", "address"),
    [
        ({"pci_domain_id": 0, "pci_bus_id": 0x3B, "pci_device_id": 0}, GPU),
        ({"pci_domain_id": 1, "pci_bus_id": 0xAF, "pci_device_id": 0x1F}, "0001:af:1f.0"),
        ({}, None),
    ],
)
def test_a_gpus_address_is_spelled_as_the_kernel_does(monkeypatch, told, address):
    """Torch tells three numbers, or none."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(**told))
    assert address_of_gpu(0) == address


def test_each_rank_makes_its_own_gpu_current_before_it_asks_for_all(monkeypatch):
    """A context on another rank's GPU would take hundreds of megabytes there."""
    current = []
    told = [{"pci_domain_id": 0, "pci_bus_id": bus, "pci_device_id": 0} for bus in (0x3B, 0xAF)]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: SimpleNamespace(**told[gpu]) if current else 0)
    assert addresses_of_gpus(3, mine=1) == [GPU, OTHER, None]
    assert current == [1]


@pytest.mark.twin("test_a_gpus_address_is_spelled_as_the_kernel_does")
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_the_gpu_of_this_machine_has_an_address_that_the_kernel_knows():
    address = address_of_gpu(0)
    assert address is None or os.path.exists(f"/sys/bus/pci/devices/{address}")
