"""Where ranks stand: each process on cores of its own, before it starts a thread; every later thread inherits them.

    auto          ranks of one host that compute share its cores out: on a GPU near theirs, on the CPU in equal parts.
                  A rank alone on its host, and ranks whose accelerator is emulated, are left to the kernel.
    off           left to the kernel
    0-7           these cores, divided as auto would
    0-3;4-7       these are local rank 0's, these local rank 1's

Emulated ranks sleep through their steps, and blocks are run by some of them: the cores of the others would stand idle.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...loaders.nearness import Near, addresses_of_gpus, node_of, threads_of_this_process, where_threads_stand
from ...loaders.shares import AUTO, FORMS, OFF, Anchor, divide, parse_lists
from ...loaders.topology import SYSFS, Cores, CoresError, format_cores, read_topology
from .variables import hints

Feeds = Literal["cuda", "cpu", "emulated"]
UNKNOWN = Anchor("its accelerator", None)


@dataclass(frozen=True, slots=True)
class Placing:
    """What was asked for, and what the ranks feed."""

    asked: str = OFF
    feeds: Feeds = "emulated"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank was put, what had been asked for, and the cores that it might use before."""

    asked: str
    near: Near
    usable: Cores

    def seen(self) -> dict[str, Any]:
        """For the record, with the cores on which the kernel lets how many threads run: {"0-3": 12}."""
        return {
            "asked": self.asked,
            **self.near.told(),
            "usable": format_cores(self.usable),
            "online": os.cpu_count(),
            "threads": where_threads_stand(threads_of_this_process()),
            "hints": hints(os.environ),
        }


def choose(
    placing: Placing,
    *,
    local_rank: int,
    local_size: int,
    allowed: Collection[int] | None = None,
    sysfs: Path = SYSFS,
) -> Near:
    """The cores of a rank, and why; none where it is left to the kernel.

    Every rank of a host comes to the same division.  `allowed` is what the process may use, unless given what the
    kernel says.  Raises CoresError where the cores asked for are not enough, or may not be used.
    """
    may = frozenset(os.sched_getaffinity(0) if allowed is None else allowed)
    if placing.asked == OFF:
        return Near(frozenset(), None, "left to the kernel, as was asked for")
    if placing.asked != AUTO:
        return _as_asked(placing, local_rank, local_size, may, sysfs)
    if local_size == 1:
        return Near(frozenset(), None, "alone on its host: it may use all cores")
    if placing.feeds == "emulated":
        return Near(frozenset(), None, "an emulated accelerator needs no core of its own: ranks share them all")
    anchors = _anchors(placing.feeds, local_rank, local_size, sysfs)
    return divide(read_topology(allowed=may, sysfs=sysfs), anchors)[local_rank]


def check_lists(asked: str, num_ranks: int, *, may: Cores | None) -> None:
    """Raise CoresError where not every rank of a host is given cores, or one that is not among those it `may` use."""
    if asked in (AUTO, OFF):
        return
    lists = parse_lists(asked)
    if 1 < len(lists) < num_ranks:
        raise CoresError(
            f"placement {asked!r} gives cores to {len(lists)} ranks, and {num_ranks} run on one host; {FORMS}"
        )
    if may is not None and (missing := frozenset().union(*lists) - may):
        raise CoresError(
            f"placement {asked!r}: cores {format_cores(missing)} may not be used here, {format_cores(may)} may; see "
            f"what taskset, the cgroup or the job allows"
        )


def take_place(placing: Placing) -> Place:
    """Put this rank, every thread that it has, on its cores: before it starts others, which inherit that."""
    local = {name: int(os.environ.get(f"HOROVOD_LOCAL_{name}", alone)) for name, alone in (("RANK", 0), ("SIZE", 1))}
    usable = frozenset(os.sched_getaffinity(0))
    near = choose(placing, local_rank=local["RANK"], local_size=local["SIZE"], allowed=usable)
    if near.cores:
        for thread in threads_of_this_process():
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.sched_setaffinity(thread, near.cores)
    return Place(placing.asked, near, usable)


def _as_asked(placing: Placing, local_rank: int, local_size: int, may: Cores, sysfs: Path) -> Near:
    lists = parse_lists(placing.asked)
    check_lists(placing.asked, local_size, may=may)
    if len(lists) == 1 and local_size > 1:
        anchors = _anchors(placing.feeds, local_rank, local_size, sysfs)
        return divide(read_topology(allowed=lists[0], sysfs=sysfs), anchors)[local_rank]
    mine = lists[local_rank]
    return Near(mine, None, f"{'core' if len(mine) == 1 else 'cores'} {format_cores(mine)}, as was asked for")


def _anchors(feeds: Feeds, local_rank: int, local_size: int, sysfs: Path) -> list[Anchor]:
    """What each rank of this host should be near: local rank 0 computes on torch's GPU 0, local rank 1 on GPU 1."""
    if feeds != "cuda":
        return [UNKNOWN] * local_size
    return [
        Anchor(f"GPU {address or gpu}", None if address is None else node_of(address, sysfs=sysfs))
        for gpu, address in enumerate(addresses_of_gpus(local_size, mine=local_rank))
    ]
