"""Where the GPU, the network card and the storage are plugged in, and on which cores reader threads stand near them.

    /sys/bus/pci/devices/<address>/numa_node, local_cpulist         of a GPU, a NIC, an NVMe drive
    /sys/devices/system/node/node<N>/cpulist                        the cores of a NUMA node

Pinned buffers are filled by the threads that read and emptied by the GPU: threads on the GPU's own node keep the bytes
off the link between sockets.  On a machine with one node there is nothing to choose.  Of several GPUs each process has
its own; ranks of one node share its cores, and each takes its part of them.

Sources: Linux Documentation/ABI/testing/sysfs-bus-pci (numa_node), sysfs-devices-node (cpulist).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

SYSFS = Path("/sys")


class NearnessError(ValueError):
    """A list of cores, or a share of them, that makes no sense."""

    exit_status: ClassVar[int] = 2


@dataclass(frozen=True, slots=True)
class Near:
    """The cores that reader threads should stand on, and why; empty where there is nothing to choose."""

    cores: frozenset[int]
    node: int | None
    reason: str


def node_of(address: str, *, sysfs: Path = SYSFS) -> int | None:
    """The NUMA node of a PCI device (0000:3b:00.0); None where the machine has one node, or does not tell."""
    text = _text(sysfs / "bus/pci/devices" / address.lower() / "numa_node")
    number = int(text) if text is not None and text.lstrip("-").isdigit() else -1
    return number if number >= 0 else None


def node_of_nic(name: str, *, sysfs: Path = SYSFS) -> int | None:
    """The NUMA node of a network interface (eth0, ib0)."""
    device = sysfs / "class/net" / name / "device"
    return node_of(device.resolve().name, sysfs=sysfs) if device.exists() else None


def nics_of(node: int, *, sysfs: Path = SYSFS) -> tuple[str, ...]:
    """The network interfaces plugged in at a node, in the order of their names."""
    names = sorted(entry.name for entry in (sysfs / "class/net").glob("*"))
    return tuple(name for name in names if node_of_nic(name, sysfs=sysfs) == node)


def cores_of(node: int, *, sysfs: Path = SYSFS) -> frozenset[int]:
    """The cores of a NUMA node; empty where the machine does not tell."""
    return parse_cores(_text(sysfs / "devices/system/node" / f"node{node}" / "cpulist") or "")


def parse_cores(text: str) -> frozenset[int]:
    """`0-3,8,10-11` as numbers; raises NearnessError for what is none."""
    found: set[int] = set()
    for piece in filter(None, text.strip().split(",")):
        first, dash, last = piece.partition("-")
        last = last if dash else first
        if not first.isdigit() or not last.isdigit() or int(last) < int(first):
            raise NearnessError(f"{text!r} is no list of cores: {piece!r}; it is written as 0-3,8")
        found.update(range(int(first), int(last) + 1))
    return frozenset(found)


def cores_near(
    address: str,
    *,
    share: tuple[int, int] = (0, 1),
    allowed: Collection[int] | None = None,
    sysfs: Path = SYSFS,
) -> Near:
    """The cores for readers that feed the GPU at this PCI address: those of its node that this process may use.

    `share` is (this rank, ranks whose GPUs are at the same node): each takes every so-manieth core.  `allowed` is what
    this process may use, unless given what the system says.
    """
    mine, ranks = share
    if not 0 <= mine < ranks:
        raise NearnessError(f"share {share}: give (rank, ranks), ranks counted from 0")
    node = node_of(address, sysfs=sysfs)
    if node is None:
        return Near(frozenset(), None, f"{address}: the machine has one NUMA node, or does not tell")
    may = frozenset(os.sched_getaffinity(0) if allowed is None else allowed)
    near = sorted(cores_of(node, sysfs=sysfs) & may)
    if not near:
        return Near(frozenset(), node, f"{address} is at NUMA node {node}, none of whose cores this process may use")
    if len(near) < ranks:
        return Near(frozenset(near), node, f"NUMA node {node}, whose {len(near)} cores {ranks} ranks share")
    taken = frozenset(near[mine::ranks])
    part = f", part {mine + 1} of {ranks}" if ranks > 1 else ""
    nics = nics_of(node, sysfs=sysfs)
    beside = f", beside {', '.join(nics)}" if nics else ""
    return Near(taken, node, f"{len(taken)} cores of NUMA node {node}, where {address} is{part}{beside}")


def address_of_gpu(number: int) -> str | None:
    """The PCI address of torch's GPU `number`; None where torch does not tell."""
    import torch

    properties = torch.cuda.get_device_properties(number)
    parts = [getattr(properties, name, None) for name in ("pci_domain_id", "pci_bus_id", "pci_device_id")]
    numbers = [int(part) for part in parts if part is not None]
    return "{:04x}:{:02x}:{:02x}.0".format(*numbers) if len(numbers) == len(parts) else None


def near_device(name: str, *, wanted: bool = True) -> Near:
    """The cores for readers that feed the device which torch names so (cuda:1); none but for a GPU, and if `wanted`.

    Ranks whose GPUs are at one node share all of its cores: the kernel moves threads between these as it sees fit.
    """
    if not name.startswith("cuda"):
        return Near(frozenset(), None, f"batches go to {name}, which is near all cores")
    if not wanted:
        return Near(frozenset(), None, "left to the kernel, as was asked for")
    import torch

    number: int | None = torch.device(name).index
    address = address_of_gpu(torch.cuda.current_device() if number is None else number)
    if address is None:
        return Near(frozenset(), None, f"torch tells no PCI address of {name}")
    return cores_near(address)


def standing_on(near: Near) -> Callable[[int], None] | None:
    """What a reader thread calls as it starts (`worker_init_fn`, `on_thread_start`): it stands on these cores alone.

    None where there is nothing to choose: threads are then left as they are.
    """
    if not near.cores:
        return None

    def stand(_number: int) -> None:
        os.sched_setaffinity(0, near.cores)  # 0 is the thread that calls

    return stand


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None
