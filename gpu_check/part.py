"""What a part is: how long it takes, what it needs, and what it hands back while it runs.

    Part.module  ->  run(bench) -> Findings so far, Findings so far, ... the last are the result

Each Findings is the whole of what is known by then, so that a part that is cut off leaves its last one.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from ..results.record import Kind, Metric, Point, Requirement

DeviceName = Literal["cuda", "cpu"]
TWIN = "cpu twin"
TWIN_S, TWIN_LEAST_S = 2.0, 0.5  # of a part


class GpuCheckError(ValueError):
    """The check is asked for in a way that does not work."""

    exit_status: ClassVar[int] = 2


class GpuMissingError(RuntimeError):
    """There is no GPU that could be checked; the message says what is missing."""

    exit_status: ClassVar[int] = 4


class PartSkippedError(RuntimeError):
    """This part cannot be run here; the message says why."""

    exit_status: ClassVar[int] = 4


@dataclass(frozen=True, slots=True)
class Bench:
    """What a part is given: the device, the data, its own folder, and how many seconds it may take."""

    device: DeviceName
    raw: Path
    jpeg: Path
    folder: Path
    seconds: float
    threads: int

    @property
    def twin(self) -> bool:
        """Whether the CPU stands in for the GPU, and everything is small."""
        return self.device == "cpu"

    @property
    def judged(self) -> bool:
        """Whether figures are held to what is asked: the twin's say nothing of a GPU."""
        return not self.twin

    @property
    def label(self) -> str:
        """What points and tables call the device."""
        return TWIN if self.twin else self.device

    def sized(self, real: int, twin: int) -> int:
        """A size as it is on a GPU, or the small one of the twin."""
        return twin if self.twin else real


@dataclass(frozen=True, slots=True)
class Findings:
    """What a part has found so far: points, their headline, requirements, one sentence, and what must be said.

    `unmeasured` are figures that are asked for and cannot be measured here, by their names, and why.
    """

    points: tuple[Point, ...] = ()
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    requirements: tuple[Requirement, ...] = ()
    sentence: str = ""
    warnings: tuple[str, ...] = ()
    workload: Mapping[str, Any] = field(default_factory=dict)
    unmeasured: Mapping[str, str] = field(default_factory=dict)


Run = Callable[[Bench], Iterator[Findings]]


@dataclass(frozen=True, slots=True)
class Part:
    """One part: `seconds` is what it takes on a GPU when there is time, `least_s` what it cannot do with less than.

    `module` is of the package parts, `packages` are what it cannot be run without: module name and what to install.
    """

    name: str
    title: str
    kind: Kind
    seconds: float
    least_s: float
    module: str
    packages: tuple[tuple[str, str], ...] = ()

    def of_twin(self) -> Part:
        """The same part on the CPU, small."""
        return replace(self, seconds=TWIN_S, least_s=min(self.least_s, TWIN_LEAST_S))

    def lacks(self) -> str | None:
        """What is not installed, and how to get it; None where the part can be run."""
        for module, title in self.packages:
            if not is_installed(module):
                return f"{title} is not installed"
        return None


def is_installed(module: str) -> bool:
    """Whether a package can be found; nothing is imported but the packages that hold it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package inside one that is not there
        return False


def parts_named(names: Sequence[str], parts: Sequence[Part]) -> tuple[Part, ...]:
    """These parts in their own order, or all; GpuCheckError for a name that is none."""
    known = [part.name for part in parts]
    for name in names:
        if name not in known:
            raise GpuCheckError(f"part {name!r} is not known; choose of {', '.join(known)}")
    return tuple(part for part in parts if not names or part.name in names)
