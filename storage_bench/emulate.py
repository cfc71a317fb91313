"""MLPerf Storage's emulated workloads: published step times, and the rule that says whether an accelerator is fed.

Step times, batch sizes, record sizes and thresholds: MLPerf Storage v2.0, rules 2.1 and the workload files of
https://github.com/mlcommons/storage (configs/dlio/workload).  A time holds for its model, accelerator and batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Model = Literal["resnet50", "unet3d", "cosmoflow"]


@dataclass(frozen=True, slots=True)
class Workload:
    """One published workload: seconds per step by accelerator, for `batch_size` records of `record_bytes`."""

    model: Model
    batch_size: int
    record_bytes: int
    record_bytes_sd: int
    step_time_s: dict[str, float]
    au_threshold: float


WORKLOADS: dict[str, Workload] = {
    "resnet50": Workload("resnet50", 400, 114_660, 0, {"a100": 0.435, "h100": 0.224}, 0.90),
    "unet3d": Workload("unet3d", 7, 146_600_628, 68_341_808, {"a100": 0.636, "h100": 0.323}, 0.90),
    "cosmoflow": Workload("cosmoflow", 1, 2_828_486, 71_311, {"a100": 0.00551, "h100": 0.00350}, 0.70),
}


def accelerator_utilisation(num_steps: int, step_time_s: float, wall_s: float) -> float:
    """AU of the rules: nominal compute time of the counted steps over the time they took.

    AU = total_compute_time / total_benchmark_running_time, with total_compute_time = steps of one accelerator x
    computation_time, and the first step's reads left out (MLPerf Storage rules, 3.3.2
    trainingAcceleratorUtilizationCheck, https://github.com/mlcommons/storage/blob/main/Rules.md).
    """
    return num_steps * step_time_s / wall_s


def dlio_utilisation(compute_s: float, wall_s: float) -> float:
    """AU that DLIO computes: the compute time it measured in the counted steps over the time they took.

    Per rank au = sum(compute[s:e]) / (end - start - sum(proc[:s])), s = 1 and e the last step by default, compute
    being the sleep as it was measured; then the mean over ranks (compute_metrics_train and end_run of
    https://github.com/argonne-lcf/dlio_benchmark/blob/main/dlio_benchmark/utils/statscounter.py).  A sleep that lasts
    longer than asked for raises this figure and lowers the rules' one.  Release 2.0.0 on PyPI still sums nominal times.
    """
    return compute_s / wall_s


def demand_bps(batch_size: int, record_bytes: int, step_time_s: float) -> float:
    """Bytes per second one accelerator asks for when it never waits."""
    return batch_size * record_bytes / step_time_s
