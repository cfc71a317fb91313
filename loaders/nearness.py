"""Where the GPU, the network card and the storage are plugged in, and on which cores reader threads stand near them.

    /sys/bus/pci/devices/<address>/numa_node        of a GPU, a NIC, an NVMe drive
    /sys/class/net/<name>/device, lower_<name>      the PCI device of an interface; what a bond or a VLAN is made of

Pinned buffers are filled by the threads that read and emptied by the GPU: threads on the GPU's own node keep the bytes
off the link between sockets.  On a machine with one node there is nothing to choose.  How ranks of one host share its
cores is in shares.py.

Sources: Linux Documentation/ABI/testing/sysfs-bus-pci (numa_node), sysfs-class-net.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .topology import SYSFS, Cores, cores_of, format_cores, text_of


@dataclass(frozen=True, slots=True)
class Near:
    """The cores that threads should stand on, and why; empty where there is nothing to choose."""

    cores: Cores
    node: int | None
    reason: str

    def told(self) -> dict[str, str | int | None]:
        """For a record: the cores as `0-3,8`, None where nothing was chosen."""
        return {"cores": format_cores(self.cores) or None, "node": self.node, "reason": self.reason}


def node_of(address: str, *, sysfs: Path = SYSFS) -> int | None:
    """The NUMA node of a PCI device (0000:3b:00.0); None where the machine has one node, or does not tell."""
    text = text_of(sysfs / "bus/pci/devices" / address.lower() / "numa_node")
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


def cores_near(address: str, *, allowed: Collection[int] | None = None, sysfs: Path = SYSFS) -> Near:
    """The cores for readers that feed the GPU at this PCI address: those of its node that this process may use.

    `allowed` is what this process may use, unless given what the system says.
    """
    node = node_of(address, sysfs=sysfs)
    if node is None:
        return Near(frozenset(), None, f"{address}: the machine has one NUMA node, or does not tell")
    nics = nics_of(node, sysfs=sysfs)
    beside = f", beside {', '.join(nics)}" if nics else ""
    return cores_at(node, f"{address} is there{beside}", allowed=allowed, sysfs=sysfs)


def cores_at(node: int, why: str, *, allowed: Collection[int] | None, sysfs: Path) -> Near:
    """The cores of a node that this process may use; none where these are all that it may use."""
    may = frozenset(os.sched_getaffinity(0) if allowed is None else allowed)
    near = cores_of(node, sysfs=sysfs) & may
    if not near:
        return Near(frozenset(), node, f"this process may use no core of NUMA node {node}: {why}")
    if near == may:
        return Near(frozenset(), node, f"all cores that this process may use are at NUMA node {node}: {why}")
    return Near(near, node, f"{len(near)} cores of NUMA node {node}: {why}")


def address_of_gpu(number: int) -> str | None:
    """The PCI address of torch's GPU `number`; None where torch does not tell."""
    import torch

    properties = torch.cuda.get_device_properties(number)
    parts = [getattr(properties, name, None) for name in ("pci_domain_id", "pci_bus_id", "pci_device_id")]
    numbers = [int(part) for part in parts if part is not None]
    return "{:04x}:{:02x}:{:02x}.0".format(*numbers) if len(numbers) == len(parts) else None


def addresses_of_gpus(count: int, *, mine: int) -> list[str | None]:
    """The PCI addresses of torch's GPUs 0, 1 ...; None where there is no such GPU, or torch does not tell.

    The process's own becomes the current one first: whatever CUDA sets up when it starts is then on no other's GPU.
    """
    import torch

    found = torch.cuda.device_count()
    if mine < found:
        torch.cuda.set_device(mine)
    return [address_of_gpu(number) if number < found else None for number in range(count)]


def near_device(name: str, *, wanted: bool = True) -> Near:
    """The cores for readers that feed the device which torch names so (cuda:1); none but for a GPU, and if `wanted`.

    Of a rank that has cores of its own these are those of them that are at its GPU's node.
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


def where_threads_stand(threads: Iterable[int]) -> dict[str, int]:
    """How many of these threads (by native id) may run on which cores, as the kernel has it: {"0-3,8": 2}."""
    found: Counter[str] = Counter()
    for thread in threads:
        with suppress(ProcessLookupError):  # it has ended meanwhile
            found[format_cores(os.sched_getaffinity(thread))] += 1
    return dict(sorted(found.items()))


def threads_of_this_process() -> tuple[int, ...]:
    """The native ids of all threads, those of libraries included."""
    return tuple(int(name) for name in os.listdir("/proc/self/task"))
