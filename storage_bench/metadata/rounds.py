"""Rounds of operations on a folder of small files, in one state of the cache after the other.

round r: the operations in a random order, a time block each
         remove, then create the same names again: the folder keeps its size
cold     names forgotten before each block, which looks at every name at most once
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ...loaders.evidence import CounterSet, process_read_bytes
from ..durable import sync_file_system
from ..workload import PageCache
from .config import OPERATIONS, MetadataConfig, Operation
from .files import SmallFiles, Timed
from .memory import drop_names

UNITS = {"list": "names/s"}
CHURN_SHARE = 4  # a quarter of the files is removed and made again in each round

OnBlock = Callable[[float, str], None]


@dataclass(slots=True)
class State:
    """All blocks of one state of the cache."""

    page_cache: PageCache
    blocks: dict[Operation, list[Timed]] = field(default_factory=lambda: {name: [] for name in OPERATIONS})
    device_bytes: dict[Operation, list[int | None]] = field(default_factory=lambda: {name: [] for name in OPERATIONS})
    process_bytes: list[int | None] = field(default_factory=list)


def measure(files: SmallFiles, counter: CounterSet, state: State, config: MetadataConfig, tell: OnBlock) -> None:
    """All rounds in one state of the cache."""
    random = np.random.Generator(np.random.PCG64DXSM(config.seed))
    in_memory = set(files.names)
    sync_file_system(files.folder)
    for number in range(config.blocks):
        for place, which in enumerate(random.permutation(len(OPERATIONS) - 1).tolist()):
            operation = OPERATIONS[which + 1]  # create follows remove
            names = [files.names[each] for each in random.permutation(len(files.names)).tolist()]
            timed = _block(files, counter, state, operation, names, in_memory, config)
            done = (number * (len(OPERATIONS) - 1) + place + 1) / (config.blocks * (len(OPERATIONS) - 1))
            tell(done, f"{state.page_cache} {operation}: {timed.per_s:,.0f} {unit_of(operation)}")


def _block(
    files: SmallFiles,
    counter: CounterSet,
    state: State,
    operation: Operation,
    names: list[str],
    in_memory: set[str],
    config: MetadataConfig,
) -> Timed:
    """One time block of one operation, names forgotten before it where that is wanted; `in_memory` has pages."""
    cold = state.page_cache == "cold"
    if cold:
        drop_names(files.folder, with_pages=in_memory)
        in_memory.clear()
    before, mine = counter.read_bytes(), process_read_bytes()
    if operation == "remove":
        timed = files.run(files.remove, names[: len(names) // CHURN_SHARE], seconds=config.seconds)
        created = names[: timed.count]  # threads take names in this order, and do each that they took
        state.blocks["create"].append(files.run(files.create, created))
        sync_file_system(files.folder)
        in_memory.update(created)
    elif operation == "list":
        one = 1 if cold else None  # a second reader of the folder would find it in memory
        timed = files.run(files.list, [str(files.folder)], seconds=config.seconds, again=not cold, threads=one)
    else:
        timed = files.run(getattr(files, operation), names, seconds=config.seconds, again=not cold)
        in_memory.update(names if operation == "small_read" else ())
    state.blocks[operation].append(timed)
    state.device_bytes[operation].append(_moved(counter.read_bytes(), before))
    if operation == "small_read":
        state.process_bytes.append(_moved(process_read_bytes(), mine))
    return timed


def unit_of(operation: Operation) -> str:
    """What is counted per second."""
    return UNITS.get(operation, "files/s")


def _moved(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before
