"""Rounds of checkpoints, alone and beside readers, with what the counters saw of each."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns

from ...loaders.engines.readers import direct_refused
from ...loaders.evidence import counter_for, process_read_bytes
from ...results.quantities import amount
from ..sweep.writing import written_bytes
from ..workload import DataFile, data_files
from .config import CheckpointConfig
from .files import Checkpoint, CheckpointError, Span
from .readers import ReadLoad

SPARE_SHARE = 0.05  # of the free space stays free
OWN_DATA_BYTES = 1 << 30  # at most, where PATH holds nothing to read
SETTLE_S = 0.2


@dataclass(frozen=True, slots=True)
class Sample:
    """One checkpoint: when it was written and restored, and what readers got meanwhile, or by themselves."""

    write: Span
    restore: Span
    read_gbps: float
    read_during_restore_gbps: float | None
    delivered_bytes: int
    device_bytes: int | None
    process_bytes: int | None
    device_written_bytes: int | None


@dataclass(slots=True)
class Series:
    """All checkpoints beside nothing, or beside reads."""

    beside: str
    samples: list[Sample] = field(default_factory=list)


class Bench:
    """One run below `folder`: the data that are read, the engines, and the checkpoints' numbers."""

    def __init__(self, folder: Path, path: Path, config: CheckpointConfig) -> None:
        self._folder = folder
        self._config = config
        self._serial = 0
        found = _data_in(path)
        self.has_own_data = not found
        own_bytes = min(config.checkpoint, OWN_DATA_BYTES) if self.has_own_data else 0
        _require_room(path, config.checkpoint + own_bytes)
        self.files = found or self._make_data(own_bytes)
        refused = direct_refused(self.files[0].path)
        if refused and config.engine == "direct":
            raise CheckpointError(f"{path}: {refused}; use --engine buffered")
        self.read_engine = "buffered" if refused else "direct"
        self.counter = counter_for([folder, *(file.path for file in self.files)])

    @property
    def data_bytes(self) -> int:
        """What the readers read."""
        return sum(file.size_bytes for file in self.files)

    def measure(self, series: Series) -> Sample:
        """One checkpoint more."""
        before, mine = self.counter.read_bytes(), process_read_bytes()
        during_restore: float | None = None
        if series.beside == "reads":
            readers, (write, restore, written) = self._beside_readers()
            rate = readers.gbps(write.begin_ns, write.end_ns)
            during_restore = readers.gbps(restore.begin_ns, restore.end_ns)
        else:
            write, restore, written = self._checkpoint()
            readers, rate = self._readers_alone()
        sample = Sample(
            write,
            restore,
            read_gbps=rate,
            read_during_restore_gbps=during_restore,
            delivered_bytes=restore.num_bytes + readers.delivered_bytes,
            device_bytes=_moved(self.counter.read_bytes(), before),
            process_bytes=_moved(process_read_bytes(), mine),
            device_written_bytes=written,
        )
        series.samples.append(sample)
        return sample

    def _checkpoint(self) -> tuple[Span, Span, int | None]:
        """Write and restore one; with it the bytes that went to the devices while it was written."""
        checkpoint = self._new_checkpoint(self._config.checkpoint)
        before = written_bytes(self.counter.leaves)
        try:
            write = checkpoint.write(self._config.engine)
            written = _moved(written_bytes(self.counter.leaves), before)
            return write, checkpoint.restore(self.read_engine), written
        finally:
            checkpoint.remove()

    def _beside_readers(self) -> tuple[ReadLoad, tuple[Span, Span, int | None]]:
        with self._readers() as readers:
            time.sleep(SETTLE_S)
            return readers, self._checkpoint()

    def _readers_alone(self) -> tuple[ReadLoad, float]:
        with self._readers() as readers:
            time.sleep(SETTLE_S)
            begin = perf_counter_ns()
            time.sleep(self._config.seconds)
            end = perf_counter_ns()
        return readers, readers.gbps(begin, end)

    def _readers(self) -> ReadLoad:
        config = self._config
        return ReadLoad(self.files, engine=self.read_engine, threads=config.readers, block_bytes=config.read_block_size)

    def _make_data(self, num_bytes: int) -> list[DataFile]:
        data = self._new_checkpoint(num_bytes)
        data.write("buffered")
        return [DataFile(path, path.stat().st_size) for path in data.paths]

    def _new_checkpoint(self, size_bytes: int) -> Checkpoint:
        self._serial += 1
        config = self._config
        return Checkpoint(
            self._folder,
            size_bytes=size_bytes,
            threads=config.threads,
            block_bytes=config.block_size,
            serial=self._serial,
        )


def _data_in(path: Path) -> list[DataFile]:
    """The data in the folder; none where it holds no files but those that begin with a dot."""
    visible = any(entry.is_file() and not entry.name.startswith(".") for entry in path.iterdir())
    return data_files(path) if visible else []


def _require_room(path: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(path).free
    if num_bytes > (1 - SPARE_SHARE) * free:
        raise CheckpointError(
            f"{path}: the checkpoint, and data to read beside it where there are none, take "
            f"{amount(num_bytes, 'bytes')}; {amount(free, 'bytes')} are free, and a twentieth of that stays so: give a "
            f"smaller size, or another folder"
        )


def _moved(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before
