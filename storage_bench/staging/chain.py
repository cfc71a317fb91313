"""A chain of copies: SRC -> hop -> ... -> DST, each hop whole and verified before the next begins.

Names, room and the folders' state are looked at for every hop before anything is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ...loaders.remote import is_remote, shown_address
from ...results.privacy import public_path
from ..evidence import doubts
from .hop import StageResult, check_target, copy_hop, missing_bytes
from .opening import open_source
from .place import StagingError, StagingUsageError, require_apart, require_folder, require_room
from .source import Source
from .streams import Phase

OnHop = Callable[[int, Phase, int, int], None]  # hop from 1 on, phase, bytes done, bytes in all


@dataclass(frozen=True, slots=True)
class ChainResult:
    """What the hops took, in their order; `source` may be shown to anybody."""

    source: str
    hops: tuple[StageResult, ...]
    source_folder: Path | None  # where the source is on this machine

    def seconds_for(self, num_bytes: int) -> float | None:
        """Seconds that copying so many bytes takes over all hops at their rates; None where a hop had nothing to do."""
        rates = [hop.copy_gbps for hop in self.hops]
        return None if None in rates else sum(num_bytes / 1e9 / rate for rate in rates if rate is not None)

    def warnings(self) -> list[str]:
        """What must be said of the hops: copies beside their source, and those that were partly there."""
        said = []
        for number, hop in enumerate(self.hops, 1):
            there = hop.total_bytes - hop.copied_bytes
            if hop.same_device:
                said.append(f"hop {number}: source and target are on the same device")
            if there and hop.copied_bytes:
                said.append(f"hop {number}: {there / 1e9:.2f} GB were there already, its time is that of the rest")
            if hop.evidence is not None:
                said += [f"hop {number}: {text}" for text in doubts(hop.evidence)]
        return said

    def invalid(self) -> list[str]:
        """Why the time of a hop does not count; the copies are whole and verified all the same."""
        found = {number: hop.evidence.invalid_reason() for number, hop in enumerate(self.hops, 1) if hop.evidence}
        return [f"hop {number}: {text}" for number, text in found.items() if text]

    @property
    def total_bytes(self) -> int:
        """Size of the data set."""
        return self.hops[-1].total_bytes

    @property
    def target(self) -> Path:
        """Where the data are at the end."""
        return self.hops[-1].target


def stage_chain(
    source: str | Path, places: Sequence[str | Path], *, streams: int = 4, progress: OnHop | None = None
) -> ChainResult:
    """Copy a data set from folder to folder, `streams` shards at once; an interrupted chain goes on next time.

    Raises StagingUsageError where the places make no chain, StagingError where a hop cannot be made; with several hops
    the error names the one.
    """
    if odd := [str(place) for place in places if is_remote(place)]:
        raise StagingUsageError(f"{shown_address(odd[0])}: only the source may be an address; copies go into folders")
    targets = [Path(place) for place in places]
    results: list[StageResult] = []
    with closing(open_source(source)) as first:
        _check_chain(first, targets)
        for number, target in enumerate(targets, 1):

            def tell(phase: Phase, done: int, total: int, hop: int = number) -> None:
                if progress is not None:
                    progress(hop, phase, done, total)

            try:
                if number == 1:
                    results.append(copy_hop(first, first.shards, target, streams=streams, progress=tell))
                    continue
                with closing(open_source(results[-1].target)) as opened:
                    check_target(opened, target)
                    results.append(copy_hop(opened, opened.shards, target, streams=streams, progress=tell))
            except StagingError as error:
                raise _named(error, number, targets, first.name) from error
    return ChainResult(public_path(first.name), tuple(results), first.folder)


def _check_chain(source: Source, targets: Sequence[Path]) -> None:
    """Everything that can be known of the hops before the first byte is copied."""
    if source.folder is not None:
        check_target(source, targets[0])
    require_apart([*([source.folder] if source.folder is not None else []), *targets])
    for number, target in enumerate(targets, 1):
        try:
            require_folder(target)
            check_target(source, target)
        except StagingError as error:
            raise _named(error, number, targets, source.name) from error
    require_room([(target, missing_bytes(source.shards, target)) for target in targets])


def _named(error: StagingError, number: int, targets: Sequence[Path], source: str) -> StagingError:
    """The error with the hop it happened at, where there are several."""
    if len(targets) == 1:
        return error
    begin = source if number == 1 else str(targets[number - 2])
    return type(error)(f"hop {number} ({begin} -> {targets[number - 1]}): {error}")
