"""Ranks: the processes of one run, seen from inside one of them.

Horovod where its launcher started this process (HOROVOD_RANK is set), one process alone where it did not.  Whatever is
run on ranks is written against the `Ranks` protocol and does not care which.

    rank        0   1   2   3   4
    barrier()   +---+---+---+---+     all ranks
    meet(3)     +---+---+             ranks 0..2, while the others are in barrier()
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
        """Wait until ranks 0..num_ranks-1 are all here: an allreduce of 8 bytes.  All other ranks are in `barrier`."""

    def any_true(self, flag: bool, num_ranks: int) -> bool:
        """Meet, and tell each of these ranks whether any of them brought a true flag.  Costs what `meet` does."""

    def barrier(self) -> None:
        """Wait until all ranks are here."""

    def gather(self, obj: Any) -> list[Any] | None:
        """Bring each rank's `obj` (what JSON holds) to rank 0, in rank order; None on the others.  All call it."""

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
    """Processes that Horovod's launcher started.  `hvd` is horovod.torch, initialised.

    Every meeting and barrier is a round that all ranks take part in: an allreduce of (flags, ranks standing by), always
    under one name on one tensor, so that Horovod negotiates it once and answers from its cache from then on.  Ranks
    that are no part of a meeting stand by in `barrier`, where a round with everybody standing by is the end.

    A process set for each number of ranks would do the same, but each set costs an exchange between its ranks in every
    cycle of Horovod's, idle or not.
    """

    backend: Backend = "horovod"

    def __init__(self, hvd: Any, *, progress: Path | None = None) -> None:
        import torch

        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self.local_rank: int = hvd.local_rank()
        self.host = socket.gethostname()
        self._hvd = hvd
        self._round = torch.zeros(2, dtype=torch.float32)
        self._progress = progress

    def meet(self, num_ranks: int) -> None:
        """Ranks 0..num_ranks-1 wait for each other."""
        self.any_true(False, num_ranks)

    def any_true(self, flag: bool, num_ranks: int) -> bool:
        """Ranks 0..num_ranks-1 sum their flags.

        Raises RanksError where the other ranks do something else, PeerLostError if one of them is gone.
        """
        if not self.rank < num_ranks <= self.size:
            raise RanksError(
                f"rank {self.rank} of {self.size} cannot meet ranks 0..{num_ranks - 1}: it is none of them"
            )
        if num_ranks == 1:
            return flag
        flags, standing_by = self._take_round(float(flag), 0.0)
        if standing_by != self.size - num_ranks:
            raise RanksError(
                f"{num_ranks} of {self.size} ranks were to meet and {self.size - standing_by:g} did; "
                f"all others must be in barrier()"
            )
        return flags > 0

    def barrier(self) -> None:
        """All ranks wait for each other; lower ranks may go on meeting meanwhile."""
        while self._take_round(0.0, 1.0)[1] != self.size:
            pass

    def gather(self, obj: Any) -> list[Any] | None:
        """Gather JSON texts as bytes: nothing that comes from another process is unpickled."""
        import torch

        text = torch.frombuffer(bytearray(json.dumps(obj).encode()), dtype=torch.uint8)
        size = torch.tensor([len(text)])
        with self._peers():
            sizes = self._wait(self._hvd.allgather_async(size, name="gather.sizes")).tolist()
            texts = self._wait(self._hvd.allgather_async(text, name="gather.texts"))
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

    def _take_round(self, flag: float, standing_by: float) -> tuple[float, float]:
        self._round[0], self._round[1] = flag, standing_by
        with self._peers():
            self._wait(self._hvd.allreduce_async_(self._round, op=self._hvd.Sum, name="round"))
        flags, standing = self._round.tolist()
        return flags, standing

    def _wait(self, handle: int) -> Any:
        """Wait for an operation asleep: Horovod's own wait spins, and would take CPU time from those it waits for.

        A sleep is at most 1/16 of the time waited so far, so that much is a wait too long at worst.
        """
        begin = perf_counter()
        while not self._hvd.poll(handle):
            sleep(min(max((perf_counter() - begin) / 16, SHORTEST_SLEEP_S), LONGEST_SLEEP_S))
        return self._hvd.synchronize(handle)

    @contextmanager
    def _peers(self) -> Iterator[None]:
        try:
            yield
        except self._hvd.HorovodInternalError as error:
            raise PeerLostError(f"rank {self.rank} on {self.host}: another rank went away while they met") from error


def open_ranks(*, expected_size: int, pin: bool = False, progress: Path | None = None) -> Ranks:
    """Join the ranks that this process was started as one of.

    `pin` keeps Horovod's threads of a rank on one core, which halves what small meetings cost where ranks share cores;
    gradients want all cores.  `progress` is the file that `report` writes.  Raises RanksError if there are not
    `expected_size` ranks.
    """
    if "HOROVOD_RANK" not in os.environ:
        if expected_size != 1:
            raise _wrong_size(expected_size, 1)
        return SingleRank(progress=progress)
    found = int(os.environ.get("HOROVOD_SIZE", "1"))
    if found != expected_size:  # asked before the first meeting, which would wait for ranks that never come
        raise _wrong_size(expected_size, found)
    import horovod.torch as hvd

    before = _threads()
    try:
        hvd.init()
    except ValueError as error:
        raise PeerLostError(f"rank {os.environ['HOROVOD_RANK']} did not find the other ranks ({error})") from error
    if hvd.size() != expected_size:
        raise _wrong_size(expected_size, hvd.size())
    if pin:
        cores = sorted(os.sched_getaffinity(0))
        for thread in _threads() - before:
            os.sched_setaffinity(thread, {cores[hvd.local_rank() % len(cores)]})
    return HorovodRanks(hvd, progress=progress)


def machine_id() -> str:
    """What tells this machine from others: two hosts' names may be of one, with one set of counters."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _threads() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/task")}


def _wrong_size(expected: int, found: int) -> RanksError:
    torchrun = " (torchrun does not start Horovod ranks)" if "TORCHELASTIC_RUN_ID" in os.environ else ""
    return RanksError(
        f"{expected} ranks were asked for, this process is one of {found}{torchrun}; "
        f"start ranks through `iobench train`, or with `horovodrun -np {expected}`"
    )


def _append_line(path: Path | None, document: Mapping[str, Any]) -> None:
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(document) + "\n")
