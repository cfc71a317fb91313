"""Lists of cores, and machines as /sys shows them: nodes, threads of one core, and what the process may use of them."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.loaders.topology import CoresError, format_cores, parse_cores, read_topology

# Two sockets of four cores with two threads each, as Linux numbers them: first threads first.
TWO_SOCKETS = {0: "0-3,8-11", 1: "4-7,12-15"}


def whole(topology):
    return [format_cores(core) for core in topology.whole_cores]


@pytest.mark.parametrize(("text", "cores"), [("", set()), ("5\n", {5}), ("0-2,7,9-10", {0, 1, 2, 7, 9, 10})])
def test_lists_of_cores_are_read_as_the_kernel_writes_them(text, cores):
    assert parse_cores(text) == cores


@given(st.frozensets(st.integers(0, 300)))
def test_a_list_of_cores_is_written_as_it_is_read(cores):
    assert parse_cores(format_cores(cores)) == cores


def test_runs_of_cores_are_written_short():
    assert format_cores([11, 0, 1, 2, 7, 10]) == "0-2,7,10-11"
    assert format_cores([]) == ""


@pytest.mark.parametrize("text", ["a", "3-1", "1-", "1-2-3", "-4", "0-9999999999", "²"])
def test_what_is_no_list_of_cores_is_refused(text):
    with pytest.raises(CoresError, match="no list of cores"):
        parse_cores(text)


def test_threads_of_one_core_stay_together_node_by_node(made_machine):
    topology = read_topology(
        allowed=range(16), sysfs=made_machine(TWO_SOCKETS, threads=lambda core: {core % 8, core % 8 + 8})
    )
    assert whole(topology) == ["0,8", "1,9", "2,10", "3,11", "4,12", "5,13", "6,14", "7,15"]
    assert topology.nodes == {0: {0, 1, 2, 3, 8, 9, 10, 11}, 1: {4, 5, 6, 7, 12, 13, 14, 15}}
    assert [format_cores(core) for core in topology.whole_at(1)] == ["4,12", "5,13", "6,14", "7,15"]


def test_what_a_job_may_not_use_is_not_there(made_machine):
    """taskset, Slurm and a cpuset all come to this: a set of cores, which may cut a core's threads apart."""
    sysfs = made_machine(TWO_SOCKETS, threads=lambda core: {core % 8, core % 8 + 8})
    topology = read_topology(allowed={2, 3, 10}, sysfs=sysfs)
    assert whole(topology) == ["2,10", "3"]
    assert topology.nodes == {0: {2, 3, 10}}
    assert topology.cores == {2, 3, 10}


def test_old_kernels_name_the_threads_of_a_core_otherwise(made_machine):
    sysfs = made_machine({0: "0-3"}, threads=lambda core: {core ^ 1, core}, name="thread_siblings_list")
    assert whole(read_topology(allowed=range(4), sysfs=sysfs)) == ["0-1", "2-3"]


def test_a_machine_that_tells_of_no_nodes_has_one(tmp_path):
    topology = read_topology(allowed={0, 1, 5}, sysfs=tmp_path)
    assert topology.nodes == {0: {0, 1, 5}}
    assert whole(topology) == ["0", "1", "5"]


def test_a_core_that_no_node_lists_is_not_lost(made_machine):
    assert read_topology(allowed={0, 1, 9}, sysfs=made_machine({0: "0", 1: "1"})).cores == {0, 1, 9}


def test_the_nearest_node_is_the_one_that_the_firmware_says(made_machine):
    """A node of memory alone (2) has no cores; the kernel lists distances in the order of all nodes' numbers."""
    sysfs = made_machine({0: "0-1", 1: "2-3", 2: "", 3: "4-5"}, distances={2: "32 21 10 12", 0: "10 20 30 30"})
    topology = read_topology(allowed=range(6), sysfs=sysfs)
    assert topology.nearest(2, among=[0, 1, 3]) == 3
    assert topology.nearest(2, among=[0, 1]) == 1
    assert topology.nearest(1, among=[0, 1]) == 1
    assert topology.nearest(1, among=[3, 0]) == 0, "nothing told: by their numbers"


def test_this_machines_cores_are_those_that_this_process_may_use():
    assert read_topology().cores == os.sched_getaffinity(0)
