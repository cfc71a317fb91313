"""The cores of a host divided among its ranks, on made-up machines.

Not shown: what that brings with several GPUs and sockets, which no machine here has.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.loaders.shares import Anchor, check_asked, divide, parse_lists
from iobench.loaders.topology import CoresError, Topology, format_cores, read_topology

# Two sockets of four cores with two threads each: core 1 of socket 0 is threads 1 and 9.
TWO_SOCKETS = {0: "0-3,8-11", 1: "4-7,12-15"}
UNKNOWN = Anchor("its accelerator", None)


def at(*nodes):
    return [Anchor(f"GPU {number}", node) for number, node in enumerate(nodes)]


@pytest.fixture
def two_sockets(made_machine):
    return read_topology(
        allowed=range(16), sysfs=made_machine(TWO_SOCKETS, threads=lambda core: {core % 8, core % 8 + 8})
    )


def shares(topology, anchors):
    return [format_cores(near.cores) for near in divide(topology, anchors)]


def test_eight_gpus_of_two_sockets_have_a_quarter_of_their_socket_each(two_sockets):
    assert shares(two_sockets, at(0, 0, 0, 0, 1, 1, 1, 1)) == [
        "0,8",
        "1,9",
        "2,10",
        "3,11",
        "4,12",
        "5,13",
        "6,14",
        "7,15",
    ]


def test_a_rank_is_near_its_own_gpu_whatever_the_order_of_gpus(two_sockets):
    found = divide(two_sockets, at(1, 0, 1))
    assert [format_cores(near.cores) for near in found] == ["4-5,12-13", "0-3,8-11", "6-7,14-15"]
    assert [near.node for near in found] == [1, 0, 1]
    assert found[0].reason == "cores 4-5,12-13 of NUMA node 1, where GPU 0 is, part 1 of 2"
    assert found[1].reason == "cores 0-3,8-11 of NUMA node 0, where GPU 1 is"


def test_whole_cores_are_shared_out_while_there_are_enough(two_sockets):
    """Three ranks on four cores: one has two, and no core's threads are torn apart; five ranks have to share some."""
    assert shares(two_sockets, at(0, 0, 0)) == ["0-1,8-9", "2,10", "3,11"]
    assert shares(two_sockets, at(0, 0, 0, 0, 0)) == ["0,8", "1,9", "2,10", "3", "11"]


def test_one_socket_is_cut_into_neighbours(made_machine):
    topology = read_topology(allowed=range(8), sysfs=made_machine({0: "0-7"}))
    assert shares(topology, at(0, 0)) == ["0-3", "4-7"]
    assert shares(topology, [UNKNOWN] * 3) == ["0-2", "3-5", "6-7"]


def test_gpus_that_no_node_is_known_of_share_all_cores_node_by_node(two_sockets):
    """numa_node is -1 in many virtual machines."""
    found = divide(two_sockets, [UNKNOWN] * 4)
    assert [format_cores(near.cores) for near in found] == ["0-1,8-9", "2-3,10-11", "4-5,12-13", "6-7,14-15"]
    assert found[1].reason == "cores 2-3,10-11, part 2 of 4"


def test_a_gpu_of_no_known_node_goes_where_the_fewest_ranks_are(two_sockets):
    found = divide(two_sockets, at(0, 0, None))
    assert [near.node for near in found] == [0, 0, 1]
    assert found[2].reason == "cores 4-7,12-15 of NUMA node 1; GPU 2 is at none that is known"


def test_where_the_job_may_not_use_the_gpus_node_the_nearest_one_stands_in(made_machine):
    """A cpuset of node 1's and node 2's cores, GPUs at node 0: node 2 is nearer."""
    sysfs = made_machine({0: "0-1", 1: "2-3", 2: "4-5"}, distances={0: "10 32 21"})
    found = divide(read_topology(allowed={2, 3, 4, 5}, sysfs=sysfs), at(0, 0))
    assert [format_cores(near.cores) for near in found] == ["4", "5"]
    assert found[0].reason == ("core 4 of NUMA node 2: at node 0, where GPU 0 is, none is left to use, part 1 of 2")


def test_a_node_with_fewer_cores_than_ranks_hands_some_on(made_machine):
    topology = read_topology(allowed={0, 2, 3, 4}, sysfs=made_machine({0: "0-1", 1: "2-5"}))
    assert shares(topology, at(0, 0, 1, 1)) == ["0", "2", "3", "4"]


def test_more_ranks_than_cores_are_left_to_the_kernel(made_machine):
    topology = read_topology(allowed=range(2), sysfs=made_machine({0: "0-1"}))
    found = divide(topology, at(0, 0, 0))
    assert [near.cores for near in found] == [frozenset()] * 3
    assert found[2].reason == "3 ranks share 2 cores: left to the kernel"


@st.composite
def machines(draw):
    """Up to four nodes of up to eight cores of one or two threads, of which a job may use some, in any order of ids."""
    sizes = draw(st.lists(st.integers(1, 8), min_size=1, max_size=4))
    threads = draw(st.sampled_from([1, 2]))
    ids = iter(draw(st.permutations(range(sum(sizes) * threads))))
    whole = [
        (node, frozenset(next(ids) for _ in range(threads))) for node, size in enumerate(sizes) for _ in range(size)
    ]
    may = draw(st.frozensets(st.sampled_from(sorted(frozenset().union(*(core for _, core in whole)))), min_size=1))
    kept = [(node, core & may) for node, core in whole if core & may]
    nodes = {node: frozenset().union(*(core for at, core in kept if at == node)) for node, _ in kept}
    anchors = draw(st.lists(st.one_of(st.none(), st.integers(0, 4)), min_size=1, max_size=12))
    return Topology(nodes, tuple(core for _, core in kept), {}), at(*anchors)


@given(machines())
def test_no_two_ranks_share_a_core_and_every_rank_has_one_while_there_are_enough(machine):
    topology, anchors = machine
    found = [near.cores for near in divide(topology, anchors)]
    if len(anchors) > len(topology.cores):
        assert not any(found)
        return
    assert all(found)
    assert sum(map(len, found)) == len(frozenset().union(*found))
    assert frozenset().union(*found) <= topology.cores


@given(machines())
def test_a_ranks_cores_are_at_one_node_unless_nothing_is_known_of_any(machine):
    topology, anchors = machine
    if any(anchor.node is not None for anchor in anchors):
        for near in divide(topology, anchors):
            assert not near.cores or near.cores <= topology.nodes[near.node]


def test_cores_may_be_given_to_each_rank_or_to_all():
    assert parse_lists("0-3;4-7") == ({0, 1, 2, 3}, {4, 5, 6, 7})
    assert parse_lists("0-1,8") == ({0, 1, 8},)
    for good in ("auto", "off", "0", "0-3;4-7"):
        assert check_asked(good) == good


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "gives a rank no core"),
        ("0-3;", "gives a rank no core"),
        ("0-3;3-5", "gives a core to two ranks"),
        ("near", "no list of cores"),
        ("3-1", "no list of cores"),
    ],
)
def test_what_is_no_placement_is_refused_with_the_forms_that_are_known(text, message):
    with pytest.raises(CoresError, match=message) as caught:
        check_asked(text)
    assert "write auto, off" in str(caught.value)
    assert caught.value.exit_status == 2
