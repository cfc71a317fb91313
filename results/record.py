"""The run record: what one run of one command saw, as one JSON document.

    RunRecord
      environment            the machine and the software
      read_path, metrics     of the best point, or of the run as a whole
      points [Point]         one measured combination each: params, read_path, metrics
      ranks  [RankReport]    one process that really ran each: pid, host, metrics
      verdict                requirements, and what they rest on
      summary                what was found, in sentences, where nothing was required
      history                what changed against the last good run of the same target and preset

Promised keys are always there.  What was not measured has value null, ci95 null and a reason; it is never 0.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

SCHEMA_VERSION = 1
INVALID_MARK = "not valid: "  # how a warning begins that takes the measurement's validity
INTERRUPTED = "interrupted"  # why a run did not come to its end, where nothing failed

Kind = Literal[
    "doctor",
    "generate",
    "index",
    "convert",
    "storage",
    "load",
    "stage",
    "train",
    "infer",
    "scale",
    "qualify",
    "compare",
]
Route = Literal["host", "bounce", "gds", "p2pdma", "remote", "unknown"]
CacheState = Literal["cold", "warm"]
ColdScope = Literal["client", "end_to_end", "unknown"]
CounterClass = Literal["exact", "bounding", "client-own", "none"]
Outcome = Literal["pass", "fail", "insufficient", "invalid"]
Finding = Literal["better", "worse", "higher", "lower", "no difference", "not comparable"]


UPGRADES: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}  # from a version to the next one


class RecordError(ValueError):
    """A record on disk is damaged, foreign, or of a version this program does not read."""

    exit_status: ClassVar[int] = 4


class WriteError(OSError):
    """A record or a report cannot be written where it was asked for."""

    exit_status: ClassVar[int] = 4


class Model(BaseModel):
    """Frozen, closed to unknown keys: a record says only what the schema promises."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Metric(Model):
    """One figure: a value in a unit, its 95 % interval over `n` time blocks, and those blocks' samples.

    `n` counts independent time blocks, never single reads.  A null value carries the reason why.
    """

    value: float | None
    unit: str
    ci95: tuple[float, float] | None = None
    n: int = 0
    samples: tuple[float, ...] = ()
    reason: str | None = None

    @model_validator(mode="after")
    def _null_has_a_reason(self) -> Metric:
        if self.value is None and not self.reason:
            raise ValueError("a metric without a value must say why (reason)")
        return self


def stopped_early(why: str) -> str:
    """The first warning of what is kept of a run that did not come to its end; `workload.failed` is the same `why`."""
    return f"stopped before its end: {why}"


def not_measured(unit: str, reason: str) -> Metric:
    """A metric that has no value, and why."""
    return Metric(value=None, unit=unit, reason=reason)


class ReadPath(Model):
    """Which way the bytes took: what was asked for, and what the counters saw."""

    engine: str
    requested_route: Route
    observed_route: Route
    route_evidence: str
    counter_class: CounterClass
    page_cache: CacheState | None = None
    cache_fraction: float | None = None
    cache_fraction_after: float | None = None
    cold_scope: ColdScope = "unknown"
    delivered_bytes: int | None = None
    payload_bytes: int | None = None
    device_bytes: int | None = None
    read_amplification: float | None = None
    counters: dict[str, float | int | str | None] = Field(default_factory=dict)


class RankReport(Model):
    """One process that really ran."""

    rank: int
    local_rank: int
    pid: int
    host: str
    metrics: dict[str, Metric] = Field(default_factory=dict)


class Point(Model):
    """One measured combination of parameters."""

    params: dict[str, str | int | float | bool | None]
    read_path: ReadPath | None = None
    metrics: dict[str, Metric]
    ranks: tuple[RankReport, ...] = ()
    flags: tuple[str, ...] = ()


class Requirement(Model):
    """One condition of a verdict; `passed` is null where the data do not decide it.

    `ci95` is the interval that decided, where one did; without a measured value `reason` may say why there is none.
    """

    name: str
    text: str
    required: float
    measured: float | None
    unit: str
    passed: bool | None
    ci95: tuple[float, float] | None = None
    reason: str | None = None


class Verdict(Model):
    """The answer.  `passed` is true or false only where valid measurements decide it."""

    outcome: Outcome
    passed: bool | None
    sentence: str
    requirements: tuple[Requirement, ...] = ()
    measured_seconds: float | None = None
    measured_bytes: int | None = None


class Change(Model):
    """One metric of two runs: candidate over base with its 95 % interval, and what that shows.

    `where` names the point it is of, and is empty for a metric of the run.  "no difference" means none that these
    data show; without a ratio `reason` says why there is none, but for counts, which are compared as they are.
    """

    name: str
    where: str = ""
    unit: str
    base: float | None
    candidate: float | None
    ratio: float | None = None
    ci95: tuple[float, float] | None = None
    finding: Finding
    reason: str | None = None


class Difference(Model):
    """One thing in which what was asked, or the machine, differs between two runs."""

    name: str
    base: str
    candidate: str


class Comparison(Model):
    """What changed against an earlier run."""

    base_run_id: str
    base_started_at: str
    base_outcome: Outcome | None
    changes: tuple[Change, ...] = ()
    differences: tuple[Difference, ...] = ()
    sentence: str


class RunRecord(Model):
    """Everything one run has to say.

    `summary` is what it found, in sentences, where nothing was required of it.  A warning that begins with
    INVALID_MARK says that the measurement does not count, and why.
    """

    schema_version: int = SCHEMA_VERSION
    run_id: str
    kind: Kind
    started_at: str
    finished_at: str
    command: tuple[str, ...]
    workload: dict[str, Any]
    environment: dict[str, Any]
    read_path: ReadPath | None = None
    metrics: dict[str, Metric] = Field(default_factory=dict)
    ranks: tuple[RankReport, ...] = ()
    points: tuple[Point, ...] = ()
    verdict: Verdict | None = None
    history: Comparison | None = None
    warnings: tuple[str, ...] = ()
    summary: tuple[str, ...] = ()

    @property
    def why_invalid(self) -> tuple[str, ...]:
        """Why the measurement does not count; nothing where it does."""
        found = (text for text in self.warnings if text.startswith(INVALID_MARK))
        return tuple(text.removeprefix(INVALID_MARK) for text in found)


def utc_now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_run_id(kind: Kind) -> str:
    """A name for a run that sorts by time and does not collide."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{kind}-{secrets.token_hex(2)}"


def write_record(record: RunRecord, folder: Path) -> Path:
    """Write `folder/record.json` whole or not at all, and return its path; raises WriteError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    path = folder / "record.json"
    write_whole(path, record.model_dump_json(indent=1))
    return path


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content` through a temporary name, fsync and rename; raises WriteError with `path`.

    What a link leads to is replaced, not the link; what is no regular file, as /dev/stdout, is written to.
    """
    if path.is_dir():
        raise _unwritable(path, IsADirectoryError(errno.EISDIR, "it is a folder"))
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(_bytes(content))
        else:
            _replace(Path(os.path.realpath(path)), content)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> WriteError:
    return WriteError(error.errno, f"{error.strerror}; name another place to write to", str(path))


def _bytes(content: str | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.encode()


def _replace(path: Path, content: str | bytes) -> None:
    handle, temporary = tempfile.mkstemp(prefix=".iobench-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_bytes(content))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_record(path: Path) -> RunRecord:
    """Read one record; an error names the file and the field."""
    if path.is_dir() and not (path / "record.json").exists() and (runs := len(list(path.glob("*/record.json")))):
        raise RecordError(f"{path}: no record, but {runs} run{'s' * (runs > 1)} in folders of its own; name {path}/*/")
    path = path / "record.json" if path.is_dir() else path
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}; give a run's folder or its record.json") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: not readable as JSON ({error}); give a run's folder or its record.json") from error
    try:
        return RunRecord.model_validate(upgraded(document))
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"{path}: field {field}: {first['msg']}") from error


def upgraded(
    document: object,
    *,
    version: int = SCHEMA_VERSION,
    upgrades: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = UPGRADES,
) -> dict[str, Any]:
    """A record's document brought to `version` step by step; raises RecordError where no steps lead there."""
    if not isinstance(document, dict):
        raise RecordError("no record: the document is no JSON object; give a run's folder or its record.json")
    while (found := document.get("schema_version")) != version or isinstance(found, bool):
        if type(found) is int and found > version:
            raise RecordError(f"schema_version is {found}, this program reads up to {version}; take a newer iobench")
        if type(found) is not int or found not in upgrades:
            raise RecordError(
                f"schema_version is {found!r}, this program reads {min([*upgrades, version])} to {version}"
            )
        document = {**upgrades[found](document), "schema_version": found + 1}
    return document


def merge_warnings(*groups: Sequence[str]) -> tuple[str, ...]:
    """All warnings once each, in the order they came."""
    return tuple(dict.fromkeys(text for group in groups for text in group))
