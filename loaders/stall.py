"""The stall meter: how long a loop waited for data.

    with StallMeter() as meter:
        for images, labels in meter.watch(loader):
            step(images, labels)
    print(meter)          # 400 steps, 12.1 s, waited 0.31 s for data (2.6 %), p50 0.02 ms, p99 9.1 ms

Host wait is the time blocked in next().  The wall time runs from the first next() to the last batch's end of step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import perf_counter_ns
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

T = TypeVar("T")
GPU_WAIT_REASON = "no CUDA device in this loop"


class StallMeter:
    """Counts the time a loop waits for data; works on any iterable, and adds up over several epochs."""

    def __init__(self) -> None:
        self._waits_ns: list[int] = []
        self._wall_ns = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held open."""

    def watch(self, loader: Iterable[T]) -> Iterator[T]:
        """Iterate over `loader`, timing each next()."""
        asked = perf_counter_ns()
        batches = iter(loader)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waits_ns.append(perf_counter_ns() - asked)
            try:
                yield batch
            finally:  # the step is over, also where it ends the loop
                del batch  # a batch the user dropped must be free before the next one is asked for
                done = perf_counter_ns()
                self._wall_ns += done - asked
                asked = done

    def summary(self) -> dict[str, Any]:
        """Steps, seconds, the share of the wall time spent waiting, and percentiles of one wait.

        Keys: num_steps, wall_s, data_wait_s, data_stall_fraction, gpu_data_wait_s (None without a GPU), wait_p50_s,
        wait_p99_s.  Without a step all but num_steps and wall_s are None.
        """
        waits = np.array(self._waits_ns, dtype=np.float64) / 1e9
        wall = self._wall_ns / 1e9
        measured = len(waits) > 0 and wall > 0
        return {
            "num_steps": len(waits),
            "wall_s": wall,
            "data_wait_s": float(waits.sum()) if measured else None,
            "data_stall_fraction": float(waits.sum()) / wall if measured else None,
            "gpu_data_wait_s": None,
            "wait_p50_s": float(np.percentile(waits, 50)) if measured else None,
            "wait_p99_s": float(np.percentile(waits, 99)) if measured else None,
        }

    def __str__(self) -> str:
        seen = self.summary()
        if seen["data_wait_s"] is None:
            return "no step was made"
        return (
            f"{seen['num_steps']} steps, {seen['wall_s']:.2f} s, waited {seen['data_wait_s']:.2f} s for data "
            f"({seen['data_stall_fraction']:.1%}), p50 {seen['wait_p50_s'] * 1e3:.2f} ms, "
            f"p99 {seen['wait_p99_s'] * 1e3:.2f} ms"
        )
