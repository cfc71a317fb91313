"""Ranks that tell their pids and then go on meeting, until they are ended."""

import os
import time
from typing import Any

from iobench.storage_bench.launching.launch import rank_main
from iobench.storage_bench.launching.ranks import Ranks


def main(config: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    ranks.report({"pids": ranks.gather(os.getpid())})
    while True:
        time.sleep(0.05)
        ranks.barrier()


if __name__ == "__main__":
    rank_main(main)
