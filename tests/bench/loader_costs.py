"""What the loader costs beside the reads: Python per record and per batch, memory, and its index.

    python tests/bench/loader_costs.py                        about two minutes, 0.3 GB in a temporary folder
    python tests/bench/loader_costs.py --only python,index    some of it
    python tests/bench/loader_costs.py --keep                 and put the record into results/reference/

Python's time per record is the CPU time of a shuffled epoch, less that of the very same preadv calls from a bare loop,
plus what preadv takes to be called with nothing to read, as the bare loop's own calls are Python as well.  Per batch it
is that of an epoch whose reader says that it has read.  Handing work to threads is in both.  Epochs are interleaved.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from parts.record import keep, record_of, run

from iobench.loaders import DataLoader, ShardSet
from iobench.loaders.buffers import Buffer
from iobench.loaders.decode import buffer_bytes, place_batch
from iobench.loaders.engines.readers import READ_BYTES, BufferedReader
from iobench.loaders.formats.fields import Wanted
from iobench.loaders.formats.records import stamps_of
from iobench.loaders.index import RecordLayout, ShardIndex, load_index, save_index
from iobench.loaders.page_cache import warm
from iobench.loaders.plan import batch_runs, epoch_order
from iobench.results.environment import collect
from iobench.results.record import Metric, Point, RunRecord, utc_now
from iobench.results.stats import summarise
from iobench.storage_bench.generate import Generate, generate
from iobench.terminal import Screen, table

EPOCHS = Path(__file__).parents[1] / "loaders" / "programs" / "epochs.py"
SIZE, NUM_IMAGES, BATCH_SIZE = 64, 16384, 256  # records of 13 KB: the smaller they are, the more Python they take
NUM_EPOCHS = 20
RECORDS, SHARDS, RECORD_BYTES = 1_300_000, 13, 1000

Call = tuple[int, list[memoryview], int]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure, under which circumstances, and what is asked of it: that it is less than `limit`."""

    name: str
    params: dict[str, str | int]
    metric: Metric
    limit: float

    @property
    def met(self) -> Literal["yes", "no", "open"]:
        low, high = self.metric.ci95 or (self.metric.value, self.metric.value)
        assert low is not None
        assert high is not None
        return "yes" if high < self.limit else "no" if low >= self.limit else "open"


Show = Callable[[float, str], None]


# --- Python


def python_figures(folder: Path, rounds: int, show: Show) -> list[Figure]:
    """CPU time beside the reads: for each record of a full shuffle, for each batch in other orders."""
    generate(folder, Generate(num_images=NUM_IMAGES, size=SIZE, images_per_shard=2048))
    shards = ShardSet.open(folder, engine="buffered", shuffle_mode="records")
    warm(shards.paths)
    threads_of = {"records": (0, 1, 2), "off": (0, 2), "blocks": (0, 2), "shards": (0, 2)}
    cases = [(mode, threads) for mode, counts in threads_of.items() for threads in counts]
    spent: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    for number in range(rounds + 1):
        for mode, threads in cases:
            seconds = _beside_the_reads(folder, mode, threads, epoch=number)
            if number:  # the first one brings page tables and buffers into being
                spent[mode, threads].append(seconds)
        show((number + 1) / (rounds + 1), f"round {number} of {rounds}")
    return [_python_figure(mode, threads, found) for (mode, threads), found in spent.items()]


def _python_figure(mode: str, threads: int, seconds: Sequence[float]) -> Figure:
    params: dict[str, str | int] = {"shuffle": mode, "num_workers": threads, "batch_size": BATCH_SIZE}
    if mode == "records":
        each = summarise([spent / NUM_IMAGES * 1e6 for spent in seconds], unit="us")
        return Figure("python_us_per_record", params, each, 3.0)
    each = summarise([spent / (NUM_IMAGES / BATCH_SIZE) * 1e6 for spent in seconds], unit="us")
    return Figure("python_us_per_batch", params, each, 100.0)


def _beside_the_reads(folder: Path, mode: Any, threads: int, *, epoch: int) -> float:
    """CPU seconds of an epoch that are not those of its reads."""
    reader = BufferedReader() if mode == "records" else NothingReader()
    shards = ShardSet.open(folder, engine=reader, shuffle_mode=mode)
    loader = DataLoader(shards, BATCH_SIZE, shuffle=mode != "off", num_workers=threads)
    for _ in loader:  # its buffers are there then
        pass
    loader.set_epoch(epoch)
    ours = _cpu_s(lambda: [None for _ in loader])
    if mode != "records":
        return ours
    files = [os.open(path, os.O_RDONLY) for path in shards.paths]
    calls = _calls(shards, files, epoch, num_buffers=2 * threads + 2)
    _cpu_s(lambda: _read(calls))  # and so are those of the bare loop
    reads = _cpu_s(lambda: _read(calls))
    nothing = _cpu_s(lambda: _read([(files[0], [calls[0][1][0][:0]], 0)] * len(calls)))
    for file in files:
        os.close(file)
    return ours - reads + nothing


class NothingReader(BufferedReader):
    """Says that it has read, and has not: what is left is the loader's own work."""

    def read(self, path: Any, offset: int, target: memoryview, *, need: int | None = None) -> int:
        return len(target)


def _calls(shards: ShardSet, files: Sequence[int], epoch: int, *, num_buffers: int) -> list[Call]:
    """The preadv calls of a shuffled epoch, one behind the other, into as many buffers as the loader has."""
    index = shards.index
    size = buffer_bytes(index.layout, batch_size=BATCH_SIZE, alignment=1)
    ring = itertools.cycle([Buffer(size) for _ in range(num_buffers)])
    order = epoch_order(index.shard_sizes, seed=shards.seed, epoch=epoch, mode="records")
    calls: list[Call] = []
    for start in range(0, len(order), BATCH_SIZE):
        runs, memory = batch_runs(order[start : start + BATCH_SIZE], index.first_records), next(ring).memory
        for op in place_batch(runs, index, alignment=1, scatters=True, read_bytes=READ_BYTES).reads:
            target = memory[op.buffer_offset : op.buffer_offset + op.length]
            calls.append((files[op.shard], [target], op.file_offset))
    return calls


def _read(calls: Sequence[Call]) -> None:
    preadv = os.preadv
    for file, targets, offset in calls:
        preadv(file, targets, offset)


def _cpu_s(act: Callable[[], object]) -> float:
    begin = time.process_time()
    act()
    return time.process_time() - begin


# --- memory


def memory_figures(folder: Path, rounds: int, show: Show) -> list[Figure]:
    """How far twenty epochs move peak memory, and whether Python's allocations grow after the third."""
    generate(folder, Generate(num_images=4096, size=SIZE, images_per_shard=512))
    figures = []
    cases = [(engine, order) for engine in ("buffered", "mmap") for order in ("blocks", "records")]
    for number, (engine, order) in enumerate(cases):
        show(number / len(cases), f"{engine}, {order}")
        epochs = _after_each_epoch(folder, engine, order)
        params: dict[str, str | int] = {"engine": engine, "shuffle": order, "num_epochs": NUM_EPOCHS}
        moved = 100 * (epochs[-1]["peak_bytes"] / epochs[0]["peak_bytes"] - 1)
        figures.append(Figure("peak_memory_moved_percent", params, _once(moved, "%"), 1.0))
        grown = (epochs[-1]["python_blocks"] - epochs[2]["python_blocks"]) / (NUM_EPOCHS - 3)
        figures.append(Figure("python_blocks_per_epoch", params, _once(grown, "blocks"), 1.0))
    return figures


def _after_each_epoch(folder: Path, engine: str, order: str) -> list[dict[str, int]]:
    command = [sys.executable, EPOCHS, str(folder), engine, order, str(NUM_EPOCHS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


# --- the index


def index_figures(folder: Path, rounds: int, show: Show) -> list[Figure]:
    """How long an index of 1.3 million records takes to be loaded, and what it then takes."""
    paths = _large_index(folder)
    seconds = []
    for number in range(rounds):
        begin = time.perf_counter()
        index = load_index(paths)
        seconds.append(time.perf_counter() - begin)
        assert index.status == "cached"
        show((number + 1) / rounds, f"{seconds[-1] * 1e3:.0f} ms")
    tracemalloc.start()
    index = load_index(paths)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    params: dict[str, str | int] = {"records": index.num_records, "shards": len(paths)}
    return [
        Figure("index_load_s", params, summarise(seconds, unit="s"), 0.1),
        Figure("index_bytes", params, _once(held, "bytes"), 32e6),
    ]


def _large_index(folder: Path) -> list[Path]:
    """Shards of holes, and beside them an index in which each record has a label and a place of its own."""
    paths = [folder / f"part-{number:02d}.tfrecord" for number in range(SHARDS)]
    for path in paths:
        with path.open("wb") as file:
            file.truncate(RECORDS // SHARDS * RECORD_BYTES)
    sizes = (RECORDS // SHARDS,) * SHARDS
    places = np.tile(np.arange(RECORDS // SHARDS) * RECORD_BYTES + 40, SHARDS)
    labels = np.random.default_rng(0).integers(0, 1000, RECORDS)
    layout = RecordLayout(None, 0, (10, 30, 3), "uint8")
    index = ShardIndex(layout, stamps_of(paths), sizes, np.cumsum([0, *sizes[:-1]]), labels, places)
    save_index(index, folder, Wanted(), status="built")
    return paths


def _once(value: float, unit: str) -> Metric:
    return Metric(value=float(value), unit=unit, n=1)


SECTIONS: dict[str, Callable[[Path, int, Show], list[Figure]]] = {
    "python": python_figures,
    "memory": memory_figures,
    "index": index_figures,
}


def measure(given: argparse.Namespace) -> RunRecord:
    """Run the sections and print what was found."""
    started, figures = utc_now(), []
    with tempfile.TemporaryDirectory(prefix="iobench-costs-", dir=given.folder) as folder:
        for name in given.sections:
            place = Path(folder) / name
            place.mkdir()
            with Screen() as screen:
                figures += SECTIONS[name](
                    place, given.rounds, lambda share, text, name=name: screen.show(name, share, text)
                )
        environment = collect(Path(folder))
    table(("figure", "where", "measured", "asked for", "met"), [_row(figure) for figure in figures])
    worst: dict[str, Figure] = {}
    for figure in figures:
        if figure.name not in worst or (figure.metric.value or 0) > (worst[figure.name].metric.value or 0):
            worst[figure.name] = figure
    return record_of(
        "load",
        started=started,
        words=("--only", given.only),
        workload={
            "image": [SIZE, SIZE, 3],
            "num_images": NUM_IMAGES,
            "rounds": given.rounds,
            "asked": {name: {"less than": figure.limit, "met": figure.met} for name, figure in worst.items()},
        },
        environment=environment,
        metrics={name: figure.metric for name, figure in worst.items()},
        points=[
            Point(params={"stage": "load", **figure.params}, metrics={figure.name: figure.metric}) for figure in figures
        ],
    )


def _row(figure: Figure) -> tuple[str, ...]:
    metric, factor, unit = figure.metric, 1.0, figure.metric.unit
    if unit == "s":
        factor, unit = 1e3, "ms"
    elif unit == "bytes":
        factor, unit = 1e-6, "MB"
    assert metric.value is not None
    spread = "" if metric.ci95 is None else f" ({metric.ci95[0] * factor:.2f} to {metric.ci95[1] * factor:.2f})"
    where = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figure.params.items())
    value = f"{metric.value * factor:.2f}{spread} {unit}"
    return figure.name, where, value, f"less than {figure.limit * factor:g}", figure.met


def parse_arguments() -> argparse.Namespace:
    """What is to be measured, and where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--rounds", type=int, default=12, help="interleaved rounds of each figure")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--keep", action="store_true", help="write the record to results/reference/")
    given = parser.parse_args()
    given.sections = given.only.split(",")
    if unknown := set(given.sections) - SECTIONS.keys():
        parser.error(f"{', '.join(sorted(unknown))}: no sections; there are {', '.join(SECTIONS)}")
    return given


def main() -> None:
    """Measure, and keep the record where asked to."""
    given = parse_arguments()
    record = measure(given)
    if given.keep:
        keep(record, "loader-costs")


if __name__ == "__main__":
    run(main)
