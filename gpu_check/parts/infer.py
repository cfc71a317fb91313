"""Validation inference on the device: what `iobench infer` measures, of one network, from storage and synthetic."""

from __future__ import annotations

from collections.abc import Iterator

from ...training_bench.infer.plan import InferConfig
from ...training_bench.infer.run import run_infer
from ...training_bench.infer.setup import InferRun
from ..part import Bench, Findings


def run(bench: Bench) -> Iterator[Findings]:
    """One launch of one rank; its points are those of the command."""
    config = InferConfig(
        models=("resnet18",) if bench.twin else ("resnet50",),
        accelerator=bench.device,
        precision="bf16",
        batch_sizes=(bench.sized(256, 4),),
        sources=("direct", "synthetic"),
        warmup_batches=bench.sized(10, 1),
        batches=bench.sized(200, 8),
        rounds=bench.sized(4, 2),
        prefetch_threads=bench.threads,
        queue_depth=bench.sized(8, 2),
        seconds=max(float(bench.sized(1, 8)), bench.seconds * 0.7),
        agreement_batches=bench.sized(4, 1),
        channels_last=True,
        engine="buffered",
    )
    found = run_infer(InferRun(path=bench.raw, config=config, local=bench.folder), show=lambda *_: None)
    rates = {str(point.params["source"]): point.metrics["images_per_s"].value or 0.0 for point in found.points}
    told = ", ".join(f"{source} {rate:,.0f}" for source, rate in rates.items())
    yield Findings(
        tuple(found.points),
        found.metrics,
        sentence=f"{config.models[0]}, batch {config.batch_sizes[0]}, bf16, images/s: {told}",
        warnings=(*found.warnings, *(f"not valid: {text}" for text in found.invalid)),
        workload=found.workload,
    )
