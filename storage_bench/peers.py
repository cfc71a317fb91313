"""`iobench load --peers`: our loader beside the roads others take, on the same files, for the same consumer.

pilot       every way a peer can be taken, a block each -> its best            (not counted)
contest     ours and each peer's best, in interleaved blocks                   (contest.py)
record      a point for each road; a peer's holds our ratios to it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ..loaders.engines.choice import EngineName
from ..loaders.evidence import RouteEvidence
from ..loaders.opening import open_index
from ..loaders.roads.baselines import IMAGE_PEERS, OURS, PEERS, missing
from ..loaders.roads.road import RoadOptions
from ..loaders.traced import MAX_SPANS
from ..results.privacy import public_text
from ..results.record import Metric, Point, not_measured
from ..results.stats import rate_flags, summarise
from .choice import choose_engine
from .contest import Contest, Contestant, OnBlock, best_of, interleave, open_contest, ratio
from .decoded import Decoded, DecodedBy
from .evidence import cold_scope_of, doubts, read_path
from .image_hops import HOPS, QUEUES, ImageHops, hops_of
from .road_server import Consumer, RoadBlock
from .workload import PageCache, parse_list

UNITS = {"images_per_s": "images/s", "read_gbps": "GB/s", "cpu_seconds_per_gb": "s/GB", "peak_rss_bytes": "bytes"}
COMPARED = ("images_per_s", "cpu_seconds_per_gb")


class PeersError(ValueError):
    """There is nothing to compare with."""

    exit_status: ClassVar[int] = 4


class PeersUsageError(PeersError):
    """The comparison is asked for in a way that does not work."""

    exit_status: ClassVar[int] = 2


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in PEERS:
            raise ValueError(f"{name!r} is not known; known peers are {', '.join(PEERS)}")
    return tuple(dict.fromkeys(names))


class PeersConfig(BaseModel):
    """What is held side by side, and for how long.  All roads read in the order on disk, with the same threads.

    Of encoded images all make normalised samples, by `transform` and of `image_size`; raw ones pass these two by.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    peers: Annotated[tuple[str, ...], BeforeValidator(parse_list), Field(min_length=1), AfterValidator(_known)]
    consumer: Consumer = "copy"
    engine: EngineName = "auto"
    batch_size: Annotated[int, Field(ge=1)] = 64
    shuffle: Literal["off"] = "off"
    num_workers: Annotated[int, Field(ge=1, le=64)] = 2
    prefetch_factor: Annotated[int, Field(ge=1, le=64)] = 2
    page_cache: PageCache = "cold"
    transform: Literal["train", "validation"] = "train"
    image_size: Annotated[int, Field(ge=8, le=4096)] = 224
    seconds: Annotated[float, Field(gt=0, le=600)] = 1.0
    blocks: Annotated[int, Field(ge=2, le=1000)] = 8
    seed: int = 0


@dataclass(frozen=True, slots=True)
class PeersResult:
    """Ours first, then each peer; what must be said of them, and why a point would not count.

    `images` is what there is to say of encoded ones: how ours decodes, and which hop limits it.  `noted` are
    the roads' labels and what each noted for a trace.
    """

    points: tuple[Point, ...]
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]
    invalid: tuple[str, ...]
    roads: tuple[dict[str, str | int], ...]
    images: dict[str, Any] | None = None
    noted: tuple[tuple[str, dict[str, Any]], ...] = ()


def compare_peers(
    path: Path,
    config: PeersConfig,
    *,
    on_block: OnBlock | None = None,
    traced: bool = False,
    keep: Callable[[PeersResult], None] | None = None,
) -> PeersResult:
    """Measure our loader and `config.peers` on `path`, interleaved.

    A peer whose package is missing is named with what brings it; PeersError where that leaves none.  Raises
    RoadProcessError for a road that fails, and what opening the shards raises.  On KeyboardInterrupt the rounds that
    are whole are given to `keep`.
    """
    transform = _transform(path, config)
    absent = {name: reason for name in config.peers if (reason := missing(name))}
    present = [name for name in config.peers if name not in absent]
    if not present:
        raise PeersError(f"there is no peer to compare with: {'; '.join(absent.values())}")
    options = RoadOptions(
        batch_size=config.batch_size,
        threads=config.num_workers,
        prefetch_factor=config.prefetch_factor,
        cold=config.page_cache == "cold",
        seed=config.seed,
        transform=transform,
        image_size=config.image_size,
    )
    contest = open_contest(path, options, consumer=config.consumer, seconds=config.seconds)
    ours = Contestant(OURS, replace(options, engine=_our_engine(config, contest.paths[0])), contest)
    contestants = [ours, *(best_of(name, options, contest) for name in present)]

    def result(evidence: Sequence[RouteEvidence]) -> PeersResult:
        return _result(contestants, evidence, absent, decodes=bool(transform))

    evidence = interleave(
        contestants,
        blocks=config.blocks,
        seed=config.seed,
        on_block=on_block,
        trace_spans=MAX_SPANS // len(contestants) if traced else 0,
        keep=None if keep is None else lambda evidence: keep(result(evidence)),
    )
    return result(evidence)


def _result(
    contestants: Sequence[Contestant], evidence: Sequence[RouteEvidence], absent: Mapping[str, str], *, decodes: bool
) -> PeersResult:
    """What the blocks of all come to; the first contestant is ours."""
    ours = contestants[0]
    decoded = _decoded(ours) if decodes else None
    hops = None if decoded is None else _hops(ours, decoded)
    points = [
        point_of(contestant, evidence=seen, ours=None if contestant is ours else ours)
        for contestant, seen in zip(contestants, evidence, strict=True)
    ]
    if hops is not None:
        points[0] = points[0].model_copy(update={"metrics": points[0].metrics | hops.metrics()})
    return PeersResult(
        points=(*points, *(_absent_point(name, reason, ours.contest) for name, reason in absent.items())),
        sentences=(*(sentence(point) for point in points[1:]), *([hops.sentence] if hops else [])),
        warnings=(*absent.values(), *(text for seen in evidence for text in doubts(seen))),
        invalid=tuple(f"{seen.engine}: {reason}" for seen in evidence if (reason := seen.invalid_reason())),
        roads=tuple(_described(contestant) for contestant in contestants),
        images={**decoded.described(), **hops.described()} if decoded and hops else None,
        noted=tuple((contestant.label, contestant.noted) for contestant in contestants if contestant.noted),
    )


def _transform(path: Path, config: PeersConfig) -> Literal["", "train", "validation"]:
    """What becomes of the images; PeersUsageError for peers that do not decode encoded ones."""
    if open_index(path)[1].layout.codec is None:
        return ""
    if wrong := [name for name in config.peers if name not in IMAGE_PEERS]:
        raise PeersUsageError(
            f"{path} holds encoded images, which {', '.join(wrong)} would hand out as they are; compare with "
            f"{' or '.join(IMAGE_PEERS)}"
        )
    return config.transform


def _decoded(ours: Contestant) -> Decoded:
    """Who decoded for us; a broken image ends a comparison."""
    name, reason = ours.decoder
    num_images = sum(block.total_images for block in ours.blocks)
    return Decoded(requested="auto", by=(DecodedBy(decoder=name, reason=public_text(reason)),), num_images=num_images)


def _hops(ours: Contestant, decoded: Decoded) -> ImageHops:
    """Where the time of our threads went, over all blocks."""
    wall_s = sum(block.seconds for block in ours.blocks)
    spent = {name: sum(block.hop_s[name] for block in ours.blocks) for name in (*HOPS, *QUEUES)}
    waited = sum(block.waited_s for block in ours.blocks) / wall_s
    return hops_of(spent, decoded, num_threads=ours.options.threads, wall_s=wall_s, waited=waited)


def point_of(contestant: Contestant, *, evidence: RouteEvidence | None = None, ours: Contestant | None = None) -> Point:
    """The record's point of a contestant; with `ours` it holds our ratios to it."""
    samples = contestant.samples()
    metrics = {name: summarise(values, unit=UNITS[name]) for name, values in samples.items()}
    if ours is not None:
        for name in COMPARED:
            metrics[f"{name}_ratio"] = ratio(ours, contestant, name)
    options, contest = contestant.options, contestant.contest
    return Point(
        params={
            **_params(contestant.road, contest),
            "engine": contestant.engine,
            "version": contestant.version,
            "threads": options.threads,
            "batch_size": options.batch_size,
            "shuffle": options.shuffle,
            **_made(options),
        },
        read_path=None if evidence is None else read_path(evidence, cold_scope=cold_scope_of(contest.paths[0])),
        metrics={**metrics, **_memory(contestant.blocks)},
        flags=rate_flags(metrics["images_per_s"]),
    )


def sentence(point: Point) -> str:
    """What a peer's point says, in one line."""
    rate, cpu = (point.metrics[f"{name}_ratio"] for name in COMPARED)
    return (
        f"Against {point.params['road']} ({point.params['engine']}) ours gives {_spread(rate)} times the images/s, "
        f"for {_spread(cpu)} times the CPU seconds per GB."
    )


def _our_engine(config: PeersConfig, sample: Path) -> EngineName:
    """Warm, the engine asked for; cold, one that leaves nothing in the page cache."""
    if config.page_cache == "warm" and config.engine != "direct":
        return config.engine
    if config.engine == "mmap":
        raise PeersUsageError("engine mmap: mapped pages cannot be evicted; compare it warm")
    return "direct" if choose_engine(config.engine, sample, page_cache=config.page_cache)[0] == "direct" else "buffered"


def _memory(blocks: Sequence[RoadBlock]) -> dict[str, Metric]:
    peak = float(max(block.peak_rss_bytes for block in blocks))
    known = [block.memory_bytes for block in blocks if block.memory_bytes is not None]
    own = not_measured("bytes", "this kernel does not tell")
    if known:
        own = Metric(value=float(max(known)), unit="bytes", n=1, reason="without mapped files, at a block's end")
    return {
        "peak_rss_bytes": Metric(value=peak, unit="bytes", n=1, reason="of its processes, mapped files included"),
        "memory_bytes": own,
    }


def _params(road: str, contest: Contest) -> dict[str, str | int | float | bool | None]:
    return {"stage": "load", "road": road, "consumer": contest.consumer, "page_cache": contest.page_cache}


def _made(options: RoadOptions) -> dict[str, str | int]:
    """What is made of encoded images."""
    return {"transform": options.transform, "image_size": options.image_size} if options.transform else {}


def _absent_point(name: str, reason: str, contest: Contest) -> Point:
    return Point(
        params=_params(name, contest), metrics={metric: not_measured(UNITS[metric], reason) for metric in UNITS}
    )


def _described(contestant: Contestant) -> dict[str, str | int]:
    return {
        "road": contestant.road,
        "version": contestant.version,
        "engine": contestant.engine,
        "threads": contestant.options.threads,
        "why": contestant.why,
    }


def _spread(metric: Metric) -> str:
    low, high = metric.ci95 or (metric.value, metric.value)
    return f"{metric.value:.2f} ({low:.2f} to {high:.2f})"
