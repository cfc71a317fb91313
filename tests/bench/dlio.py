"""How our AU stands beside DLIO's: ResNet-50 of MLPerf Storage, the same files, the same step time.

    python tests/bench/dlio.py --dlio DIR             about twenty minutes, 2.3 GB in a temporary folder
    python tests/bench/dlio.py --dlio DIR --throttle 0   without the throttled case, which needs root
    python tests/bench/dlio.py --dlio DIR --keep      and put the record into results/reference/

DIR, or $IOBENCH_DLIO, is the bin folder of an environment of its own with dlio_benchmark and mpiexec in it:

    python -m venv dlio && dlio/bin/pip install mpich mpi4py tensorflow-cpu hydra-core pandas psutil pydftracer==1.0.2
    dlio/bin/pip install --no-deps dlio-benchmark

Each round runs ours and DLIO in a random order: on the free disk, where all accelerators are fed, and held to a rate
that gives them three quarters of what they ask for.  DLIO's first epoch is left out, and between epochs the files are
put out of the page cache.  DLIO leaves out an epoch's first step, but not the meeting after it, in which ranks wait for
the one whose input pipeline was set up last: in short epochs that is several points of AU.  Its logs tell how long, and
the table has DLIO's AU without it, too.

Release 2.0.0 of DLIO sums nominal compute times, as the rules have it (our au_mlperf); later ones sum measured times
(our au_dlio).  Its logs have both, so that both are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from parts.record import keep, record_of, run
from parts.throttle import Throttle

from iobench.loaders.page_cache import evict
from iobench.results.environment import collect
from iobench.results.record import Metric, RunRecord, utc_now
from iobench.results.stats import summarise
from iobench.storage_bench.accelerators import resolve_accelerator
from iobench.storage_bench.emulate import WORKLOADS, demand_bps
from iobench.storage_bench.generate import generate
from iobench.terminal import figure, say, table

SAME = 0.01
STARVED_AT = 0.75
FILES = 16
STEP = re.compile(r"(\S+) Rank (\d+) step ([12]) processed")
NAMES = {"au_mlperf": "nominal compute time (the rules; DLIO 2.0.0)", "au_dlio": "measured compute time (later DLIO)"}
MET = ", without the first meeting"
BOTH = [f"{name}{suffix}" for name in NAMES for suffix in ("", MET)]
MISSING = (
    "dlio_benchmark and mpiexec are not there: give --dlio DIR, and see the head of this file for how to install them"
)


@dataclass
class Case:
    """One disk, and both programs' AU of every round."""

    name: str
    rate_bps: int | None
    ours: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in NAMES})
    dlio: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in BOTH})

    def difference(self, name: str, *, met: bool = False) -> Metric:
        """Ours less DLIO's, of pairs of one round; `met`: less DLIO's without the first meeting."""
        pairs = zip(self.ours[name], self.dlio[f"{name}{MET}" if met else name], strict=True)
        return summarise([ours - theirs for ours, theirs in pairs], unit="fraction")


@dataclass
class Bench:
    """The files, the ranks, and one run of either program."""

    given: argparse.Namespace
    data: Path
    scratch: Path

    @property
    def step_s(self) -> float:
        """The published step time, per image."""
        return resolve_accelerator(self.given.accelerator, batch_size=self.given.batch_size).step_time_s

    @property
    def paths(self) -> list[Path]:
        """The shards."""
        return sorted(self.data.glob("train/*.tfrecord"))

    def ours(self) -> dict[str, float]:
        """`iobench train`, as many steps as an epoch of DLIO's has, twice."""
        steps = self.given.samples // (self.given.batch_size * self.given.ranks)
        words = ["--np", self.given.ranks, "--accelerator", self.given.accelerator, "--steps", steps]
        words += ["--batch-size", self.given.batch_size, "--seconds", 600, "--set", "rounds=2"]
        command = [sys.executable, "-m", "iobench", "train", self.data / "train", *words]
        done = subprocess.run(
            [*map(str, command), "--json", "--out", str(self.scratch / "run")],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"iobench train ended with {done.returncode}: {done.stderr.strip()}")
        metrics = json.loads(done.stdout)["metrics"]
        return {name: metrics[name]["value"] for name in NAMES}

    def dlio(self) -> dict[str, float]:
        """DLIO, with cold files at the beginning of each epoch; mean over ranks and all epochs but the first."""
        out = self.scratch / "dlio"
        shutil.rmtree(out, ignore_errors=True)
        settings = {
            "dataset.data_folder": self.data,
            "dataset.num_files_train": FILES,
            "dataset.num_samples_per_file": self.given.samples // FILES,
            "reader.batch_size": self.given.batch_size,
            "reader.read_threads": 4,
            "reader.computation_threads": 2,
            "train.epochs": self.given.epochs,
            "train.computation_time": self.step_s,
            "output.folder": out,
        }
        command = [self.given.dlio / "mpiexec", "-n", self.given.ranks, self.given.dlio / "dlio_benchmark"]
        command += ["workload=resnet50_a100", *(f"++workload.{name}={value}" for name, value in settings.items())]
        evict(self.paths)
        environment = {**os.environ, "PATH": f"{self.given.dlio}{os.pathsep}{os.environ['PATH']}"}
        with subprocess.Popen(
            list(map(str, command)),
            env=environment,
            cwd=self.scratch,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as running:
            said = []
            for line in running.stdout or ():
                said.append(line)
                if " Ending epoch" in line:
                    evict(self.paths)
        if running.returncode:
            raise RuntimeError(f"DLIO ended with {running.returncode}: {''.join(said[-20:])}")
        ends = _first_ends(said)
        epochs = []
        for rank in range(self.given.ranks):
            log = json.loads((out / f"{rank}_output.json").read_text())
            epochs += [_of_epoch(log[str(epoch)], ends[epoch, rank]) for epoch in range(2, self.given.epochs + 1)]
        return {name: statistics.fmean(epoch[name] for epoch in epochs) for name in BOTH}


def _first_ends(said: list[str]) -> dict[tuple[int, int], dict[int, float]]:
    """When steps 1 and 2 of each epoch were processed on each rank, in seconds."""
    epoch, found = 0, defaultdict[tuple[int, int], dict[int, float]](dict)
    for line in said:
        epoch += " Starting epoch" in line
        if seen := STEP.search(line):
            when, rank, step = seen.groups()
            found[epoch, int(rank)].setdefault(int(step), datetime.fromisoformat(when).timestamp())
    return found


def _of_epoch(log: dict[str, Any], ends: dict[int, float]) -> dict[str, float]:
    """Both AU of one rank's epoch: what DLIO says, and the same time with the compute that was measured."""
    reported = log["au"]["block1"] / 100
    loads, steps = log["load"]["block1"], log["proc"]["block1"]
    nominal = sum(log["compute"]["block1"][1:])
    measured = sum(processed - loaded for processed, loaded in zip(steps[1:], loads[1:], strict=True))
    met_s = ends[2] - steps[1] - ends[1]  # from the end of step 1 to the beginning of step 2
    total_s = nominal / reported
    return {
        "au_mlperf": reported,
        "au_dlio": measured / total_s,
        f"au_mlperf{MET}": nominal / (total_s - met_s),
        f"au_dlio{MET}": measured / (total_s - met_s),
    }


def measure(given: argparse.Namespace) -> RunRecord:
    """Run the rounds and print what came of them."""
    started = utc_now()
    with tempfile.TemporaryDirectory(prefix="iobench-bench-", dir=given.folder) as made:
        folder = Path(made)
        (folder / "data" / "valid").mkdir(parents=True)
        workload = WORKLOADS["resnet50"]
        say(f"writing {given.samples} samples of {workload.record_bytes} bytes")
        generate(
            folder / "data" / "train",
            workload.generate_settings(num_images=given.samples, records_per_file=given.samples // FILES),
        )
        bench = Bench(given, folder / "data", folder)
        stored = sum(path.stat().st_size for path in bench.paths) // given.samples
        demand = given.ranks * demand_bps(given.batch_size, stored, bench.step_s)
        cases = [Case("free", None)]
        cases += [Case("throttled", round(given.throttle * demand))] if given.throttle else []
        order = random.Random(0)
        for number in range(given.rounds):
            for case in cases:
                for who in order.sample(["ours", "dlio"], 2):
                    with contextlib.nullcontext() if case.rate_bps is None else Throttle(folder, case.rate_bps):
                        found = getattr(bench, who)()
                    for name, value in found.items():
                        getattr(case, who)[name].append(value)
                    reached = ", ".join(f"{value:.4f}" for value in found.values())
                    say(f"round {number + 1}, {case.name}, {who}: AU {reached}")
        environment = collect(folder)
    show(cases)
    return _record(given, cases, environment, started, stored)


def show(cases: list[Case]) -> None:
    """Both AU side by side, and their difference."""
    rows = []
    for case in cases:
        for name, words in NAMES.items():
            ours = summarise(case.ours[name], unit="")
            for suffix in ("", MET):
                dlio = summarise(case.dlio[f"{name}{suffix}"], unit="")
                less = case.difference(name, met=bool(suffix))
                near = "yes" if abs(less.value or 0.0) <= SAME else "no"
                rows.append((case.name, f"{words}{suffix}", figure(ours), figure(dlio), figure(less, digits=4), near))
    table(("disk", "AU", "ours", "DLIO", "difference", f"within {SAME:g}"), rows)


def _record(
    given: argparse.Namespace, cases: list[Case], environment: dict[str, Any], started: str, stored: int
) -> RunRecord:
    metrics: dict[str, Metric] = {}
    for case in cases:
        for name in NAMES:
            metrics[f"{case.name}: {name}, ours"] = summarise(case.ours[name], unit="fraction")
            for suffix in ("", MET):
                metrics[f"{case.name}: {name}, DLIO{suffix}"] = summarise(case.dlio[f"{name}{suffix}"], unit="fraction")
                metrics[f"{case.name}: {name}, ours - DLIO{suffix}"] = case.difference(name, met=bool(suffix))
    pip = [given.dlio / "python", "-c", "from importlib.metadata import version as v; print(v('dlio-benchmark'))"]
    version = subprocess.run(pip, capture_output=True, text=True, check=False).stdout.strip()
    return record_of(
        "train",
        started=started,
        workload={
            "dlio_benchmark": version,
            "model": "resnet50",
            "accelerator": given.accelerator,
            "emulated": True,
            "batch_size": given.batch_size,
            "ranks": given.ranks,
            "samples": given.samples,
            "record_bytes": stored,
            "dlio_epochs_counted": given.epochs - 1,
            "throttled_to_share_of_demand": given.throttle,
            "throttled_bps": {case.name: case.rate_bps for case in cases if case.rate_bps},
        },
        environment=environment,
        metrics=metrics,
    )


def parse_arguments() -> argparse.Namespace:
    """What is to be measured, and where DLIO is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    named = os.environ.get("IOBENCH_DLIO") or os.path.dirname(shutil.which("dlio_benchmark") or "")
    parser.add_argument("--dlio", type=Path, default=Path(named) if named else None, help="bin folder of DLIO")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=3, help="of DLIO; the first is not counted")
    parser.add_argument("--ranks", type=int, default=1, help="more want a quiet host: they share its cores")
    parser.add_argument("--accelerator", default="a100")
    parser.add_argument("--batch-size", type=int, default=400)
    parser.add_argument("--samples", type=int, default=FILES * 1250)
    parser.add_argument("--throttle", type=float, default=STARVED_AT, help="share of the demand; 0: no throttled case")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--keep", action="store_true", help="write the record to results/reference/")
    given = parser.parse_args()
    if given.dlio is not None:
        given.dlio = given.dlio.resolve()
    if given.rounds < 2 or given.epochs < 2 or given.samples % FILES:
        parser.error(f"two rounds and two epochs at least, and samples in {FILES} files of one size")
    return given


def main() -> int:
    """Measure, and keep the record where asked to."""
    given = parse_arguments()
    if given.dlio is None or not all((given.dlio / name).exists() for name in ("dlio_benchmark", "mpiexec")):
        say(f"left out: {MISSING}")
        return 4 if given.keep else 0
    if given.throttle and os.geteuid() != 0:
        say("left out: the throttled case, which needs root")
        given.throttle = 0
    record = measure(given)
    if given.keep:
        keep(record, "dlio")
    return 0


if __name__ == "__main__":
    run(main)
