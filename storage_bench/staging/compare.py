"""The chain against reading in place: to the first batch, the first epoch, all epochs, and after how many it pays.

    in place    first batch | epoch 1, cold | epochs 2 .. E, as the cache of a set of that size allows
    copy        all hops, then the same from the copy

Nothing but the loader is in the way: no accelerator computes meanwhile, which `qualify` takes into account.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...loaders.remote import is_remote, shown_address
from ...results.break_even import CopyChoice, choose_copy
from ...results.privacy import public_path
from ...results.record import Metric, Point, not_measured
from ...results.stats import rate_flags, summarise
from ..evidence import doubts, read_path
from ..limits import WARM_RAM_SHARE, ram_bytes
from .chain import ChainResult
from .place import on_same_device, room_for
from .reading import PREFETCH, SHUFFLE, WORKERS, Road, Where, measure_roads, open_road, warm_rates

CACHE_SHARE = 0.5  # of memory: a data set up to this size stays in the page cache from epoch to epoch
ROUNDS, WARM_BLOCKS = 8, 4
PATIENCE = 2.0  # times the seconds asked for: a slow storage has its blocks, but not for ever
LEAST_ROUNDS = 3
UNREADABLE = (OSError, ValueError, RuntimeError, ImportError)  # what opening and reading shards raises

Spread = tuple[float, float, float]  # a value, and its 95 % interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """What reading in place and reading the copy came to, and which is to be preferred."""

    choice: CopyChoice
    points: tuple[Point, ...] = ()
    warnings: tuple[str, ...] = ()
    invalid: tuple[str, ...] = ()
    num_rounds: int = 0


@dataclass(slots=True)
class Case:
    """The question: how many epochs over how many bytes, and what was seen of the two roads."""

    chain: ChainResult
    real_bytes: int
    epochs: int
    roads: dict[Where, Road] = field(default_factory=dict)
    missing: dict[Where, str] = field(default_factory=dict)
    warm: Metric | None = None
    failure: str | None = None  # what ended the reading before its time

    @property
    def cache_holds(self) -> bool:
        """Whether later epochs come from this host's page cache."""
        return self.real_bytes <= CACHE_SHARE * ram_bytes()


def compare(
    source: str | Path,
    chain: ChainResult,
    *,
    epochs: int,
    dataset_bytes: int | None,
    seconds: float,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Read the source in place and the copy for about `seconds`, and weigh the chain against it over `epochs`.

    With `dataset_bytes` the set is taken as a sample of one that large.  What cannot be read by the loader, or not in
    place, has null metrics with the reason, and leaves the choice open.
    """
    case = Case(chain, dataset_bytes or chain.total_bytes, epochs)
    if refused := _not_applicable(case):
        return Comparison(refused)
    if progress is not None:
        progress(0, ROUNDS)
    _open(case, "in place", source)
    _open(case, "copy", chain.target)
    try:
        _measure(case, seconds, progress)
    except UNREADABLE as error:  # the copy is made and timed: its record is written all the same
        case.failure = _told(error)
    finally:
        for road in case.roads.values():
            road.shards.close()
    return weigh(case)


def _not_applicable(case: Case) -> CopyChoice | None:
    target = case.chain.target
    if case.chain.source_folder is not None and on_same_device(case.chain.source_folder, target):
        text = f"The copy in {public_path(target)} lies on the same device as the data; name another folder."
        return CopyChoice("same device: not applicable", text, None)
    rest = case.real_bytes - case.chain.total_bytes
    if rest > 0 and (reason := room_for(rest, target)):
        return CopyChoice("does not fit", f"{public_path(target)}: for the rest of the data set {reason}", None)
    return None


def _open(case: Case, where: Where, source: str | Path) -> None:
    """Open one of the roads; why it cannot be read is kept."""
    try:
        case.roads[where] = open_road(where, source)
    except UNREADABLE as error:
        shown = shown_address(str(source)) if is_remote(source) else public_path(source)
        case.missing[where] = f"the loader does not read it: {_told(error).replace(str(source), shown)}"


def _told(error: Exception) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)


def _measure(case: Case, seconds: float, progress: Callable[[int, int], None] | None) -> None:
    roads = list(case.roads.values())
    copy = case.roads.get("copy")
    warm = copy is not None and case.cache_holds and case.chain.total_bytes <= WARM_RAM_SHARE * ram_bytes()
    block_s = seconds / (ROUNDS * max(1, len(roads)) + WARM_BLOCKS * warm)
    measure_roads(roads, rounds=ROUNDS, block_s=block_s, limit_s=PATIENCE * seconds, on_round=progress)
    if warm and copy is not None:
        case.warm = summarise(warm_rates(copy, blocks=WARM_BLOCKS, block_s=block_s), unit="images/s")


def weigh(case: Case) -> Comparison:
    """The choice, and the points it rests on, from the roads' blocks."""
    choice = _choose(case)
    invalid = tuple(
        f"{where}: {text}"
        for where, road in case.roads.items()
        if road.evidence is not None and (text := road.evidence.invalid_reason())
    )
    if invalid:
        choice = CopyChoice("not distinguishable", f"The two were not read as asked for: {invalid[0]}", None)
    return Comparison(
        choice,
        tuple(_point(case, where, choice) for where in ("in place", "copy")),
        tuple(
            f"{where}: {text}" for where, road in case.roads.items() if road.evidence for text in doubts(road.evidence)
        ),
        invalid,
        min((len(road.blocks) for road in case.roads.values()), default=0),
    )


def _choose(case: Case) -> CopyChoice:
    """The outcome by the curves of both roads; what one of them lacks is the sentence."""
    copy_s = case.chain.seconds_for(case.real_bytes)
    lacking = [f"{where}: {reason}" for where, reason in case.missing.items()]
    lacking += [] if case.failure is None else [case.failure]
    lacking += [] if copy_s is not None else ["the copy was not measured: the shards of a hop were there already"]
    first = {where: _first_epoch(case, road) for where, road in case.roads.items()}
    lacking += [f"{where}: too few blocks within the time; raise --seconds" for where in first if first[where] is None]
    later = {where: _later_epoch(case, where) for where in first}
    if not lacking and None in later.values():
        lacking = ["later epochs would come from the page cache, whose rate was not measured"]
    direct, staged = first.get("in place"), first.get("copy")
    direct_later, staged_later = later.get("in place"), later.get("copy")
    if lacking or copy_s is None or not (direct and staged and direct_later and staged_later):
        return CopyChoice("not distinguishable", f"Not compared. {'; '.join(lacking)}.", None)
    return choose_copy(
        copy_s=copy_s,
        direct_first_s=direct,
        direct_later_s=direct_later,
        staged_first_s=staged,
        staged_later_s=staged_later,
        epochs=case.epochs,
    )


def _images(case: Case, road: Road) -> float:
    """Images of the set that is asked about."""
    return road.num_images * case.real_bytes / road.total_bytes


def _first_epoch(case: Case, road: Road) -> Spread | None:
    """Seconds of the first epoch, cold: to the first batch, and all images at the rate."""
    begin, rate = _first_batch(road), _rate(road)
    if begin.value is None or not rate.value or rate.ci95 is None or rate.ci95[0] <= 0 or rate.n < LEAST_ROUNDS:
        return None
    low, high = begin.ci95 or (begin.value, begin.value)
    images = _images(case, road)
    return begin.value + images / rate.value, max(0.0, low) + images / rate.ci95[1], high + images / rate.ci95[0]


def _later_epoch(case: Case, where: Where) -> Spread | None:
    """Seconds of each further epoch: from the page cache where it holds the set, which objects never are in.

    From the page cache it costs the same whichever way the first epoch was read, so that its uncertainty cancels.
    """
    road = case.roads[where]
    if road.watch is None or not case.cache_holds:
        return _first_epoch(case, road)
    if case.warm is None or not case.warm.value:
        return None
    seconds = _images(case, road) / case.warm.value
    return seconds, seconds, seconds


def _first_batch(road: Road) -> Metric:
    return summarise([block.first_batch_s for block in road.blocks], unit="s")


def _rate(road: Road) -> Metric:
    return summarise([block.images_per_s for block in road.blocks], unit="images/s")


def _point(case: Case, where: Where, choice: CopyChoice) -> Point:
    """One of the two in the record's form; `until_` times count from the start, the copying included."""
    road = case.roads.get(where)
    params: dict[str, str | int | float | bool | None] = {"stage": "load", "source": where, "page_cache": "cold"}
    params["epochs"] = case.epochs
    reason = case.missing.get(where, "not measured")
    if road is None:
        names = {"images_per_s": "images/s", "read_gbps": "GB/s", **dict.fromkeys(("first_batch_s", *UNTIL), "s")}
        return Point(params=params, metrics={name: not_measured(unit, reason) for name, unit in names.items()})
    rate, image_bytes = _rate(road), road.total_bytes / road.num_images
    params |= {"engine": road.engine, "batch_size": road.batch_size, "shuffle": SHUFFLE, "num_workers": WORKERS}
    params["prefetch_factor"] = PREFETCH
    return Point(
        params=params,
        read_path=None if road.evidence is None else read_path(road.evidence, cold_scope=road.cold_scope),
        metrics={
            "images_per_s": rate,
            "read_gbps": summarise([block.images_per_s * image_bytes / 1e9 for block in road.blocks], unit="GB/s"),
            "first_batch_s": _first_batch(road),
            **_until(case, where, choice),
        },
        flags=rate_flags(rate),
    )


UNTIL = ("until_first_batch_s", "until_first_epoch_s", "until_last_epoch_s")


def _until(case: Case, where: Where, choice: CopyChoice) -> dict[str, Metric]:
    """Seconds from the start of everything to the first batch, the end of the first epoch, and of all epochs."""
    road, before = case.roads[where], 0.0
    if where == "copy":
        copy_s = case.chain.seconds_for(case.real_bytes)
        if copy_s is None:
            reason = "the shards of a hop were there already, so that copying them was not timed"
            return {name: not_measured("s", reason) for name in UNTIL}
        before = copy_s
    first, later = _first_epoch(case, road), _later_epoch(case, where)
    batch, blocks = _first_batch(road), len(road.blocks)
    reason = choice.sentence if first is None else "the rate of later epochs, from the page cache, was not measured"
    last = None if first is None or later is None else _sum(first, later, case.epochs - 1)
    start: Spread | None = None if batch.value is None else (batch.value, *(batch.ci95 or (batch.value, batch.value)))
    return {
        name: not_measured("s", reason) if spread is None else _shifted(spread, before, blocks)
        for name, spread in zip(UNTIL, (start, first, last), strict=True)
    }


def _sum(first: Spread, later: Spread, times: int) -> Spread:
    return first[0] + times * later[0], first[1] + times * later[1], first[2] + times * later[2]


def _shifted(spread: Spread, before_s: float, blocks: int) -> Metric:
    value, low, high = (part + before_s for part in spread)
    return Metric(value=value, unit="s", ci95=(low, high), n=blocks)
