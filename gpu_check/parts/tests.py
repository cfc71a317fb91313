"""The tests that need a GPU, as pytest finds them in a clone; on the CPU their twins.

A test marked `gpu` has a parameter for the GPU and one for the CPU, or a fake device: the twin runs the files that have
such marks, and deselects what needs the real thing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from ...results.record import Metric, Point
from ..asked import asked
from ..part import Bench, Findings, PartSkippedError

ROOT = Path(__file__).parents[2]
MARK = "mark.gpu"
SANITIZER = "TORCH_CUDA_SANITIZER"
Counts = dict[str, int]


class TestsEndedError(RuntimeError):
    """pytest came to no result."""


def run(bench: Bench) -> Iterator[Findings]:
    """Run them, and once more under torch's CUDA sanitizer; each test that failed is named."""
    files = marked_files(ROOT / "tests")
    if not files:
        raise PartSkippedError("the tests are not installed with the package; run the check in a clone")
    plain, failed = _pytest(files, bench, "plain")
    points = [_point(plain, "plain")]
    yield _findings(points, failed, bench)
    if not bench.twin and not failed:
        found, failed = _pytest(files, bench, "sanitizer")
        yield _findings([*points, _point(found, "sanitizer")], failed, bench)


def marked_files(folder: Path) -> list[Path]:
    """The test files that have tests for a GPU."""
    return sorted(file for file in folder.rglob("test_*.py") if MARK in file.read_text(encoding="utf-8"))


def _pytest(files: list[Path], bench: Bench, name: str) -> tuple[Counts, list[str]]:
    """How many tests passed, failed and were skipped, and the names of those that failed."""
    report = bench.folder / f"tests-{name}.xml"
    mark = "not gpu and not slow" if bench.twin else "gpu"
    words = [sys.executable, "-m", "pytest", "-q", "-m", mark, f"--junitxml={report}", "-p", "no:cacheprovider"]
    environment = {**os.environ, **({SANITIZER: "1"} if name == "sanitizer" else {})}
    done = subprocess.run([*words, *map(str, files)], cwd=ROOT, env=environment, check=False)
    if done.returncode not in (0, 1, 5) or not report.exists():
        raise TestsEndedError(f"pytest ended with status {done.returncode}; see log.txt in {bench.folder.name}")
    return _counted(report)


def _counted(report: Path) -> tuple[Counts, list[str]]:
    counts, failed = {"passed": 0, "failed": 0, "skipped": 0}, []
    for case in ET.parse(report).iter("testcase"):  # our own pytest's
        kinds = {child.tag for child in case}
        ending = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        counts[ending] += 1
        if ending == "failed":
            failed.append(f"{case.get('classname', '')}::{case.get('name', '')}")
    return counts, failed


def _point(counts: Counts, name: str) -> Point:
    metrics = {f"tests_{ending}": Metric(value=float(count), unit="tests", n=1) for ending, count in counts.items()}
    return Point(params={"stage": "tests", "under": name}, metrics=metrics)


def _findings(points: list[Point], failed: list[str], bench: Bench) -> Findings:
    last = points[-1]
    passed, broken, skipped = (
        int(last.metrics[f"tests_{ending}"].value or 0) for ending in ("passed", "failed", "skipped")
    )
    requirements = asked("tests").judge(last.metrics["tests_failed"], bench)
    sentence = f"{passed} passed, {broken} failed, {skipped} skipped"
    return Findings(
        tuple(points), dict(last.metrics), requirements, sentence, tuple(f"failed: {name}" for name in failed)
    )
