"""How many reader threads, and how deep to read ahead: chosen from a short probe of the set itself.

    1 thread, the most, those between: a few of the set's own runs each -> GB/s        again while time is left
    the fewest threads within 3 % of the best -> as many batches ahead as keep all of them reading

The probe reads as the loader will, with the set's engine and layout, and takes the page cache as it finds it: rates are
those of the data as they lie now.  It evicts nothing, and reads other records in every trial, so that cold data stay
cold from trial to trial where there are enough of them.  `choose` is a pure function of what was measured.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np

from .buffers import BufferPool
from .destinations.choice import open_device
from .destinations.destination import Destination
from .engines.readers import READ_BYTES
from .plan import Indices, ShuffleMode
from .prefetch import Tally
from .shards import ShardSet

LIMIT_S = 0.3  # no trial begins later
MOST_BYTES = 400_000_000
ROUNDS = 9
TRIAL_BYTES = 32 << 20
TRIAL_S = 0.02  # of one thread, as far as the first read tells
BATCH_BYTES = 1 << 20
PATIENCE_S = 30.0
TOLERANCE = 0.03
MEMORY_SHARE = 0.25
MOST_AHEAD = 16  # batches for each thread
IN_HAND = 2  # batches that the loop holds: the one it works on and the one before


@dataclass(frozen=True, slots=True)
class ProbeRate:
    """What `threads` reader threads delivered: the median of `trials` trials, in GB/s."""

    threads: int
    gbps: float
    trials: int


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The DataLoader's `num_workers` and `prefetch_factor` (None without workers), what they come from, and why."""

    num_workers: int
    prefetch_factor: int | None
    rates: tuple[ProbeRate, ...]
    reason: str


def suggest(shards: ShardSet, *, batch_size: int, shuffle: bool = True, num_workers: int | None = None) -> Suggestion:
    """Threads and depth for a DataLoader over `shards` on this machine, with the data as cached as they are now.

    It takes about a third of a second, longer only where single reads do; where `num_workers` is given nothing is read
    and only the depth is chosen.  Ranks that share a host share its storage: let one of them ask.  Raises what reading
    raises, RuntimeError where a read hangs for half a minute.
    """
    if batch_size < 1 or (num_workers is not None and num_workers < 0):
        raise ValueError(f"batch_size {batch_size} and num_workers {num_workers}; give at least 1 and 0")
    import psutil

    num_records = min(batch_size, len(shards))
    batch_bytes = num_records * shards.index.layout.slot_bytes
    made_bytes = 0 if shards.decoding is None else shards.decoding.output_bytes(num_records)  # beside what is read
    share = MEMORY_SHARE * batch_bytes / (batch_bytes + made_bytes)
    room_bytes = int(psutil.virtual_memory().available * share)
    if num_workers == 0:
        return Suggestion(0, None, (), "no threads were asked for: batches are read inside next()")
    if num_workers is not None:
        factor = prefetch_factor_of(num_workers, batch_bytes=batch_bytes, room_bytes=room_bytes)
        return Suggestion(num_workers, factor, (), f"{num_workers} threads were asked for")
    mode: ShuffleMode = shards.shuffle_mode if shuffle else "off"
    rates = measure_rates(shards, batch_size=batch_size, counts=thread_counts(), mode=mode)
    return choose(rates, batch_bytes=batch_bytes, room_bytes=room_bytes)


def choose(rates: Sequence[ProbeRate], *, batch_bytes: int, room_bytes: int) -> Suggestion:
    """The fewest threads within 3 % of the best whose batches fit into `room_bytes`, and how far they read ahead."""
    fitting = [rate for rate in rates if num_batches_in(room_bytes, batch_bytes) >= rate.threads]
    allowed = fitting or [min(rates, key=lambda rate: rate.threads)]
    best = max(allowed, key=lambda rate: rate.gbps)
    enough = (rate for rate in allowed if rate.gbps >= (1 - TOLERANCE) * best.gbps)
    chosen = min(enough, key=lambda rate: rate.threads)
    factor = prefetch_factor_of(chosen.threads, batch_bytes=batch_bytes, room_bytes=room_bytes)
    measured = ", ".join(f"{rate.threads}: {rate.gbps:.3g}" for rate in rates)
    reason = f"the fewest threads within {TOLERANCE:.0%} of the best (GB/s by threads: {measured})"
    if len(allowed) < len(rates):
        reason += f"; more than {max(rate.threads for rate in allowed)} would not fit into a quarter of the free memory"
    return Suggestion(chosen.threads, factor, tuple(rates), reason)


def prefetch_factor_of(num_threads: int, *, batch_bytes: int, room_bytes: int) -> int:
    """Batches ahead for each thread: one that is ready and, in those behind it, a read of full length per thread."""
    depth = 1 + math.ceil(num_threads * READ_BYTES / batch_bytes)
    depth = min(depth, num_batches_in(room_bytes, batch_bytes))
    return min(MOST_AHEAD, max(1, math.ceil(depth / num_threads)))


def num_batches_in(room_bytes: int, batch_bytes: int) -> int:
    """How many batches may be read ahead in so much memory."""
    return room_bytes // batch_bytes - IN_HAND


def thread_counts() -> tuple[int, ...]:
    """1, 2, 4, 8 and on to the number of processors this process may use, 32 at most.

    Eight on a small machine too: threads that wait for a distant storage need no processor.
    """
    most = min(32, max(8, len(os.sched_getaffinity(0))))
    return tuple(1 << power for power in range(most.bit_length()))


def measure_rates(
    shards: ShardSet,
    *,
    batch_size: int,
    counts: Sequence[int],
    mode: ShuffleMode,
    limit_s: float = LIMIT_S,
    seed: int = 0,
) -> tuple[ProbeRate, ...]:
    """Read a little with each number of threads: the fewest and the most first, then those between, while time is left.

    Batches are of `batch_size` records, or of BATCH_BYTES where that is less.  The result has what was measured.
    """
    slot_bytes, random = shards.index.layout.slot_bytes, np.random.Generator(np.random.PCG64DXSM(seed))
    to = _decoding_destination(shards)
    size = max(1, min(len(shards), batch_size, BATCH_BYTES // slot_bytes))
    first = _drawn(shards, 1 if mode == "records" else size, mode, random)  # one read
    if to is not None:
        _trial(shards, [first], 1, to)  # which opens the decoder
    begin = perf_counter()
    bps, read_bytes = _trial(shards, [first], 1, to)
    if mode == "records":  # a batch is many reads, one after the other
        size = max(1, min(size, int(TRIAL_S * bps / slot_bytes)))
    wanted = max(1, round(min(TRIAL_BYTES, bps * TRIAL_S) / (size * slot_bytes)))
    reads = math.ceil(size * slot_bytes / READ_BYTES)  # of one batch: as many threads share it
    waves = {threads: math.ceil(threads / reads) for threads in counts}  # batches that keep all threads reading
    pool = _touched_pool(shards, size, num_buffers=max(wanted, *waves.values()), to=to)
    found: dict[int, list[float]] = {}
    for threads in _outside_in(counts) * ROUNDS:
        late = perf_counter() - begin > limit_s or read_bytes > MOST_BYTES
        if late and len(found) > 1:
            break
        num_batches = waves[threads] * math.ceil(wanted / waves[threads])
        batches = [_drawn(shards, size, mode, random) for _ in range(num_batches)]
        bps, delivered = _trial(shards, batches, threads, to, pool)
        found.setdefault(threads, []).append(bps)
        read_bytes += delivered
    return tuple(ProbeRate(threads, median(bps) / 1e9, len(bps)) for threads, bps in sorted(found.items()))


def _outside_in(counts: Sequence[int]) -> list[int]:
    """The fewest, the most, then the others: two tell whether threads matter, if there is no time for more."""
    ordered = sorted(set(counts))
    return list(dict.fromkeys([ordered[0], ordered[-1], *ordered]))


def _trial(
    shards: ShardSet, batches: Sequence[Indices], threads: int, to: Destination | None, pool: BufferPool | None = None
) -> tuple[float, int]:
    """Bytes per second and bytes of one trial; its threads wait already when the clock starts."""
    tally = Tally()
    reading = shards.prefetch(
        iter(batches),
        batch_size=len(batches[0]),
        num_threads=threads,
        depth=len(batches),  # all at once: what is asked is how fast threads read, not how fast they are woken
        pool=pool,
        tally=tally,
        timeout_s=PATIENCE_S,
        destination=to,
    )
    begin = perf_counter()
    for _ in reading:
        pass
    return tally.delivered_bytes / (perf_counter() - begin), tally.delivered_bytes


def _drawn(shards: ShardSet, size: int, mode: ShuffleMode, random: np.random.Generator) -> Indices:
    """A batch like those of an epoch, from anywhere in the set: single records, or a run of one shard."""
    if mode == "records":
        return random.integers(len(shards), size=size)
    firsts, sizes = shards.index.first_records, shards.index.shard_sizes
    record = int(random.integers(len(shards)))
    shard = int(np.searchsorted(firsts, record, side="right")) - 1
    count = min(size, sizes[shard])
    return np.arange(count, dtype=np.int64) + min(record, int(firsts[shard]) + sizes[shard] - count)


def _decoding_destination(shards: ShardSet) -> Destination | None:
    """The device that images are decoded on, where it is one: threads then have reads alone to do."""
    if shards.decoding is None or shards.decoding.there is None:
        return None
    device = open_device(shards.device)
    assert device is not None  # as the set has required
    return Destination(device, num_free_kept=IN_HAND)


def _touched_pool(shards: ShardSet, size: int, *, num_buffers: int, to: Destination | None) -> BufferPool:
    """Buffers whose pages are there already, as those of a loader are after its first batches."""
    pool = shards.new_pool(size, depth=num_buffers, destination=to)
    for buffer in [pool.acquire() for _ in range(num_buffers)]:
        np.frombuffer(buffer.memory, np.uint8)[::4096] = 0
        pool.release(buffer)
    return pool
