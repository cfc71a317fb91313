"""What a counter is, and several of them taken as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

CounterClass = Literal["exact", "bounding", "client-own", "none"]

_BY_STRENGTH: tuple[CounterClass, ...] = ("exact", "client-own", "bounding", "none")


class Counter(Protocol):
    """Counts bytes on their way from storage to this machine."""

    @property
    def name(self) -> str:
        """What it counts, as a record's `counters` call it."""

    @property
    def counter_class(self) -> CounterClass:
        """What may be concluded from it."""

    @property
    def reason(self) -> str:
        """What it counts, or why nothing counts, in words."""

    @property
    def leaves(self) -> tuple[str, ...]:
        """Its block devices ("major:minor"): what they read is also counted for each process.  Else none."""

    def read_bytes(self) -> int | None:
        """Bytes so far; only differences mean something.  None where it cannot be read."""


@dataclass(frozen=True)
class Roots:
    """Where the kernel shows itself."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")


@dataclass(frozen=True)
class NoCounter:
    """Nothing counts these bytes."""

    reason: str
    name: str = "none"
    counter_class: CounterClass = "none"
    leaves: tuple[str, ...] = ()

    def read_bytes(self) -> int | None:
        """None."""
        return None


@dataclass(frozen=True)
class SumCounter:
    """Several counters of different bytes as one, as weak as the weakest of them."""

    parts: tuple[Counter, ...]
    name: str = "sum_bytes"

    @property
    def counter_class(self) -> CounterClass:
        """The weakest part's."""
        return max((part.counter_class for part in self.parts), key=_BY_STRENGTH.index)

    @property
    def reason(self) -> str:
        """What the weakest parts say."""
        weakest = self.counter_class
        return "; ".join(dict.fromkeys(part.reason for part in self.parts if part.counter_class == weakest))

    @property
    def leaves(self) -> tuple[str, ...]:
        """The parts' block devices, unless one of them is none."""
        if not all(part.leaves for part in self.parts):
            return ()
        return tuple(sorted({leaf for part in self.parts for leaf in part.leaves}))

    def read_bytes(self) -> int | None:
        """The sum, or None where a part cannot be read."""
        counts = [part.read_bytes() for part in self.parts]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None


@dataclass(frozen=True)
class CounterSet:
    """All counters that exist for a set of files: one decides, the others stand beside it in the record."""

    deciding: Counter
    beside: tuple[Counter, ...] = ()

    @property
    def name(self) -> str:
        """The deciding counter's."""
        return self.deciding.name

    @property
    def counter_class(self) -> CounterClass:
        """The deciding counter's."""
        return self.deciding.counter_class

    @property
    def reason(self) -> str:
        """The deciding counter's."""
        return self.deciding.reason

    @property
    def leaves(self) -> tuple[str, ...]:
        """The deciding counter's."""
        return self.deciding.leaves

    def read_bytes(self) -> int | None:
        """The deciding counter's."""
        return self.deciding.read_bytes()

    def snapshot(self) -> dict[str, int]:
        """What every counter that can be read shows now, by name; the deciding one's too."""
        counts = {counter.name: counter.read_bytes() for counter in (self.deciding, *self.beside)}
        return {name: count for name, count in counts.items() if count is not None}


def moved(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """How far each counter went between two snapshots; one that was not there both times is left out."""
    return {name: count - before[name] for name, count in after.items() if name in before}


def total(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sums over several stretches, of the counters that were there in all of them."""
    stretches = list(parts)
    names = set.intersection(*(set(part) for part in stretches)) if stretches else set()
    return {name: sum(part[name] for part in stretches) for name in sorted(names)}
