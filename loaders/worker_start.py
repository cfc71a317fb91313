"""What a worker_init_fn finds in a reader thread: what torch's worker processes give it, and what it may not change.

    caller's thread    state of the global generators kept --> threads start --> wait for all --> generators as before
    reader thread i    its turn: generators seeded with base_seed + i, get_worker_info() -> init_fn(i)

Functions made for worker processes seed the global generators there.  A thread shares them with the training loop, so
they are put back before the loop goes on.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data._utils import worker as torch_worker

from .stall import cuda_in_use


@dataclass(frozen=True, slots=True)
class ThreadWorkerInfo:
    """What torch.utils.data.get_worker_info() gives inside a worker_init_fn; the data set is shared, not a copy."""

    id: int
    num_workers: int
    seed: int
    dataset: Any
    rng: None = None
    worker_method: str = "thread"


@contextmanager
def starting_workers(
    init_fn: Callable[[int], None] | None, *, num_workers: int, base_seed: int, dataset: Any, timeout_s: float
) -> Iterator[Callable[[int], None] | None]:
    """What each reader thread calls with its number as it starts; at the end all of them have."""
    if init_fn is None or not num_workers:
        yield None
        return
    turn, all_done = threading.Lock(), threading.Barrier(num_workers + 1)

    def start(number: int) -> None:
        try:
            with turn:
                seed = base_seed + number
                _seed(base_seed, number)
                info: Any = ThreadWorkerInfo(number, num_workers, seed, dataset)
                torch_worker._worker_info = info
                try:
                    init_fn(number)
                finally:
                    torch_worker._worker_info = None
        finally:
            _arrive(all_done, timeout_s)

    with _generators_kept():
        try:
            yield start
            _arrive(all_done, timeout_s)
        except BaseException:  # Ctrl-C, or a thread that could not be started: the others must not wait for it
            all_done.abort()
            raise


def _arrive(barrier: threading.Barrier, timeout_s: float) -> None:
    try:
        barrier.wait(timeout_s or None)
    except threading.BrokenBarrierError:  # one hangs in its init_fn: the loop's own time-out tells
        return


def _seed(base_seed: int, number: int) -> None:
    """As in a worker process of torch."""
    random.seed(base_seed + number)
    torch.manual_seed(base_seed + number)
    state = torch_worker._generate_state(base_seed, number)  # type: ignore[no-untyped-call]
    np.random.seed(state)  # noqa: NPY002  # the global one is meant


@contextmanager
def _generators_kept() -> Iterator[None]:
    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    started = cuda_in_use()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if started else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002
        if not started:  # CUDA is seeded when it starts, if ever, with the seed given last
            torch.cuda.manual_seed_all(torch.initial_seed())
