"""Accelerators: what computes on a batch.  Emulated ones, which say so wherever they show.

a step = touch one byte of each 4 KiB of the batch, then sleep to the step time, counted from the batch's receipt
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .emulate import WORKLOADS

Images = npt.NDArray[Any] | list[npt.NDArray[Any]]

MODEL_TITLES = {"resnet50": "ResNet-50", "unet3d": "U-Net3D", "cosmoflow": "CosmoFlow"}

TOUCH_BYTES = 4096
REAL = ("cpu", "cuda")
_PUBLISHED = {name for workload in WORKLOADS.values() for name in workload.step_time_s}


class AcceleratorError(ValueError):
    """An accelerator is asked for that is not known here."""

    exit_status: ClassVar[int] = 2


@dataclass(frozen=True, slots=True)
class Accelerator:
    """An emulated accelerator: `step_time_s` per batch of `batch_size`, and where that time comes from."""

    name: str
    step_time_s: float
    batch_size: int
    scaled: bool
    source: str
    emulated: bool = True

    @property
    def label(self) -> str:
        """How sentences name it."""
        kind = self.name.upper() if self.name in _PUBLISHED else f"accelerators of {self.name}"
        return f"{'emulated ' if self.emulated else ''}{kind}{' (scaled)' if self.scaled else ''}"

    def label_for(self, count: int | None) -> str:
        """The label behind a number of them: one is no accelerators."""
        return self.label.replace("accelerators of", "accelerator of") if count == 1 else self.label

    def step(self, images: Images, received_ns: int) -> None:
        """Compute on one batch: touch it, and be busy until `step_time_s` after `received_ns`."""
        touch(images)
        left = self.step_time_s - (time.perf_counter_ns() - received_ns) / 1e9
        if left > 0:
            time.sleep(left)


def resolve_accelerator(name: str, *, batch_size: int | None = None, model: str = "resnet50") -> Accelerator:
    """`h100` or `a100` (published times), or a number of seconds per step.

    A published time holds for its batch size; at another one it is scaled per image, and says so.
    """
    workload = WORKLOADS[model]
    if name in workload.step_time_s:
        size = batch_size or workload.batch_size
        scaled = size != workload.batch_size
        step = workload.step_time_s[name] * (size / workload.batch_size)
        source = f"MLPerf Storage v2.0, {model}, batch {workload.batch_size}"
        return Accelerator(
            name, step, size, scaled, f"{source}, scaled per image to batch {size}" if scaled else source
        )
    try:
        seconds = float(name)
    except ValueError:
        known = ", ".join(sorted(workload.step_time_s))
        real = " (iobench train really trains on it; this command emulates)" if name in REAL else ""
        raise AcceleratorError(f"accelerator {name!r}: give {known} or seconds per step, as in 0.25{real}") from None
    if not 0 < seconds < 3600:
        raise AcceleratorError(f"accelerator {name!r}: seconds per step must be above 0 and below 3600")
    return Accelerator(f"{seconds:g} s/step", seconds, batch_size or workload.batch_size, False, "given by the user")


def touch(images: Images) -> int:
    """Read one byte of each 4 KiB of every record, so that no page of the batch stays unread; returns their sum.

    A batch is one array (B, H, W, C), or a list of arrays where samples differ in size.
    """
    if isinstance(images, list):
        return sum(int(_bytes_of(sample)[::TOUCH_BYTES].sum(dtype=np.int64)) for sample in images)
    per_image = int(np.prod(images.shape[1:]))
    flat = np.lib.stride_tricks.as_strided(
        images,
        shape=(len(images), -(-per_image * images.itemsize // TOUCH_BYTES)),
        strides=(images.strides[0], TOUCH_BYTES),
        writeable=False,
    )
    return int(flat.sum(dtype=np.int64))


def _bytes_of(sample: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The bytes of a sample in the order in which they lie in memory."""
    return sample.ravel(order="K").view(np.uint8)
