"""Interfaces and InfiniBand ports drawn as sysfs draws them: each byte is to be counted once."""

from pathlib import Path

import pytest

from iobench.loaders.counters.counter import Roots
from iobench.loaders.counters.network import loopback_counter, network_counter


@pytest.fixture
def roots(tmp_path):
    (tmp_path / "sys/class/net").mkdir(parents=True)
    return Roots(tmp_path / "proc", tmp_path / "sys")


def interface(
    roots: Roots, name: str, received: int, *, kind: int = 1, device: bool = True, over: tuple[str, ...] = ()
):
    folder = roots.sys / "class/net" / name
    (folder / "statistics").mkdir(parents=True)
    (folder / "type").write_text(f"{kind}\n")
    (folder / "statistics/rx_bytes").write_text(f"{received}\n")
    if device:
        (folder / "device").mkdir()
    for lower in over:
        (folder / f"lower_{lower}").symlink_to(roots.sys / "class/net" / lower)


def port(roots: Roots, device: str, number: int, words: int) -> None:
    counters = roots.sys / "class/infiniband" / device / "ports" / str(number) / "counters"
    counters.mkdir(parents=True)
    (counters / "port_rcv_data").write_text(f"{words}\n")


def test_a_bond_a_vlan_a_mirror_and_a_tunnel_are_not_counted_again(roots):
    interface(roots, "eth0", 1000)
    interface(roots, "eth1", 200)
    interface(roots, "bond0", 1200, device=False, over=("eth0", "eth1"))
    interface(roots, "bond0.7", 1200, device=False, over=("bond0",))
    interface(roots, "ifb0", 1000, device=False)
    interface(roots, "wg0", 900, kind=65534, device=False)
    interface(roots, "lo", 77, kind=772, device=False)
    counter = network_counter(roots=roots)
    assert counter.read_bytes() == 1200
    assert counter.reason == "bytes received by eth0, eth1"
    assert counter.counter_class == "bounding"
    assert loopback_counter(roots=roots).read_bytes() == 77


def test_infiniband_counts_words_of_four_octets_and_ip_over_it_is_among_them(roots):
    interface(roots, "eth0", 10)
    interface(roots, "ib0", 4000, kind=32)
    port(roots, "mlx5_0", 1, 1000)
    port(roots, "mlx5_1", 1, 5)
    counter = network_counter(roots=roots)
    assert counter.read_bytes() == 10 + 4 * 1005
    assert counter.reason == "bytes received by eth0, mlx5_0:1, mlx5_1:1"


def test_in_a_container_its_end_of_the_pair_is_the_way_in(roots):
    interface(roots, "eth0", 123, device=False)
    interface(roots, "lo", 1, kind=772, device=False)
    assert network_counter(roots=roots).read_bytes() == 123


def test_without_an_interface_nothing_is_counted(roots):
    assert network_counter(roots=roots).read_bytes() is None


def test_an_interface_that_was_taken_away_is_no_figure(roots):
    interface(roots, "eth0", 1)
    counter = network_counter(roots=roots)
    (roots.sys / "class/net/eth0/statistics/rx_bytes").unlink()
    assert counter.read_bytes() is None


def test_this_machines_loopback_counts_what_is_sent_over_it():
    import socket

    counter = loopback_counter()
    before = counter.read_bytes()
    if before is None or not Path("/sys/class/net/lo").exists():
        pytest.skip("no loopback interface is shown here")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as sender:
        receiver, _ = server.accept()
        with receiver:
            sender.sendall(bytes(1 << 20))
            left = 1 << 20
            while left:
                left -= len(receiver.recv(left))
    assert counter.read_bytes() - before >= 1 << 20
