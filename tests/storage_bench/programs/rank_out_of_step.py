"""Three ranks, of which the last believes that all meet, and the others that two do."""

from typing import Any

from iobench.storage_bench.launching.launch import rank_main
from iobench.storage_bench.launching.ranks import Ranks


def main(config: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    ranks.meet(3 if ranks.rank == 2 else 2)
    return {}


if __name__ == "__main__":
    rank_main(main)
