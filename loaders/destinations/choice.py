"""`device=` of a shard set: host memory, or a device that is there.

auto      the GPU that this process already works with, else host memory
cpu       host memory
cuda[:n]  that GPU, or an error that says what is missing
a Device  itself
"""

from __future__ import annotations

import re
from typing import Literal

from ..stall import cuda_in_use
from ..transforms import ImageTransform
from .device import DestinationError, DestinationUsageError, Device

DeviceChoice = Literal["auto", "cpu", "cuda"] | str | Device

_CUDA = re.compile(r"cuda(?::(\d+))?")


def check_choice(choice: DeviceChoice) -> None:
    """Raise DestinationUsageError for what is no device, DestinationError for a GPU that is not there.

    CUDA is not started by this: a process that only opens a data set may still fork.
    """
    if isinstance(choice, str) and choice not in ("auto", "cpu"):
        _cuda_number(choice)


def open_device(choice: DeviceChoice) -> Device | None:
    """The device that batches go to now; None is host memory.  Raises as `check_choice`."""
    if not isinstance(choice, str):
        return choice
    if choice == "cpu" or (choice == "auto" and not cuda_in_use()):
        return None
    number = _cuda_number("cuda" if choice == "auto" else choice)
    import torch

    if not torch.cuda.is_available():  # asked of CUDA itself, which starts its driver
        raise DestinationError(
            f"device={choice!r} is not possible: a GPU is counted, and CUDA does not start (does its driver fit "
            f"torch's CUDA {torch.version.cuda}?); use device='cpu'"
        )
    from .torch_cuda import TorchCuda

    return TorchCuda(torch.cuda.current_device() if number is None else number)


def reads_into_device(choice: DeviceChoice, transform: object) -> bool:
    """Whether a reader that can fill device memory should, for batches of raw samples that go there.

    Images that reader threads transform pass through host memory.
    """
    return not isinstance(transform, ImageTransform) and choice != "cpu" and (choice != "auto" or cuda_in_use())


def _cuda_number(name: str) -> int | None:
    """Which GPU is named; None is the current one."""
    if (found := _CUDA.fullmatch(name)) is None:
        raise DestinationUsageError(f"device {name!r} is not auto, cpu, cuda or cuda:N")
    if (missing := cuda_missing()) is not None:
        raise DestinationError(f"device={name!r} is not possible: {missing}; use device='cpu', or run where a GPU is")
    if found[1] is None:
        return None
    import torch

    if int(found[1]) >= (count := torch.cuda.device_count()):
        raise DestinationError(f"device={name!r} is not possible: there are {count} GPUs here, counted from 0")
    return int(found[1])


def cuda_missing() -> str | None:
    """Why torch has no GPU here, or None.

    Where NVML answers, CUDA's driver is not started by asking: children that are forked later may use CUDA themselves,
    which `torch.cuda.is_available` would keep them from (PyTorch's notes on multiprocessing: poison fork).
    """
    import torch

    if torch.cuda.device_count():
        return None
    why = "does `nvidia-smi` answer?" if torch.version.cuda else f"torch {torch.__version__} is built without CUDA"
    return f"torch sees no CUDA device here ({why})"
