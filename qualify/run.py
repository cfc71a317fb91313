"""A qualification on its way: what is known so far, and the time that is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

from ..loaders.index import RecordLayout
from ..results.record import Metric, Point
from ..storage_bench.accelerators import Accelerator
from ..storage_bench.decoded import Decoded
from ..storage_bench.emulate import demand_bps
from ..storage_bench.limits import ram_bytes
from ..storage_bench.staging.compare import CACHE_SHARE
from ..training_bench.images import ImagesTold
from .settings import QualifyConfig

Show = Callable[[str, float, str], None]


class QualifyError(ValueError):
    """The job cannot be done with what is here."""

    exit_status: ClassVar[int] = 4


@dataclass(slots=True)
class Run:
    """A qualification on its way; `reserved_s` is kept for the required number of ranks, whatever else is measured."""

    path: Path
    local: Path
    config: QualifyConfig
    accelerator: Accelerator
    show: Show
    engine: str = ""
    engine_reason: str = ""
    max_ranks: int = 1
    layout: RecordLayout | None = None
    record_bytes: int = 0
    num_images: int = 0
    num_shards: int = 0
    total_bytes: int = 0
    points: list[Point] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    scaled: list[str] = field(default_factory=list)
    data_label: str | None = None
    data_scaled: bool = False
    measured_s: float = 0.0
    beside_s: float = 0.0
    measured_bytes: int = 0
    peak_rss_bytes: int = 0
    rates: dict[int, float] = field(default_factory=dict)
    measured_rates: dict[int, Metric] = field(default_factory=dict)
    trials: list[dict[str, Any]] = field(default_factory=list)
    warm_rate: Metric | None = None
    reserved_s: float = 0.0
    copy_invalid: str | None = None
    decoded: Decoded | None = None

    @property
    def images(self) -> ImagesTold:
        """What there is to say of encoded images that ranks have read."""
        return ImagesTold(self.decoded, self.config.train.reader_threads)

    @property
    def real_bytes(self) -> int:
        """Bytes of the data set that is asked about; the one here may be a sample of it."""
        return self.config.copy_.dataset_bytes or self.total_bytes

    @property
    def cache_holds(self) -> bool:
        """Whether later epochs of that data set come from this host's page cache."""
        return self.real_bytes <= CACHE_SHARE * ram_bytes()

    @property
    def demand_gbps(self) -> float:
        """What one accelerator asks for."""
        return demand_bps(self.accelerator.batch_size, self.record_bytes, self.accelerator.step_time_s) / 1e9

    @property
    def all_rates(self) -> dict[int, Metric]:
        """GB/s by number of readers: those of the time blocks, and the pilot's where there are no others."""
        pilot = {
            count: Metric(value=rate, unit="GB/s", n=1, reason="one short pilot block")
            for count, rate in self.rates.items()
        }
        return {**pilot, **self.measured_rates}

    @property
    def left_s(self) -> float:
        """Measuring time that is left."""
        return max(0.0, self.config.measure_seconds - (self.measured_s - self.beside_s))

    def share_s(self, share: float) -> float:
        """A share of the time that is not reserved for what the verdict rests on."""
        return share * max(0.0, self.config.measure_seconds - self.reserved_s)

    @contextmanager
    def measuring(self, *, within_budget: bool = True) -> Iterator[None]:
        """Count the time of this block as measuring time; what has a time of its own is not part of the budget."""
        begin = perf_counter()
        try:
            yield
        finally:
            took = perf_counter() - begin
            self.measured_s += took
            self.beside_s += 0.0 if within_budget else took
