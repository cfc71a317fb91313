"""Runs our Triton kernels in Triton's interpreter, on the CPU: TRITON_INTERPRET=1 must be set before they are imported.

    TRITON_INTERPRET=1 python interpreted_kernels.py CALLS RESULTS

CALLS (torch.save) lists (module below iobench.loaders, function, arguments); the last argument is what the function
fills.  RESULTS lists these, filled.
"""

import importlib
import sys

import torch

calls = torch.load(sys.argv[1], weights_only=False)
for module, function, arguments in calls:
    getattr(importlib.import_module(f"iobench.loaders.{module}"), function)(*arguments)
torch.save([arguments[-1] for *_, arguments in calls], sys.argv[2])
