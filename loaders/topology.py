"""The machine's cores: which this process may use, on which NUMA node each is, and which are threads of one core.

    /sys/devices/system/node/node<N>/cpulist                  the cores of a NUMA node, as 0-3,8-11
    /sys/devices/system/node/node<N>/distance                 how far the others are, in the order of their numbers
    /sys/devices/system/cpu/cpu<N>/topology/core_cpus_list    the threads of its core; thread_siblings_list before 5.3

Slurm, cgroups (cpuset, both versions), containers and taskset all limit what sched_getaffinity(2) tells: that is the
limit here.  A quota of a cgroup (cpu.max) is a limit on time, and on no core.

Sources: Linux Documentation/ABI/stable/sysfs-devices-node and sysfs-devices-system-cpu.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

SYSFS = Path("/sys")
MOST_CORES = 1 << 16  # beyond what Linux can be built for; a slip of the pen fills no memory

FAR = 255  # of the firmware's distances (ACPI SLIT): not reachable

Cores = frozenset[int]


class CoresError(ValueError):
    """A list of cores that makes no sense, or that this process may not use."""

    exit_status: ClassVar[int] = 2


@dataclass(frozen=True, slots=True)
class Topology:
    """The cores that may be used: those of each node, and in `whole_cores` the threads of one core together.

    Whole cores are in the order of their nodes, then of their numbers: neighbours share caches.  A machine that tells
    of no nodes has one, number 0.  `distances` are those of its firmware, 10 for the node itself.
    """

    nodes: Mapping[int, Cores]
    whole_cores: tuple[Cores, ...]
    distances: Mapping[tuple[int, int], int]

    @property
    def cores(self) -> Cores:
        """All that may be used."""
        return frozenset().union(*self.whole_cores)

    def whole_at(self, node: int) -> tuple[Cores, ...]:
        """The whole cores of a node."""
        there = self.nodes.get(node, frozenset())
        return tuple(core for core in self.whole_cores if core & there)

    def nearest(self, node: int, *, among: Collection[int]) -> int:
        """Of some nodes the one nearest to a node; by its number where the firmware tells nothing."""
        return min(among, key=lambda other: (other != node, self.distances.get((node, other), FAR), other))


def read_topology(*, allowed: Collection[int] | None = None, sysfs: Path = SYSFS) -> Topology:
    """The cores of this machine that this process may use; `allowed` unless given what the kernel says."""
    may = frozenset(os.sched_getaffinity(0) if allowed is None else allowed)
    listed = {number: cores_of(number, sysfs=sysfs) & may for number in _nodes(sysfs)}
    told = {number: cores for number, cores in listed.items() if cores} or {0: may}
    homeless = may.difference(*told.values())
    nodes = told if not homeless else {**told, min(told): told[min(told)] | homeless}
    node_of = {core: number for number, cores in nodes.items() for core in cores}
    whole = {_threads_of(core, sysfs) & may | {core} for core in may}
    order = sorted(whole, key=lambda threads: (node_of[min(threads)], min(threads)))
    return Topology(dict(sorted(nodes.items())), tuple(order), _distances(sysfs))


def cores_of(node: int, *, sysfs: Path = SYSFS) -> Cores:
    """The cores of a NUMA node; empty where the machine does not tell."""
    return parse_cores(text_of(sysfs / "devices/system/node" / f"node{node}" / "cpulist") or "")


def parse_cores(text: str) -> Cores:
    """`0-3,8,10-11` as numbers; raises CoresError for what is none."""
    found: set[int] = set()
    for piece in filter(None, text.strip().split(",")):
        first, dash, last = piece.strip().partition("-")
        last = last if dash else first
        if not first.isdecimal() or not last.isdecimal() or not int(first) <= int(last) <= MOST_CORES:
            raise CoresError(f"{text!r} is no list of cores: {piece!r}; it is written as 0-3,8")
        found.update(range(int(first), int(last) + 1))
    return frozenset(found)


def format_cores(cores: Iterable[int]) -> str:
    """Numbers as `0-3,8,10-11`; the reverse of `parse_cores`."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def text_of(path: Path) -> str | None:
    """The stripped text of a small file of /sys; None where there is none to read."""
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _nodes(sysfs: Path) -> list[int]:
    folders = (sysfs / "devices/system/node").glob("node[0-9]*")
    return sorted(int(folder.name[4:]) for folder in folders if folder.name[4:].isdecimal())


def _threads_of(core: int, sysfs: Path) -> Cores:
    folder = sysfs / "devices/system/cpu" / f"cpu{core}" / "topology"
    return parse_cores(text_of(folder / "core_cpus_list") or text_of(folder / "thread_siblings_list") or "")


def _distances(sysfs: Path) -> dict[tuple[int, int], int]:
    """(from, to): how far; a node's file has a number for each node, in the order of their numbers."""
    numbers, found = _nodes(sysfs), {}
    for node in numbers:
        words = (text_of(sysfs / "devices/system/node" / f"node{node}" / "distance") or "").split()
        if len(words) == len(numbers) and all(word.isdecimal() for word in words):
            found.update({(node, other): int(word) for other, word in zip(numbers, words, strict=True)})
    return found
