"""`iobench gpu-check`: all that needs a GPU, run, measured and kept in minutes, on whatever machine has one.

    machine.py     is there a GPU, and what is missing                      one line, exit 4
    data.py        shards to read: given, or generated
    budget.py      how the minutes are shared out                           a pure function
    job.py         part after part, each in a process of its own (process.py, child.py), a record each, one report
    parts/         what is run: a module each, `run(bench)` yields what it has found so far
    device.py      a GPU, or the CPU in its place: the same code runs on both

The CPU twin (`--twin`) runs every part on the CPU, small: nothing is run for the first time on the day a GPU is there.
Its figures are labelled "cpu twin" and judged by nobody.
"""

from .job import CheckOutcome, gpu_check
from .part import GpuCheckError, GpuMissingError

__all__ = ["CheckOutcome", "GpuCheckError", "GpuMissingError", "gpu_check"]
