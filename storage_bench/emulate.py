"""MLPerf Storage's emulated workloads: published step times, and the rule that says whether an accelerator is fed.

Step times, batch sizes, record sizes and thresholds: MLPerf Storage v2.0, rules 2.1 and the workload files of
https://github.com/mlcommons/storage (configs/dlio/workload).  A time holds for its model, accelerator and batch.

A record's bytes are those of the sample.  What stands around it on disk (TFRecord framing, zip headers) comes on top,
as in DLIO's own files.  Two things DLIO does otherwise than its numbers say: it makes samples square, so that
resnet50's have 338 x 338 = 114,244 of 114,660 bytes, and it draws the two sides of unet3d's apart, so that their sizes
spread by 0.71 of the standard deviation it is given (utils/config.py, data_generator/data_generator.py of
https://github.com/argonne-lcf/dlio_benchmark).  Here sizes are as stated, the spread within two deviations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .generate import GenerateSamples

Model = Literal["resnet50", "unet3d", "cosmoflow"]

MEMORY_MULTIPLE = 5
MIN_STEPS = 500


@dataclass(frozen=True, slots=True)
class Workload:
    """One published workload: seconds per step by accelerator, for `batch_size` records of `record_bytes`.

    `num_files` is the number of files in its workload file; a submission needs `min_files`.  `read_threads` is how many
    threads of each accelerator read.  `guessed_step_time_s` are times that nobody measured: no accelerator takes them.
    """

    model: Model
    batch_size: int
    record_bytes: int
    record_bytes_sd: int
    step_time_s: dict[str, float]
    au_threshold: float
    format: Literal["tfrecord", "npz"]
    records_per_file: int
    num_files: int
    read_threads: int
    guessed_step_time_s: dict[str, float] = field(default_factory=dict)

    @property
    def num_records(self) -> int:
        """Samples of all files."""
        return self.num_files * self.records_per_file

    def min_files(self, *, num_accelerators: int, memory_bytes: int) -> int:
        """How many files a submission must have, for `memory_bytes` of all client hosts together.

        At least 500 steps of every accelerator, and five times the memory, so that no cache holds the data (rules 2.0,
        "datasize"; HOST_MEMORY_MULTIPLIER and MAX_STEPS of mlpstorage/config.py).
        """
        for_steps = MIN_STEPS * self.batch_size * num_accelerators
        for_memory = -(-memory_bytes * MEMORY_MULTIPLE // self.record_bytes)
        return -(-max(for_steps, for_memory) // self.records_per_file)

    def generate_settings(
        self,
        scale: float = 1.0,
        *,
        num_images: int | None = None,
        record_bytes: int | None = None,
        records_per_file: int | None = None,
        seed: int = 0,
    ) -> GenerateSamples:
        """What to generate: the published data set, `scale` of its samples, or `num_images` of `record_bytes` each.

        The spread of sizes goes down with the size.  What is smaller than published says so in its dataset.json.
        """
        from .generate import GenerateSamples, WorkloadData

        images = max(1, round(self.num_records * scale)) if num_images is None else num_images
        size = self.record_bytes if record_bytes is None else record_bytes
        share, size_share = images / self.num_records, size / self.record_bytes
        return GenerateSamples(
            num_images=images,
            sample_bytes=size,
            sample_bytes_sd=round(self.record_bytes_sd * size_share),
            images_per_shard=records_per_file or self.records_per_file,
            seed=seed,
            format=self.format,
            workload=WorkloadData(
                name=self.model, scale=share, record_scale=size_share, scaled=share < 1 or size_share != 1
            ),
        )


WORKLOADS: dict[str, Workload] = {
    "resnet50": Workload(
        model="resnet50",
        batch_size=400,
        record_bytes=114_660,
        record_bytes_sd=0,
        step_time_s={"a100": 0.435, "h100": 0.224},
        au_threshold=0.90,
        format="tfrecord",
        records_per_file=1251,
        num_files=1024,
        read_threads=8,
    ),
    "unet3d": Workload(
        model="unet3d",
        batch_size=7,
        record_bytes=146_600_628,
        record_bytes_sd=68_341_808,
        step_time_s={"a100": 0.636, "h100": 0.323},
        au_threshold=0.90,
        format="npz",
        records_per_file=1,
        num_files=168,
        read_threads=4,
        guessed_step_time_s={"b200": 0.162},  # unet3d_b200.yaml: half of the H100's, because "about twice as fast"
    ),
    "cosmoflow": Workload(
        model="cosmoflow",
        batch_size=1,
        record_bytes=2_828_486,
        record_bytes_sd=71_311,
        step_time_s={"a100": 0.00551, "h100": 0.00350},
        au_threshold=0.70,
        format="tfrecord",
        records_per_file=1,
        num_files=524_288,
        read_threads=4,
    ),
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
