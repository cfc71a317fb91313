"""Presets state what they require, in words and numbers that agree with their settings."""

import json

import pytest

from iobench.configs import load, presets
from iobench.qualify import QualifyConfig
from iobench.qualify.presets import all_presets, requirement_text

EXPECTED = {
    "quick",
    "standard",
    "mlperf-storage-resnet50",
    "mlperf-storage-unet3d",
    "mlperf-storage-cosmoflow",
    "hpe-validation",
    "sustained",
}


def test_the_presets_are_there_and_each_says_what_it_is_for():
    assert set(presets()) >= EXPECTED
    for preset in all_presets():
        assert preset.about, preset.name
        assert preset.requirement.startswith("feeds "), preset.name
        assert 2 <= preset.minutes <= 60, preset.name


def test_a_requirement_is_the_demand_of_its_accelerators_at_the_threshold():
    config = load(QualifyConfig, preset="mlperf-storage-resnet50")
    # 8 x 400 samples of 114,660 bytes every 0.224 s, of which 90 %: 1.4742 GB/s
    assert requirement_text(config) == (
        "feeds 8 emulated H100 running ResNet-50 at AU 90 %: 1.47 GB/s of samples of 114,660 bytes"
    )
    cosmoflow = load(QualifyConfig, preset="mlperf-storage-cosmoflow")
    assert "8 emulated H100 running CosmoFlow at AU 70 %: 4.53 GB/s" in requirement_text(cosmoflow)
    assert "still does after 30 min" in requirement_text(load(QualifyConfig, preset="sustained"))


def test_the_validation_run_reads_as_the_published_study_did():
    config = load(QualifyConfig, preset="hpe-validation")
    assert (config.data.size, config.data.images_per_shard) == (300, 20_000)
    assert (config.train.warmup_steps, config.train.count_steps) == (10, 400)
    assert (config.train.reader_threads, config.train.prefetch_depth) == (13, 32)


def test_the_sustained_run_lasts_half_an_hour_or_more():
    assert load(QualifyConfig, preset="sustained").sustain.seconds >= 1800


def test_a_flag_changes_the_requirement_that_is_told():
    config = load(QualifyConfig, preset="mlperf-storage-resnet50", flags={"required_gpus": 2, "accelerator": "a100"})
    assert requirement_text(config).startswith("feeds 2 emulated A100 running ResNet-50 at AU 90 %: 190 MB/s")


def test_the_command_lists_them_for_people_and_programs(in_process):
    done = in_process("presets", "--json")
    assert done.status == 0
    listed = {preset["name"]: preset for preset in json.loads(done.out)["presets"]}
    assert set(listed) >= EXPECTED
    assert listed["quick"]["needed_gbps"] == pytest.approx(0.9 * 400 * 270_000 / 0.224 / 1e9)
    assert "feeds 8 emulated H100 running U-Net3D" in done.err
