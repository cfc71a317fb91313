"""Epochs over a shard set, and after each what the process has taken: one line of JSON.

    python epochs.py FOLDER ENGINE SHUFFLE NUM_EPOCHS [traced]

`own_blocks` and `own_bytes` are those that this package and numpy have allocated, from tracemalloc, if `traced`: torch
allocates a little in each of its first thousands of batches.
"""

import gc
import json
import sys
import tracemalloc
from pathlib import Path

import numpy as np

import iobench
from iobench.loaders import DataLoader, ShardSet

OWN = [tracemalloc.Filter(True, f"{Path(module.__file__).parent}/*") for module in (iobench, np)]


def status(name: str) -> int:
    """A field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def taken(traced: bool) -> dict[str, int]:
    gc.collect()
    found = {"peak_bytes": status("VmHWM"), "anonymous_bytes": status("RssAnon")}
    if traced:
        own = tracemalloc.take_snapshot().filter_traces(OWN).statistics("filename")
        found |= {"own_blocks": sum(each.count for each in own), "own_bytes": sum(each.size for each in own)}
    return found


def main(folder: str, engine: str, shuffle: str, num_epochs: str, *traced: str) -> None:
    if traced:
        tracemalloc.start()
    shards = ShardSet.open(folder, engine=engine, shuffle_mode=shuffle)
    loader = DataLoader(shards, batch_size=64, shuffle=True, num_workers=2)
    for _ in range(int(num_epochs)):
        for _batch in loader:
            pass
        del _batch
        print(json.dumps(taken(bool(traced))), flush=True)


main(*sys.argv[1:])
