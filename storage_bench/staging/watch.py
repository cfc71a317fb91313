"""Counters of files over one or several stretches of cold reading, judged together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from ...loaders.evidence import RouteEvidence, background_rate, counter_for, judge, moved, process_read_bytes, total
from ...loaders.page_cache import cache_fraction, evict


class ColdWatch:
    """Makes files cold, takes the counters before and after, and says which way the bytes took."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._counter = counter_for(paths)
        alone = process_read_bytes() is not None and bool(self._counter.leaves)  # then others' reads are told apart
        self._background_bps = 0.0 if alone else background_rate(self._counter) or 0.0
        self._resident: list[float | None] = []
        self._moved: list[dict[str, int]] = []
        self._process: list[int | None] = []
        self._seconds = 0.0
        self._delivered = self._payload = 0

    def begin(self) -> None:
        """Put the files out of the page cache; a stretch begins."""
        evict(self._paths)
        self._resident.append(cache_fraction(self._paths))
        self._process_before = process_read_bytes()
        self._before, self._begun = self._counter.snapshot(), perf_counter()

    def end(self, *, delivered_bytes: int, payload_bytes: int) -> None:
        """The stretch ends, in which reads gave so many bytes."""
        self._moved.append(moved(self._before, self._counter.snapshot()))
        self._seconds += perf_counter() - self._begun
        after = process_read_bytes()
        known = after is not None and self._process_before is not None
        self._process.append((after or 0) - (self._process_before or 0) if known else None)
        self._delivered += delivered_bytes
        self._payload += payload_bytes

    def evidence(self, engine: str) -> RouteEvidence:
        """Of all stretches so far."""
        counted = total(self._moved)
        resident = [share for share in self._resident if share is not None]
        process = [count for count in self._process if count is not None]
        return judge(
            self._counter,
            engine=engine,
            page_cache="cold",
            cache_fraction=sum(resident) / len(resident) if resident and len(resident) == len(self._resident) else None,
            delivered_bytes=self._delivered,
            payload_bytes=self._payload,
            raw_device_bytes=counted.pop(self._counter.name, None),
            process_bytes=sum(process) if len(process) == len(self._process) else None,
            background_bytes=self._background_bps * self._seconds,
            beside=counted,
        )
