"""The network card that data come through: by the kernel's own route, and by made-up cards and nodes."""

from pathlib import Path

import pytest

from iobench.loaders import network_card
from iobench.loaders.counters.mounts import Mount
from iobench.loaders.network_card import cards_under, interface_towards, near_network, server_of, way_to

CARD, OTHER = "0000:3b:00.0", "0000:af:00.0"


def mount(fstype, source, *options):
    return Mount(1, "0:50", Path("/"), Path("/mnt/x"), fstype, source, options)


@pytest.mark.parametrize(
    ("where", "server"),
    [
        (mount("nfs4", "files:/export", "rw", "addr=192.0.2.7"), "192.0.2.7"),
        (mount("nfs4", "files:/export", "rw", "clientaddr=192.0.2.9", "addr=fd00::7"), "fd00::7"),
        (mount("cifs", "//files/share", "addr=192.0.2.7"), "192.0.2.7"),
        (mount("lustre", "192.0.2.7@o2ib,192.0.2.8@o2ib:192.0.2.9@o2ib:/scratch"), "192.0.2.7"),
        (mount("ceph", "192.0.2.7:6789,192.0.2.8:6789:/"), "192.0.2.7"),
        (mount("ceph", "[fd00::7]:6789:/"), "fd00::7"),
        (mount("ceph", "user@id.fs=/", "mon_addr=192.0.2.7:6789/192.0.2.8:6789"), "192.0.2.7"),
        (mount("nfs", "files:/export"), None),
        (mount("ext4", "/dev/vda1"), None),
        (mount("tmpfs", "tmpfs"), None),
        (mount("fuse.glusterfs", "localhost:/volume"), None),
    ],
    ids=lambda value: value.source if isinstance(value, Mount) else None,
)
def test_a_mount_names_its_server_by_number_or_not_at_all(where, server):
    assert server_of(where) == server


def test_the_kernel_tells_the_interface_to_a_server():
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("127.3.2.1") == "lo"
    assert interface_towards("999.0.0.1") is None


def test_data_of_this_host_come_through_no_card(tmp_path):
    assert way_to(tmp_path).interface is None
    assert near_network(tmp_path).reason == "the data are on this host, or their server is not named"


def test_a_server_on_this_host_is_reached_through_no_card(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    for address in ("s3://bucket/key", "http://127.0.0.1:80/x"):
        way = way_to(address)
        assert (way.interface, way.node) == ("lo", None)
        assert way.reason == "the server is reached through lo, which is no card"


@pytest.fixture
def cards(made_machine, monkeypatch):
    """Two nodes; ib0 and eth0 at node 1, eth1 at node 0; a bond of two nodes, and a VLAN on a bond of one."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")

    def at(interface):
        monkeypatch.setattr(network_card, "interface_towards", lambda _server: interface)
        return made

    made = made_machine(
        {0: "0-3", 1: "4-7"},
        devices={CARD: 0, OTHER: 1},
        nics={"eth0": OTHER, "eth1": CARD, "ib0": OTHER},
        over={"bond0": ("eth0", "eth1"), "bond1": ("eth0", "ib0"), "bond1.7": ("bond1",)},
    )
    return at


def test_readers_stand_at_the_node_of_the_card(cards):
    near = near_network("s3://bucket/key", allowed=range(6), sysfs=cards("ib0"))
    assert near.cores == {4, 5}
    assert near.reason == "2 cores of NUMA node 1: the server is reached through ib0"
    none = near_network("s3://bucket/key", allowed=range(4), sysfs=cards("ib0"))
    assert none.cores == frozenset()
    assert "may use no core of NUMA node 1" in none.reason


def test_a_vlan_on_a_bond_is_the_cards_under_it(cards):
    sysfs = cards("bond1.7")
    assert cards_under("bond1.7", sysfs=sysfs) == ("eth0", "ib0")
    near = near_network("s3://bucket/key", allowed=range(8), sysfs=sysfs)
    assert near.cores == {4, 5, 6, 7}
    assert "bond1.7 (eth0, ib0)" in near.reason


def test_cards_of_several_nodes_say_nothing(cards):
    near = near_network("s3://bucket/key", allowed=range(8), sysfs=cards("bond0"))
    assert near.cores == frozenset()
    assert "whose cards are at several NUMA nodes" in near.reason


def test_a_card_of_no_known_node_says_nothing(cards):
    sysfs = cards("eth1")
    (sysfs / "devices/pci0000:00" / CARD / "numa_node").write_text("-1\n")
    near = near_network("s3://bucket/key", allowed=range(8), sysfs=sysfs)
    assert near.cores == frozenset()
    assert near.reason == "the server is reached through eth1, which is at no NUMA node that the machine tells of"
