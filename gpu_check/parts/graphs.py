"""A training step as a CUDA graph and compiled, fed by the loader: the losses of eager steps, and how long each takes.

    first    the same first batches to each of them, from weights that are the same: loss by loss, byte sum by byte sum
    then     interleaved blocks of steps on one loader's batches

The loader reads and copies on while a graph is captured.  A byte sum that differs is a step on another batch, as of a
graph that reads where a batch was; losses may differ by what kernels round.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from ...loaders.page_cache import warm
from ...loaders.shards import ShardSet
from ...results.record import Metric, Point
from ...results.stats import summarise
from ..asked import asked
from ..device import Device
from ..part import Bench, Findings, is_installed
from ..roads import OurRoad
from ..rounds import Block, ratio, rounds
from ..trainer import Trainer, Way

if TYPE_CHECKING:
    from torch import Tensor

COMPARED_STEPS = 8
TOLERANCE = 0.02  # of a loss: bf16's kernels round otherwise, and eight steps carry that on
FIGURES: Mapping[Way, str] = {"graph": "graph_steps", "compiled": "compiled_steps"}


@dataclass(slots=True)
class Seen:
    """What is known of each way until now: its trainer, its first (losses, sums), and its rates in steps per second."""

    trainers: dict[Way, Trainer] = field(default_factory=dict)
    first: dict[Way, Tensor] = field(default_factory=dict)
    rates: dict[Way, list[float]] = field(default_factory=dict)


def run(bench: Bench) -> Iterator[Findings]:
    """First whether each way makes the same steps, then how long they take."""
    begin = perf_counter()
    device, batch = Device(bench.device), bench.sized(32, 4)
    warm(ShardSet.open(bench.raw).files)
    seen, refused = Seen(), compile_refused(bench)
    with closing(OurRoad(bench.raw, device, batch_size=batch, threads=bench.threads, shuffle_mode="off")) as road:
        for way in ("eager", "graph", *(() if refused else ("compiled",))):
            trainer = seen.trainers[way] = Trainer(device, model="resnet18", way=way, sums=True)
            seen.first[way] = first_steps(trainer, road)
            yield _findings(seen, batch, refused, bench)
        with closing(road.labelled()) as batches:
            blocks = {way: steps_of(trainer, batches, device) for way, trainer in seen.trainers.items()}
            for seen.rates in rounds(blocks, seconds=bench.seconds - (perf_counter() - begin)):
                yield _findings(seen, batch, refused, bench)


def compile_refused(bench: Bench) -> str | None:
    """Why torch.compile has nothing to compile for a GPU with here, or None."""
    if bench.twin:
        return None
    if not is_installed("triton"):
        return "Triton is not installed, with which torch.compile makes kernels"
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        return "there is no C compiler, which Triton's launchers want: install gcc"
    return None


def first_steps(trainer: Trainer, road: OurRoad) -> Tensor:
    """(steps, 2): the losses of a trainer's first steps, and the sums of the batches that they were of."""
    import torch

    outcomes = []
    with closing(road.labelled()) as batches:
        for images, labels in itertools.islice(batches, COMPARED_STEPS):
            outcomes.append(trainer.step(images, labels).clone())
            del images, labels
    return torch.stack(outcomes).cpu()


def steps_of(trainer: Trainer, batches: Iterator[tuple[Tensor, Tensor]], device: Device) -> Block:
    """Blocks of steps on the next of these batches; steps per second."""

    def run_block(seconds: float) -> float:
        device.synchronize()
        begin, steps = perf_counter(), 0
        while not steps or perf_counter() - begin < seconds:
            images, labels = next(batches)
            trainer.step(images, labels)
            del images, labels
            steps += 1
        device.synchronize()
        return steps / (perf_counter() - begin)

    return run_block


def wrong_steps(first: Tensor, wanted: Tensor) -> int:
    """How many steps, of (steps, 2), were of another batch than wanted, or lost otherwise by more than rounding."""
    away = (first[:, 0] - wanted[:, 0]).abs() / wanted[:, 0].abs()
    return int((~(away <= TOLERANCE) | (first[:, 1] != wanted[:, 1])).sum())  # NaN is wrong, too


def _findings(seen: Seen, batch: int, refused: str | None, bench: Bench) -> Findings:
    points = [_point(way, seen, batch) for way in seen.trainers]
    requirements = [
        requirement
        for way, figure in FIGURES.items()
        if way in seen.first
        for requirement in asked(figure).judge(_metric_of(points, way, "wrong_steps"), bench)
    ]
    unmeasured = {FIGURES["compiled"]: refused} if refused else {}
    return Findings(
        tuple(points),
        dict(points[0].metrics),
        tuple(requirements),
        _sentence(points),
        (f"nothing was compiled: {refused}",) if refused else (),
        {"model": "resnet18", "batch_size": batch, "precision": "bf16", "compared_steps": COMPARED_STEPS},
        unmeasured,
    )


def _metric_of(points: list[Point], way: str, name: str) -> Metric:
    return next(point for point in points if point.params["way"] == way).metrics[name]


def _point(way: Way, seen: Seen, batch: int) -> Point:
    rates, eager = seen.rates.get(way, []), seen.rates.get("eager", [])
    why = None if rates else "steps were compared, and not yet timed"
    metrics = {
        "step_time_s": summarise([1 / rate for rate in rates], unit="s", reason=why),
        "images_per_s": summarise([batch * rate for rate in rates], unit="images/s", reason=why),
    }
    if way != "eager":
        wrong = wrong_steps(seen.first[way], seen.first["eager"])
        away = ((seen.first[way] - seen.first["eager"])[:, 0] / seen.first["eager"][:, 0]).abs().max()
        metrics["wrong_steps"] = Metric(value=float(wrong), unit="steps", n=1)
        metrics["loss_difference"] = summarise([float(away)], unit="fraction")
        if rates:
            metrics["images_per_s_ratio"] = ratio(rates, eager)
    params = {"stage": "step", "way": way, "batch_size": batch, "model": "resnet18"}
    return Point(params=params, metrics=metrics)


def _sentence(points: list[Point]) -> str:
    told = []
    for point in points:
        way, step, wrong = point.params["way"], point.metrics["step_time_s"].value, point.metrics.get("wrong_steps")
        same = "" if wrong is None else f", {wrong.value:.0f} of {COMPARED_STEPS} steps wrong"
        told.append(f"{way} {f'{step * 1e3:.2f} ms' if step else 'not timed'}{same}")
    return f"a step of resnet18 in bf16, fed by the loader: {'; '.join(told)}"
