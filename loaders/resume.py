"""Where in an epoch a loader is, exact to the batch as yielded, and how to come back there.

    state = {version, settings, epoch, num_yielded, generators, random, sampler, sampler_epoch}

    settings          must be those of the loader that loads it: a place in one order is no place in another
    generators        torch generators of the loader and its samplers, as they were when the epoch began
    random            torch's global generator then, where a sampler may have drawn its seed from it
    sampler           what a sampler with a state_dict of its own said after the last batch that was yielded

A planned epoch is a function of numbers, so its place is a number.  A sampler's epoch is drawn again without reading
data, up to the place; one with a state of its own is asked to go there.  Batches that were prefetched and not yielded
are drawn, and read, again.
"""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from operator import length_hint
from typing import Any, ClassVar

import torch

STATE_VERSION = 1
_KEYS = {"version", "settings", "epoch", "num_yielded", "generators", "random", "sampler", "sampler_epoch"}

State = dict[str, Any]


class ResumeError(ValueError):
    """A state that this loader cannot go on from."""

    exit_status: ClassVar[int] = 2


class Place:
    """One epoch's place: counts what is yielded, and draws again what was yielded before."""

    def __init__(self, state: State, *, sampler: Any = None, resumed: bool = False, seed_drawn: bool = False) -> None:
        self.finished = False
        self._state = state
        self._sampler = sampler
        self._states: deque[Any] = deque()
        self._resumed = resumed
        self._seed_drawn = seed_drawn

    @property
    def num_yielded(self) -> int:
        """Batches of this epoch that the loop has had, in an earlier process too."""
        return int(self._state["num_yielded"])

    def state_dict(self) -> State:
        """All that is needed to come back here, but for the loader's settings."""
        return dict(self._state)

    def count(self) -> None:
        """One more batch was yielded."""
        self._state["num_yielded"] += 1
        if self._states:
            self._state["sampler"] = self._states.popleft()

    def stream(self, indices: Iterator[Any], again: Iterable[Any]) -> Iterator[Any]:
        """`indices`, which come from iterating over `again`, from this place on."""
        if self._resumed:
            indices = self._go_there(indices, again)
        if self._sampler is None:
            yield from indices
            return
        for index in indices if self.num_yielded else _begun(indices, again):
            self._states.append(self._sampler.state_dict())
            yield index

    def _go_there(self, indices: Iterator[Any], again: Iterable[Any]) -> Iterator[Any]:
        """`indices` without those that were yielded before, and the seed drawn that came before the first."""
        if self._sampler is not None:  # it was told to go there
            return iter(()) if self.num_yielded >= length_hint(again, sys.maxsize) else indices
        with _replayed(self._state["random"], seed_drawn=self._seed_drawn):
            passed = sum(1 for _ in itertools.islice(indices, self.num_yielded))
            first = list(itertools.islice(indices, 1))
        if passed < self.num_yielded:
            raise ResumeError(
                f"the state says that {self.num_yielded} batches were yielded, but the sampler has {passed}"
            )
        return itertools.chain(first, indices)


def _begun(indices: Iterator[Any], again: Iterable[Any]) -> Iterator[Any]:
    """`indices`, begun again where there are none: some samplers take the end of an epoch for a place in the next."""
    first = list(itertools.islice(indices, 1))
    return itertools.chain(first, indices) if first else iter(again)


def new_state(*, epoch: int, samplers: Mapping[str, Any], draws_globally: bool) -> State:
    """The state at the beginning of an epoch, without settings."""
    generators, own = generators_of(samplers), own_state(samplers)
    return {
        "version": STATE_VERSION,
        "epoch": epoch,
        "num_yielded": 0,
        "generators": {name: generator.get_state() for name, generator in generators.items()},
        "random": torch.get_rng_state() if draws_globally else None,
        "sampler": None if own is None else own.state_dict(),
        "sampler_epoch": sampler_epoch(samplers),
    }


def checked_state(state: Any, settings: Mapping[str, Any], *, generators: Iterable[str]) -> State:
    """`state`, of which every setting is the loader's own; ResumeError names the first that is not."""
    if not isinstance(state, Mapping) or set(state) != _KEYS or state["version"] != STATE_VERSION:
        raise ResumeError(
            f"not a state of iobench's DataLoader, version {STATE_VERSION}: it must have the keys "
            f"{', '.join(sorted(_KEYS))}; begin the epoch anew without load_state_dict"
        )
    theirs = {**state["settings"], "generators": sorted(state["generators"])}
    ours = {**settings, "generators": sorted(generators)}
    for name in [*ours, *theirs]:
        mine, other = ours.get(name, "nothing"), theirs.get(name, "nothing")
        if mine != other:
            raise ResumeError(
                f"this state was taken with {name}={other!r}, this loader has {name}={mine!r}: a place in one order is "
                f"no place in the other; make the loader as it was, or begin the epoch anew without load_state_dict"
            )
    return dict(state)


def restore(state: State, samplers: Mapping[str, Any]) -> None:
    """Set the generators, and the sampler with a state of its own, as they were."""
    own = own_state(samplers)
    for name, generator in generators_of(samplers).items():
        generator.set_state(state["generators"][name])
    if own is not None and state["sampler"] is not None:
        own.load_state_dict(state["sampler"])


def generators_of(samplers: Mapping[str, Any]) -> dict[str, torch.Generator]:
    """The torch generators among `samplers`, or held by them."""
    held = {name: getattr(sampler, "generator", sampler) for name, sampler in samplers.items()}
    return {name: generator for name, generator in held.items() if isinstance(generator, torch.Generator)}


def own_state(samplers: Mapping[str, Any]) -> Any:
    """The first of `samplers` that has a state of its own, None where none has."""
    stateful = (one for one in samplers.values() if hasattr(one, "state_dict") and hasattr(one, "load_state_dict"))
    return next(stateful, None)


def sampler_epoch(samplers: Mapping[str, Any]) -> int | None:
    """The epoch a sampler was set to (DistributedSampler's `set_epoch`), None where none has one."""
    epochs = (one.epoch for one in samplers.values() if hasattr(one, "set_epoch") and hasattr(one, "epoch"))
    return next(epochs, None)


def set_sampler_epoch(samplers: Mapping[str, Any], epoch: int) -> None:
    """Set the epoch of every sampler that has one."""
    for sampler in samplers.values():
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)


@contextmanager
def _replayed(random: torch.Tensor | None, *, seed_drawn: bool) -> Iterator[None]:
    """Torch's global generator as it was at the beginning of the epoch, and afterwards as it is now."""
    if random is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(random)
        if seed_drawn:  # the seed of the workers came before the sampler's
            torch.empty((), dtype=torch.int64).random_()
        yield
