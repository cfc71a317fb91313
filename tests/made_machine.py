"""Machines that nobody here has, as folders like /sys: sockets, threads of cores, GPUs, network cards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path


def make_machine(
    root: Path,
    nodes: Mapping[int, str],
    *,
    threads: Callable[[int], Collection[int]] | None = None,
    name: str = "core_cpus_list",
    distances: Mapping[int, str] | None = None,
    devices: Mapping[str, int] | None = None,
    nics: Mapping[str, str] | None = None,
    over: Mapping[str, Collection[str]] | None = None,
) -> Path:
    """A folder like /sys.

    `nodes` have cores as the kernel lists them; `threads` tells those of the same core, in a file called `name`.
    `devices` are PCI addresses and their nodes, `nics` interfaces and theirs; `over` are interfaces made of others.
    """
    for node, cores in nodes.items():
        _write(root / f"devices/system/node/node{node}/cpulist", cores)
    for node, text in (distances or {}).items():
        _write(root / f"devices/system/node/node{node}/distance", text)
    for core in range(256) if threads else ():
        _write(root / f"devices/system/cpu/cpu{core}/topology/{name}", ",".join(map(str, sorted(threads(core)))))
    for address, node in (devices or {}).items():
        _write(root / "devices/pci0000:00" / address / "numa_node", str(node))
        _link(root / "bus/pci/devices" / address, root / "devices/pci0000:00" / address)
    for nic, address in (nics or {}).items():
        _link(root / "class/net" / nic / "device", root / "devices/pci0000:00" / address)
    for upper, lower in (over or {}).items():
        for each in lower:
            _link(root / "class/net" / upper / f"lower_{each}", root / "class/net" / each)
    (root / "class/net/lo").mkdir(parents=True, exist_ok=True)
    return root


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def _link(path: Path, to: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(to)
