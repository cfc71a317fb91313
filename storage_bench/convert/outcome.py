"""What a conversion has made: the parts that are whole, and those of them that this run made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .ledger import Broken, Row
from .plan import Plan


@dataclass(frozen=True)
class Converted:
    """`rows` are all parts of the target in order, `made` the names of those that this run made, in `seconds`."""

    target: Path
    plan: Plan
    rows: tuple[Row, ...]
    made: tuple[str, ...]
    bytes_in: int
    seconds: float
    jobs: int

    @property
    def num_images(self) -> int:
        """Images of the target."""
        return sum(row.num_images for row in self.rows)

    @property
    def num_bytes(self) -> int:
        """Bytes of the target's shards or files."""
        return sum(row.bytes for row in self.rows)

    @property
    def made_rows(self) -> tuple[Row, ...]:
        """The parts that this run has made."""
        made = set(self.made)
        return tuple(row for row in self.rows if row.name in made)

    @property
    def skipped(self) -> list[Broken]:
        """The broken images that were left out."""
        return [broken for row in self.rows for broken in row.skipped]
