"""A contest: several roads over the same files for one consumer, in interleaved time blocks.

    round r     every contestant's process runs one block, in a random order

Ratios are of pairs of blocks of one round, so that what moves the whole machine moves both sides.  The consumer is one
thread: it copies every byte of a batch on into one reused buffer, as a transfer to a device would, so that pages nobody
has read yet cannot pass for data; or it touches one byte of each 4 KiB.

Warm: the files are resident before each block.  Cold: they are evicted before it, and it ends after one pass at most.
A block's ramp takes what a road has read ahead before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..loaders.evidence import CounterSet, RouteEvidence, background_rate, counter_for, judge, moved, total
from ..loaders.formats.image_files import ImageFiles
from ..loaders.index import ShardIndex
from ..loaders.opening import open_index
from ..loaders.page_cache import cache_fraction, evict, warm
from ..loaders.remote import local_files
from ..loaders.roads.baselines import candidates
from ..loaders.roads.road import RoadOptions
from ..results.record import Metric
from ..results.stats import ratio_interval
from .limits import require_room_to_warm
from .road_process import RoadProcess, RoadProcessError, end_all
from .road_server import Consumer, RoadBlock
from .workload import PageCache, WorkloadError, WorkloadUsageError

RAMP_SHARE = 0.2
COLD_RAMPS = 4  # in one pass; with fewer a cold block is mostly ramp

OnBlock = Callable[[int, int, str, float], None]


@dataclass(frozen=True, slots=True)
class Contest:
    """What contestants have in common: files, consumer, state of the page cache, seconds of a block."""

    paths: tuple[Path, ...]
    index: ShardIndex
    consumer: Consumer
    page_cache: PageCache
    seconds: float

    @property
    def image_bytes(self) -> int:
        """The pixels of one image; of an encoded one its bytes, on the average."""
        return self.index.layout.payload_bytes

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(stamp.size_bytes for stamp in self.index.stamps)

    def run(self, process: RoadProcess, options: RoadOptions) -> RoadBlock:
        """One block of a road, from files that are resident or evicted, as asked."""
        cold = self.page_cache == "cold"
        return process.run(
            consumer=self.consumer,
            seconds=self.seconds,
            ramp_s=0.0 if cold else RAMP_SHARE * self.seconds,
            ramp_images=read_ahead_images(options),
            most_images=self.index.num_records if cold else None,
        )

    def prepare(self) -> None:
        """Evict the files, or bring back what has left the page cache."""
        if self.page_cache == "cold":
            evict(self.paths)
        elif (cache_fraction(self.paths) or 0.0) < 1.0:
            warm(self.paths)


@dataclass(slots=True)
class Contestant:
    """One road as it is taken here, over the files of its contest, and its blocks so far."""

    road: str
    options: RoadOptions
    contest: Contest
    why: str = "asked for"
    version: str = ""
    engine: str = ""
    decoder: tuple[str, str] = ("", "")
    blocks: list[RoadBlock] = field(default_factory=list)
    device_bytes: list[int | None] = field(default_factory=list)
    cache_fractions: list[float | None] = field(default_factory=list)
    cache_fractions_after: list[float | None] = field(default_factory=list)
    beside: list[dict[str, int]] = field(default_factory=list)
    noted: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """A few words that tell it from the others."""
        return f"{self.road} {self.engine}".rstrip()

    @property
    def images_per_s(self) -> list[float]:
        """Of each block."""
        return [block.images / block.seconds for block in self.blocks]

    def samples(self) -> dict[str, list[float]]:
        """The rates of each block, by the metrics' names."""
        gigabytes = [block.images * self.contest.image_bytes / 1e9 for block in self.blocks]
        pairs = list(zip(gigabytes, self.blocks, strict=True))
        return {
            "images_per_s": self.images_per_s,
            "read_gbps": [amount / block.seconds for amount, block in pairs],
            "cpu_seconds_per_gb": [block.cpu_s / amount for amount, block in pairs],
        }


def open_contest(path: Path, options: RoadOptions, *, consumer: Consumer, seconds: float) -> Contest:
    """Find and index the shards; WorkloadError where they are too few for cold blocks, or too many for warm ones."""
    paths, index = open_index(path)
    if index.layout.ragged and not options.transform:
        raise WorkloadUsageError(f"{path}: samples of unequal size are read by our loader alone; leave --peers out")
    if isinstance(paths, ImageFiles):
        raise WorkloadUsageError(
            f"{path}: folders of images are read by our loader alone; leave --peers out, or compare over shards of "
            f"them (`iobench convert {path} DST --format tfrecord-jpeg`)"
        )
    files = tuple(local_files(paths, user="a comparison with other loaders"))
    contest = Contest(files, index, consumer, "cold" if options.cold else "warm", seconds)
    needed = COLD_RAMPS * read_ahead_images(options)
    if not options.cold:
        require_room_to_warm(contest.num_bytes)
    elif contest.index.num_records < needed:
        raise WorkloadError(
            f"{path}: cold blocks are of one pass, and {contest.index.num_records} images are too few for batches of "
            f"{options.batch_size}, some of which are read ahead; use {needed} images, a smaller batch or warm reads"
        )
    return contest


def read_ahead_images(options: RoadOptions) -> int:
    """What a road may hold read ahead, and the batch in the consumer's hands."""
    return (max(1, options.threads) * options.prefetch_factor + 2) * options.batch_size


def best_of(name: str, options: RoadOptions, contest: Contest) -> Contestant:
    """The fastest way to take a road, from one block each that is not used again; ways that fail here are told."""
    ways = candidates(name, options)
    if len(ways) == 1:
        return Contestant(name, ways[0], contest)
    found: list[tuple[float, RoadOptions]] = []
    failed: list[str] = []
    with running([name]) as (process,):
        for way in ways:
            try:
                process.open(name, contest.paths, way)
                contest.prepare()
                block = contest.run(process, way)
            except RoadProcessError as error:
                failed.append(f"{way_text(name, way)} failed: {error}")
                continue
            found.append((block.images / block.seconds, way))
    if not found:
        raise WorkloadError(f"no way to take the road {name} works here: {'; '.join(failed)}")
    best = max(found, key=lambda pair: pair[0])[1]
    tried = ", ".join(f"{way_text(name, way)} ({rate:.0f} images/s)" for rate, way in found)
    return Contestant(name, best, contest, why="; ".join([f"the fastest of {tried}", *failed]))


def way_text(road: str, options: RoadOptions) -> str:
    """A way to take a road, in words."""
    kind = "worker" if road == "torch" else "thread"
    number = f"{options.threads or 'no'} {kind}{'' if options.threads == 1 else 's'}"
    return f"{options.variant}, {number}" if options.variant else number


def interleave(
    contestants: Sequence[Contestant],
    *,
    blocks: int,
    seed: int = 0,
    on_block: OnBlock | None = None,
    trace_spans: int = 0,
    keep: Callable[[list[RouteEvidence]], None] | None = None,
) -> list[RouteEvidence]:
    """Add `blocks` time blocks to each contestant, in rounds of random order, and judge what the counters saw.

    With `trace_spans` each road notes so many of its reads and waits, which end up in `noted`.  On KeyboardInterrupt
    contestants have the rounds that are whole, whose evidence is given to `keep`.
    """
    counter = counter_for([path for contestant in contestants for path in contestant.contest.paths])
    background = background_rate(counter) or 0.0
    with running([contestant.road for contestant in contestants]) as processes:
        for contestant, process in zip(contestants, processes, strict=True):
            paths, options = contestant.contest.paths, contestant.options
            opened = process.open(contestant.road, paths, options, trace_spans=trace_spans)
            contestant.version, contestant.engine, *decoder = opened
            contestant.decoder = (decoder[0], decoder[1])
        try:
            _run_rounds(contestants, processes, counter, blocks=blocks, seed=seed, on_block=on_block)
        except KeyboardInterrupt:
            if keep is not None and _cut_to_whole_rounds(contestants):
                keep([_judge(contestant, counter, background) for contestant in contestants])
            raise
        if trace_spans:
            for contestant, process in zip(contestants, processes, strict=True):
                contestant.noted = process.trace()
    return [_judge(contestant, counter, background) for contestant in contestants]


@contextmanager
def running(roads: Sequence[str]) -> Iterator[list[RoadProcess]]:
    """A process for each road; none is left."""
    processes: list[RoadProcess] = []
    try:
        for road in roads:
            processes.append(RoadProcess(road))  # noqa: PERF401  # those started so far are ended too
        yield processes
    finally:
        end_all(processes)


def ratio(ours: Contestant, theirs: Contestant, name: str) -> Metric:
    """ours / theirs of a metric that each block has, over pairs of blocks."""
    above, below = ours.samples()[name], theirs.samples()[name]
    pairs = tuple(a / b for a, b in zip(above, below, strict=True))
    if len(pairs) == 1:  # of a contest that was interrupted
        return Metric(value=pairs[0], unit="ours/theirs", n=1, samples=pairs)
    middle, low, high = ratio_interval(above, below)
    return Metric(value=middle, unit="ours/theirs", ci95=(low, high), n=len(pairs), samples=pairs)


def _run_rounds(
    contestants: Sequence[Contestant],
    processes: Sequence[RoadProcess],
    counter: CounterSet,
    *,
    blocks: int,
    seed: int,
    on_block: OnBlock | None,
) -> None:
    random = np.random.Generator(np.random.PCG64DXSM(seed))
    done, total = 0, blocks * len(contestants)
    for _ in range(blocks):
        for which in random.permutation(len(contestants)).tolist():
            _run_block(contestants[which], processes[which], counter)
            done += 1
            if on_block is not None:
                on_block(done, total, contestants[which].label, contestants[which].images_per_s[-1])


def _cut_to_whole_rounds(contestants: Sequence[Contestant]) -> int:
    """Take away the blocks of the round that was under way, whose pairs are not all there; how many rounds are left."""
    whole = min(len(contestant.cache_fractions_after) for contestant in contestants)
    for contestant in contestants:
        del contestant.blocks[whole:], contestant.device_bytes[whole:], contestant.beside[whole:]
        del contestant.cache_fractions[whole:], contestant.cache_fractions_after[whole:]
    return whole


def _run_block(contestant: Contestant, process: RoadProcess, counter: CounterSet) -> None:
    contest = contestant.contest
    contest.prepare()
    contestant.cache_fractions.append(cache_fraction(contest.paths))
    before = counter.snapshot()
    contestant.blocks.append(contest.run(process, contestant.options))
    went = moved(before, counter.snapshot())
    contestant.device_bytes.append(went.pop(counter.name, None))
    contestant.beside.append(went)
    contestant.cache_fractions_after.append(cache_fraction(contest.paths))


def _judge(contestant: Contestant, counter: CounterSet, background_bps: float) -> RouteEvidence:
    """All blocks of a contestant together; what a foreign road was given is the share of the files it delivered.

    What it may have read ahead before the first block was read outside of the counted time, and is left out.
    """
    contest = contestant.contest
    images = sum(block.total_images for block in contestant.blocks)
    images = max(0, images - read_ahead_images(contestant.options))
    devices = [count for count in contestant.device_bytes if count is not None]
    mine = [block.storage_bytes for block in contestant.blocks if block.storage_bytes is not None]
    whole = len(contestant.blocks)
    return judge(
        counter,
        engine=contestant.label,
        page_cache=contest.page_cache,
        cache_fraction=_mean(contestant.cache_fractions),
        cache_fraction_after=_mean(contestant.cache_fractions_after),
        beside=total(contestant.beside),
        delivered_bytes=round(images / contest.index.num_records * contest.num_bytes),
        payload_bytes=images * contest.index.layout.payload_bytes,
        raw_device_bytes=sum(devices) if len(devices) == whole else None,
        process_bytes=sum(mine) if len(mine) == whole else None,
        background_bytes=background_bps * sum(block.total_s for block in contestant.blocks),
    )


def _mean(shares: Sequence[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return float(np.mean(known)) if known and len(known) == len(shares) else None
