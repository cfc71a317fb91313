"""Measure the roofs of this host: a matrix product, a copy in memory, a copy to the device, a loader nobody waits for.

Each roof is a row of short time blocks.  A rate of the host is the whole host's: all cores, all ranks together.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from ..loaders.evidence import counter_for
from ..loaders.shards import ShardSet
from ..storage_bench.accelerators import Accelerator
from ..storage_bench.encoded import EncodedImages
from ..storage_bench.launching.launch import launch_ranks
from ..storage_bench.limits import require_room_to_warm
from ..storage_bench.workload import WorkloadError
from .budget import check_memory, make_plan
from .outcome import TrainOutcome
from .plan import Block, RankPlan
from .roofline import Roof, no_roof, roofline_lines, roofline_points, standing, training_work
from .summary import find_point, summarise_ranks
from .train import RANK_MODULE, START_S
from .train_run import TrainConfig, TrainRun

NUM_BLOCKS = 8
BLOCK_S = 0.1
STORAGE_ROUNDS = 4
STORAGE_BLOCK_S = 0.5
MOST_STEPS = 20_000
COPY_BYTES = 128 << 20
SIDES = {"cpu": 1024, "cuda": 8192}


def device_roofs(workload: Mapping[str, Any], num_ranks: int) -> list[Roof]:
    """Roofs of what computes: of the accelerator, and of the memory and the bus in front of it."""
    return _emulated(workload, num_ranks) if workload["emulated"] else _real(workload)


def data_roofs(
    path: Path, workload: Mapping[str, Any], num_ranks: int, *, show: Callable[[str, float, str], None]
) -> list[Roof]:
    """Roofs of what brings the data: decoding, and the storage."""
    show("roofs", 0.4, "decoding")
    decode = _decode(path, workload, num_ranks)
    show("roofs", 0.7, "storage")
    storage = _storage(path, workload, num_ranks)
    show("roofs", 1.0, "measured")
    return [decode, storage]


def _emulated(workload: Mapping[str, Any], num_ranks: int) -> list[Roof]:
    """The step time that is given is the one roof of an emulated accelerator."""
    per_s = num_ranks * workload["batch_size"] / workload["step_time_s"]
    none = "the accelerator is emulated: it has neither memory nor a bus"
    return [
        Roof("compute", "images/s", (per_s,), source=f"emulated, {workload['accelerator_source']}"),
        no_roof("memory_bandwidth", "GB/s", none),
        no_roof("host_to_device", "GB/s", none),
    ]


def _real(workload: Mapping[str, Any]) -> list[Roof]:
    """What this device multiplies and copies, over what an image of this network takes in training or in inference."""
    device, precision = workload["device"], workload["precision"]
    height, width = workload["image_shape"][:2]
    rows, columns = (workload["crop"], workload["crop"]) if workload["crop"] else (height, width)
    work = training_work(workload["model"], rows=rows, columns=columns, training=workload.get("training", True))
    image_bytes = height * width * 3
    cores = len(os.sched_getaffinity(0))
    host = f"measured on {cores} cores" if device == "cpu" else "measured on one GPU"
    shrink = 1.0 if precision == "fp32" else 0.5
    bus = (
        Roof("host_to_device", "GB/s", _copy_gbps(device, to_device=True), image_bytes / 1e9, source=host)
        if device == "cuda"
        else no_roof("host_to_device", "GB/s", "computed on the CPU: batches stay in host memory")
    )
    return [
        Roof("compute", "GFLOP/s", _product_gflops(device, precision), work.flops / 1e9, source=host),
        Roof("memory_bandwidth", "GB/s", _copy_gbps(device), work.memory_bytes * shrink / 1e9, source=host),
        bus,
    ]


def _product_gflops(device: str, precision: str) -> tuple[float, ...]:
    """Rates of a square matrix product, 2 n^3 operations each."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    side = SIDES[device]
    left, right = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    return _rates(lambda: torch.mm(left, right, out=out), 2 * side**3 / 1e9, device)


def _copy_gbps(device: str, *, to_device: bool = False) -> tuple[float, ...]:
    """Rates of a copy larger than the caches: read and written bytes both count in memory, crossing ones on a bus."""
    import torch

    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device="cpu" if to_device else device, pin_memory=to_device)
    target = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device).fill_(0)
    moved = COPY_BYTES if to_device else 2 * COPY_BYTES
    return _rates(lambda: target.copy_(source, non_blocking=True), moved / 1e9, device)


def _rates(call: Callable[[], object], work: float, device: str) -> tuple[float, ...]:
    """Work per second of NUM_BLOCKS blocks of calls, each at least BLOCK_S long; with all cores of this process."""
    import torch

    def spent(count: int) -> float:
        begin = perf_counter()
        for _ in range(count):
            call()
        if device == "cuda":
            torch.cuda.synchronize()
        return perf_counter() - begin

    threads = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        spent(1)
        count = max(1, round(BLOCK_S / spent(1)))
        return tuple(count * work / spent(count) for _ in range(NUM_BLOCKS))
    finally:
        torch.set_num_threads(threads)


def _storage(path: Path, workload: Mapping[str, Any], num_ranks: int) -> Roof:
    """What the ranks' loaders give, cold, to steps that take no time: with the run's engine, threads and order.

    Of encoded images only the bytes are read: what is made of them is a roof of its own.
    """
    if workload["source"] != "direct":
        return no_roof("storage", "images/s", f"the source was {workload['source']}: nothing was read from {path.name}")
    images = _images_of(workload).model_copy(update={"decoder": "none"})
    samples, reason = _loaders_alone(path, workload, num_ranks, images=images, rung="direct")
    if reason is not None:
        return no_roof("storage", "images/s", reason)
    return Roof("storage", "images/s", samples, source="measured cold, loaders alone")


def _decode(path: Path, workload: Mapping[str, Any], num_ranks: int) -> Roof:
    """What the ranks' reader threads decode and cut, with the shards in memory and nobody computing."""
    if workload["source"] == "synthetic":
        return no_roof("decode", "images/s", "the source was synthetic: nothing is decoded")
    codec = ShardSet.open(path).index.layout.codec
    images = _images_of(workload)
    if codec is None:
        return no_roof("decode", "images/s", "records hold raw pixels: nothing is decoded")
    if images.decoder == "none":
        return no_roof("decode", "images/s", "the bytes are handed out as they are: decoder=none")
    samples, reason = _loaders_alone(path, workload, num_ranks, images=images, rung="warm")
    if reason is not None:
        return no_roof("decode", "images/s", reason)
    return Roof("decode", "images/s", samples, source=f"measured warm, {codec} to {images.transform}, loaders alone")


def _images_of(workload: Mapping[str, Any]) -> EncodedImages:
    return EncodedImages(**{name: workload[name] for name in EncodedImages.model_fields})


def _loaders_alone(
    path: Path, workload: Mapping[str, Any], num_ranks: int, *, images: EncodedImages, rung: Literal["direct", "warm"]
) -> tuple[tuple[float, ...], str | None]:
    """Images per second of all ranks' loaders to steps that take no time; or why that is not known."""
    files = ShardSet.open(path).files
    if rung == "warm":
        try:
            require_room_to_warm(sum(file.stat().st_size for file in files))
        except WorkloadError as error:
            return (), str(error)
    plan = _idle_plan(path, workload, num_ranks, images=images, rung=rung)
    check_memory(plan)
    with tempfile.TemporaryDirectory(prefix="iobench-ranks-") as folder:
        limit = START_S + 10 * STORAGE_ROUNDS * STORAGE_BLOCK_S
        logs = launch_ranks(
            RANK_MODULE, plan.model_dump(mode="json"), num_ranks=num_ranks, folder=Path(folder), timeout_s=limit
        )
    nothing = Accelerator("none", 1e-9, plan.batch_size, False, "no step")
    points, invalid = summarise_ranks(plan, nothing, logs, counters={"direct": counter_for([path])}, background_bps={})
    point = find_point(points, rung, num_ranks)
    if invalid:
        return (), f"not valid: {invalid[0][1]}"
    if point is None or not point.metrics["images_per_s"].samples:
        return (), "no batch came within the time allowed"
    return point.metrics["images_per_s"].samples, None


def _idle_plan(
    path: Path, workload: Mapping[str, Any], num_ranks: int, *, images: EncodedImages, rung: Literal["direct", "warm"]
) -> RankPlan:
    """The run's plan with steps of no time that nobody meets after."""
    shards = ShardSet.open(path)
    engine = workload["engine"] if workload["engine"] in ("direct", "buffered") and rung == "direct" else "buffered"
    run = TrainRun(
        folders={"direct": path},
        engines={"direct": engine},
        cells=(("direct", num_ranks),),
        accelerator=Accelerator("none", 1e-9, workload["batch_size"], False, "no step"),
        config=TrainConfig(
            **images.model_dump(),
            reader_threads=max(1, workload["reader_threads"]),
            prefetch_depth=workload.get("prefetch_depth", workload.get("prefetch_factor", 2)),
            rounds=STORAGE_ROUNDS,
            shuffle=workload["shuffle"],
        ),
        budget_s=10 * STORAGE_ROUNDS * STORAGE_BLOCK_S,
        layout=shards.index.layout,
    )
    plan = make_plan(run)
    block = Block(
        source=rung,
        num_ranks=num_ranks,
        drop_steps=plan.prefetch_depth + 1,
        count_steps=MOST_STEPS,
        limit_s=STORAGE_BLOCK_S,
        meets=False,
        step_time_s=0.0,
    )
    return plan.model_copy(update={"blocks": (block,)})


def with_roofline(
    outcome: TrainOutcome, path: Path, workload: Mapping[str, Any], *, show: Callable[[str, float, str], None]
) -> TrainOutcome:
    """A training's outcome with a point for each roof, and the sentence of where it stands."""
    params = outcome.best.params
    num_ranks = int(params["num_ranks"] or 1)
    show("roofs", 0.0, "compute and memory")
    roofs = [*device_roofs(workload, num_ranks), *data_roofs(path, workload, num_ranks, show=show)]
    about = {name: params[name] for name in ("num_ranks", "accelerator", "emulated", "batch_size", "source")}
    about["model"] = str(workload["model"])
    points = roofline_points(roofs, outcome.best, about=about)
    rate = outcome.best.metrics["images_per_s"].value
    where = None if rate is None else standing(roofs, rate)
    lines = (outcome.sentence, roofline_lines(points), where.text if where else "")
    return replace(outcome, points=[*outcome.points, *points], sentence="\n".join(filter(None, lines)))
