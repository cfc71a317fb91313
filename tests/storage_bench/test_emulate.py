"""MLPerf Storage's workloads: the published numbers, what is generated of them, and what is said to be smaller."""

import pytest

from iobench.storage_bench.accelerators import AcceleratorError, resolve_accelerator
from iobench.storage_bench.emulate import WORKLOADS


def test_the_workloads_are_those_of_the_workload_files():
    """configs/dlio/workload/{resnet50,unet3d,cosmoflow}_h100.yaml of mlcommons/storage, v2.0."""
    found = {
        name: (one.format, one.num_files, one.records_per_file, one.record_bytes, one.record_bytes_sd, one.read_threads)
        for name, one in WORKLOADS.items()
    }
    assert found == {
        "resnet50": ("tfrecord", 1024, 1251, 114_660, 0, 8),
        "unet3d": ("npz", 168, 1, 146_600_628, 68_341_808, 4),
        "cosmoflow": ("tfrecord", 524_288, 1, 2_828_486, 71_311, 4),
    }


def test_a_guessed_step_time_is_no_accelerators():
    assert WORKLOADS["unet3d"].guessed_step_time_s == {"b200": 0.162}
    with pytest.raises(AcceleratorError, match="'b200'"):
        resolve_accelerator("b200", model="unet3d")


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_whole_data_set_is_not_called_scaled(name):
    workload = WORKLOADS[name]
    config = workload.generate_settings(seed=4)
    assert config.num_images == workload.num_files * workload.records_per_file
    assert (config.sample_bytes, config.sample_bytes_sd) == (workload.record_bytes, workload.record_bytes_sd)
    assert (config.images_per_shard, config.format, config.seed) == (workload.records_per_file, workload.format, 4)
    assert config.workload.label == name
    assert not config.workload.scaled


def test_fewer_samples_are_called_scaled():
    config = WORKLOADS["cosmoflow"].generate_settings(0.001)
    assert config.num_images == 524
    assert config.workload.scaled
    assert config.workload.label == "cosmoflow (scaled: 0.000999 of its samples)"


def test_smaller_samples_are_called_scaled_and_spread_as_much_less():
    config = WORKLOADS["unet3d"].generate_settings(num_images=168, record_bytes=14_660_063)
    assert (config.num_images, config.sample_bytes, config.sample_bytes_sd) == (168, 14_660_063, 6_834_181)
    assert config.workload.label == "unet3d (scaled: each at 0.1 of its size)"


def test_more_samples_than_published_are_not_called_scaled():
    config = WORKLOADS["unet3d"].generate_settings(3.0)
    assert config.num_images == 504
    assert not config.workload.scaled


def test_a_share_of_almost_nothing_is_one_sample():
    assert WORKLOADS["unet3d"].generate_settings(1e-9).num_images == 1


@pytest.mark.parametrize(
    ("name", "accelerators", "memory_bytes", "files"),
    [
        ("unet3d", 8, 0, 28_000),  # 500 steps x 7 x 8 samples
        ("resnet50", 1, 0, 160),  # 200,000 samples of 1251 to a file
        ("unet3d", 1, 512 << 30, 18_751),  # 5 x 512 GiB / 146,600,628 bytes, and 500 x 7 are fewer
        ("cosmoflow", 2, 1 << 40, 1_943_640),  # 5 TiB / 2,828,486 bytes
    ],
)
def test_a_submission_has_five_hundred_steps_and_five_times_the_memory(name, accelerators, memory_bytes, files):
    assert WORKLOADS[name].min_files(num_accelerators=accelerators, memory_bytes=memory_bytes) == files
