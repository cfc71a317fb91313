"""One road in a process of its own: does what each line on its standard input says, and answers with a line each.

    {"do": "open", "road": ..., "paths": [...], "options": {...}}         -> {"version": ..., "engine": ...}
    {"do": "run", "consumer": ..., "seconds": ..., ...}                   -> RoadBlock as JSON, or {"error": ...}
    {"do": "trace"}                                                       -> what was noted, where "open" asked for it

    a block:  [ramp | measured window | until the road has read ahead and is quiet]

A road keeps what it has read ahead between blocks.  The process imports nothing but the road, so that its memory is the
road's; CPU time and memory are those of the process, its threads and its children.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ..loaders.destinations.device import WAITING
from ..loaders.roads.baselines import open_road
from ..loaders.roads.road import Images, Road, RoadBatch, RoadOptions, TimedRoad, TracedRoad
from ..loaders.traced import Recorder
from .accelerators import touch
from .decoder_names import with_version
from .launching.rank_process import die_with

Consumer = Literal["copy", "touch"]

QUIET_SHARE = 0.03  # of one core
QUIET_POLL_S = 0.03
QUIET_WITHIN_S = 3.0
_CPU_CLOCK = 2  # CPUCLOCK_SCHED of the kernel's posix-timers.h: what a process and all its threads have run


@dataclass(frozen=True, slots=True)
class RoadBlock:
    """One time block: `images` in `seconds` of the window; totals are with the ramp, and with reading ahead at the end.

    `storage_bytes` is what the processes made storage read.  `memory_bytes` is anonymous and shared memory at the end,
    each page counted once; `peak_rss_bytes` is the sum of each process's peak, mapped pages of files included.
    `waited_s` of the window the consumer waited for batches; `hop_s` is what a road's threads spent in each hop, and
    batches waiting before it, added up, where it tells.
    """

    images: int
    seconds: float
    cpu_s: float
    total_images: int
    total_s: float
    storage_bytes: int | None
    peak_rss_bytes: int
    memory_bytes: int | None
    waited_s: float = 0.0
    hop_s: dict[str, float] = field(default_factory=dict)


class _Taken(NamedTuple):
    """What came of a road in one go, in what time, and how much of that was waiting."""

    images: int
    seconds: float
    waited_s: float


class _Server:
    """The road's side: does what each line says."""

    def __init__(self) -> None:
        self._road: Road | None = None
        self._batches: Iterator[RoadBatch] = iter(())
        self._consumers: dict[str, Callable[[Images], object]] = {}
        self._recorder: Recorder | None = None

    def answer(self, told: dict[str, Any]) -> dict[str, Any]:
        return {"open": self._open, "run": self._run, "trace": self._trace}[told["do"]](told)

    def close(self) -> None:
        if self._road is not None:
            self._road.close()
        self._road = None

    def _open(self, told: dict[str, Any]) -> dict[str, Any]:
        self.close()
        options = RoadOptions(**told["options"])
        self._road = open_road(told["road"], [Path(path) for path in told["paths"]], options)
        self._recorder = Recorder(told["trace_spans"]) if told["trace_spans"] else None
        if self._recorder is not None and isinstance(self._road, TracedRoad):
            self._road.trace(self._recorder)
        self._batches = self._road.batches()
        first = next(self._batches).images
        self._consumers = {"copy": _Copy(options.batch_size, first[0].shape, first[0].dtype), "touch": _touch}
        if self._recorder is not None:
            self._batches = _noting(self._batches, self._recorder)
            self._consumers = {name: _noted(name, do, self._recorder) for name, do in self._consumers.items()}
        _wait_until_quiet()
        name, reason = self._road.decoder() if isinstance(self._road, TimedRoad) else ("", "")
        told = {"version": self._road.version, "engine": self._road.engine}
        return {**told, "decoder": (with_version(name), reason)}

    def _run(self, told: dict[str, Any]) -> dict[str, Any]:
        consume, begin = self._consumers[told["consumer"]], perf_counter()
        processes = _tree()
        storage_bytes = _storage_bytes(processes)
        ramp_images, most_images = told["ramp_images"], told["most_images"] or sys.maxsize
        ramped = _take(self._batches, consume, told["ramp_s"], least=ramp_images, most=most_images).images
        cpu_s, hops = _cpu_s(processes), self._hop_seconds()
        taken = _take(self._batches, consume, told["seconds"], least=1, most=most_images - ramped)
        cpu_s = _cpu_s(processes) - cpu_s
        hop_s = {name: spent - hops[name] for name, spent in self._hop_seconds().items()}
        _wait_until_quiet()
        read = _storage_bytes(processes)
        block = RoadBlock(
            images=taken.images,
            seconds=taken.seconds,
            cpu_s=cpu_s,
            total_images=ramped + taken.images,
            total_s=perf_counter() - begin,
            storage_bytes=None if read is None or storage_bytes is None else read - storage_bytes,
            peak_rss_bytes=sum(_status_kib(pid, "status", ("VmHWM",)) or 0 for pid in processes) << 10,
            memory_bytes=_memory_bytes(processes),
            waited_s=taken.waited_s,
            hop_s=hop_s,
        )
        return asdict(block)

    def _trace(self, _told: dict[str, Any]) -> dict[str, Any]:
        recorder = self._recorder
        if recorder is None:
            return {"spans": [], "dropped": 0, "note_ns": None, "pid": os.getpid()}
        told = {"spans": recorder.spans, "dropped": recorder.dropped}
        return {**told, "note_ns": recorder.cost_ns(), "pid": os.getpid()}

    def _hop_seconds(self) -> dict[str, float]:
        return self._road.hop_seconds() if isinstance(self._road, TimedRoad) else {}


def _noting(batches: Iterator[RoadBatch], recorder: Recorder) -> Iterator[RoadBatch]:
    while True:
        asked_ns = perf_counter_ns()
        batch = next(batches)
        recorder.add(WAITING, asked_ns)
        yield batch
        del batch  # its memory is the road's again


def _noted(name: str, consume: Callable[[Images], object], recorder: Recorder) -> Callable[[Images], object]:
    def consume_and_note(images: Images) -> None:
        begun_ns = perf_counter_ns()
        consume(images)
        recorder.add(f"{name} the batch", begun_ns)

    return consume_and_note


def _take(
    batches: Iterator[RoadBatch], consume: Callable[[Images], object], seconds: float, *, least: int, most: int
) -> _Taken:
    """Consume until `seconds` are over and `least` images have come, or `most` have."""
    images, waited, start = 0, 0.0, perf_counter()
    now = start
    while (now - start < seconds or images < least) and images < most:
        batch = next(batches).images
        waited += perf_counter() - now
        consume(batch)
        images += len(batch)
        now = perf_counter()
    return _Taken(images, now - start, waited)


class _Copy:
    """Copies every byte of a batch into one buffer, again and again the same, as a transfer to a device would."""

    def __init__(self, batch_size: int, shape: tuple[int, ...], dtype: npt.DTypeLike = np.uint8) -> None:
        self._target = np.zeros((batch_size, *shape), dtype)

    def __call__(self, images: Images) -> None:
        if isinstance(images, np.ndarray):
            np.copyto(self._target[: len(images)], images)
            return
        for target, image in zip(self._target, images, strict=False):
            np.copyto(target, image)


def _touch(images: Images) -> None:
    for batch in [images] if isinstance(images, np.ndarray) else [image[None] for image in images]:
        touch(batch)


def _tree() -> list[int]:
    """This process and those below it."""
    import psutil

    return [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]


def _cpu_s(processes: Sequence[int]) -> float:
    """CPU time of these processes to the nanosecond, their threads included; see clock_getcpuclockid(3)."""
    return sum(time.clock_gettime(~pid << 3 | _CPU_CLOCK) for pid in processes)


def _storage_bytes(processes: Sequence[int]) -> int | None:
    """What these processes have made storage read (proc_pid_io(5)); None where the kernel does not count."""
    import psutil

    try:
        return sum(psutil.Process(pid).io_counters().read_bytes for pid in processes)
    except (psutil.Error, OSError, NotImplementedError):
        return None


def _memory_bytes(processes: Sequence[int]) -> int | None:
    parts = [_status_kib(pid, "smaps_rollup", ("Pss_Anon", "Pss_Shmem")) for pid in processes]
    known = [part for part in parts if part is not None]
    return sum(known) << 10 if len(known) == len(parts) else None


def _status_kib(pid: int, file: str, names: tuple[str, ...]) -> int | None:
    """The sum of some `Name:  1234 kB` lines of /proc/PID/`file`; None where the kernel does not have them all."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) for line in lines if line.partition(":")[0] in names]
    return sum(found) if len(found) == len(names) else None


def _wait_until_quiet() -> None:
    """Wait until reading ahead is done, so that it does not disturb the block of another road."""
    processes, deadline = _tree(), perf_counter() + QUIET_WITHIN_S
    while perf_counter() < deadline:
        before = _cpu_s(processes)
        time.sleep(QUIET_POLL_S)
        if _cpu_s(processes) - before < QUIET_SHARE * QUIET_POLL_S:
            return


def serve(parent: int, pipe: int) -> None:
    """Answer line by line into `pipe` until standard input is closed, SIGTERM comes or `parent` dies."""
    die_with(parent, signal.SIGTERM)
    signal.signal(signal.SIGTERM, _leave)
    server = _Server()
    try:
        for line in sys.stdin:
            try:
                answer = server.answer(json.loads(line))
            except Exception as error:
                status = getattr(error, "exit_status", 4)
                text = str(error) if hasattr(error, "exit_status") else f"{type(error).__name__}: {error}"
                answer = {"error": text, "exit_status": status}
            _write_whole(pipe, json.dumps(answer).encode() + b"\n")
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        server.close()


def _write_whole(pipe: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(pipe, rest) :]


def _leave(_number: int, _frame: object) -> None:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
