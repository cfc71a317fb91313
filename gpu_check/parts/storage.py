"""Storage to the GPU, against its limit: our loader beside the bare loop, at the same threads, in interleaved blocks.

    bare       preadv into pinned memory, then a copy on the thread's own stream
    buffered   our loader on the same warm files: what is required is of this one

direct.py and kvikio.py hold other engines against the same loop, each in a part of its own: counters of the device then
show this engine's reads alone, and kvikio may hang.  Before anything else reads, a second witness sees which way an
engine's bytes go, and the route that the evidence names is held against it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

from ...loaders.page_cache import warm
from ...loaders.shards import ShardSet
from ...results.record import Metric, Point
from ...results.stats import summarise
from ...storage_bench.evidence import cold_scope_of, read_path
from ..asked import asked
from ..bare import BareLoop
from ..device import Device
from ..part import Bench, Findings, PartSkippedError
from ..roads import OurRoad, block_of
from ..rounds import Block, Rates, ratio, rounds
from ..witness import look, named_truly, route_between

WATCHED_S = 0.3  # of an engine's reads alone, for the second witness


def run(bench: Bench) -> Iterator[Findings]:
    """Rates of the bare loop and of our loader, through the page cache."""
    return compare(bench, "buffered", required="storage_to_gpu")


def compare(bench: Bench, engine: str, *, required: str | None) -> Iterator[Findings]:
    """Rates of our loader with an engine, and over the bare loop's, round by round; `required` names what is asked.

    The bare loop reads warm files: what a device delivers in the meantime is delivered to our loader.
    Raises PartSkippedError where this machine refuses the engine.
    """
    device, batch = Device(bench.device), bench.sized(128, 16)
    shards = ShardSet.open(bench.raw)
    slot_bytes = shards.index.layout.slot_bytes
    warm(shards.files)
    with ExitStack() as stack:
        if engine == "kvikio":  # each of its reads waits for the default stream, on which batches would be looked at
            stack.enter_context(device.on(device.stream()))
        road = stack.enter_context(closing(_opened(bench, engine, device, batch, refusable=required is None)))
        ours = block_of(road, device)
        witnessed = _watched(road, ours, device)
        bare = BareLoop(shards.files, device, span_bytes=batch * slot_bytes, threads=bench.threads)
        stack.enter_context(closing(bare))
        contestants: dict[str, Block] = {"bare": bare.run, engine: _bytes(ours, slot_bytes)}
        comparison = Comparison(bench, engine, road, bare.label, batch * slot_bytes, witnessed, required)
        for rates in rounds(contestants, seconds=bench.seconds - WATCHED_S):
            found = comparison.findings(rates)
            yield replace(found, workload={"reader_threads": bench.threads, "placement": device.near().reason})


def _opened(bench: Bench, engine: str, device: Device, batch: int, *, refusable: bool) -> OurRoad:
    """Our loader with this engine; PartSkippedError where a machine may refuse it, and this one does."""
    try:
        return OurRoad(bench.raw, device, batch_size=batch, threads=bench.threads, engine=engine, shuffle_mode="off")
    except (ValueError, OSError, RuntimeError) as error:
        if not refusable:
            raise
        raise PartSkippedError(f"{engine}: {type(error).__name__}: {error}") from error


def _watched(road: OurRoad, block: Block, device: Device) -> tuple[str | None, str]:
    """Which way a second witness sees this road's bytes go, while nobody else in this process reads."""
    begin, delivered = look(), road.delivered_bytes
    block(WATCHED_S)
    return route_between(begin, look(), delivered_bytes=road.delivered_bytes - delivered, into_gpu=device.is_cuda)


def _bytes(block: Block, slot_bytes: int) -> Block:
    return lambda seconds: block(seconds) * slot_bytes


@dataclass(frozen=True, slots=True)
class Comparison:
    """Our loader beside the bare loop: what of them is the same in every round."""

    bench: Bench
    engine: str
    road: OurRoad
    bare_label: str
    batch_bytes: int
    witnessed: tuple[str | None, str]
    required: str | None

    def findings(self, rates: Rates) -> Findings:
        """What all rounds until now come to."""
        bench, engine = self.bench, self.engine
        over = ratio(rates[engine], rates["bare"])
        extra = extra_of(rates[engine], rates["bare"], self.batch_bytes)
        path = read_path(self.road.evidence(), cold_scope=cold_scope_of(bench.raw))
        truth = named_truly(path.observed_route, self.witnessed)
        ours = self._point(engine, self.road.label, rates)
        metrics = {**ours.metrics, "of_bare_loop": over, "extra_per_batch_s": extra, "route_named_truly": truth}
        ours = ours.model_copy(update={"metrics": metrics, "read_path": path})
        route, unseen = f"route_{engine}", truth.reason if truth.value is None else None
        requirements = () if self.required is None else asked(self.required).judge(over, bench)
        if unseen is None:  # who sees no route, as of peer-to-peer DMA, holds nobody to it
            requirements += asked(route).judge(truth, bench)
        rate, more = metrics["read_gbps"].value or 0.0, 1e6 * (extra.value or 0.0)
        sentence = (
            f"{engine}: {rate:.1f} GB/s, {over.value or 0:.3f} of a bare loop's on warm files; "
            f"{more:+,.0f} us for each batch of {self.batch_bytes / 1e6:.1f} MB; route {path.observed_route}"
        )
        points = (self._point("bare", self.bare_label, rates), ours)
        unmeasured = {} if unseen is None else {route: unseen}
        return Findings(points, metrics, requirements, sentence, unmeasured=unmeasured)

    def _point(self, name: str, label: str, rates: Rates) -> Point:
        params = {"stage": "to_gpu", "road": name, "engine": label, "threads": self.bench.threads}
        return Point(
            params=params,
            metrics={"read_gbps": summarise([rate / 1e9 for rate in rates[name]], unit="GB/s")},
        )


def extra_of(ours: Sequence[float], bare: Sequence[float], batch_bytes: int) -> Metric:
    """Seconds that a batch takes us longer than the bare loop, by the rates in bytes/s of blocks of one round.

    What is the same for every batch weighs on small ones: it says whether a ratio is missed by that or by bandwidth.
    """
    return summarise([batch_bytes / our - batch_bytes / their for our, their in zip(ours, bare, strict=True)], unit="s")
