"""The ledger of a copy: which version of which shard it holds, with the digest that was computed on the way.

    .iobench-staged.jsonl   one line a shard, appended when the shard has its name:
    {"name": "a.tfrecord", "bytes": 1024, "version": "etag ...", "xxh3_128": "..."}

With it an interrupted copy goes on where no dataset.json promises digests, and a copy of objects tells of which.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from .source import SourceShard

LEDGER_NAME = ".iobench-staged.jsonl"


class Ledger:
    """The ledger of one folder; lines that were cut short by a crash count for nothing."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LEDGER_NAME
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int, str], str] = {}
        lines = self._path.read_bytes().splitlines() if self._path.is_file() else []
        for line in lines:
            try:
                row = json.loads(line)
                self._known[str(row["name"]), int(row["bytes"]), str(row["version"])] = str(row["xxh3_128"])
            except (ValueError, KeyError, TypeError):
                continue  # the shard is copied again

    def digest_of(self, shard: SourceShard) -> str | None:
        """The digest of this very version of a shard, if the folder was given it."""
        return None if shard.version is None else self._known.get((shard.name, shard.size_bytes, shard.version))

    def add(self, shard: SourceShard, digest: str) -> None:
        """Note that the folder holds `shard`; raises OSError."""
        if shard.version is None:
            return
        row = {"name": shard.name, "bytes": shard.size_bytes, "version": shard.version, "xxh3_128": digest}
        with self._lock:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                os.write(fd, b"\n" + json.dumps(row).encode() + b"\n")  # apart from a line that was cut short
            finally:
                os.close(fd)
