"""Cores: which may be used, which ranks on each GPU would be given, and which are near the card that data come by."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from ...loaders.nearness import node_of
from ...loaders.network_card import way_to
from ...loaders.shares import Anchor, divide
from ...loaders.topology import SYSFS, Topology, cores_of, format_cores
from .finding import Seen


def usable_cores(topology: Topology, *, online: int) -> Seen:
    """What this process may use of the machine's cores, node by node, and how many of them are threads of one core."""
    count, whole = len(topology.cores), len(topology.whole_cores)
    threads = f", threads of {whole} whole ones" if whole < count else ""
    nodes = "; ".join(f"node {node}: {format_cores(cores)}" for node, cores in topology.nodes.items())
    where = nodes if len(topology.nodes) > 1 else format_cores(topology.cores)
    less = "the job, a cgroup or taskset allows no more" if count < online else ""
    return Seen(True, f"{count} of {online} may be used ({where}){threads}", less)


def cores_of_ranks(gpus: Sequence[str], topology: Topology, *, sysfs: Path = SYSFS) -> Seen:
    """The cores that ranks would be given, one on each of the GPUs at these PCI addresses."""
    if len(gpus) < 2:
        return Seen(None, "less than two GPUs: a rank alone on its host may use all cores")
    shares = divide(topology, [Anchor(f"GPU {address}", node_of(address, sysfs=sysfs)) for address in gpus])
    if not shares[0].cores:
        return Seen(None, shares[0].reason)
    text = "; ".join(f"{address}: {near.reason}" for address, near in zip(gpus, shares, strict=True))
    unused = topology.cores.difference(*(near.cores for near in shares))
    left = f"cores {format_cores(unused)} would stand idle: --set placement gives them out" if unused else ""
    return Seen(True, text, left)


def network_card(place: Path, *, allowed: Collection[int] | None = None, sysfs: Path = SYSFS) -> Seen:
    """The card that the data under a path come through, and the cores near it."""
    way = way_to(place, sysfs=sysfs)
    if way.node is None:
        return Seen(None, way.reason)
    may = frozenset(os.sched_getaffinity(0) if allowed is None else allowed)
    near = cores_of(way.node, sysfs=sysfs) & may
    if not near:
        return Seen(True, f"{way.reason}, at NUMA node {way.node}, whose cores may not be used", "ask for these cores")
    advice = "" if near == may else f"--set placement={format_cores(near)} puts ranks and readers there"
    return Seen(True, f"{way.reason}, at NUMA node {way.node}: cores {format_cores(near)}", advice)
