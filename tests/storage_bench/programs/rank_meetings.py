"""Ranks that meet in the numbers that config["meetings"] tells: [number of ranks, a flag per rank]."""

import time
from typing import Any

from iobench.storage_bench.launching.launch import rank_main
from iobench.storage_bench.launching.ranks import Ranks


def main(config: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    ranks.barrier()
    answers: list[bool | None] = []
    times: list[list[float]] = []
    for count, flags in config["meetings"]:
        came = ended = time.monotonic()
        if ranks.rank < count:
            time.sleep(config["late_s"] * (ranks.rank == count - 1))
            came = time.monotonic()
            answers.append(ranks.any_true(flags[ranks.rank], count))
            ended = time.monotonic()
            ranks.meet(count)
        else:
            answers.append(None)
        ranks.barrier()
        times.append([came, ended, time.monotonic()])
    return {"answers": answers, "times": times}


if __name__ == "__main__":
    rank_main(main)
