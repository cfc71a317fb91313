"""Ranks that start threads of several kinds, and ask the kernel where each may run."""

import threading
from pathlib import Path
from typing import Any

import torch

from iobench.storage_bench.launching.launch import rank_main
from iobench.storage_bench.launching.ranks import Ranks


def main(config: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    torch.set_num_threads(2)
    torch.ones(512, 512) @ torch.ones(512, 512)  # starts the threads of the BLAS
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    ranks.barrier()
    allowed = [
        line.split()[1]
        for status in Path("/proc/self/task").glob("*/status")
        for line in status.read_text().splitlines()
        if line.startswith("Cpus_allowed_list:")
    ]
    done.set()
    thread.join()
    return {"allowed": allowed}


if __name__ == "__main__":
    rank_main(main)
