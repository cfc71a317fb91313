"""Networks: bytes received by interfaces and InfiniBand ports, and over loopback.  They bound, they do not prove.

    /sys/class/net/IF/statistics/rx_bytes                         bytes with headers (Documentation/ABI sysfs-class-net)
    /sys/class/infiniband/DEV/ports/N/counters/port_rcv_data      octets / 4 (Documentation/ABI sysfs-class-infiniband)

What a server sent lies between 1.0 of the delivered bytes and the headers on top.  Bytes that pass the kernel by (DPDK)
are in none of these; RDMA over Ethernet is in the InfiniBand port, not in the interface.  An interface over others
(bond, VLAN, bridge, IPoIB) would count their bytes twice and is left out; so are mirrors and tunnels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .counter import CounterClass, Roots

OCTETS_PER_COUNT = 4
ETHERNET, LOOPBACK = "1", "772"  # ARPHRD_* of linux/if_arp.h, in /sys/class/net/IF/type
VIRTUAL = ("ifb", "dummy", "teql", "nlmon")


@dataclass(frozen=True)
class NetworkCounter:
    """Bytes that came in by some interfaces and InfiniBand ports."""

    interfaces: tuple[Path, ...]
    ports: tuple[Path, ...] = ()
    name: str = "network_received_bytes"
    counter_class: CounterClass = "bounding"
    leaves: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Which ones."""
        names = [path.name for path in self.interfaces] + [f"{path.parents[1].name}:{path.name}" for path in self.ports]
        return f"bytes received by {', '.join(names)}"

    def read_bytes(self) -> int | None:
        """Bytes received by all of them; None where one is gone or there is none."""
        if not self.interfaces and not self.ports:
            return None
        try:
            frames = sum(int((path / "statistics/rx_bytes").read_text()) for path in self.interfaces)
            words = sum(int((path / "counters/port_rcv_data").read_text()) for path in self.ports)
        except (OSError, ValueError):
            return None
        return frames + words * OCTETS_PER_COUNT


def network_counter(*, roots: Roots = Roots()) -> NetworkCounter:  # noqa: B008
    """All ways into this machine (or container): each byte once."""
    everything = sorted((roots.sys / "class/net").glob("*"))
    ethernet = [path for path in everything if _type_of(path) == ETHERNET and not path.name.startswith(VIRTUAL)]
    lowest = [path for path in ethernet if not list(path.glob("lower_*"))]
    devices = [path for path in lowest if (path / "device").exists()]  # without any: a container's end of a pair
    received = (roots.sys / "class/infiniband").glob("*/ports/*/counters/port_rcv_data")
    ports = sorted(path.parents[1] for path in received)
    return NetworkCounter(tuple(devices or lowest), tuple(ports))


def loopback_counter(*, roots: Roots = Roots()) -> NetworkCounter:  # noqa: B008
    """What processes of this machine sent to each other: a server may be one of them."""
    everything = sorted((roots.sys / "class/net").glob("*"))
    loops = tuple(path for path in everything if _type_of(path) == LOOPBACK)
    return NetworkCounter(loops, name="loopback_received_bytes")


def _type_of(interface: Path) -> str | None:
    try:
        return (interface / "type").read_text().strip()
    except OSError:
        return None
