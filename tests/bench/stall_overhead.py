"""What it costs to be told how long a loop waited: microseconds per step.

    python tests/bench/stall_overhead.py

The loop does nothing over batches that are there already; what a step costs beyond the bare loop is the meter's.  Each
figure is the median of paired rounds, with the range of the middle half; the limit is 20 us a step.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any

import torch
from parts.record import run

from iobench.loaders import DataLoader, StallMeter
from iobench.terminal import say, table

LIMIT_US = 20.0
NUM_STEPS = 20_000
ROUNDS = 9


class Samples:
    """A data set that costs nothing: `__getitems__` gives the same list for every batch."""

    def __len__(self) -> int:
        return NUM_STEPS

    def __getitem__(self, number: int) -> int:
        return number

    def __getitems__(self, numbers: list[int]) -> list[int]:
        return numbers


def first(samples: list[int]) -> int:
    """A collate function that costs nothing."""
    return samples[0]


def microseconds_a_step(make: Callable[[], Iterable[Any]]) -> float:
    """One pass over what `make` makes."""
    steps = make()
    gc.collect()
    gc.disable()
    begin = perf_counter()
    for _ in steps:
        pass
    spent = perf_counter() - begin
    gc.enable()
    return spent / NUM_STEPS * 1e6


def extra(bare: Callable[[], Iterable[Any]], metered: Callable[[], Iterable[Any]]) -> tuple[float, float, float]:
    """Median and quartiles of what `metered` costs beyond `bare`, from interleaved rounds."""
    differences = [microseconds_a_step(metered) - microseconds_a_step(bare) for _ in range(ROUNDS)]
    low, middle, high = statistics.quantiles(differences, n=4)
    return middle, low, high


def main() -> int:
    """Measure, tell, and say by the exit status whether the limit is kept."""
    batch = (torch.zeros(1), torch.zeros(1))
    ready = [batch] * NUM_STEPS

    def loader_of(cls: type[torch.utils.data.DataLoader[Any]]) -> torch.utils.data.DataLoader[Any]:
        return cls(Samples(), collate_fn=first)  # type: ignore[arg-type]  # map-style without being a torch class

    found = {
        "StallMeter.watch over a list": extra(lambda: ready, lambda: StallMeter().watch(ready)),
        "the same with device='cpu'": extra(lambda: ready, lambda: StallMeter().watch(ready, device="cpu")),
        "DataLoader beside torch's, any data set": extra(
            lambda: loader_of(torch.utils.data.DataLoader), lambda: loader_of(DataLoader)
        ),
    }
    if torch.cuda.is_available():
        on_device = [tuple(tensor.cuda() for tensor in batch)] * NUM_STEPS
        found["StallMeter.watch over batches on a GPU"] = extra(
            lambda: on_device, lambda: StallMeter().watch(on_device)
        )
    else:
        say("the figures on a GPU are left out: torch sees no CUDA device")
    rows = [(name, f"{middle:.2f}", f"{low:.2f} to {high:.2f}") for name, (middle, low, high) in found.items()]
    table(("what", "us a step", "middle half"), rows)
    worst = max(middle for middle, _, _ in found.values())
    say(f"at most {worst:.1f} us a step, {'within' if worst < LIMIT_US else 'over'} the limit of {LIMIT_US:.0f} us")
    return 0 if worst < LIMIT_US else 1


if __name__ == "__main__":
    run(main)
