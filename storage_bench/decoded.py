"""What made samples of a run's encoded images, as every command records it: one process's word, or its ranks' together.

rank 0   Tally, Decoding --decoded_of--> Decoded --.
rank 1   Tally, Decoding --decoded_of--> Decoded --+--together--> Decoded -> the record's `images`, warnings
...                                                |
                                               (as JSON)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ..loaders.hand_out import MAX_NAMED, Tally
from ..loaders.images.decoders import RawPixels
from ..loaders.images.decoding import Decoding
from ..loaders.topology import format_cores
from ..results.privacy import public_text
from .decoder_names import with_version

BY_THREADS = "reader threads"
MAX_TOLD = 20  # broken images in warnings; the record names more


class DecodedBy(BaseModel):
    """A decoder, why it is the one, what makes samples of its pixels, and which ranks of which hosts it decoded for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decoder: str
    reason: str
    samples_by: str = BY_THREADS
    ranks: tuple[int, ...] = (0,)
    hosts: tuple[str, ...] = ()

    @property
    def kind(self) -> tuple[str, str, str]:
        """What is the same of ranks that decode alike."""
        return self.decoder, self.reason, self.samples_by


class Decoded(BaseModel):
    """What was asked for, who decoded, and what of it was not decoded, or by another.

    `num_skipped` counts images that were left out, in each epoch anew; `skipped` names each once, the first MAX_NAMED.
    `num_by_host` counts those that the decoder left to the CPU's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    requested: str
    by: tuple[DecodedBy, ...]
    num_images: int = 0
    num_skipped: int = 0
    num_by_host: int = 0
    skipped: tuple[str, ...] = ()

    @property
    def made_there(self) -> bool:
        """Whether samples are made on the device that decodes, and no thread augments."""
        return all(each.samples_by != BY_THREADS for each in self.by)

    @property
    def decoder(self) -> str:
        """Its name and version; where ranks differ, of each which ranks."""
        if len(names := {each.decoder for each in self.by}) == 1:
            return names.pop()
        return ", ".join(f"{each.decoder} ({_ranks_text(each)})" for each in self.by)

    @property
    def reason(self) -> str:
        """Why it is the one; where ranks differ, of each which ranks."""
        if len(reasons := {each.reason for each in self.by}) == 1:
            return reasons.pop()
        return "; ".join(f"{_ranks_text(each)}: {each.reason}" for each in self.by)

    def named(self, places: Mapping[Path, Path]) -> Decoded:
        """The same with files of each of these places named as of the other: a copy is gone after the run."""
        skipped = list(self.skipped)
        for here, there in places.items():
            begins = f"{here}/", f"{here}:"  # a folder, or the one file
            skipped = [
                f"{there}{text.removeprefix(str(here))}" if text.startswith(begins) else text for text in skipped
            ]
        return self.model_copy(update={"skipped": tuple(dict.fromkeys(skipped))})

    def at(self, rank: int, host: str) -> Decoded:
        """The same as the word of this rank."""
        by = tuple(each.model_copy(update={"ranks": (rank,), "hosts": (host,)}) for each in self.by)
        return self.model_copy(update={"by": by})

    def described(self) -> dict[str, Any]:
        """As the record keeps it."""
        differ = [
            {"ranks": format_cores(each.ranks), **each.model_dump(mode="json", exclude={"ranks"})} for each in self.by
        ]
        return {
            "decoder_requested": self.requested,
            "decoder": self.decoder,
            "decoder_reason": self.reason,
            "samples_by": ", ".join(dict.fromkeys(each.samples_by for each in self.by)),
            **({"ranks_differ": differ} if len(differ) > 1 else {}),
            "num_images": self.num_images,
            "num_by_host": self.num_by_host,
            "num_skipped": self.num_skipped,
            "skipped": [public_text(text) for text in self.skipped],
        }

    def warnings(self) -> list[str]:
        """What must be said of images left out or decoded by another decoder than the one asked for, and of ranks."""
        of = f"{self.num_by_host} of {self.num_images} images"
        others = [f"{of} were left to the decoder of reader threads: {self.decoder} cannot"] if self.num_by_host else []
        return [*self._of_ranks(), *others, *self._left_out()]

    def _of_ranks(self) -> list[str]:
        if len({(each.decoder, each.samples_by) for each in self.by}) == 1:  # for reasons in words of each host's own
            return []
        told = (f"{_ranks_text(each)} on {', '.join(each.hosts)}: {each.decoder} ({each.reason})" for each in self.by)
        return [f"ranks did not decode alike, and their rates are not of one loader: {'; '.join(told)}"]

    def _left_out(self) -> list[str]:
        if not self.num_skipped:
            return []
        told = [public_text(text) for text in self.skipped]
        more = [f"... and {len(told) - MAX_TOLD} more"] if len(told) > MAX_TOLD else []
        were = "image was" if self.num_skipped == 1 else "images were"
        return [f"{self.num_skipped} {were} left out, each in every epoch anew", *told[:MAX_TOLD], *more]


def decoded_of(decoding: Decoding | None, tally: Tally, *, requested: str) -> Decoded | None:
    """What a process has decoded so far by `tally`; None where that is nothing, or its images are no encoded ones."""
    if decoding is None or decoding.decoder.name == RawPixels.name or not tally.num_records:
        return None
    by = DecodedBy(
        decoder=with_version(decoding.name),
        reason=public_text(decoding.reason),
        samples_by=BY_THREADS if decoding.there is None else decoding.there.made_by,
    )
    return Decoded(
        requested=requested,
        by=(by,),
        num_images=tally.num_records,
        num_skipped=tally.num_skipped,
        num_by_host=tally.num_by_host,
        skipped=tuple(skipped.reason for skipped in tally.skipped),
    )


def together(told: Iterable[Decoded | None]) -> Decoded | None:
    """What ranks, or parts of a run, have decoded together; None where none of them has."""
    known = [each for each in told if each is not None]
    return reduce(_both, known) if known else None


def _both(one: Decoded, other: Decoded) -> Decoded:
    found = {each.kind: each for each in one.by}
    for each in other.by:
        known = found.get(each.kind, each)
        ranks, hosts = sorted({*known.ranks, *each.ranks}), dict.fromkeys((*known.hosts, *each.hosts))
        found[each.kind] = known.model_copy(update={"ranks": tuple(ranks), "hosts": tuple(hosts)})
    return Decoded(
        requested=one.requested,
        by=tuple(found.values()),
        num_images=one.num_images + other.num_images,
        num_skipped=one.num_skipped + other.num_skipped,
        num_by_host=one.num_by_host + other.num_by_host,
        skipped=tuple(dict.fromkeys((*one.skipped, *other.skipped)))[:MAX_NAMED],
    )


def _ranks_text(by: DecodedBy) -> str:
    """`rank 1`, `ranks 0-3`."""
    return f"rank{'s' if len(by.ranks) > 1 else ''} {format_cores(by.ranks)}"
