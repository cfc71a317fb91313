"""`iobench scale`: a grid of nodes x accelerators per node x source, each cell predicted, repeated, and compared.

    repetition 1   1x1   1x2   2x1   2x2      fewest ranks first: each cell is predicted from smaller ones, then run
    repetition 2   2x1   1x1   2x2   1x2      in another order each
    one trial      a launch of one layout's ranks, whose blocks are all sources, interleaved

Every prediction and every trial is a line of the grid's journal before the next begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from ...loaders.discovery import find_shards
from ...loaders.shards import ShardSet
from ...results.record import new_run_id
from ...results.scaling import Layout, Prediction, Seen, predict
from ...storage_bench.accelerators import Accelerator, resolve_accelerator
from ...storage_bench.choice import choose_engine
from ...storage_bench.encoded import EncodedImages, images_of
from ...storage_bench.launching.hosts import HostSlots
from ...storage_bench.launching.launch import LaunchError, require_ranks
from ...storage_bench.placement import Placement
from ..places import Places
from ..plan import Source
from ..train_run import TrainConfig, TrainError
from .journal import GridJournal, Trial
from .trial import GridRun, Workload, run_trial

IMAGENET_VALIDATE_SHARE = 50_000 / 1_281_167
MAX_RANKS = 1024

Count = Annotated[int, Field(ge=1, le=MAX_RANKS)]
Show = Callable[[str, float, str], None]


class ScaleError(ValueError):
    """The grid cannot be run as asked."""

    exit_status: ClassVar[int] = 2


class GridFailedError(RuntimeError):
    """No cell of the grid could be run."""

    exit_status: ClassVar[int] = 4


class ScaleConfig(EncodedImages):
    """A grid: which layouts and sources, how often, and what each rank does.

    `validate_share` is the images of a validation cycle per image of training (ImageNet's: 50,000 of 1,281,167);
    `seconds` is the most that the blocks of one launch may take; `placement` says which cores ranks get.
    """

    about: str = ""
    workload: Workload = "train"
    nodes: tuple[Count, ...] = (1,)
    gpus: tuple[Count, ...] = (1, 2)
    sources: tuple[Source, ...] = ("synthetic", "direct")
    accelerator: str = "h100"
    model: Literal["resnet50", "unet3d", "cosmoflow"] = "resnet50"
    batch_size: Annotated[int, Field(ge=1)] | None = None
    engine: str = "auto"
    repeats: Annotated[int, Field(ge=1, le=100)] = 3
    rounds: Annotated[int, Field(ge=1, le=100)] = 2
    steps: Annotated[int, Field(ge=2, le=100_000)] = 10
    seconds: Annotated[float, Field(gt=0)] = 60.0
    validate_share: Annotated[float, Field(gt=0, le=1)] = IMAGENET_VALIDATE_SHARE
    prefetch_depth: Annotated[int, Field(ge=1, le=64)] = 2
    reader_threads: Annotated[int, Field(ge=1, le=64)] = 2
    placement: Placement = "auto"
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("nodes", "gpus", "sources")
    @classmethod
    def _some_once_each(cls, given: tuple[object, ...]) -> tuple[object, ...]:
        if not given or len(set(given)) != len(given):
            raise ValueError("give at least one, and each once")
        return given

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """Every layout, the fewest ranks first."""
        found = (Layout(nodes, gpus) for nodes in self.nodes for gpus in self.gpus)
        return tuple(sorted(found, key=lambda layout: (layout.num_ranks, layout.nodes)))

    @property
    def all_sources(self) -> tuple[Source, ...]:
        """The sources, and synthetic batches always: without them nobody knows what a source costs."""
        return tuple(dict.fromkeys((*self.sources, "synthetic")))


@dataclass(frozen=True, slots=True)
class Grid:
    """What a grid came to: the trials in the order they ran, and what they were predicted to be."""

    run: GridRun
    config: ScaleConfig
    trials: tuple[Trial, ...]
    predictions: Mapping[tuple[Layout, str], Prediction | None]
    engine_reason: str


def check_grid(path: Path, config: ScaleConfig, hosts: Sequence[HostSlots] = ()) -> Accelerator:
    """Refuse, before any work is done, what cannot be run; returns the accelerator."""
    most = config.layouts[-1]
    if most.num_ranks > MAX_RANKS:
        raise ScaleError(f"{most} are {most.num_ranks} ranks, more than {MAX_RANKS}; ask for a smaller grid")
    require_ranks(most.num_ranks)
    if hosts and (len(hosts) < max(config.nodes) or min(host.slots for host in hosts) < max(config.gpus)):
        given = ", ".join(f"{host.name}:{host.slots}" for host in hosts)
        raise ScaleError(f"the grid goes up to {max(config.nodes)} nodes of {max(config.gpus)}; the hosts are {given}")
    shards = ShardSet.open(path)
    if len(shards) < most.num_ranks:
        raise TrainError(f"{path}: {len(shards)} images do not give work to {most.num_ranks} ranks; use more data")
    return resolve_accelerator(config.accelerator, batch_size=config.batch_size, model=config.model)


def run_grid(
    path: Path,
    config: ScaleConfig,
    journal: GridJournal,
    *,
    local: Path,
    show: Show,
    hosts: Sequence[HostSlots] = (),
    ssh: Sequence[str] = ("ssh",),
) -> Grid:
    """Run every trial that the journal does not hold yet; a trial that fails is noted, and the next one begins.

    Raises GridFailedError where none succeeded; KeyboardInterrupt leaves a journal that can be gone on with.
    """
    accelerator = check_grid(path, config, hosts)
    places = Places(tuple(hosts), tuple(ssh))
    copy = local.absolute() / f"staged-{new_run_id('stage')}" if "staged" in config.sources else None
    with ExitStack() as stack:
        if copy is not None:
            largest = places.hosts[: max(config.nodes)]
            slots = sum(host.slots for host in largest) or config.layouts[-1].num_ranks
            stack.enter_context(Places(largest, places.ssh).copies(path, copy, num_ranks=slots, show=show))
        run, reason = _prepare(path, copy, config, accelerator)
        run = replace(run, places=places)
        _run_trials(run, config, journal, show)
    trials = journal.trials
    if all(trial.failed is not None for trial in trials):
        raise GridFailedError(f"no cell of the grid could be run; the first said: {trials[0].failed}")
    return Grid(run, config, trials, journal.predictions, reason)


def order_of(config: ScaleConfig, repetition: int) -> list[Layout]:
    """The layouts of one repetition: the fewest ranks first in the first, shuffled by the seed in the others."""
    import numpy as np

    layouts = list(config.layouts)
    if repetition == 0:
        return layouts
    shuffled = np.random.default_rng([config.seed, repetition]).permutation(len(layouts))
    return [layouts[which] for which in shuffled.tolist()]


def seen_by(trials: Sequence[Trial], source: Source) -> list[Seen]:
    """What the trials so far say about larger cells of a source."""
    return [
        Seen(
            trial.layout.num_ranks,
            computed=trial.sources["synthetic"].images_per_s,
            given=trial.sources[source].given_images_per_s,
        )
        for trial in trials
        if trial.failed is None and {source, "synthetic"} <= trial.sources.keys()
    ]


def _prepare(path: Path, copy: Path | None, config: ScaleConfig, accelerator: Accelerator) -> tuple[GridRun, str]:
    folders: dict[Source, Path] = {"direct": path} if "direct" in config.sources else {}
    if copy is not None:
        folders["staged"] = copy
    used, reason = choose_engine(config.engine, find_shards(path)[0])
    index = ShardSet.open(path).index
    run = GridRun(
        workload=config.workload,
        sources=config.all_sources,
        folders=folders,
        engines=dict.fromkeys(folders, used),
        accelerator=accelerator,
        train=TrainConfig(
            **images_of(config).model_dump(),
            prefetch_depth=config.prefetch_depth,
            reader_threads=config.reader_threads,
            rounds=config.rounds,
            placement=config.placement,
        ),
        steps=config.steps,
        budget_s=config.seconds,
        layout=index.layout,
        stored_bytes=sum(stamp.size_bytes for stamp in index.stamps) / sum(index.shard_sizes),
        validate_share=config.validate_share,
        seed=config.seed,
        copies={folder.resolve(): path for folder in folders.values()},
    )
    return run, reason


def _run_trials(run: GridRun, config: ScaleConfig, journal: GridJournal, show: Show) -> None:
    total = config.repeats * len(config.layouts)
    for repetition in range(config.repeats):
        for which, layout in enumerate(order_of(config, repetition)):
            if journal.has(repetition, layout):
                continue
            done = repetition * len(config.layouts) + which
            show("grid", done / total, f"{layout}, repetition {repetition + 1} of {config.repeats}")
            if repetition == 0:
                _predict_cells(run, layout, journal)
            journal.add(_try(run, layout, repetition))
    show("grid", 1.0, f"{total} trials")


def _predict_cells(run: GridRun, layout: Layout, journal: GridJournal) -> None:
    for source in run.sources:
        if (layout, source) not in journal.predictions:
            journal.predict(layout, source, predict(layout.num_ranks, seen_by(journal.trials, source)))


def _try(run: GridRun, layout: Layout, repetition: int) -> Trial:
    """One trial; what a cell may fail with is its result, a mistake of ours is not."""
    try:
        return run_trial(run, layout, repetition)
    except (LaunchError, TrainError, OSError) as error:
        return Trial(repetition=repetition, layout=layout, sources={}, failed=str(error))
