"""What the step clock costs, and how near its waits come to delays that a loader times itself.

    python tests/bench/step_clock.py

First the four marks of a step, in a loop that does nothing else, the loop included; the limit is 0.5 % of a 10 ms step.
Then loaders that delay each batch by 2, 10 and 50 ms: all steps together, the
measured wait over the loader's own clock; the limit is 2 %.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
from parts.record import run

from iobench.storage_bench.accelerators import Accelerator
from iobench.storage_bench.launching.ranks import SingleRank
from iobench.terminal import say, table
from iobench.training_bench.loop import measured_steps
from iobench.training_bench.plan import Block
from iobench.training_bench.timeline import StepClock

STEP_S = 0.010
NUM_MARKS = 4
NUM_STEPS = 50_000
ROUNDS = 9
DELAYS_S = (0.002, 0.010, 0.050)
MOST_OF_A_STEP = 0.005
MOST_OFF = 0.02
IMAGES = np.zeros((2, 8, 8, 3), dtype=np.uint8)


def spent_s(mark: Callable[[], object]) -> float:
    """A loop's time per step that does nothing but call `mark` as often as a step does."""
    begin = time.perf_counter()
    for _ in range(NUM_STEPS):
        for _ in range(NUM_MARKS):
            mark()
    return (time.perf_counter() - begin) / NUM_STEPS


def cost_of_marks() -> tuple[float, float, float]:
    """Median and quartiles of what a step's marks cost, in seconds."""
    costs = [spent_s(StepClock(NUM_STEPS).mark) for _ in range(ROUNDS)]
    low, middle, high = statistics.quantiles(costs, n=4)
    return middle, low, high


def off_by(delay_s: float) -> tuple[float, float]:
    """Measured wait over the loader's own clock, less 1, of all steps together and of the median step."""
    truth: list[int] = []

    def batches() -> Iterator[np.ndarray]:
        while True:
            begin = time.perf_counter_ns()
            time.sleep(delay_s)
            truth.append(time.perf_counter_ns() - begin)
            yield IMAGES

    steps = max(20, round(2.0 / (delay_s + STEP_S)))
    block = Block(source="direct", num_ranks=1, drop_steps=0, count_steps=steps, limit_s=60.0)
    times = measured_steps(batches(), block, Accelerator("bench", STEP_S, 2, False, "bench"), SingleRank())
    waits, delays = times[:, 1] - times[:, 0], np.array(truth)
    return float(waits.sum() / delays.sum()) - 1, float(np.median(waits / delays)) - 1


def main() -> int:
    """Measure, tell, and say by the exit status whether the limits are kept."""
    middle, low, high = cost_of_marks()
    share = middle / STEP_S
    table(
        ("what", "us a step", "middle half", "of a 10 ms step"),
        [("marks of a step", f"{middle * 1e6:.2f}", f"{low * 1e6:.2f} to {high * 1e6:.2f}", f"{share:.4%}")],
    )
    found = {delay: off_by(delay) for delay in DELAYS_S}
    rows = [(f"{delay * 1e3:.0f} ms", f"{whole:.3%}", f"{median:.3%}") for delay, (whole, median) in found.items()]
    table(("delay", "wait too long by", "median step"), rows)
    worst = max(whole for whole, _ in found.values())
    kept = share < MOST_OF_A_STEP and abs(worst) < MOST_OFF
    say(
        f"the clock takes {share:.3%} of a step (limit {MOST_OF_A_STEP:.1%}) and is at most {worst:.2%} off "
        f"(limit {MOST_OFF:.0%}): {'within' if kept else 'over'} the limits"
    )
    return 0 if kept else 1


if __name__ == "__main__":
    run(main)
