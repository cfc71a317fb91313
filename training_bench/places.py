"""Where ranks run, and where the local copies that they read lie.

Places()                        all ranks on this host, one copy here
Places(hosts, ssh)              ranks on each host, and a copy on each machine before they begin; removed at the end

    launcher --> a rank on each host: copies, verifies       once a machine, whatever its names
             --> the ranks that are measured
             --> a rank on each host: removes
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..loaders.counters.counter import NoCounter
from ..loaders.evidence import CounterSet, counter_for
from ..storage_bench.launching.hosts import HostSlots, assign
from ..storage_bench.launching.launch import LaunchError, launch_ranks, require_ranks
from ..storage_bench.staging import StagingError, remove_stage, stage
from .made import missing_above, remove_empty

COPY_MODULE = "iobench.training_bench.copy_rank"
COPY_LIMIT_S = 7 * 86400.0
REMOVE_LIMIT_S = 300.0
Show = Callable[[str, float, str], None]


@dataclass(frozen=True, slots=True)
class Places:
    """The hosts that ranks run on, filled one after the other, and the words of ssh; without hosts all run here."""

    hosts: tuple[HostSlots, ...] = ()
    ssh: tuple[str, ...] = ("ssh",)

    def require(self, num_ranks: int) -> None:
        """Raise LaunchError, before any work is done, where so many ranks cannot run."""
        require_ranks(num_ranks)
        if self.hosts:
            assign(self.hosts, num_ranks)

    def most_on_a_host(self, num_ranks: int) -> int:
        """How many of the ranks share a host's memory and cores at most."""
        return max(len(ranks) for _, ranks in assign(self.hosts, num_ranks)) if self.hosts else num_ranks

    def of(self, num_ranks: int) -> tuple[HostSlots, ...]:
        """The hosts that so many ranks need."""
        return tuple(host for host, _ in assign(self.hosts, num_ranks)) if self.hosts else ()

    @contextmanager
    def copies(self, path: Path, folder: Path, *, num_ranks: int, show: Show) -> Iterator[None]:
        """A verified copy of `path` in `folder` wherever ranks run, for as long as it is needed.

        Folders above it that are not there are made, and removed with it.

        Raises StagingError where it cannot be made, LaunchError where a host is not reached.
        """
        hosts = self.of(num_ranks)
        missing = [] if hosts else missing_above(folder)
        try:
            if hosts:
                self._on_each(hosts, {"source": str(path.resolve()), "target": str(folder.absolute())}, show)
            else:
                stage(path, folder, progress=lambda _, done, total: _tell(show, done, total))
            yield
        finally:
            if hosts:
                self._remove(hosts, folder.absolute(), show)
            else:
                remove_stage(folder)
                remove_empty(missing)

    def _remove(self, hosts: tuple[HostSlots, ...], folder: Path, show: Show) -> None:
        """Remove the copies together, or host by host where one is not reached any more."""
        told = {"source": None, "target": str(folder)}
        with suppress(LaunchError):
            self._on_each(hosts, told, show)
            return
        left: list[str] = []
        for host in hosts:
            try:
                self._on_each((host,), told, show)
            except LaunchError as error:
                left.append(f"{host.name} ({error})")
        if left:
            raise StagingError(f"{folder}: the copy may still be on {', '.join(left)}; remove it there by hand")

    def _on_each(self, hosts: tuple[HostSlots, ...], config: dict[str, Any], show: Show) -> None:
        with TemporaryDirectory(prefix="iobench-ranks-") as folder:
            launch_ranks(
                COPY_MODULE,
                config,
                num_ranks=len(hosts),
                folder=Path(folder),
                timeout_s=REMOVE_LIMIT_S if config["source"] is None else COPY_LIMIT_S,
                hosts=tuple(HostSlots(host.name, 1) for host in hosts),
                ssh=self.ssh,
                on_progress=lambda seen: _tell(show, seen["done"], seen["total"]),
            )

    def counters(self, folders: Mapping[Any, Path]) -> dict[str, CounterSet]:
        """What decides about the bytes of each source; nothing does where its folder is only on other hosts."""
        elsewhere = CounterSet(NoCounter("the copies lie on other hosts: what counts there is not known here"), ())
        return {str(source): counter_for([place]) if place.exists() else elsewhere for source, place in folders.items()}


def _tell(show: Show, done: int, total: int) -> None:
    show("stage", done / total, f"{done / 1e9:.2f} GB")
