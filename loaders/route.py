"""Which way a loader's bytes took: counters from its first epoch on, and a requirement that holds them to a route.

    first iter()   device counter, the reader's own counters, the resident share of the shards
    evidence()     the same counters again, less what was asked for as background -> evidence.judge -> RouteEvidence
    end of epoch   require_route: RouteError where the bytes went another way, or where nothing proves which way

A reader that counts by itself (`counters()`, as kvikio's does) knows the route better than the device below it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Protocol, get_args

from .counters.backends import class_of, route_by_backends
from .counters.choice import counter_for_objects
from .counters.counter import CounterSet, NoCounter, moved
from .destinations.choice import DeviceChoice, cuda_missing
from .engines.readers import Reader
from .evidence import Route, RouteEvidence, background_rate, counter_for, judge, process_read_bytes
from .formats.image_files import ImageFiles
from .page_cache import PAGE_BYTES, resident_bytes
from .prefetch import Tally
from .remote import RemotePath, ShardPath

MAX_SAMPLED_SHARDS = 256  # each one is opened to ask what of it is resident; on NFS that is a round trip
SAMPLED_PIECE_BYTES = 32 << 20  # of each one: without cachestat every page is looked at
DEVICE_ROUTES = ("bounce", "gds", "p2pdma")


class RouteError(RuntimeError):
    """The bytes took another way than was required, or nothing proves which way they took."""

    exit_status: ClassVar[int] = 3


class RouteRefusedError(RouteError):
    """The required route is not possible on this machine, with this engine or for these files."""

    exit_status: ClassVar[int] = 4


class EvidenceError(ValueError):
    """There is nothing to give evidence of."""

    exit_status: ClassVar[int] = 2


class Watched(Protocol):
    """What evidence needs of a shard set."""

    @property
    def paths(self) -> Sequence[ShardPath]:
        """The shard files."""

    @property
    def reader(self) -> Reader:
        """What reads them."""

    @property
    def require_route(self) -> Route | None:
        """The route that the bytes must take."""


def refuse_route(route: Route | None, *, engine: str, device: DeviceChoice = "auto") -> None:
    """Raise RouteRefusedError where `route` cannot be had from `engine` on this machine, ValueError if it is none."""
    possible = [name for name in get_args(Route) if name != "unknown"]
    if route is not None and route not in possible:
        raise ValueError(f"require_route {route!r} is not one of {', '.join(possible)}")
    if route == "host" and device not in ("auto", "cpu"):
        reason = "batches go on to a device, which is route 'bounce'; ask for device='cpu'"
    elif route not in DEVICE_ROUTES:
        return
    elif device == "cpu":
        reason = "batches stay in host memory (device='cpu'); ask for device='cuda'"
    elif isinstance(device, str) and (missing := cuda_missing()) is not None:
        reason = f"{missing}; leave require_route out, or run where a GPU is"
    elif route != "bounce" and engine != "kvikio":
        reason = f"engine {engine!r} reads into host memory; ask for engine='kvikio'"
    else:
        return
    raise RouteRefusedError(f"require_route={route!r} is not possible: {reason}")


def device_for(route: Route | None, device: DeviceChoice) -> DeviceChoice:
    """Where batches must go for a required route, of whoever leaves that to us."""
    if route is None or device != "auto":
        return device
    return "cuda" if route in DEVICE_ROUTES else "cpu"


def refuse_encoded(route: Route | None, *, codec: str, name: str) -> None:
    """Raise RouteRefusedError where `route` leads past host memory: there encoded images are parsed."""
    if route in DEVICE_ROUTES and route != "bounce":
        raise RouteRefusedError(
            f"require_route={route!r} is not possible: {name} holds encoded images ({codec}), which decoders parse in "
            f"host memory; write the images raw with `iobench convert SRC DST --format tensors`, or ask for 'bounce' "
            f"or no route"
        )


class RouteWatch:
    """The counters of one loader, read when it is made and again whenever evidence is asked for."""

    def __init__(self, shards: Watched, *, into_gpu: bool = False) -> None:
        self._shards = shards
        self.into_gpu = into_gpu
        self._counter = counter_of(shards.paths)
        self._sample = _spread(files_of(shards.paths))
        self._cache_fraction = _resident_share(self._sample)
        self._before = own_counters(shards.reader)
        self._counted, self._process_before = self._counter.snapshot(), process_read_bytes()
        self._begun = time.perf_counter()

    def evidence(self, tally: Tally, *, background_s: float | None = None) -> RouteEvidence:
        """What was read since, of which `tally` was handed out; others' reads are measured for `background_s` now.

        Raises EvidenceError where this loader itself read meanwhile.
        """
        went = moved(self._counted, self._counter.snapshot())
        mine, elapsed_s = _difference(process_read_bytes(), self._process_before), time.perf_counter() - self._begun
        own = {name: count - self._before.get(name, 0) for name, count in own_counters(self._shards.reader).items()}
        rate = self._background(background_s) if background_s is not None else None
        found = judge(
            self._counter,
            engine=self._shards.reader.engine,
            page_cache=None,
            cache_fraction=self._cache_fraction,
            cache_fraction_after=_resident_share(self._sample),
            delivered_bytes=tally.delivered_bytes,
            payload_bytes=tally.payload_bytes,
            raw_device_bytes=went.pop(self._counter.name, None),
            background_bytes=(rate or 0.0) * elapsed_s,
            process_bytes=mine,
            beside=went,
        )
        found = by_own_counters(found if not self.into_gpu else copied_on(found), own, into_gpu=self.into_gpu)
        found = with_registration(found, self._shards.reader)
        counters = {**found.counters, **own, "cache_sampled_shards": len(self._sample)}
        if rate is None:
            counters["background_bytes"] = None
        on_files: Route = "bounce" if self.into_gpu else "host"
        requested: Route = self._shards.require_route or (on_files if files_of(self._shards.paths) else "remote")
        return replace(found, requested_route=requested, counters=counters)

    def check(self, evidence: RouteEvidence) -> None:
        """Raise RouteError where a route is required and `evidence` is not of it."""
        wanted, seen = self._shards.require_route, evidence.observed_route
        if wanted is None or seen == wanted:
            return
        what = "is not proven" if seen == "unknown" else f"was {seen}"
        raise RouteError(
            f"{self._shards.paths[0]}: require_route={wanted!r}, but the way of {evidence.delivered_bytes} bytes "
            f"through {evidence.engine} {what} ({evidence.route_evidence}); choose another engine, or leave "
            f"require_route out"
        )

    def _background(self, seconds: float) -> float | None:
        before = self._shards.reader.delivered_bytes
        rate = background_rate(self._counter, seconds=seconds)
        if self._shards.reader.delivered_bytes != before:
            raise EvidenceError(
                f"this loader read on while the background was measured for {seconds} s, so it cannot be told from "
                f"others; ask between epochs, or without background_s"
            )
        return rate


def copied_on(found: RouteEvidence) -> RouteEvidence:
    """The evidence of bytes that came into host memory and went on to a device from there."""
    if found.observed_route != "host":
        return found
    words = f"{found.route_evidence}; from host memory all of it was copied to the device"
    return replace(found, observed_route="bounce", route_evidence=words)


def by_own_counters(found: RouteEvidence, own: Mapping[str, int], *, into_gpu: bool = False) -> RouteEvidence:
    """The evidence with the route by what the reader itself counted, where it counts."""
    nvidia_fs = found.counters.get("nvidia_fs_read_bytes")
    told = route_by_backends(own, nvidia_fs_bytes=nvidia_fs if isinstance(nvidia_fs, int) else None, into_gpu=into_gpu)
    if told is None:
        return found
    route, words = told
    if route == "unknown":
        return replace(found, observed_route=route, route_evidence=f"route not proven: {words}")
    return replace(found, observed_route=route, route_evidence=words, counter_class=class_of(own))


def with_registration(found: RouteEvidence, reader: Reader) -> RouteEvidence:
    """The evidence, and what became of registering the memory that was read into, where a reader registers any."""
    words = getattr(reader, "registration", "")
    return replace(found, route_evidence=f"{found.route_evidence}; {words}") if words else found


def _difference(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before


def own_counters(reader: Reader) -> dict[str, int]:
    """What the reader counts by itself; most count nothing."""
    counters = getattr(reader, "counters", None)
    return dict(counters()) if callable(counters) else {}


def counter_of(paths: Sequence[ShardPath]) -> CounterSet:
    """The counters that see what is read of these shards; where there are none the reason why."""
    files = files_of(paths)
    if not files:
        return counter_for_objects()
    try:
        return counter_for(files.of_each_device() if isinstance(files, ImageFiles) else files)
    except OSError as error:  # a loop that asks for no evidence must not end for want of it
        return CounterSet(NoCounter(f"the device's counter cannot be read: {error}"))


def files_of(paths: Sequence[ShardPath]) -> Sequence[Path]:
    """The same paths where they are files; none where they are objects on a server."""
    if isinstance(paths, ImageFiles):
        return paths
    files = [path for path in paths if not isinstance(path, RemotePath)]
    return files if len(files) == len(paths) else []


def _resident_share(paths: Sequence[Path]) -> float | None:
    """The resident share of a piece of each path, the pieces at places spread from its beginning to its end."""
    total = resident = 0
    for number, path in enumerate(paths):
        try:
            size = path.stat().st_size
            length = min(size, SAMPLED_PIECE_BYTES)
            offset = (size - length) * number // max(1, len(paths) - 1) // PAGE_BYTES * PAGE_BYTES
            part = resident_bytes(path, offset=offset, length=length)
        except OSError:  # the read will say it, with the file's name
            return None
        if part is None:
            return None
        total += length
        resident += part
    return resident / total if total else None


def _spread(paths: Sequence[Path]) -> Sequence[Path]:
    """At most MAX_SAMPLED_SHARDS of them, evenly spread."""
    step = -(-len(paths) // MAX_SAMPLED_SHARDS)
    return paths[:: max(1, step)]
