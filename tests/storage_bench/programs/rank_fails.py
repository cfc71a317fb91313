"""Ranks of which number config["rank"] raises while the others wait for it."""

from typing import Any, ClassVar

from iobench.storage_bench.launching.launch import rank_main
from iobench.storage_bench.launching.ranks import Ranks


class InvalidError(ValueError):
    exit_status: ClassVar[int] = 3


def main(config: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    if ranks.rank == config["rank"]:
        if "opens" in config:
            open(config["opens"]).close()
        raise InvalidError("bytes are missing") if config["ours"] else ZeroDivisionError("nothing left")
    ranks.barrier()
    return {}


if __name__ == "__main__":
    rank_main(main)
