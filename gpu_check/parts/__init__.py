"""The parts, in the order of their worth: where minutes are short, the last ones are left out.

A part is a module here with `run(bench)`.  It finds its sizes in `bench.sized(real, twin)`, so that its CPU twin runs
the same lines.
"""

from __future__ import annotations

from importlib import import_module

from ..part import Part, Run

PARTS: tuple[Part, ...] = (
    Part("routes", "Ways from storage to the GPU that are open here", "doctor", 6, 3, "routes"),
    Part("copies", "Host memory to the GPU: what the bus gives", "storage", 25, 10, "copies"),
)


def run_of(part: Part) -> Run:
    """What runs a part; imports its module, which may import torch."""
    run: Run = import_module(f"{__name__}.{part.module}").run
    return run
