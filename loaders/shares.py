"""The cores of a host, divided among the ranks that run there: each has its own, near the GPU that it feeds.

    node 0   cores 0-7   GPU 0  GPU 1        rank 0: 0-3    rank 1: 4-7
    node 1   cores 8-15  GPU 2               rank 2: 8-15

Ranks whose GPUs are at one node share its cores out, whole cores (both threads) to a rank, neighbours together since
they share a cache.  No two ranks have a core in common; where there are more ranks than cores, none is given any.
A node whose cores the process may not use is stood in for by the nearest one, and so is one with fewer cores than
ranks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from .nearness import Near
from .topology import Cores, CoresError, Topology, format_cores, parse_cores

AUTO, OFF = "auto", "off"
FORMS = "write auto, off, cores to divide as 0-7, or each rank's own as 0-3;4-7"


@dataclass(frozen=True, slots=True)
class Anchor:
    """What a rank's cores should be near, in words, and the NUMA node it is at; None where nothing tells."""

    name: str
    node: int | None


def divide(topology: Topology, anchors: Sequence[Anchor]) -> tuple[Near, ...]:
    """The cores of each rank of a host, in the order of its ranks; none for any where there are more ranks than cores.

    Without any node to be near, all cores are cut into equal stretches.  Some of a node's ranks may have one whole
    core more than others.
    """
    if len(anchors) > len(topology.cores):
        reason = f"{len(anchors)} ranks share {_counted(len(topology.cores))}: left to the kernel"
        return tuple(Near(frozenset(), anchor.node, reason) for anchor in anchors)
    if all(anchor.node is None for anchor in anchors):
        parts = _split(topology.whole_cores, len(anchors))
        return tuple(Near(cores, None, _part(cores, "", rank, len(parts))) for rank, cores in enumerate(parts))
    seats = _seats(topology, anchors)
    found: dict[int, Near] = {}
    for node in dict.fromkeys(seats):
        ranks = [rank for rank, seat in enumerate(seats) if seat == node]
        parts = _split(topology.whole_at(node), len(ranks))
        for place, (rank, cores) in enumerate(zip(ranks, parts, strict=True)):
            found[rank] = Near(cores, node, _part(cores, _why(node, anchors[rank]), place, len(ranks)))
    return tuple(found[rank] for rank in range(len(anchors)))


def parse_lists(text: str) -> tuple[Cores, ...]:
    """`0-3;4-7` as the cores of each rank, `0-7` as one set; raises CoresError for an empty one, or one named twice."""
    lists = tuple(parse_cores(part) for part in text.split(";"))
    if not all(lists):
        raise CoresError(f"placement {text!r} gives a rank no core; {FORMS}")
    if sum(map(len, lists)) > len(frozenset().union(*lists)):
        raise CoresError(f"placement {text!r} gives a core to two ranks; {FORMS}")
    return lists


def check_asked(text: str) -> str:
    """What was asked for, where it has a form that is known; raises CoresError."""
    if text not in (AUTO, OFF):
        try:
            parse_lists(text)
        except CoresError as error:
            raise CoresError(str(error) if FORMS in str(error) else f"placement {error}; {FORMS}") from error
    return text


def _seats(topology: Topology, anchors: Sequence[Anchor]) -> list[int]:
    """The node that each rank's cores are taken from: its anchor's while there are any, else the nearest with room.

    Ranks that nothing is known of come last, to the nodes with the fewest ranks for their cores.
    """
    room = {node: len(cores) for node, cores in topology.nodes.items()}
    seats: dict[int, int] = {}

    def sit(rank: int, node: int) -> None:
        seats[rank] = node
        room[node] -= 1

    for rank, anchor in enumerate(anchors):
        if anchor.node is not None and room.get(anchor.node, 0) > 0:
            sit(rank, anchor.node)
    for rank, anchor in enumerate(anchors):
        if rank not in seats and anchor.node is not None:
            sit(rank, topology.nearest(anchor.node, among=[node for node, left in room.items() if left > 0]))
    for rank in range(len(anchors)):
        if rank not in seats:
            sit(rank, max(room, key=lambda node: room[node] / len(topology.nodes[node])))
    return [seats[rank] for rank in range(len(anchors))]


def _split(whole: Sequence[Cores], count: int) -> list[Cores]:
    """So many stretches of whole cores, which differ by one at most; of single threads where there are too few."""
    units = whole if count <= len(whole) else [frozenset({thread}) for core in whole for thread in sorted(core)]
    each, more = divmod(len(units), count)
    cuts = [number * each + min(number, more) for number in range(count + 1)]
    return [frozenset().union(*units[first:last]) for first, last in itertools.pairwise(cuts)]


def _why(node: int, anchor: Anchor) -> str:
    if anchor.node is None:
        return f" of NUMA node {node}; {anchor.name} is at none that is known"
    if anchor.node == node:
        return f" of NUMA node {node}, where {anchor.name} is"
    return f" of NUMA node {node}: at node {anchor.node}, where {anchor.name} is, none is left to use"


def _part(cores: Cores, where: str, place: int, count: int) -> str:
    part = f", part {place + 1} of {count}" if count > 1 else ""
    return f"{'core' if len(cores) == 1 else 'cores'} {format_cores(cores)}{where}{part}"


def _counted(count: int) -> str:
    return "1 core" if count == 1 else f"{count} cores"
