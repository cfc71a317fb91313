"""The command: one function per verb.  It loads configs, calls the bench, writes the record and says what it means.

Exit: 0 done or met, 1 requirement missed, 2 wrong usage or config, 3 measurement invalid, 4 data or environment error,
130 interrupted.  With --json stdout holds exactly one JSON document, errors included; everything else is on stderr.
"""

from __future__ import annotations

import json as json_format
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from . import __version__
from .terminal import Screen, say, show_points, show_verdict, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .results.record import Kind, Metric, Point, RunRecord

DONE, MISSED, USAGE, INVALID, ENVIRONMENT, INTERRUPTED = 0, 1, 2, 3, 4, 130
GRACE_S = 4.0  # what an interrupted command has for cleaning up before it is ended all the same

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Feeds accelerators from storage, and measures how many the storage can feed.",
    epilog="Exit: 0 done or met, 1 missed, 2 usage, 3 measurement invalid, 4 data or environment, 130 interrupted.",
)

Json = Annotated[bool, typer.Option("--json", help="one JSON document on stdout, everything else on stderr")]
Out = Annotated[Path | None, typer.Option("--out", help="folder of this run  [default: ./iobench-runs/RUN]")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="settings in a TOML file")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="one setting, key=value; may be given again")]
DataPath = Annotated[Path, typer.Argument(help="folder of shards, or one file")]
SourceFolder = Annotated[Path, typer.Argument(metavar="SRC", help="folder of shards")]
LocalFolder = Annotated[Path | None, typer.Option("--local", help="where a local copy may go  [$IOBENCH_LOCAL, cache]")]
EngineFlag = Annotated[str | None, typer.Option(help="auto, buffered, direct; for load also mmap, kvikio")]


def main() -> NoReturn:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit status."""
    as_json = "--json" in arguments
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        status = int(app(list(arguments) or ["--help"], prog_name="iobench", standalone_mode=False) or DONE)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except Exception as error:
        known, message = _status_of(error)
        if known is None:  # a mistake of this program: never 1, which says that a requirement was missed
            traceback.print_exc()
            known, message = ENVIRONMENT, f"internal error: {message or type(error).__name__}; please report it"
        return _fail(message, type(error).__name__, known, as_json=as_json)
    if status == INTERRUPTED:  # typer, too, makes a status of an interrupt
        return _fail("interrupted", "Interrupted", INTERRUPTED, as_json=as_json)
    return status


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def doctor(
    path: Annotated[Path, typer.Argument(help="file or folder to look at")] = Path(), json: Json = False
) -> None:
    """What can be used here, why the rest cannot, and what to do about it."""
    from .storage_bench.doctor import examine

    findings = examine(path)
    if json:
        rows = [
            {"name": row.name, "available": row.available, "seen": row.seen, "advice": row.advice} for row in findings
        ]
        _print_json({"kind": "doctor", "path": str(path), "findings": rows})
    words = {True: "yes", False: "no", None: "?"}
    table(
        ("what", "here", "seen", "way out"),
        [(row.name, words[row.available], row.seen, row.advice) for row in findings],
    )


@app.command()
def generate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="an empty or new folder")],
    images: Annotated[int, typer.Option(help="how many images")] = 6144,
    size: Annotated[int, typer.Option(help="pixels of each side")] = 300,
    images_per_shard: Annotated[int, typer.Option(help="images in a file")] = 256,
    seed: Annotated[int, typer.Option(help="what the pixels are drawn from")] = 0,
    format: Annotated[str, typer.Option(help="tfrecord or tensors")] = "tfrecord",  # noqa: A002  # the option's name
    force: Annotated[bool, typer.Option("--force", help="replace another data set in DIR")] = False,
    json: Json = False,
) -> None:
    """Write image shards with known, incompressible content."""
    from pydantic import ValidationError

    from .storage_bench.generate import Generate
    from .storage_bench.generate import generate as write

    try:
        wanted = Generate.model_validate(
            {"num_images": images, "size": size, "images_per_shard": images_per_shard, "seed": seed, "format": format}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(f"{first['loc'][0]} is {first['input']!r}: {first['msg']}") from None
    with Screen() as screen:
        dataset = write(
            folder,
            wanted,
            progress=lambda done, total: screen.show(
                "generate", done / total, f"{done / 1e9:.2f} of {total / 1e9:.2f} GB"
            ),
            force=force,
        )
    if json:
        _print_json(dataset.model_dump(mode="json"))
    total = sum(shard.bytes for shard in dataset.shards)
    say(f"{folder}: {dataset.num_images} images in {len(dataset.shards)} shards, {total / 1e9:.2f} GB")


@app.command()
def index(
    path: DataPath,
    verify: Annotated[bool, typer.Option("--verify", help="check every record's crc, or every digest")] = False,
    json: Json = False,
) -> None:
    """Index the shards, prove their layout, and with --verify check every record."""
    from .loaders.index import verify_shards
    from .loaders.shards import open_index

    with Screen() as screen:
        paths, found = open_index(
            path, progress=lambda done, total: screen.show("index", done / total, f"{done} shards")
        )
        verified = None
        if verify:
            verified = verify_shards(
                paths, found, progress=lambda done, total: screen.show("verify", done / total, f"{done / 1e9:.2f} GB")
            )
    layout = found.layout
    if json:
        _print_json(
            {
                "num_records": found.num_records,
                "num_shards": len(paths),
                "stride_bytes": layout.stride_bytes,
                "payload_offset": layout.payload_offset,
                "record_bytes": found.record_bytes,
                "layout_reason": found.layout_reason,
                "shape": layout.shape,
                "dtype": layout.dtype,
                "status": found.status,
                "location": None if found.location is None else str(found.location),
                "verified_bytes": verified,
            }
        )
    shape = " x ".join(map(str, layout.shape))
    say(f"{path}: {found.num_records} records of {shape} {layout.dtype} in {len(paths)} shards; index {found.status}")
    say(found.layout_reason)
    if verified is not None:
        proof = "digest" if paths[0].suffix == ".tensors" else "crc"
        say(f"every {proof} is right ({verified / 1e9:.2f} GB read)")


@app.command()
def storage(
    path: DataPath,
    engine: EngineFlag = None,
    access: Annotated[str | None, typer.Option(help="sequential, random or shard-replay")] = None,
    block_size: Annotated[str | None, typer.Option(help="4K..64M; several with commas")] = None,
    queue_depth: Annotated[str | None, typer.Option(help="reads in flight per thread; several with commas")] = None,
    threads: Annotated[str | None, typer.Option(help="streams at once; several with commas")] = None,
    page_cache: Annotated[str | None, typer.Option(help="cold, warm or cold,warm")] = None,
    seconds: Annotated[float | None, typer.Option(help="seconds of one time block")] = None,
    blocks: Annotated[int | None, typer.Option(help="time blocks of each point")] = None,
    config: ConfigFile = None,
    set_: Sets = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Storage rate at every combination of the given lists, interleaved, with counters on each point."""
    from .configs import load as load_config
    from .storage_bench.evidence import doubts
    from .storage_bench.feeding import storage_point
    from .storage_bench.sweep import sweep
    from .storage_bench.workload import StorageConfig, crowding, data_files

    flags = {
        "engine": engine,
        "access": access,
        "block_size": block_size,
        "queue_depth": queue_depth,
        "threads": threads,
        "page_cache": page_cache,
        "seconds": seconds,
        "blocks": blocks,
    }
    settings = load_config(StorageConfig, file=config, sets=set_ or (), flags=flags)
    journal = _Journal("storage", path, out, json=json)
    with Screen() as screen:
        results = sweep(
            path,
            settings,
            on_block=lambda done, total, point, block: screen.show(
                "storage", done / total, f"{point.engine} {point.block_bytes >> 10} KiB: {block.gbps:.2f} GB/s"
            ),
        )
    points = [storage_point(result, path) for result in results]
    evidence = [result.evidence for result in results if result.evidence is not None]
    best = max(points, key=lambda point: point.metrics["read_gbps"].value or 0.0)
    files = data_files(path)
    crowded = (
        crowding(files, block_bytes=result.point.block_bytes, reads_in_flight=result.point.reads_in_flight)
        for result in results
        if result.point.access != "shard-replay"
    )
    warnings = [*(text for item in evidence for text in doubts(item)), *(text for text in crowded if text)]
    reasons = {f"{result.point.engine}: {result.engine_reason}": None for result in results}
    journal.finish(
        workload={**settings.model_dump(mode="json"), "engine_reasons": list(reasons)},
        points=points,
        metrics=best.metrics,
        best=best,
        warnings=warnings,
        invalid=[text for item in evidence if (text := item.invalid_reason())],
    )


@app.command()
def load(
    path: DataPath,
    engine: EngineFlag = None,
    batch_size: Annotated[int | None, typer.Option(help="images in a batch")] = None,
    shuffle: Annotated[str | None, typer.Option(help="off, shards, blocks or records")] = None,
    num_workers: Annotated[int | None, typer.Option(help="reader threads")] = None,
    page_cache: Annotated[str | None, typer.Option(help="cold or warm")] = None,
    seconds: Annotated[float | None, typer.Option(help="seconds of one time block")] = None,
    peers: Annotated[str | None, typer.Option(help="beside ours, interleaved: preadv, torch, tfrecord, dali")] = None,
    config: ConfigFile = None,
    set_: Sets = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """What the loader delivers by itself: images/s, GB/s and CPU seconds per GB; with --peers beside other loaders."""
    from .configs import load as load_config
    from .storage_bench.load import LoadConfig, measure_load

    flags = {
        "engine": engine,
        "batch_size": batch_size,
        "shuffle": shuffle,
        "num_workers": num_workers,
        "page_cache": page_cache,
        "seconds": seconds,
    }
    if peers is not None:
        _load_beside(path, {**flags, "peers": peers}, config, set_, out, json=json)
        return
    settings = load_config(LoadConfig, file=config, sets=set_ or (), flags=flags)
    journal = _Journal("load", path, out, json=json)
    with Screen() as screen:
        result = measure_load(
            path, settings, on_block=lambda done, total, rate: screen.show("load", done / total, f"{rate:.0f} images/s")
        )
    journal.finish(
        workload={
            **settings.model_dump(mode="json"),
            "engine_reason": result.engine_reason,
            "index": result.index_status,
            "layout": result.layout_reason,
        },
        points=[result.point],
        metrics=result.point.metrics,
        best=result.point,
        warnings=result.warnings,
        invalid=[result.invalid] if result.invalid else [],
    )


@app.command()
def stage(
    source: SourceFolder,
    target: Annotated[Path, typer.Argument(metavar="DST", help="folder for the copy")],
    streams: Annotated[int, typer.Option(min=1, max=64, help="shards copied at once")] = 4,
    out: Out = None,
    json: Json = False,
) -> None:
    """Copy a shard set, timed and verified; an interrupted copy goes on where it stopped."""
    from .storage_bench.staging import stage as copy
    from .storage_bench.staging import stage_point

    journal = _Journal("stage", source, out, json=json)
    with Screen() as screen:
        result = copy(
            source,
            target,
            streams=streams,
            progress=lambda done, total: screen.show(
                "stage", done / total, f"{done / 1e9:.2f} of {total / 1e9:.2f} GB"
            ),
        )
    point = stage_point(result)
    warnings = ["source and target are on the same device"] if result.same_device else []
    there = result.total_bytes - result.copied_bytes
    if there and result.copied_bytes:
        warnings.append(f"{there / 1e9:.2f} GB were there already: the time is that of the rest, and of checking them")
    journal.finish(workload={"streams": streams}, points=[point], metrics=point.metrics, best=point, warnings=warnings)
    say(
        f"{result.num_files} shards, {result.total_bytes / 1e9:.2f} GB: {result.copied_bytes / 1e9:.2f} GB copied in "
        f"{result.copy_s:.2f} s, verified in {result.verify_s:.2f} s"
    )


@app.command()
def train(
    path: DataPath,
    np: Annotated[int, typer.Option("--np", min=1, max=256, help="ranks")] = 1,
    accelerator: Annotated[str, typer.Option(help="h100, a100 or seconds per step (all emulated)")] = "h100",
    batch_size: Annotated[int | None, typer.Option(min=1, help="images per rank  [the published one]")] = None,
    steps: Annotated[int, typer.Option(min=2, help="counted steps per round")] = 10,
    source: Annotated[str, typer.Option(help="direct, staged or synthetic")] = "direct",
    local: LocalFolder = None,
    engine: EngineFlag = None,
    seconds: Annotated[float, typer.Option(min=1, help="time the rounds may take")] = 60.0,
    config: ConfigFile = None,
    set_: Sets = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Run ranks that compute on batches from one source, beside a synthetic control."""
    from .configs import load as load_config
    from .training_bench.command import run_train
    from .training_bench.train import TrainConfig

    settings = load_config(TrainConfig, file=config, sets=set_ or ())
    journal = _Journal("train", path, out, json=json)
    with Screen() as screen:
        outcome = run_train(
            path,
            settings,
            num_ranks=np,
            accelerator=accelerator,
            batch_size=batch_size,
            steps=steps,
            source=source,
            engine=engine or "auto",
            local=local_folder(local),
            seconds=seconds,
            show=screen.show,
        )
    journal.finish(
        workload={**settings.model_dump(mode="json"), **outcome.workload},
        points=outcome.points,
        metrics=outcome.best.metrics,
        best=outcome.best,
        warnings=outcome.warnings,
        invalid=outcome.invalid,
    )


@app.command()
def qualify(
    path: DataPath,
    preset: Annotated[str, typer.Option(help="a preset's name")] = "quick",
    accelerator: Annotated[str | None, typer.Option(help="h100, a100 or seconds per step (all emulated)")] = None,
    batch_size: Annotated[int | None, typer.Option(help="images per rank  [the published one]")] = None,
    required_gpus: Annotated[int | None, typer.Option(help="how many accelerators the storage must feed")] = None,
    max_ranks: Annotated[int | None, typer.Option(help="the most ranks to run on this host")] = None,
    engine: EngineFlag = None,
    measure_seconds: Annotated[float | None, typer.Option(help="measuring time at most")] = None,
    epochs: Annotated[int | None, typer.Option(help="epochs over which a copy may pay back")] = None,
    dataset_bytes: Annotated[str | None, typer.Option(help="size of the real data set, as 150G")] = None,
    local: LocalFolder = None,
    config: ConfigFile = None,
    set_: Sets = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """The main job: one verdict about the storage under PATH, with a record and a report."""
    from .configs import load as load_config
    from .qualify import QualifyConfig
    from .qualify import qualify as measure

    flags = {
        "accelerator": accelerator,
        "batch_size": batch_size,
        "required_gpus": required_gpus,
        "max_ranks": max_ranks,
        "engine": engine,
        "measure_seconds": measure_seconds,
        "copy.epochs": epochs,
        "copy.dataset_bytes": dataset_bytes,
    }
    settings = load_config(QualifyConfig, preset=preset, file=config, sets=set_ or (), flags=flags)
    journal = _Journal("qualify", path, out, json=json)
    with Screen() as screen:
        record = measure(path, settings, local=local_folder(local), preset=preset, command=_command(), show=screen.show)
    journal.write(record)
    outcome = record.verdict.outcome if record.verdict else "insufficient"
    raise typer.Exit({"pass": DONE, "fail": MISSED}.get(outcome, INVALID))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="run folders or record.json files")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the page to write")] = Path("report.html"),
    json: Json = False,
) -> None:
    """One self-contained HTML page from one or several records."""
    from .results.record import read_record
    from .results.report import write_report

    write_report([read_record(path) for path in runs], output)
    if json:
        _print_json({"report": str(output)})
    say(f"report: {output}")


def local_folder(given: Path | None) -> Path:
    """Where a local copy may go: --local, $IOBENCH_LOCAL, the user's cache; a memory file system only when named."""
    if given is not None:
        return given
    if named := os.environ.get("IOBENCH_LOCAL"):
        return Path(named)
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise typer.BadParameter("there is no home folder to copy to; give --local DIR") from None
    return cache / "iobench" / "staged"


def _load_beside(
    path: Path, flags: dict[str, Any], config: Path | None, sets: list[str] | None, out: Path | None, *, json: bool
) -> None:
    from .configs import load as load_config
    from .storage_bench.peers import PeersConfig, compare_peers

    settings = load_config(PeersConfig, file=config, sets=sets or (), flags=flags)
    journal = _Journal("load", path, out, json=json)
    with Screen() as screen:
        result = compare_peers(
            path,
            settings,
            on_block=lambda done, total, road, rate: screen.show("peers", done / total, f"{road}: {rate:.0f} images/s"),
        )
    ours = result.points[0]
    journal.finish(
        workload={**settings.model_dump(mode="json"), "roads": list(result.roads)},
        points=result.points,
        metrics=ours.metrics,
        best=ours,
        warnings=result.warnings,
        invalid=result.invalid,
    )
    for text in result.sentences:
        say(text)


class _Journal:
    """A run's folder: made before anything is measured, so that a full or read-only disk is noticed at once."""

    def __init__(self, kind: Kind, path: Path, out: Path | None, *, json: bool) -> None:
        from .results.record import new_run_id, utc_now

        self._kind: Kind = kind
        self._path = path
        self._json = json
        self._run_id = new_run_id(kind)
        self._started = utc_now()
        self._folder = out or Path("iobench-runs") / self._run_id
        if self._joins(path):
            text = f"{self._folder}: the run's folder would lie among the data in {path}; give another --out"
            raise OutputError(text)
        made = [folder for folder in (self._folder, *self._folder.parents) if not folder.exists()]
        probe = self._folder / ".iobench-probe.tmp"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"\0" * 4096)
        except OSError as error:
            text = f"{self._folder}: the run's folder cannot be written ({error.strerror}); give another --out"
            raise OutputError(text) from error
        finally:
            with suppress(OSError):
                probe.unlink()
            with suppress(OSError):
                for folder in made:
                    folder.rmdir()  # made again when there is a record to put into it

    def _joins(self, data: Path) -> bool:
        """Whether the run's folder would be a new entry of the data folder, which may hold nothing but data."""
        folder, data = self._folder.resolve(), data.resolve()
        if not folder.is_relative_to(data) or data.is_file():
            return False
        parts = folder.relative_to(data).parts
        return not parts or not (data / parts[0]).exists()

    def finish(
        self,
        *,
        workload: dict[str, Any],
        points: Sequence[Point],
        metrics: dict[str, Metric],
        best: Point,
        warnings: Sequence[str] = (),
        invalid: Sequence[str] = (),
    ) -> None:
        """Write the record of a run without a requirement; exit 3 where its measurement is not valid."""
        from .results.environment import collect, public_path
        from .results.record import RunRecord, utc_now

        record = RunRecord(
            run_id=self._run_id,
            kind=self._kind,
            started_at=self._started,
            finished_at=utc_now(),
            command=_command(),
            workload={"path": public_path(self._path), **workload},
            environment=collect(self._path),
            read_path=best.read_path,
            metrics=metrics,
            ranks=best.ranks,
            points=tuple(points),
            warnings=(*warnings, *(f"not valid: {text}" for text in invalid)),
        )
        self.write(record)
        for warning in record.warnings:
            say(f"warning: {warning}")
        if invalid:
            raise typer.Exit(INVALID)

    def write(self, record: RunRecord) -> None:
        """record.json and report.html into the run's folder, the tables on the terminal, the JSON on stdout."""
        from .results.record import write_record
        from .results.report import write_report

        record = record.model_copy(update={"run_id": self._run_id})  # the folder's name
        path = write_record(record, self._folder)
        write_report([record], self._folder / "report.html")
        show_points(record.points)
        show_verdict(record)
        say(f"record: {path}")
        say(f"report: {self._folder / 'report.html'}")
        if self._json:
            _print_json(record.model_dump(mode="json"))


class OutputError(OSError):
    """The run's folder cannot be written."""

    exit_status = ENVIRONMENT


def _command() -> tuple[str, ...]:
    from .results.environment import public_path

    return ("iobench", *(public_path(word) if "/" in word else word for word in sys.argv[1:]))


def _print_json(document: object) -> None:
    print(json_format.dumps(document))


def _fail(message: str, kind: str, status: int, *, as_json: bool) -> int:
    if as_json:
        _print_json({"error": {"type": kind, "message": message, "exit_status": status}})
    say(f"iobench: {message}")
    return status


def _status_of(error: Exception) -> tuple[int | None, str]:
    """The exit status an error carries, and its message with the file it is about."""
    if hasattr(error, "format_message"):  # what typer raises for wrong usage
        return USAGE, f"{error.format_message()} (iobench --help)"
    status = getattr(error, "exit_status", None)
    if isinstance(error, OSError):
        named = error.filename is not None and error.strerror is not None
        return status or ENVIRONMENT, f"{error.filename}: {error.strerror}" if named else str(error)
    return status, str(error)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """The first SIGINT or SIGTERM unwinds; cleaning up has GRACE_S, further signals do not disturb it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    watchdog = threading.Timer(GRACE_S, os._exit, (INTERRUPTED,))
    watchdog.daemon = True
    watchdog.start()
    raise KeyboardInterrupt
