"""Training from each source in interleaved blocks of one process: what each hop adds to a step, by two methods.

    synthetic   one batch that is on the device
    host        one batch in pinned memory, sent for every step
    warm        our loader, files in the page cache
    cold        our loader past the page cache

The stall by substitution is the share of a step beyond the synthetic one; by the meter it is the device's wait for data
less what the meter sees of the synthetic batches.  Labels are drawn once: what is trained is a network, not a result.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ...loaders.engines.readers import direct_refused
from ...loaders.page_cache import warm
from ...loaders.shards import ShardSet
from ...loaders.stall import StallMeter
from ...results.record import Metric, Point, Requirement
from ...results.stats import summarise
from ...training_bench.energy import BlockEnergy, EnergyMeter, block_energy, energy_counters, energy_metrics, idle_watts
from ..asked import asked
from ..device import Device
from ..part import Bench, Findings
from ..roads import Landing, OurRoad
from ..rounds import BLOCKS, ratio
from ..trainer import NUM_CLASSES, Trainer

if TYPE_CHECKING:
    from torch import Tensor

WARM_UP_STEPS = 5
ROOMY_BYTES = 38e9  # of GPU memory: a batch of 256 fits


Step = Callable[["Tensor"], object]


@dataclass(slots=True)
class Source:
    """Batches of one source, and what its blocks saw: seconds a step, of them waiting for data, energy."""

    batches: Iterator[Tensor]
    ahead: int
    steps_s: list[float] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    energy: list[BlockEnergy] = field(default_factory=list)


def run(bench: Bench) -> Iterator[Findings]:
    """Blocks of every source, a round at a time."""
    device = Device(bench.device)
    batch = bench.sized(256 if device.memory_bytes >= ROOMY_BYTES else 64, 2)
    model = "resnet50" if not bench.twin else "resnet18"
    step = _steps(device, model, batch)
    counters = energy_counters(gpus=device.addresses)
    idle_w, meter = idle_watts(counters, seconds=bench.sized(20, 1) / 10), EnergyMeter(counters)
    begin = perf_counter()
    with ExitStack() as stack:
        sources, refused = open_sources(bench, device, batch, stack)
        step_s = {name: _trial(device, step, source) for name, source in sources.items()}
        left_s = bench.seconds - (perf_counter() - begin)
        steps = max(bench.sized(2, 1), int(left_s / BLOCKS / sum(step_s.values())))
        random = np.random.default_rng(1)
        for number in range(BLOCKS):
            if number > 1 and perf_counter() - begin > bench.seconds:
                break
            for which in random.permutation(len(sources)).tolist():
                _block(device, step, sources[list(sources)[which]], steps, batch, meter)
            found = _findings(sources, batch, model, idle_w, counters.reason, bench)
            yield replace(found, warnings=refused, unmeasured={"stall_agreement_cold": refused[0]} if refused else {})


def open_sources(
    bench: Bench, device: Device, batch: int, stack: ExitStack
) -> tuple[dict[str, Source], tuple[str, ...]]:
    """All sources, each with a batch of the data's own images to begin with; and why one is left out."""
    files = ShardSet.open(bench.raw).files
    warm(files)
    engines, reason = {"warm": "buffered", "cold": "direct"}, direct_refused(files[0])
    if reason:
        del engines["cold"]
    options: dict[str, Any] = {"batch_size": batch, "threads": bench.threads, "shuffle_mode": "blocks"}
    roads = {
        name: stack.enter_context(closing(OurRoad(bench.raw, device, engine=engine, **options)))
        for name, engine in engines.items()
    }
    first = next(roads["warm"].batches()).clone()
    held = first.cpu().pin_memory() if device.is_cuda else first.clone()
    landing = Landing(device)
    return {
        "synthetic": Source(itertools.repeat(first), 0),
        "host": Source((landing(held) for _ in itertools.count()), 0),
        **{name: Source(road.batches(), road.ahead) for name, road in roads.items()},
    }, (f"cold batches are left out: {reason}",) if reason else ()


def _steps(device: Device, model: str, batch: int) -> Step:
    """A step of a network on a batch of images, with labels that are drawn once."""
    import torch

    torch.backends.cudnn.benchmark = True
    trainer = Trainer(device, model=model)
    labels = torch.randint(0, NUM_CLASSES, (batch,), device=device.name)
    return lambda images: trainer.step(images, labels[: len(images)])


def _trial(device: Device, step: Step, source: Source) -> float:
    """Seconds of a step, after a few that nobody counts."""
    for _ in range(WARM_UP_STEPS if device.is_cuda else 1):
        step(next(source.batches))
    took: list[float] = []
    with device.timed(took.append):
        for _ in range(2):
            step(next(source.batches))
    return took[0] / 2


def _block(device: Device, step: Step, source: Source, steps: int, batch: int, energy: EnergyMeter) -> None:
    """`steps` steps that count, after as many as lay ready."""
    for _ in range(min(source.ahead, steps) + 1):
        step(next(source.batches))
    device.synchronize()
    energy.start()
    took: list[float] = []
    with StallMeter() as meter, device.timed(took.append):
        for images in meter.watch(itertools.islice(source.batches, steps)):
            step(images)
    seen = meter.summary()
    wait = seen["gpu_data_wait_s"] if device.is_cuda else seen["data_wait_s"]
    source.energy.append(block_energy([energy.stop()], images=steps * batch)[0])
    source.steps_s.append(took[0] / steps)
    source.waits_s.append(wait / steps)


def _findings(
    sources: dict[str, Source], batch: int, model: str, idle_w: float | None, why: str, bench: Bench
) -> Findings:
    points = [_point(name, sources, batch, idle_w, why, bench) for name in sources]
    warm_point = next(point for point in points if point.params["source"] == "warm")
    requirements: list[Requirement] = [*asked("warm_of_synthetic").judge(warm_point.metrics["of_synthetic"], bench)]
    for name in [name for name in sources if name not in ("synthetic", "host")]:
        apart = next(point for point in points if point.params["source"] == name).metrics["stall_disagreement"]
        requirements += asked(f"stall_agreement_{name}").judge(apart, bench)
    rates = {str(point.params["source"]): point.metrics["images_per_s"].value or 0.0 for point in points}
    told = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    return Findings(
        tuple(points),
        dict(warm_point.metrics),
        tuple(requirements),
        f"{model}, batch {batch}, bf16, images/s: {told}",
        workload={"model": model, "batch_size": batch, "precision": "bf16", "channels_last": True},
    )


def _point(name: str, sources: dict[str, Source], batch: int, idle_w: float | None, why: str, bench: Bench) -> Point:
    source, synthetic = sources[name], sources["synthetic"]
    pairs = list(zip(source.steps_s, synthetic.steps_s, source.waits_s, synthetic.waits_s, strict=True))
    stalls = [(step - least) / step for step, least, _, _ in pairs]
    metered = [wait / step - floor / least for step, least, wait, floor in pairs]
    wait_name = "data_wait_s" if bench.twin else "gpu_data_wait_s"
    metrics: dict[str, Metric] = {
        "images_per_s": summarise([batch / step for step in source.steps_s], unit="images/s"),
        "step_time_s": summarise(source.steps_s, unit="s"),
        wait_name: summarise(source.waits_s, unit="s"),
        **energy_metrics(source.energy, idle_w=idle_w, reason=why or None),
    }
    if name != "synthetic":
        metrics["of_synthetic"] = ratio(synthetic.steps_s, source.steps_s)
        metrics["hop_cost_fraction"] = summarise(stalls, unit="fraction")
        metrics["data_stall_fraction"] = summarise(metered, unit="fraction")
        metrics["stall_disagreement"] = _apart(stalls, metered)
    params: dict[str, Any] = {"stage": "hop", "hop": name, "source": name, "batch_size": batch, "precision": "bf16"}
    return Point(params=params, metrics=metrics)


def _apart(stalls: list[float], metered: list[float]) -> Metric:
    """How far the two methods are from each other, whichever is the larger; the interval is of the difference."""
    difference = summarise([a - b for a, b in zip(stalls, metered, strict=True)], unit="fraction")
    value = difference.value or 0.0
    low, high = difference.ci95 or (value, value)
    least = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    return Metric(value=abs(value), unit="fraction", ci95=(least, max(abs(low), abs(high))), n=difference.n)
