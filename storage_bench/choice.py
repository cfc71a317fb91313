"""Which file engine measures a storage: what `auto` means here, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from ..loaders.engines.readers import direct_refused
from .workload import Engine, PageCache, WorkloadError, WorkloadUsageError


def choose_engine(engine: str, sample: Path, *, page_cache: PageCache = "cold") -> tuple[str, str]:
    """For measuring storage `auto` is direct where the file system does it, else buffered; with the reason.

    Warm reads are buffered ones.  Raises WorkloadUsageError for an engine that is not known or never reads warm.
    """
    if engine not in get_args(Engine):
        raise WorkloadUsageError(f"engine {engine!r} is not known; choose {', '.join(get_args(Engine))}")
    if engine == "direct" and page_cache == "warm":
        raise WorkloadUsageError(
            "engine direct never reads from the page cache; use --engine buffered or auto for warm reads"
        )
    if engine == "buffered":
        return "buffered", "asked for"
    if page_cache == "warm":
        return "buffered", "auto: buffered, warm reads come from the page cache"
    refused = direct_refused(sample)
    if refused is None:
        alone = "auto: direct, the page cache cannot answer for the storage"
        return "direct", "asked for" if engine == "direct" else alone
    if engine == "direct":
        raise WorkloadError(f"{sample}: {refused}; use --engine buffered or auto")
    return "buffered", f"auto: buffered, because {refused}"
