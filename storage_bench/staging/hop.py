"""One hop: the shards of one source into one folder, timed, verified, and gone on with after an interruption.

check    what may be there already is read back and kept where its digest is the known one
copy     the rest, `streams` shards at once
verify   what was copied is read back from its device
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TypeVar

from ...loaders.discovery import SHARD_SUFFIXES, is_shard_name
from ...loaders.evidence import RouteEvidence
from ...loaders.formats.image_files import is_image_name
from ...loaders.formats.tensors import DESCRIPTION_NAME
from ...results.privacy import public_path
from ...results.record import ColdScope, Metric, Point, WriteError, not_measured, write_whole
from ..evidence import read_path
from .copying import copy_shard, digest_of
from .ledger import Ledger
from .opening import open_source
from .place import StagingError, StagingUsageError, on_same_device, only_copier, remove_temporaries, require_room
from .source import Source, SourceShard, promised_digests
from .streams import Progress, Streams

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class StageResult:
    """What one hop took; `copied_bytes` excludes what was already there.  `source` may be shown to anybody."""

    source: Path | str
    target: Path
    num_files: int
    total_bytes: int
    copied_bytes: int
    copy_s: float
    verify_s: float
    streams: int
    same_device: bool
    peak_in_flight_bytes: int = 0
    evidence: RouteEvidence | None = None
    cold_scope: ColdScope = "unknown"
    versions: Mapping[str, str | None] = field(default_factory=dict)
    verified_by: str = ""

    @property
    def copy_gbps(self) -> float | None:
        """Decimal GB/s of the copy; None where nothing had to be copied."""
        return self.copied_bytes / self.copy_s / 1e9 if self.copied_bytes else None


def stage(
    source: str | Path,
    target: Path,
    *,
    streams: int = 4,
    limit_bytes: int | None = None,
    progress: Progress | None = None,
) -> StageResult:
    """Copy the shard set in `source` to the folder `target` and verify it; an interrupted copy goes on next time.

    With `limit_bytes` only as many whole shards as fit into it are copied: a sample, described as that.

    Raises StagingError where space is short, the target lies in the source, or a digest does not agree.
    """
    with closing(open_source(source)) as opened:
        shards = opened.shards if limit_bytes is None else _first_shards(opened.shards, limit_bytes)
        check_target(opened, target)
        require_room([(target, missing_bytes(shards, target))])
        return copy_hop(opened, shards, target, streams=streams, progress=progress)


def copy_hop(
    source: Source, shards: Sequence[SourceShard], target: Path, *, streams: int, progress: Progress | None = None
) -> StageResult:
    """Copy these shards of an opened source, verify them, and describe them as the source does.

    `verify_s` is the time of reading every shard back once, those that were there already before the copy.
    """
    digests = promised_digests(source.description, f"{source.name}: {DESCRIPTION_NAME}")
    with _writing(target), only_copier(target):
        remove_temporaries(target)
        ledger, threads = Ledger(target), Streams(streams, progress)
        try:
            kept, check_s = _timed(lambda: _check(shards, target, digests, ledger, threads))
            missing = [shard for shard in shards if shard.name not in kept]
            require_room([(target, _sum(missing))])
            if missing:
                source.begin(missing)
            copied, copy_s = _timed(lambda: _copy(source, missing, target, digests, ledger, threads))
            evidence = source.evidence(_sum(missing)) if missing else None
            _, verify_s = _timed(lambda: _verify(missing, copied, target, threads))
        finally:
            remove_temporaries(target)  # of threads that wait for a storage that does not answer
        _write_description(source, shards, target)
    return StageResult(
        source=public_path(source.name),
        target=target,
        num_files=len(shards),
        total_bytes=_sum(shards),
        copied_bytes=_sum(missing),
        copy_s=copy_s,
        verify_s=check_s + verify_s,
        streams=streams,
        same_device=source.folder is not None and on_same_device(source.folder, target),
        peak_in_flight_bytes=threads.peak_in_flight_bytes,
        evidence=evidence,
        cold_scope=source.cold_scope,
        versions={shard.name: shard.version for shard in shards},
        verified_by=f"the digests of {DESCRIPTION_NAME}" if digests else "the digests of what was read",
    )


def check_target(source: Source, target: Path) -> None:
    """Raise StagingUsageError where the target lies in the source or holds other data, StagingError for odd names."""
    shards = source.shards
    folders = {shard.place.resolve().parent for shard in shards if isinstance(shard.place, Path)}
    if inside := sorted(folders & {target.resolve(), *target.resolve().parents}):
        raise StagingUsageError(f"{target}: the target lies in the source {inside[0]}; name another folder")
    names = [shard.name for shard in shards]
    if hidden := [name for name in names if "/" in name or name.startswith(".")]:
        raise StagingError(f"{hidden[0]}: no name for a file of a data set; give the shard another one")
    if odd := [name for name in names if not is_shard_name(name)]:
        raise StagingError(f"{odd[0]}: a copy of it would be no shard to anybody; name it {odd[0]}{SHARD_SUFFIXES[0]}")
    if len(set(names)) < len(names):
        raise StagingError(f"two shards of the source are named {max(names, key=names.count)}; stage them one by one")
    if _holds_images(target):
        raise StagingUsageError(f"{target}: holds folders of images; name another folder")
    theirs = target / DESCRIPTION_NAME
    if theirs.is_file() and theirs.read_bytes() != source.description:
        raise StagingUsageError(f"{target}: holds another data set; name another folder, or empty this one")
    if foreign := sorted({path.name for path in target.glob("*") if is_shard_name(path.name)} - set(names)):
        raise StagingUsageError(f"{target / foreign[0]}: not a shard of {source.name}; name another folder")


def _holds_images(target: Path) -> bool:
    """Whether there are folders with images in them; shards beside them would make their set none to any reader."""
    return any(is_image_name(path.name) for path in target.glob("*/*"))


def missing_bytes(shards: Sequence[SourceShard], target: Path) -> int:
    """Bytes of the shards that are surely not in the target yet."""
    return sum(shard.size_bytes for shard in shards if not _may_be(target / shard.name, shard))


def stage_point(result: StageResult, *, hop: int = 1) -> Point:
    """One hop in the record's form; one copy is one sample and has no interval."""
    rate, verified = result.copy_gbps, Metric(value=result.verify_s, unit="s", n=1)
    metrics = {
        "verify_time_s": verified,
        "verify_gbps": Metric(value=result.total_bytes / result.verify_s / 1e9, unit="GB/s", n=1),
    }
    if rate is None:
        nothing = "every shard was there already, nothing had to be copied"
        copied = {
            "stage_time_s": not_measured("s", nothing),
            "read_gbps": not_measured("GB/s", nothing),
            "peak_in_flight_bytes": not_measured("bytes", nothing),
        }
    else:
        copied = {
            "stage_time_s": Metric(value=result.copy_s, unit="s", n=1, samples=(result.copy_s,)),
            "read_gbps": Metric(value=rate, unit="GB/s", n=1),
            "peak_in_flight_bytes": Metric(value=float(result.peak_in_flight_bytes), unit="bytes", n=1),
        }
    return Point(
        params={
            "stage": "stage",
            "hop": hop,
            "source": public_path(result.source),
            "target": public_path(result.target),
            "streams": result.streams,
            "bytes": result.copied_bytes,
            "files": result.num_files,
        },
        read_path=None if result.evidence is None else read_path(result.evidence, cold_scope=result.cold_scope),
        metrics=copied | metrics,
    )


def _check(
    shards: Sequence[SourceShard], target: Path, digests: Mapping[str, str], ledger: Ledger, streams: Streams
) -> set[str]:
    """The names of shards that are there, by a digest that dataset.json or the ledger knows."""
    known = {shard.name: digests.get(shard.name) or ledger.digest_of(shard) for shard in shards}
    likely = [shard for shard in shards if known[shard.name] and _may_be(target / shard.name, shard)]

    def is_whole(shard: SourceShard) -> bool:
        return digest_of(target / shard.name, streams=streams) == known[shard.name]

    whole = streams.run("check", is_whole, likely, total=_sum(likely))
    return {shard.name for shard, there in zip(likely, whole, strict=True) if there}


def _copy(
    source: Source,
    shards: Sequence[SourceShard],
    target: Path,
    digests: Mapping[str, str],
    ledger: Ledger,
    streams: Streams,
) -> list[str]:
    """Copy these shards; their digests."""

    def copy(shard: SourceShard) -> str:
        promised = digests.get(shard.name)
        digest = copy_shard(source, shard, target / shard.name, promised=promised, streams=streams)
        if promised is None or source.folder is None:
            ledger.add(shard, digest)
        return digest

    return streams.run("copy", copy, shards, total=_sum(shards))


def _verify(shards: Sequence[SourceShard], digests: Sequence[str], target: Path, streams: Streams) -> None:
    """Read copies back from their device and compare digests; one that differs is removed."""

    def verify(item: tuple[SourceShard, str]) -> None:
        path = target / item[0].name
        if digest_of(path, streams=streams) != item[1]:
            path.unlink()
            raise StagingError(
                f"{path}: the copy did not read back as it was written and was removed; the target is unsound, "
                f"name another folder"
            )

    streams.run("verify", verify, list(zip(shards, digests, strict=True)), total=_sum(shards))


def _may_be(copy: Path, shard: SourceShard) -> bool:
    """Whether `copy` is a file of its own with the shard's size."""
    return copy.is_file() and not copy.is_symlink() and copy.stat().st_size == shard.size_bytes


def _first_shards(shards: Sequence[SourceShard], limit_bytes: int) -> list[SourceShard]:
    sizes = itertools.accumulate(shard.size_bytes for shard in shards)
    chosen = [shard for shard, size in zip(shards, sizes, strict=True) if size <= limit_bytes]
    if not chosen:
        raise StagingError(f"{shards[0].place}: one shard is larger than the {limit_bytes} bytes a copy may take")
    return chosen


def _write_description(source: Source, shards: Sequence[SourceShard], target: Path) -> None:
    """The set's description, or of a sample what it says of these shards; of single files there is none to give."""
    if source.description is None or not source.is_set:
        return
    text = source.description.decode()
    if len(shards) < len(source.shards):
        document, names = json.loads(text), {shard.name for shard in shards}
        document["shards"] = [row for row in document["shards"] if row["name"] in names]
        document["num_images"] = sum(row["num_images"] for row in document["shards"])
        text = json.dumps(document, indent=1)
    try:
        write_whole(target / DESCRIPTION_NAME, text)
    except WriteError as error:
        raise StagingError(f"{error.filename}: {error.strerror}") from error


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """The folder is there from here on; what goes wrong with it is told with its name.

    One that was made here is gone again where nothing came into it.
    """
    made = [folder for folder in (target, *target.parents) if not folder.exists()]
    try:
        target.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise StagingError(f"{target}: cannot be written ({error.strerror}); name another folder") from error
    finally:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()  # one with something in it stays


def _timed(work: Callable[[], Value]) -> tuple[Value, float]:
    begin = perf_counter()
    return work(), perf_counter() - begin


def _sum(shards: Sequence[SourceShard]) -> int:
    return sum(shard.size_bytes for shard in shards)
