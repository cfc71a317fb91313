"""The network card through which data are read, and the cores at its NUMA node: for readers that feed no GPU.

    mount or address --> server --> the kernel's route to it --> interface --> the cards under it --> NUMA node

    nfs, cifs      addr=192.0.2.1                of the mount's options
    lustre         192.0.2.1@o2ib:/scratch       its source: the network id of the management server
    ceph           192.0.2.1:6789,...:/          its source: the monitors
    s3, http       the host of the endpoint

The servers that hold the data of lustre or ceph may be reached otherwise than the one that is named; with one fabric
they are not.  A bond, a VLAN and IPoIB lie over cards (lower_*), which have the PCI device.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .counters.mounts import Mount, mount_of
from .nearness import Near, cores_at, node_of_nic
from .topology import SYSFS

DISCARD_PORT = 9  # nothing is sent: connecting a datagram socket only asks for the route


@dataclass(frozen=True, slots=True)
class Way:
    """How data come in: the interface, the cards under it, and their NUMA node; or why that is not known."""

    interface: str | None
    cards: tuple[str, ...]
    node: int | None
    reason: str


def way_to(place: Path | str, *, sysfs: Path = SYSFS) -> Way:
    """How the files under a path, which must exist, or the objects of an address come in."""
    if isinstance(place, str) and "://" in place:
        server, what = _endpoint(place), "the server"
    else:
        mount = mount_of(Path(place))
        server, what = (None, "") if mount is None else (server_of(mount), f"the server of this {mount.fstype} mount")
    if server is None:
        return Way(None, (), None, "the data are on this host, or their server is not named")
    interface = interface_towards(server)
    if interface is None:
        return Way(None, (), None, f"{what}: the kernel has no route to it")
    return _described(interface, what, sysfs)


def server_of(mount: Mount) -> str | None:
    """The numeric address of the server behind a mount; None where it is named otherwise, or there is none."""
    named = mount.settings.get("addr") or mount.settings.get("mon_addr", "").split("/")[0]
    if named:
        return _numeric(named)
    if mount.source.startswith("/") or ("/" not in mount.source and ":" not in mount.source):
        return None
    return _numeric(re.split(r"[@,]|:/", mount.source)[0])


def interface_towards(server: str) -> str | None:
    """The interface by which the kernel would send to this address or name; None where it knows no way."""
    import psutil

    try:
        ((family, _, _, _, address), *_) = socket.getaddrinfo(server, DISCARD_PORT, type=socket.SOCK_DGRAM)
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.connect(address)
            mine = asking.getsockname()[0].partition("%")[0]
    except OSError:
        return None
    wanted = "127.0.0.1" if mine.startswith("127.") else mine
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == wanted for each in addresses):
            return name
    return None


def cards_under(interface: str, *, sysfs: Path = SYSFS) -> tuple[str, ...]:
    """The interfaces with a device of their own that an interface is, or is made of."""
    folder = sysfs / "class/net" / interface
    if (folder / "device").exists():
        return (interface,)
    lower = sorted(path.name.removeprefix("lower_") for path in folder.glob("lower_*"))
    return tuple(card for name in lower for card in cards_under(name, sysfs=sysfs))


def nodes_of_cards(*, sysfs: Path = SYSFS) -> dict[str, int | None]:
    """Every interface with a device of its own, and its NUMA node, where the machine tells one."""
    cards = sorted(folder.parent.name for folder in (sysfs / "class/net").glob("*/device"))
    return {card: node_of_nic(card, sysfs=sysfs) for card in cards}


def near_network(place: Path | str, *, allowed: Collection[int] | None = None, sysfs: Path = SYSFS) -> Near:
    """The cores for readers whose data come over the network: those at the card's node that this process may use."""
    way = way_to(place, sysfs=sysfs)
    if way.node is None:
        return Near(frozenset(), None, way.reason)
    return cores_at(way.node, way.reason, allowed=allowed, sysfs=sysfs)


def _described(interface: str, what: str, sysfs: Path) -> Way:
    cards = cards_under(interface, sysfs=sysfs)
    nodes = {node_of_nic(card, sysfs=sysfs) for card in cards}
    by = interface if cards in ((), (interface,)) else f"{interface} ({', '.join(cards)})"
    through = f"{what} is reached through {by}"
    if not cards:
        return Way(interface, cards, None, f"{through}, which is no card")
    if len(nodes) > 1:
        return Way(interface, cards, None, f"{through}, whose cards are at several NUMA nodes")
    (node,) = nodes
    nowhere = ", which is at no NUMA node that the machine tells of" if node is None else ""
    return Way(interface, cards, node, f"{through}{nowhere}")


def _endpoint(address: str) -> str | None:
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return urlsplit(url if address.startswith("s3://") else address).hostname


def _numeric(text: str) -> str | None:
    """An address without its port; None for a name, which is not looked up."""
    bare = text.strip("[]") if text.count(":") != 1 else text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(bare.partition("]")[0]))
    except ValueError:
        return None
