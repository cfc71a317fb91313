"""Engines by name: which reader serves `auto`, `buffered`, `direct`, `mmap` or `kvikio`, and why.

A new engine is a Reader (`readers.py`) in a module of its own, and one line here.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Literal, get_args

from .mapped import MappedReader
from .readers import BufferedReader, DirectReader, DirectRefusedError, Reader, direct_refused

EngineName = Literal["auto", "buffered", "direct", "mmap", "kvikio"]


def open_reader(engine: str, sample: Path, *, evict_behind: bool = False) -> tuple[Reader, str]:
    """The reader for an engine's name, and the reason where `auto` had a choice (for the record).

    `auto` is the page cache's reader on the CPU: later epochs then come from memory.  `direct` is tried on `sample`, a
    non-empty file of the data set, and refused with an error where the file system does not do it.
    """
    if engine == "auto":
        return BufferedReader(evict_behind=evict_behind), "auto: buffered, because batches stay in host memory"
    if engine == "buffered":
        return BufferedReader(evict_behind=evict_behind), "asked for"
    if engine == "direct":
        if reason := direct_refused(sample):
            raise DirectRefusedError(errno.EINVAL, f"{reason}; use --engine buffered or auto", str(sample))
        return DirectReader(), "asked for"
    if engine == "mmap":
        return MappedReader(evict_behind=evict_behind), "asked for"
    if engine == "kvikio":
        from .kvikio_reader import KvikioReader

        kvikio = KvikioReader(evict_behind=evict_behind)
        return kvikio, kvikio.reason
    raise ValueError(f"engine {engine!r} is not known here; choose {', '.join(get_args(EngineName))}")
