"""The network: interfaces and their speed, InfiniBand and RoCE ports."""

from __future__ import annotations

from pathlib import Path

from .finding import Seen, Subject, text_of

INTERFACES = Path("/sys/class/net")
RDMA = Path("/sys/class/infiniband")


def interfaces(_path: Path) -> Seen:
    """Interfaces with a device behind them: their state, speed, driver and NUMA node; virtual ones are left out."""
    found = sorted(folder for folder in INTERFACES.glob("*") if (folder / "device").exists())
    if not found:
        return Seen(False, "no interface with a device behind it")
    up = any(text_of(folder / "operstate") == "up" for folder in found)
    return Seen(up, "; ".join(map(_interface, found)), "" if up else "ip link set NAME up")


def rdma(_path: Path) -> Seen:
    """Ports that can carry RDMA: NFS over RDMA and the file systems of GPUDirect Storage need one."""
    ports = sorted(RDMA.glob("*/ports/*"))
    if not ports:
        return Seen(False, "no /sys/class/infiniband: no RDMA over the network", "only needed for RDMA file systems")
    active = any("ACTIVE" in (text_of(port / "state") or "") for port in ports)
    advice = "" if active else "no port is active: see `ibstat` or `rdma link`"
    return Seen(active, "; ".join(map(_port, ports)), advice)


def _interface(folder: Path) -> str:
    speed = text_of(folder / "speed")
    rate = f"{int(speed) / 1000:g} Gbit/s" if speed and speed.isdigit() and int(speed) else "speed not told"
    driver = (folder / "device/driver").resolve().name if (folder / "device/driver").exists() else "no driver"
    node = text_of(folder / "device/numa_node")
    where = f", NUMA node {node}" if node and node != "-1" else ""
    state, unit = text_of(folder / "operstate"), text_of(folder / "mtu")
    return f"{folder.name} {state}, {rate}, {driver}, MTU {unit}{where}"


def _port(folder: Path) -> str:
    device, number = folder.parents[1].name, folder.name
    state = (text_of(folder / "state") or "state not told").partition(":")[2].strip().lower()
    return f"{device} port {number} {state}, {text_of(folder / 'rate')}, {text_of(folder / 'link_layer')}"


SUBJECT = Subject("network", __name__, {"interfaces": interfaces, "RDMA": rdma})
