"""Storage to host memory and to the GPU, over block sizes and threads: every way that is open here, and its limit.

    host             preadv, warm files                            host memory
    direct           preadv past the page cache                    host memory
    bus              no read: copies of that size                  the GPU
    bounce           preadv, and a copy on the thread's stream     the GPU        limit: the less of host and bus
    direct bounce    the same past the page cache                  the GPU        limit: the less of direct and bus
    kvikio host      CuFile.pread                                  host memory    limit: host
    kvikio compat    CuFile.pread in compatibility mode            the GPU        limit: the less of host and bus
    kvikio direct    CuFile.pread by cuFile, whichever way         the GPU        limit: the less of direct and bus

What kvikio's reads came by is told by counters: `gds` only where nvidia-fs moved the bytes as well.  kvikio comes last:
what was found before stays where it hangs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from ...loaders.counters.backends import route_by_backends
from ...loaders.counters.nvidia_fs import nvidia_fs_counter
from ...loaders.engines.readers import direct_refused
from ...loaders.page_cache import warm
from ...loaders.shards import ShardSet
from ...results.record import Point
from ...results.stats import summarise
from ..carry import Hands, ReadHands, SendHands, SentHands, Span, opened, rate_of, shut, spans_of
from ..device import Device
from ..kvikio_ways import COMPAT, DIRECT, HOST, kvikio_ways
from ..part import Bench, Findings, PartSkippedError
from ..rounds import Block, rounds

SIZES = tuple((64 << 10) << (2 * step) for step in range(5))  # 64 KiB to 16 MiB
TWIN_SIZES = (64 << 10, 256 << 10)
THREADS = (1, 2, 4, 8)
TWIN_THREADS = (1, 2)
ROUNDS = 3
SHARE_OF_KVIKIO = 0.4  # of the time
LIMITS: Mapping[str, tuple[str, ...]] = {
    "bounce": ("host", "bus"),
    "direct bounce": ("direct", "bus"),
    HOST: ("host",),
    COMPAT: ("host", "bus"),
    DIRECT: ("direct", "bus"),
}
IN_HOST_MEMORY = ("host", "direct", HOST)
WAYS = ("host", "direct", "bus", "bounce", "direct bounce", HOST, COMPAT, DIRECT)


class Cell(NamedTuple):
    """One place of the table."""

    way: str
    block_bytes: int
    threads: int


@dataclass(slots=True)
class Found:
    """What was measured: bytes/s of each cell, round by round; routes of ways that count; and what is not open, why."""

    rates: dict[Cell, list[float]] = field(default_factory=dict)
    routes: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def limit(self, cell: Cell) -> float | None:
        """Bytes/s that no such reads can go beyond, by what was measured of the same size and threads."""
        bounds = [self.rates.get(cell._replace(way=way), []) for way in LIMITS.get(cell.way, ())]
        return min(sum(rates) / len(rates) for rates in bounds) if bounds and all(bounds) else None


def run(bench: Bench) -> Iterator[Findings]:
    """First the kernel's ways and the bus, then kvikio's; the whole table after every round."""
    device, found, begin = Device(bench.device), Found(), perf_counter()
    paths = ShardSet.open(bench.raw).files
    largest = max(map(_size_of, paths))
    sizes = [size for size in (TWIN_SIZES if bench.twin else SIZES) if size <= largest]
    if not sizes:
        raise PartSkippedError(f"the largest file has {largest} bytes, and the smallest read {_kib(min(SIZES))}")
    threads = TWIN_THREADS if bench.twin else THREADS
    warm(paths)
    for opens, share in ((_kernels, 1 - SHARE_OF_KVIKIO), (_kvikios, 1.0)):
        with ExitStack() as stack:
            ways = opens(device, paths, max(sizes), max(threads), found, stack)
            blocks = _blocks(ways, sizes, threads, device, found)
            left_s = bench.seconds * share - (perf_counter() - begin)
            before = dict(found.rates)
            for rates in rounds(blocks, seconds=left_s, blocks=ROUNDS) if blocks else ():
                found.rates = {**before, **rates}
                yield _findings(found, bench)
    yield _findings(found, bench)


@dataclass(frozen=True, slots=True)
class OpenWay:
    """Hands for every thread, spans by their size, and what it counts by itself."""

    hands: Sequence[Hands]
    spans: Callable[[int], list[Span]]
    counters: Callable[[], dict[str, int]] = dict


Opened = dict[str, OpenWay]


def _kernels(
    device: Device, paths: Sequence[Path], most_bytes: int, threads: int, found: Found, stack: ExitStack
) -> Opened:
    """What preadv and copies do; past the page cache where the file system does it."""
    kinds = {"": opened(paths)}
    if reason := direct_refused(paths[0]):
        found.refused["direct"] = reason
    else:
        kinds["direct"] = opened(paths, direct=True)
    for files in kinds.values():
        stack.callback(shut, files)
    reads = [ReadHands(device, most_bytes) for _ in range(threads)]
    sends = [SendHands(device, most_bytes) for _ in range(threads)]
    both = [SentHands(device, most_bytes) for _ in range(threads)]
    ways: Opened = {"bus": OpenWay(sends, _spanning(kinds[""]))}
    for name, files in kinds.items():
        ways[name or "host"] = OpenWay(reads, _spanning(files))
        ways[f"{name} bounce".strip()] = OpenWay(both, _spanning(files))
    return ways


def _spanning(files: Sequence[tuple[int, Path]]) -> Callable[[int], list[Span]]:
    return lambda size: spans_of(files, size)


def _kvikios(
    device: Device, paths: Sequence[Path], most_bytes: int, threads: int, found: Found, stack: ExitStack
) -> Opened:
    """kvikio's, as far as they are open."""
    ways, refused = kvikio_ways(device, paths, threads=threads, size_bytes=most_bytes)
    found.refused |= refused
    for way in ways.values():
        stack.callback(way.close)
    return {name: OpenWay(way.hands, way.spans, way.counters) for name, way in ways.items()}


def _blocks(
    ways: Opened, sizes: Sequence[int], threads: Sequence[int], device: Device, found: Found
) -> dict[Cell, Block]:
    return {
        Cell(name, size, count): _block(name, way, size, count, device, found)
        for name, way in ways.items()
        for size, count in product(sizes, threads)
    }


def _block(name: str, way: OpenWay, size: int, threads: int, device: Device, found: Found) -> Block:
    """Blocks of one cell; what the way itself counted meanwhile tells its route."""
    spans, nvidia_fs = way.spans(size), nvidia_fs_counter()

    def run_block(seconds: float) -> float:
        before, directly = way.counters(), nvidia_fs.read_bytes()
        rate = rate_of(way.hands[:threads], spans, seconds, device)
        after, moved = way.counters(), nvidia_fs.read_bytes()
        own = {key: count - before.get(key, 0) for key, count in after.items()}
        direct_bytes = None if directly is None or moved is None else moved - directly
        if told := route_by_backends(own, nvidia_fs_bytes=direct_bytes, into_gpu=name not in IN_HOST_MEMORY):
            found.routes[name] = told[0]
        return rate

    return run_block


def _size_of(path: Path) -> int:
    return path.stat().st_size


def _findings(found: Found, bench: Bench) -> Findings:
    points = [_point(cell, rates, found) for cell, rates in found.rates.items()]
    into_gpu = [point for point in points if point.params["way"] not in (*IN_HOST_MEMORY, "bus")]
    best = max(into_gpu, key=lambda point: point.metrics["read_gbps"].value or 0.0)
    return Findings(
        tuple(points),
        dict(best.metrics),
        sentence=_sentence(best),
        warnings=tuple(f"{way} is left out: {reason}" for way, reason in found.refused.items()),
        workload={"table": _table(found, bench.label), "routes": dict(found.routes)},
    )


def _sentence(best: Point) -> str:
    way, size, threads = (best.params[name] for name in ("way", "block_bytes", "threads"))
    share = best.metrics.get("of_limit")
    limit = "" if share is None or share.value is None else f", {share.value:.2f} of its limit"
    rate = best.metrics["read_gbps"].value or 0.0
    return f"into the GPU up to {rate:.1f} GB/s: {way}, {_kib(size)} by {threads} threads{limit}"


def _point(cell: Cell, rates: list[float], found: Found) -> Point:
    metrics = {"read_gbps": summarise([rate / 1e9 for rate in rates], unit="GB/s")}
    if (limit := found.limit(cell)) is not None:
        metrics["of_limit"] = summarise([rate / limit for rate in rates], unit="fraction")
    destination = "host" if cell.way in IN_HOST_MEMORY else "gpu"
    params: dict[str, Any] = {"stage": "reads to gpu", **cell._asdict(), "destination": destination}
    if cell.way in found.routes:
        params["route"] = found.routes[cell.way]
    return Point(params=params, metrics=metrics)


def _table(found: Found, device: str) -> dict[str, Any]:
    """A row for each size and number of threads, a column for each way in GB/s, and a bounce's limit beside them."""
    ways = [way for way in WAYS if any(cell.way == way for cell in found.rates)]
    places = sorted({(cell.block_bytes, cell.threads) for cell in found.rates})
    rows = [
        [
            _kib(size),
            str(threads),
            *(_gbps(found, Cell(way, size, threads)) for way in ways),
            _limit(found, size, threads),
        ]
        for size, threads in places
    ]
    columns = ["block", "threads", *ways, "limit of bounce"]
    return {"title": f"GB/s of warm files, by block size and threads ({device})", "columns": columns, "rows": rows}


def _gbps(found: Found, cell: Cell) -> str:
    rates = found.rates.get(cell)
    return f"{sum(rates) / len(rates) / 1e9:.2f}" if rates else "-"


def _limit(found: Found, size: int, threads: int) -> str:
    limit = found.limit(Cell("bounce", size, threads))
    return "-" if limit is None else f"{limit / 1e9:.2f}"


def _kib(size: Any) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
