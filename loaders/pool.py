"""Pieces of memory that are used again once nobody looks at them any more, whatever memory it is.

    acquire() -> piece --filled--> lent to an owner --torch views it-->
        last view dies -> a weak reference appends itself to a deque -> the next acquire() takes the piece back

A batch the user holds is never overwritten: the reference is to the object that every tensor and every view of it
keeps alive, and calls back when the last of them dies (a finalizer on a tensor would fire too early).  The callback
runs in whatever thread drops that view, and is deque.append itself: in a callback written in Python a Ctrl-C would be
printed and lost.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Generic, Protocol, TypeVar


class Piece(Protocol):
    """Memory of one size; weak references to it must be possible."""

    size_bytes: int


P = TypeVar("P", bound=Piece)


class Pool(ABC, Generic[P]):
    """Pieces of one size.  Those the user holds are his; a loader needs only its own few, so memory stays bounded.

    `num_free_kept` is how many idle pieces stay allocated.  All methods are called from the loader's own thread; only
    the callbacks come from elsewhere.
    """

    def __init__(self, size_bytes: int, *, num_free_kept: int) -> None:
        self.size_bytes = size_bytes
        self._num_free_kept = num_free_kept
        self._free: list[P] = []  # in the order in which they came back
        self._returned: deque[weakref.ref[Any]] = deque()
        self._lent: dict[int, tuple[weakref.ref[Any], P]] = {}
        self._made: list[weakref.ref[P]] = []

    @property
    def num_allocated(self) -> int:
        """How many pieces there are: idle, being filled, and held by the user."""
        return sum(made() is not None for made in self._made)

    def acquire(self, size_bytes: int = 0) -> P:
        """A piece nobody looks at: a returned one where there is one, else fresh memory.

        Where `size_bytes` is more than the pool's size the pool grows: smaller pieces are let go as they come back.
        """
        if size_bytes > self.size_bytes:
            self.size_bytes = size_bytes
            self._free.clear()
        self._take_back()
        if self._free:
            return self._pick()
        piece = self._new()
        self._made = [made for made in self._made if made() is not None] + [weakref.ref(piece)]
        return piece

    def release(self, piece: P) -> None:
        """Give back a piece that was never handed out."""
        if len(self._free) < self._num_free_kept and piece.size_bytes >= self.size_bytes:
            self._free.append(piece)

    @abstractmethod
    def _new(self) -> P:
        """Fresh memory of at least the pool's size."""

    @abstractmethod
    def _pick(self) -> P:
        """One of the idle pieces, taken out of them; there is one."""

    def _lend(self, piece: P, owner: object) -> None:
        """The piece comes back when `owner` is gone."""
        reference = weakref.ref(owner, self._returned.append)
        self._lent[id(reference)] = reference, piece

    def _take_back(self) -> None:
        while self._returned:
            lent = self._lent.pop(id(self._returned.popleft()), None)
            if lent is not None:  # it is None where Ctrl-C came in the middle of _lend
                self._came_back(lent[1])

    def _came_back(self, piece: P) -> None:
        """Nobody looks at a lent piece any more."""
        self.release(piece)
