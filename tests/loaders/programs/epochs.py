"""Epochs over a shard set, and after each what the process has taken: one line of JSON.

    python epochs.py FOLDER ENGINE SHUFFLE NUM_EPOCHS

The interpreter's cache of attributes is emptied before its blocks are counted: it keeps the names that C code looks up.
"""

import gc
import json
import sys
from pathlib import Path

from iobench.loaders import DataLoader, ShardSet, transforms

empty_caches = sys._clear_internal_caches if hasattr(sys, "_clear_internal_caches") else sys._clear_type_cache


def status(name: str) -> int:
    """A field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def main(folder: str, engine: str, shuffle: str, num_epochs: str) -> None:
    shards = ShardSet.open(folder, engine=engine, shuffle_mode=shuffle)
    if shards.index.layout.codec is not None:
        shards = ShardSet.open(folder, engine=engine, shuffle_mode=shuffle, transform=transforms.ImageNetTrain(64))
    loader = DataLoader(shards, batch_size=64, shuffle=True, num_workers=2)
    for _ in range(int(num_epochs)):
        for _batch in loader:
            pass
        del _batch
        gc.collect()
        empty_caches()
        taken = {"peak_bytes": status("VmHWM"), "anonymous_bytes": status("RssAnon")}
        print(json.dumps(taken | {"python_blocks": sys.getallocatedblocks()}), flush=True)


main(*sys.argv[1:])
