"""The parts, in the order of their worth: where minutes are short, the last ones are left out.

A part is a module here with `run(bench)`.  It finds its sizes in `bench.sized(real, twin)`, so that its CPU twin runs
the same lines.
"""

from __future__ import annotations

from importlib import import_module

from ..part import Part, Run

PARTS: tuple[Part, ...] = (
    Part("routes", "Ways from storage to the GPU that are open here", "doctor", 6, 3, "routes"),
    Part("tests", "The tests that need a GPU", "doctor", 55, 20, "tests", (("pytest", "pytest (extra dev)"),)),
    Part("storage", "Storage to the GPU, against a bare loop", "load", 38, 14, "storage"),
    Part("peers", "Raw TFRecords to the GPU: ours, torch's, DALI's", "load", 55, 25, "peers"),
    Part("train", "ResNet-50 in bf16 on synthetic, warm and cold batches", "train", 95, 45, "train"),
    Part("stall", "The stall meter against injected delays", "train", 20, 8, "stall"),
    Part("jpeg", "JPEG TFRecords to the GPU: ours and DALI's", "load", 45, 20, "jpeg"),
    Part("graphs", "A training step as a CUDA graph and compiled, fed by the loader", "train", 35, 20, "graphs"),
    Part("sweep", "Storage to the GPU by block size and threads, every way and its limit", "storage", 30, 15, "sweep"),
    Part("direct", "Storage to the GPU past the page cache", "load", 15, 8, "direct"),
    Part("kvikio", "Storage to the GPU with kvikio", "load", 15, 8, "kvikio", (("kvikio", "kvikio (extra gpu)"),)),
    Part("copies", "Host memory to the GPU: what the bus gives", "storage", 15, 8, "copies"),
    Part("kernels", "Work on the device: numbers and rates", "load", 15, 6, "kernels"),
    Part("infer", "Validation inference", "infer", 35, 22, "infer"),
)


def run_of(part: Part) -> Run:
    """What runs a part; imports its module, which may import torch."""
    run: Run = import_module(f"{__name__}.{part.module}").run
    return run
