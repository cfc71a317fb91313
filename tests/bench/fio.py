"""How our storage sweep's figures stand beside fio's, on the same file with the same reads.

    python tests/bench/fio.py                     all cases: six to eight minutes, 2 GiB in a temporary folder
    python tests/bench/fio.py --only 4k           some of them
    python tests/bench/fio.py --throttle 200      held to 200 MiB/s (root): both must sit on the limit
    python tests/bench/fio.py --keep              and put the record into results/reference/

Every round runs three time blocks in a random order: ours, fio and fio again.  Ratios are of blocks of one round; that
of fio to fio tells how far two runs of one program differ on this storage.  A case ends as soon as that one is within
3 % (no sooner than after `--least` rounds), or after `--rounds`, or when its share of the time is used up.  Both read
with O_DIRECT, as many threads as each other, one read in flight each; ramp-up is left out by both.  Both read into
memory on huge pages, which decides into how many requests a large read is cut: fio gets its from glibc (2.35 or newer).
The script needs fio: `apt-get install fio` (Debian, Ubuntu), or https://fio.readthedocs.io.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from parts.record import keep, record_of, run
from parts.throttle import Throttle

from iobench.loaders.engines.readers import direct_refused
from iobench.loaders.evidence import counter_for
from iobench.results.environment import collect
from iobench.results.record import Metric, Point, RunRecord, utc_now
from iobench.results.stats import ratio_interval, summarise
from iobench.storage_bench.sweep.block import measure_reads
from iobench.storage_bench.sweep.calibration import calibrate
from iobench.storage_bench.sweep.drive import timing_of
from iobench.storage_bench.sweep.points import PointResult, SweepPoint
from iobench.storage_bench.sweep.proof import collect_evidence
from iobench.storage_bench.sweep.recorded import storage_point
from iobench.storage_bench.sweep.streams import Batches, open_stream
from iobench.storage_bench.sweep.ways import HUGE_PAGE_BYTES
from iobench.storage_bench.workload import Access, DataFile
from iobench.terminal import Screen, figure, say, table

SAME = 0.03
SAME_MEDIAN = 0.10
SMALL_SHARE = 0.5
ON_THE_LIMIT = 0.02
MISSING = "fio is not installed: `apt-get install fio` (Debian, Ubuntu), or see https://fio.readthedocs.io"


@dataclass(frozen=True)
class Case:
    """The same reads for both: `threads` of them at once."""

    access: Access
    block_bytes: int
    threads: int

    @property
    def name(self) -> str:
        """`random 128 KiB x 2`."""
        return f"{self.access} {self.block_bytes >> 10} KiB x {self.threads}"

    @property
    def is_small(self) -> bool:
        """Whether reads are so small that operations count, not bytes."""
        return self.block_bytes < 64 << 10

    @property
    def point(self) -> SweepPoint:
        """Our way to say it."""
        return SweepPoint("direct", self.access, self.block_bytes, 1, self.threads, "cold")


CASES = {
    "128k": [Case("sequential", 128 << 10, 4), Case("random", 128 << 10, 4)],
    "1m": [Case("sequential", 1 << 20, 2), Case("random", 1 << 20, 2)],
    "4m": [Case("sequential", 4 << 20, 2), Case("random", 4 << 20, 2)],
    "4k": [Case("random", 4096, 4), Case("random", 4096, 16)],
}


@dataclass(frozen=True, slots=True)
class FioBlock:
    """What fio said of one time block."""

    gbps: float
    iops: float
    p50_us: float
    p99_us: float


@dataclass
class Match:
    """The rounds of one case."""

    case: Case
    ours: PointResult
    fio: list[FioBlock] = field(default_factory=list)
    again: list[FioBlock] = field(default_factory=list)

    def ours_by(self, name: str) -> list[float]:
        """A figure of each of our blocks."""
        if name in ("gbps", "iops"):
            return [getattr(block, name) for block in self.ours.blocks]
        percent = {"p50_us": 50.0, "p99_us": 99.0}[name]
        return [block.latencies.percentile_us(percent) or float("nan") for block in self.ours.blocks]

    def fio_by(self, name: str, *, again: bool = False) -> list[float]:
        """A figure of each of fio's blocks, the first or the second of each round."""
        return [getattr(block, name) for block in (self.again if again else self.fio)]

    def ratio(self, name: str) -> Metric:
        """Ours to fio's, of pairs of one round; fio's two blocks of a round count as one by their mean."""
        theirs = [statistics.fmean(pair) for pair in zip(self.fio_by(name), self.fio_by(name, again=True), strict=True)]
        return _ratio(self.ours_by(name), theirs, "ours/fio")

    def spread(self, name: str) -> Metric:
        """fio's to fio's."""
        return _ratio(self.fio_by(name), self.fio_by(name, again=True), "fio/fio")

    @property
    def settled(self) -> bool:
        """Whether fio agrees with itself within 3 %."""
        low, high = self.spread("gbps").ci95 or (0.0, 2.0)
        return low >= 1 - SAME and high <= 1 + SAME


class Bench:
    """The file under test, and one time block of either program."""

    def __init__(self, path: Path, *, seconds: float) -> None:
        self.path = path
        self.seconds = seconds
        self.file = DataFile(path, path.stat().st_size)
        self.counter = counter_for([path])
        self._seed = 0

    def ours(self, case: Case) -> Any:
        """A block of ours."""
        self._seed += 1
        seed = self._seed

        def streams(stream: int, num_streams: int) -> Batches:
            return open_stream(
                [self.file],
                access=case.access,
                block_bytes=case.block_bytes,
                stream=stream,
                num_streams=num_streams,
                seed=seed,
            )

        return measure_reads(case.point, [self.file], streams, self.counter, timing_of(self.seconds))

    def fio(self, case: Case) -> FioBlock:
        """A block of fio's: as many threads that call pread, as long a ramp-up and a window."""
        timing = timing_of(self.seconds)
        words = {
            "name": "block",
            "filename": str(self.path),
            "rw": "read" if case.access == "sequential" else "randread",
            "bs": str(case.block_bytes),
            "numjobs": str(case.threads),
            "offset_increment": "0" if case.access == "random" else str(self.file.size_bytes // case.threads),
            "ioengine": "psync",
            "direct": "1",
            "runtime": f"{round(timing.seconds * 1000)}ms",
            "ramp_time": f"{round(timing.ramp_s * 1000)}ms",
            "norandommap": "1",
            "randrepeat": "0",
            "iomem_align": str(HUGE_PAGE_BYTES),
            "percentile_list": "50:99",
            "output-format": "json",
        }
        command = ["fio", "--thread", "--time_based", "--group_reporting", *(f"--{k}={v}" for k, v in words.items())]
        done = subprocess.run(
            command,
            env={**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
            capture_output=True,
            text=True,
            timeout=60 + 10 * self.seconds,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"fio ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
        said = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]["read"]
        latency = said["clat_ns"]["percentile"]
        return FioBlock(said["bw_bytes"] / 1e9, said["iops"], latency["50.000000"] / 1e3, latency["99.000000"] / 1e3)


def _ratio(ours: Sequence[float], theirs: Sequence[float], unit: str) -> Metric:
    middle, low, high = ratio_interval(ours, theirs)
    samples = tuple((np.asarray(ours) / np.asarray(theirs)).tolist())
    return Metric(value=middle, unit=unit, ci95=(low, high), n=len(samples), samples=samples)


def run_case(bench: Bench, case: Case, *, least: int, rounds: int, until: float, screen: Screen) -> Match:
    """Rounds of three blocks in a random order, until fio agrees with itself, the rounds or the time are used up."""
    match = Match(case, PointResult(case.point, "asked for", ceiling_gbps=calibrate(case.point)))
    order = random.Random(case.name)
    for number in range(rounds):
        if number >= least and (match.settled or perf_counter() > until):
            break
        for who in order.sample(["ours", "fio", "again"], 3):
            if who == "ours":
                match.ours.blocks.append(bench.ours(case))
            else:
                getattr(match, who).append(bench.fio(case))
        rates = f"{match.ours.blocks[-1].gbps:.2f} GB/s, fio {match.fio[-1].gbps:.2f} and {match.again[-1].gbps:.2f}"
        screen.show(case.name, (number + 1) / rounds, rates)
    match.ours.evidence = collect_evidence(match.ours, bench.counter, 0.0)
    return match


def claims_of(match: Match) -> dict[str, tuple[Metric, str, bool | None]]:
    """Each figure with what is asked of it, and whether that is so; None where its interval holds both answers."""
    name = match.case.name
    if match.case.is_small:
        operations = match.ratio("iops")
        return {
            f"{name}: reads/s, ours / fio": (operations, f"at least {SMALL_SHARE}", _above(operations, SMALL_SHARE)),
            f"{name}: reads/s, fio / fio": (match.spread("iops"), "", None),
        }
    rate, median, tail = match.ratio("gbps"), match.ratio("p50_us"), match.ratio("p99_us")
    theirs = match.fio_by("p99_us") + match.fio_by("p99_us", again=True)
    ours = statistics.median(match.ours_by("p99_us"))
    return {
        f"{name}: bandwidth, ours / fio": (rate, f"within {SAME:.0%}", _within(rate, SAME)),
        f"{name}: bandwidth, fio / fio": (match.spread("gbps"), "", None),
        f"{name}: p50, ours / fio": (median, f"within {SAME_MEDIAN:.0%}", _within(median, SAME_MEDIAN)),
        f"{name}: p99, ours / fio": (
            tail,
            f"its median ({ours:.0f} us) among fio's ({min(theirs):.0f} to {max(theirs):.0f})",
            min(theirs) <= ours <= max(theirs),
        ),
        f"{name}: p99, fio / fio": (match.spread("p99_us"), "", None),
    }


def limit_claims_of(match: Match, limit_gbps: float) -> dict[str, tuple[Metric, str, bool | None]]:
    """Under a throttle: how near either is to the limit, and to the other."""
    rates = {"ours": match.ours_by("gbps"), "fio": match.fio_by("gbps") + match.fio_by("gbps", again=True)}
    found = {}
    for who, values in rates.items():
        metric = summarise([value / limit_gbps for value in values], unit="of the limit")
        name = f"{match.case.name}: {who} / limit"
        found[name] = (metric, f"within {ON_THE_LIMIT:.0%}", _within(metric, ON_THE_LIMIT))
    rate = match.ratio("gbps")
    return {**found, f"{match.case.name}: bandwidth, ours / fio": (rate, f"within {SAME:.0%}", _within(rate, SAME))}


def _within(metric: Metric, tolerance: float) -> bool | None:
    low, high = metric.ci95 or (float("nan"), float("nan"))
    if 1 - tolerance <= low and high <= 1 + tolerance:
        return True
    return False if high < 1 - tolerance or low > 1 + tolerance else None


def _above(metric: Metric, least: float) -> bool | None:
    low, high = metric.ci95 or (float("nan"), float("nan"))
    return True if low >= least else False if high < least else None


def fio_point(match: Match) -> Point:
    """fio's blocks of a case as a point beside ours."""
    ours = match.case.point
    values = {"read_gbps": "gbps", "read_iops": "iops", "latency_p50_us": "p50_us", "latency_p99_us": "p99_us"}
    units = {"read_gbps": "GB/s", "read_iops": "reads/s"}
    return Point(
        params={
            "stage": "storage",
            "engine": "fio psync, O_DIRECT",
            "operation": "read",
            "access": ours.access,
            "block_size_bytes": ours.block_bytes,
            "queue_depth": 1,
            "threads": ours.threads,
            "page_cache": "cold",
        },
        metrics={
            name: summarise(match.fio_by(value) + match.fio_by(value, again=True), unit=units.get(name, "us"))
            for name, value in values.items()
        },
    )


@contextlib.contextmanager
def data_file(folder: Path | None, num_bytes: int) -> Iterator[Path]:
    """A file of random bytes that is gone afterwards; on the device, not in the page cache."""
    with tempfile.TemporaryDirectory(prefix="iobench-bench-", dir=folder) as made:
        path = Path(made) / "data.bin"
        say(f"writing {num_bytes / 1e9:.1f} GB")
        with path.open("wb") as file:
            for _ in range(num_bytes >> 24):
                file.write(os.urandom(1 << 24))
            file.flush()
            os.fsync(file.fileno())
        yield path


def parse_arguments() -> argparse.Namespace:
    """What is to be measured, and where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one time block")
    parser.add_argument("--least", type=int, default=6, help="rounds of each case at least")
    parser.add_argument("--rounds", type=int, default=16, help="rounds of each case at most")
    parser.add_argument("--minutes", type=float, default=7.0, help="for all cases together, shared evenly")
    parser.add_argument("--bytes", type=int, default=2 << 30, help="size of the file")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--throttle", type=int, metavar="MIB_PER_S", help="hold both to a rate; needs root")
    parser.add_argument("--keep", action="store_true", help="write the record to results/reference/")
    given = parser.parse_args()
    given.cases = [case for name in given.only.split(",") for case in CASES.get(name, ())]
    if unknown := set(given.only.split(",")) - CASES.keys():
        parser.error(f"{', '.join(sorted(unknown))}: no cases; there are {', '.join(CASES)}")
    if given.least < 2 or given.rounds < given.least:
        parser.error("an interval needs two rounds at least, and --rounds is no less than --least")
    if given.throttle is not None:
        given.cases = [case for case in given.cases if not case.is_small]
    return given


def measure(given: argparse.Namespace) -> RunRecord:
    """Run the cases and print what came of them."""
    started = utc_now()
    matches: list[Match] = []
    found: dict[str, tuple[Metric, str, bool | None]] = {}
    with data_file(given.folder, given.bytes) as path, Screen() as screen:
        if reason := direct_refused(path):
            raise OSError(f"{reason} ({path.parent}); name another --folder")
        limit = None if given.throttle is None else given.throttle << 20
        with contextlib.nullcontext() if limit is None else Throttle(path, limit):
            bench = Bench(path, seconds=given.seconds)
            begin = perf_counter()
            for number, case in enumerate(given.cases, 1):
                until = begin + given.minutes * 60 * number / len(given.cases)
                match = run_case(bench, case, least=given.least, rounds=given.rounds, until=until, screen=screen)
                matches.append(match)
                found |= claims_of(match) if limit is None else limit_claims_of(match, limit / 1e9)
        environment = collect(path)
    show(matches, found)
    points = [
        point
        for match in matches
        for point in (storage_point(match.ours, Path(given.folder or tempfile.gettempdir())), fio_point(match))
    ]
    told = [text for match in matches if match.ours.evidence and (text := match.ours.evidence.invalid_reason())]
    version = subprocess.run(["fio", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    return record_of(
        "storage",
        started=started,
        words=sys.argv[1:],
        workload={
            "fio": version,
            "file_bytes": given.bytes,
            "seconds": given.seconds,
            "throttle_mib_per_s": given.throttle,
            "asked": {name: {"asked": asked, "met": met} for name, (_, asked, met) in found.items()},
        },
        environment=environment,
        metrics={name: metric for name, (metric, _, _) in found.items()},
        points=points,
        warnings=told,
    )


def show(matches: Sequence[Match], found: dict[str, tuple[Metric, str, bool | None]]) -> None:
    """Rates side by side, then every ratio with what is asked of it."""
    rows = []
    for match in matches:
        for who, values in (("ours", match.ours_by), ("fio", match.fio_by)):
            cells = [summarise(values(name), unit="") for name in ("gbps", "iops", "p50_us", "p99_us")]
            limited = "harness limited" if who == "ours" and match.ours.harness_limited else ""
            rows.append(
                (
                    match.case.name,
                    who,
                    *(figure(cell, digits=d) for cell, d in zip(cells, (3, 0, 0, 0), strict=True)),
                    limited,
                )
            )
    table(("case", "who", "GB/s", "reads/s", "p50 us", "p99 us", ""), rows)
    words = {True: "yes", False: "no", None: "open"}
    table(
        ("ratio", "asked for", "measured", "rounds", "met"),
        [
            (name, asked, _spread(metric), str(metric.n), words[met] if asked else "")
            for name, (metric, asked, met) in found.items()
        ],
        title="What was asked, and what was measured",
    )


def _spread(metric: Metric) -> str:
    low, high = metric.ci95 or (float("nan"), float("nan"))
    return f"{metric.value:.3f} ({low:.3f} to {high:.3f})"


def main() -> int:
    """Measure, and keep the record where asked to."""
    given = parse_arguments()
    if shutil.which("fio") is None:
        say(f"left out: {MISSING}")
        return 4 if given.keep else 0
    record = measure(given)
    if given.keep:
        keep(record, "fio" if given.throttle is None else f"fio-{given.throttle}-mib")
    return 0


if __name__ == "__main__":
    run(main)
