"""Reading side by side: the data in place and their copy, both cold, with the loader, in interleaved blocks.

    round r:  in place | copy    (the other way round every second time)
        a block:  evict -> open -> first batch -> [ramp: what was read ahead meanwhile] -> [counted]

Each block begins anew, so that the time to the first batch has as many samples as the rate.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from ...loaders.discovery import find_shards
from ...loaders.engines.readers import BufferedReader, Reader
from ...loaders.evidence import RouteEvidence
from ...loaders.page_cache import warm
from ...loaders.remote import is_remote
from ...loaders.shards import ShardSet
from ...results.record import ColdScope
from ..accelerators import touch
from ..evidence import cold_scope_of
from .local import cold_reader
from .watch import ColdWatch

if TYPE_CHECKING:
    from ...loaders.dataloader import DataLoader

Where = Literal["in place", "copy"]

SHUFFLE: Literal["blocks"] = "blocks"
WORKERS, PREFETCH = 2, 2
MAX_BATCH, MAX_BATCH_BYTES = 64, 64 << 20


class NotInPlaceError(ValueError):
    """The loader reads something else than the files that were named."""


@dataclass(frozen=True, slots=True)
class ReadBlock:
    """One block: seconds to the first batch, and what was counted after the ramp."""

    first_batch_s: float
    images: int
    seconds: float

    @property
    def images_per_s(self) -> float:
        """Images of the counted part over its time."""
        return self.images / self.seconds


@dataclass(slots=True)
class Road:
    """One of the two: its shards as opened, and what its blocks and counters came to."""

    where: Where
    shards: ShardSet
    batch_size: int
    engine: str
    cold_scope: ColdScope
    watch: ColdWatch | None  # of files; objects have none
    blocks: list[ReadBlock] = field(default_factory=list)
    evidence: RouteEvidence | None = None

    @property
    def num_images(self) -> int:
        """Images of the whole set."""
        return len(self.shards)

    @property
    def total_bytes(self) -> int:
        """Bytes of all its shards."""
        return sum(stamp.size_bytes for stamp in self.shards.index.stamps)


def open_road(where: Where, source: str | Path) -> Road:
    """A road over the data set in `source`; builds its index on first use.

    Raises what opening shards raises, and NotInPlaceError where the loader would read copies of them.
    """
    shards = ShardSet.open(source, device="cpu")
    size = max(1, min(MAX_BATCH, len(shards), MAX_BATCH_BYTES // max(1, shards.index.layout.slot_bytes)))
    if is_remote(source):
        return Road(where, shards, size, shards.reader.engine, "client", None)
    shards.close()
    if list(shards.paths) != find_shards(source):
        raise NotInPlaceError("compressed shards are not read in place: the loader makes plain copies of them")
    engine = cold_reader(shards.files).engine
    return Road(where, shards, size, engine, cold_scope_of(shards.files[0]), ColdWatch(shards.files))


def measure_roads(
    roads: Sequence[Road],
    *,
    rounds: int,
    block_s: float,
    limit_s: float,
    on_round: Callable[[int, int], None] | None = None,
) -> None:
    """`rounds` interleaved blocks on every road, fewer where `limit_s` is over before; kept in the roads."""
    for road in roads[-1:]:
        _pilot(road)
    begin = perf_counter()
    for number in range(rounds):
        if number and perf_counter() - begin > limit_s:
            return
        for road in roads if number % 2 == 0 else roads[::-1]:
            _run_block(road, number, block_s)
        if on_round is not None:
            on_round(number + 1, rounds)


def warm_rates(road: Road, *, blocks: int, block_s: float) -> list[float]:
    """Images/s of blocks from the page cache, which must have room for the set."""
    warm(road.shards.files)
    rates = []
    for number in range(blocks):
        loader = _new_loader(road, BufferedReader(), number)
        rates.append(_read(loader, block_s).images_per_s)
    return rates


def _pilot(road: Road) -> None:
    """A block that counts for nothing: code is loaded and threads are begun for the first time."""
    reader = road.shards.reader if road.watch is None else cold_reader(road.shards.files)
    _read(_new_loader(road, reader, 0), 0.0)
    if road.watch is not None:
        reader.close()


def _run_block(road: Road, number: int, block_s: float) -> None:
    if road.watch is None:
        loader = _new_loader(road, road.shards.reader, number)
        road.blocks.append(_read(loader, block_s))
        road.evidence = replace(loader.evidence(), page_cache="cold")  # of the last block; no page cache holds objects
        return
    road.watch.begin()
    reader = cold_reader(road.shards.files)
    try:
        loader = _new_loader(road, reader, number)
        road.blocks.append(_read(loader, block_s))
    finally:
        reader.close()
    road.watch.end(delivered_bytes=reader.delivered_bytes, payload_bytes=loader.tally.payload_bytes)
    road.evidence = road.watch.evidence(road.engine)


def _new_loader(road: Road, reader: Reader, number: int) -> DataLoader[Any]:
    from ...loaders.dataloader import DataLoader

    return DataLoader(
        ShardSet(road.shards.paths, road.shards.index, reader, shuffle_mode=SHUFFLE, seed=number),
        batch_size=road.batch_size,
        shuffle=True,
        num_workers=WORKERS,
        prefetch_factor=PREFETCH,
        drop_last=True,
    )


def _read(loader: DataLoader[Any], seconds: float) -> ReadBlock:
    begin = perf_counter()
    batches = _endless(loader)
    try:
        next(batches)
        first_s = perf_counter() - begin
        for _ in range(WORKERS * PREFETCH):
            next(batches)
        start = now = perf_counter()
        images = 0
        while now - start < seconds:
            images += next(batches)
            now = perf_counter()
        return ReadBlock(first_s, images, now - start)
    finally:
        batches.close()


def _endless(loader: DataLoader[Any]) -> Generator[int, None, None]:
    """Touch batch after batch, epoch after epoch; how many images each held."""
    while True:
        for images, _ in loader:
            if isinstance(images, list):
                for sample in images:
                    touch(sample.reshape(1, -1).numpy())
            else:
                touch(images.permute(0, 2, 3, 1).numpy())
            yield len(images)
