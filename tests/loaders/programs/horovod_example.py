"""The Horovod example of loaders/CONTRACT.md on one rank; its result is what the example's loader gave."""

import os
from typing import Any

from example import run

from iobench.storage_bench.launching.launch import rank_main
from iobench.storage_bench.launching.ranks import Ranks


def main(config: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    os.chdir(config["folder"])
    return run("Horovod", encoded=bool(config.get("encoded")))


if __name__ == "__main__":
    rank_main(main)
