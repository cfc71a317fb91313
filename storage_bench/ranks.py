"""Ranks: the processes of one run, seen from inside one of them.

Horovod where its launcher started this process (HOROVOD_RANK is set), one process alone where it did not.  Whatever is
run on ranks is written against the `Ranks` protocol and does not care which.

    rank        0   1   2   3   4
    barrier()   +---+---+---+---+     all ranks
    meet(3)     +---+---+             ranks 0..2, a Horovod process set registered when the ranks were opened
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, ClassVar, Literal, Protocol

SHORTEST_SLEEP_S = 50e-6
LONGEST_SLEEP_S = 2e-3

Backend = Literal["horovod", "single"]


class RanksError(RuntimeError):
    """The ranks are not the ones that were asked for, or were asked for something they cannot do."""

    exit_status: ClassVar[int] = 4


class PeerLostError(RanksError):
    """Another rank went away in the middle of a meeting: a consequence, never the cause."""


class Ranks(Protocol):
    """This process among the processes of a run."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""

    @property
    def size(self) -> int:
        """How many processes there are."""

    @property
    def local_rank(self) -> int:
        """Number of this process on its host, from 0."""

    @property
    def host(self) -> str:
        """Name of the host that this process runs on."""

    @property
    def backend(self) -> Backend:
        """What carries the meetings."""

    def meet(self, num_ranks: int) -> None:
        """Wait until ranks 0..num_ranks-1 are all here: an allreduce of 4 bytes.  Other ranks must not call it."""

    def any_true(self, flag: bool, num_ranks: int) -> bool:
        """Meet, and tell each of these ranks the same: whether any of them brought a true flag.  Costs what `meet` does."""

    def barrier(self) -> None:
        """Wait until all ranks are here."""

    def gather(self, obj: Any) -> list[Any] | None:
        """Bring each rank's `obj` (anything JSON holds) to rank 0, in rank order; None on the others.  All ranks call it."""

    def report(self, progress: Mapping[str, Any]) -> None:
        """Tell whoever launched the ranks how far they are; says something on rank 0 only."""

    def close(self) -> None:
        """Wait for all ranks, and leave."""


class SingleRank:
    """One process alone: every meeting is over at once."""

    rank = 0
    size = 1
    local_rank = 0
    backend: Backend = "single"

    def __init__(self, *, progress: Path | None = None) -> None:
        self.host = socket.gethostname()
        self._progress = progress

    def meet(self, num_ranks: int) -> None:
        """Nobody to wait for."""
        self.any_true(False, num_ranks)

    def any_true(self, flag: bool, num_ranks: int) -> bool:
        """The flag itself."""
        if num_ranks != 1:
            raise RanksError(f"{num_ranks} ranks cannot meet: this is one process alone; launch it with more ranks")
        return flag

    def barrier(self) -> None:
        """Nobody to wait for."""

    def gather(self, obj: Any) -> list[Any] | None:
        """The one object, as it would come back from a file."""
        return [json.loads(json.dumps(obj))]

    def report(self, progress: Mapping[str, Any]) -> None:
        """Append a line to the progress file, if there is one."""
        _append_line(self._progress, progress)

    def close(self) -> None:
        """Nothing to leave."""


class HorovodRanks:
    """Processes that Horovod's launcher started.  `hvd` is horovod.torch, initialised; `sets` maps sizes to process sets.

    All meetings of one size are the same operation on the same tensor under the same name, so that Horovod negotiates it
    once and answers from its cache from then on.
    """

    backend: Backend = "horovod"

    def __init__(self, hvd: Any, sets: Mapping[int, Any], *, progress: Path | None = None) -> None:
        import torch

        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self.local_rank: int = hvd.local_rank()
        self.host = socket.gethostname()
        self._hvd = hvd
        self._sets = dict(sets)
        self._flag = torch.zeros(1, dtype=torch.float32)
        self._progress = progress

    def meet(self, num_ranks: int) -> None:
        """Ranks 0..num_ranks-1 wait for each other."""
        self.any_true(False, num_ranks)

    def any_true(self, flag: bool, num_ranks: int) -> bool:
        """Ranks 0..num_ranks-1 sum their flags.

        Raises RanksError for a number of ranks that was not registered, PeerLostError if one of them is gone.
        """
        if num_ranks == 1 and self.rank == 0:
            return flag
        if num_ranks not in self._sets or self.rank >= num_ranks:
            raise self._cannot_meet(num_ranks)
        self._flag.fill_(flag)
        handle = self._hvd.allreduce_async_(
            self._flag, op=self._hvd.Sum, name=f"meet.{num_ranks}", process_set=self._sets[num_ranks]
        )
        self._wait(handle, num_ranks)
        return bool(self._flag.item())

    def barrier(self) -> None:
        """All ranks wait for each other."""
        self.any_true(False, self.size)

    def gather(self, obj: Any) -> list[Any] | None:
        """Gather JSON texts as bytes: nothing that comes from another process is unpickled."""
        import torch

        text = torch.frombuffer(bytearray(json.dumps(obj).encode()), dtype=torch.uint8)
        size = torch.tensor([len(text)])
        sizes = self._wait(self._hvd.allgather_async(size, name="gather.sizes"), self.size).tolist()
        texts = self._wait(self._hvd.allgather_async(text, name="gather.texts"), self.size)
        if self.rank != 0:
            return None
        return [json.loads(part.numpy().tobytes()) for part in texts.split(sizes)]

    def report(self, progress: Mapping[str, Any]) -> None:
        """Append a line to the progress file, on rank 0."""
        if self.rank == 0:
            _append_line(self._progress, progress)

    def close(self) -> None:
        """Wait for all ranks, then shut Horovod down."""
        self.barrier()
        self._hvd.shutdown()

    def _wait(self, handle: int, num_ranks: int) -> Any:
        """Wait for an operation asleep: Horovod's own wait spins, and a rank that waits would take the others' CPU time.

        A sleep is at most 1/16 of the time waited so far, so that much is a wait too long at worst.
        """
        begin = perf_counter()
        while not self._hvd.poll(handle):
            sleep(min(max((perf_counter() - begin) / 16, SHORTEST_SLEEP_S), LONGEST_SLEEP_S))
        try:
            return self._hvd.synchronize(handle)
        except self._hvd.HorovodInternalError as error:
            lost = f"rank {self.rank} on {self.host}: another of {num_ranks} ranks went away while they met"
            raise PeerLostError(lost) from error

    def _cannot_meet(self, num_ranks: int) -> RanksError:
        if num_ranks in self._sets:
            return RanksError(f"rank {self.rank} cannot meet ranks 0..{num_ranks - 1}: it is none of them")
        known = ", ".join(map(str, sorted(self._sets)))
        return RanksError(f"{num_ranks} ranks cannot meet, only {known}; name {num_ranks} among the launch's subsets")


def open_ranks(*, expected_size: int, subsets: Sequence[int] = (), progress: Path | None = None) -> Ranks:
    """Join the ranks that this process was started as one of.

    `subsets` are the numbers of ranks that will meet (all ranks always can): process sets are fixed when Horovod starts,
    and each costs every rank time in every cycle, so name only what is used.  `progress` is the file that `report` writes.
    Raises RanksError if there are not `expected_size` ranks.
    """
    if "HOROVOD_RANK" not in os.environ:
        if expected_size != 1:
            raise _wrong_size(expected_size, 1)
        return SingleRank(progress=progress)
    found = int(os.environ.get("HOROVOD_SIZE", "1"))
    if found != expected_size:  # asked before the first meeting, which would wait for ranks that never come
        raise _wrong_size(expected_size, found)
    import horovod.torch as hvd

    sizes = sorted({size for size in subsets if 1 < size < expected_size})
    process_sets = {size: hvd.ProcessSet(range(size)) for size in sizes}
    try:
        hvd.init(process_sets=list(process_sets.values()))
    except ValueError as error:
        raise PeerLostError(f"rank {os.environ['HOROVOD_RANK']} did not find the other ranks ({error})") from error
    if hvd.size() != expected_size:
        raise _wrong_size(expected_size, hvd.size())
    return HorovodRanks(hvd, {**process_sets, expected_size: hvd.global_process_set}, progress=progress)


def _wrong_size(expected: int, found: int) -> RanksError:
    torchrun = " (torchrun does not start Horovod ranks)" if "TORCHELASTIC_RUN_ID" in os.environ else ""
    return RanksError(
        f"{expected} ranks were asked for, this process is one of {found}{torchrun}; start ranks through `iobench train`, "
        f"or with `horovodrun -np {expected}`"
    )


def _append_line(path: Path | None, document: Mapping[str, Any]) -> None:
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(document) + "\n")
