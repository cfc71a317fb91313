"""Ranks whose loader delays each batch by a known time: the measured loop's marks, and the loader's own clock."""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import numpy as np

from iobench.storage_bench.accelerators import Accelerator
from iobench.storage_bench.launching.launch import rank_main
from iobench.storage_bench.launching.ranks import Ranks
from iobench.training_bench.loop import measured_steps
from iobench.training_bench.plan import Block

IMAGES = np.zeros((2, 8, 8, 3), dtype=np.uint8)


def delay(seconds: float) -> tuple[int, int]:
    """Sleep; when it began and ended, in ns."""
    begin = time.perf_counter_ns()
    if seconds:
        time.sleep(seconds)
    return begin, time.perf_counter_ns()


def in_the_loop(seconds: float, told: list[tuple[int, int]]) -> Iterator[np.ndarray]:
    """Delays inside next()."""
    while True:
        told.append(delay(seconds))
        yield IMAGES


def behind_the_loop(seconds: float, told: list[tuple[int, int]]) -> Iterator[np.ndarray]:
    """Delays in a thread that is one batch ahead, so that compute hides a part."""
    ready: queue.Queue[tuple[int, int]] = queue.Queue(maxsize=1)
    end = threading.Event()

    def produce() -> None:
        while not end.is_set():
            ready.put(delay(seconds))

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        while True:
            told.append(ready.get())
            yield IMAGES
    finally:
        end.set()
        while thread.is_alive():
            with suppress(queue.Empty):
                ready.get(timeout=0.01)


def run(config: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """One block for each delay; `delayed` are the ranks whose loader delays at all."""
    accelerator = Accelerator("test", config["step_s"], 2, False, "test")
    loader = behind_the_loop if config.get("ahead") else in_the_loop
    blocks, told = [], []
    for number, (seconds, steps) in enumerate(zip(config["delays_s"], config["steps"], strict=True)):
        block = Block(source="direct", num_ranks=ranks.size, drop_steps=2, count_steps=steps, limit_s=60.0)
        truth: list[tuple[int, int]] = []
        with closing(loader(seconds if ranks.rank in config["delayed"] else 0.0, truth)) as batches:
            ranks.barrier()
            times = measured_steps(batches, block, accelerator, ranks)
        ranks.barrier()
        blocks.append({"block": number, "round": 0, "steps_ns": times.tolist()})
        told.append(truth[: len(times)])
    return {"blocks": blocks, "told": told}


if __name__ == "__main__":
    rank_main(run)
