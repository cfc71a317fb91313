"""What the doctor says of cores: of this process, of ranks on GPUs, and near the card that data come by."""

import pytest

from iobench.loaders import network_card as cards
from iobench.loaders.network_card import Way
from iobench.loaders.topology import read_topology
from iobench.storage_bench.doctor.cores import cores_of_ranks, network_card, usable_cores

GPUS = [f"0000:{bus}:00.0" for bus in ("3b", "3c", "af", "b0")]


@pytest.fixture
def sysfs(made_machine):
    """Two sockets of two cores with two threads each, and two GPUs at each."""
    nodes = dict(zip(GPUS, (0, 0, 1, 1), strict=True))
    threads = {0: {0, 4}, 1: {1, 5}, 2: {2, 6}, 3: {3, 7}}
    return made_machine({0: "0-1,4-5", 1: "2-3,6-7"}, devices=nodes, threads=lambda core: threads[core % 4])


def test_what_may_be_used_is_told_node_by_node(sysfs):
    seen = usable_cores(read_topology(allowed=range(8), sysfs=sysfs), online=8)
    assert seen.text == "8 of 8 may be used (node 0: 0-1,4-5; node 1: 2-3,6-7), threads of 4 whole ones"
    assert seen.advice == ""


def test_a_job_that_may_use_less_is_told(sysfs):
    seen = usable_cores(read_topology(allowed={0, 1}, sysfs=sysfs), online=8)
    assert (seen.text, seen.advice) == ("2 of 8 may be used (0-1)", "the job, a cgroup or taskset allows no more")


def test_each_gpus_rank_is_told_its_cores(sysfs):
    topology = read_topology(allowed=range(8), sysfs=sysfs)
    seen = cores_of_ranks(GPUS[1:], topology, sysfs=sysfs)
    assert seen.text.split("; ")[1] == f"{GPUS[2]}: cores 2,6 of NUMA node 1, where GPU {GPUS[2]} is, part 1 of 2"
    assert seen.advice == ""
    assert cores_of_ranks(GPUS[:1], topology, sysfs=sysfs).available is None


def test_cores_that_no_gpu_is_near_are_told(sysfs):
    seen = cores_of_ranks(GPUS[:2], read_topology(allowed=range(8), sysfs=sysfs), sysfs=sysfs)
    assert seen.advice == "cores 2-3,6-7 would stand idle: --set placement gives them out"


def test_more_gpus_than_cores_are_told(sysfs):
    seen = cores_of_ranks(GPUS, read_topology(allowed={0, 1}, sysfs=sysfs), sysfs=sysfs)
    assert (seen.available, seen.text) == (None, "4 ranks share 2 cores: left to the kernel")


def test_the_cores_at_the_card_are_told(sysfs, tmp_path, monkeypatch):
    way = Way("ib0", ("ib0",), 1, "the server of this nfs4 mount is reached through ib0")
    monkeypatch.setattr("iobench.storage_bench.doctor.cores.way_to", lambda *_, **__: way)
    seen = network_card(tmp_path, allowed=range(8), sysfs=sysfs)
    assert seen.text == f"{way.reason}, at NUMA node 1: cores 2-3,6-7"
    assert seen.advice == "--set placement=2-3,6-7 puts ranks and readers there"
    assert network_card(tmp_path, allowed={2, 3}, sysfs=sysfs).advice == ""
    assert "may not be used" in network_card(tmp_path, allowed={0}, sysfs=sysfs).text


def test_data_of_this_host_come_by_no_card(tmp_path):
    assert network_card(tmp_path).text == cards.way_to(tmp_path).reason
