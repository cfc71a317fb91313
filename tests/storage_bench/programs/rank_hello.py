"""Ranks that meet, say who they are, and end."""

import os
import sys
from typing import Any

from iobench.storage_bench.launching.launch import rank_main
from iobench.storage_bench.launching.ranks import Ranks


def main(config: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    ranks.barrier()
    ranks.report({"ranks": ranks.size})
    ranks.report({"word": config["word"]})
    return {
        "gathered": ranks.gather([ranks.rank, config["word"] * ranks.rank]),
        "backend": ranks.backend,
        "environment": dict(os.environ),
        "with_horovod": "horovod" in sys.modules,
    }


if __name__ == "__main__":
    rank_main(main)
