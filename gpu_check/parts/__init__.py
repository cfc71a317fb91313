"""The parts, in the order of their worth: where minutes are short, the last ones are left out.

A part is a module here with `run(bench)`.  It finds its sizes in `bench.sized(real, twin)`, so that its CPU twin runs
the same lines.
"""

from __future__ import annotations

from importlib import import_module

from ..part import Part, Run

PARTS: tuple[Part, ...] = (
    Part("routes", "Ways from storage to the GPU that are open here", "doctor", 6, 3, "routes"),
    Part("tests", "The tests that need a GPU", "doctor", 60, 20, "tests", (("pytest", "pytest (extra dev)"),)),
    Part("storage", "Storage to the GPU, against a bare loop", "load", 40, 12, "storage"),
    Part("peers", "Raw TFRecords to the GPU: ours, torch's, DALI's", "load", 60, 25, "peers"),
    Part("train", "ResNet-50 in bf16 on synthetic, warm and cold batches", "train", 110, 45, "train"),
    Part("stall", "The stall meter against injected delays", "train", 20, 8, "stall"),
    Part("jpeg", "JPEG TFRecords to the GPU: ours and DALI's", "load", 50, 20, "jpeg"),
    Part("direct", "Storage to the GPU past the page cache", "load", 20, 8, "direct"),
    Part("kvikio", "Storage to the GPU with kvikio", "load", 20, 8, "kvikio", (("kvikio", "kvikio (extra gpu)"),)),
    Part("copies", "Host memory to the GPU: what the bus gives", "storage", 25, 8, "copies"),
    Part("kernels", "Work on the device: numbers and rates", "load", 15, 6, "kernels"),
    Part("infer", "Validation inference", "infer", 50, 25, "infer"),
)


def run_of(part: Part) -> Run:
    """What runs a part; imports its module, which may import torch."""
    run: Run = import_module(f"{__name__}.{part.module}").run
    return run
