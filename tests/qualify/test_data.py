"""What is generated for a qualification, what a small machine leaves of it, and what data say about themselves."""

import pytest

from iobench.qualify import QualifyConfig
from iobench.qualify.data import ensure_data, open_data, planned_data
from iobench.qualify.run import Run
from iobench.storage_bench.accelerators import resolve_accelerator
from iobench.storage_bench.generate import Generate, GenerateSamples
from iobench.storage_bench.workload import WorkloadUsageError

HUGE = 1 << 50


def config(**settings):
    return QualifyConfig.model_validate({"accelerator": "0.1", "batch_size": 4, **settings})


def new_run(path, **settings):
    asked = config(**settings)
    accelerator = resolve_accelerator(asked.accelerator, batch_size=asked.batch_size, model=asked.model)
    return Run(path, path / "local", asked, accelerator, lambda part, share, detail: None)


# --- what is generated -------------------------------------------------------------------------------------------


def test_what_fits_is_generated_as_it_was_asked_for():
    wanted, note = planned_data(config(data={"num_images": 100, "size": 64}), free_bytes=HUGE)
    assert wanted == Generate(num_images=100, images_per_shard=256, size=64)
    assert note == ""


def test_images_beyond_the_disk_that_may_be_taken_are_scaled_down_files_too_and_told():
    data = {"num_images": 60_000, "images_per_shard": 20_000, "size": 300, "format": "tensors"}
    wanted, note = planned_data(config(data=data, disk_bytes=270_336 * 10_000), free_bytes=HUGE)
    assert (wanted.num_images, wanted.images_per_shard) == (10_000, 2_500)  # 270,336 bytes each, in 4 files
    assert "10,000 of 60,000 images, 2,500 a file: disk_bytes has room for 2.70 of 16.22 GB" in note


def test_the_disks_free_space_limits_too_and_leaves_a_fifth():
    data = {"num_images": 1000, "size": 64, "images_per_shard": 10}
    wanted, note = planned_data(config(data=data), free_bytes=10_000_000)
    assert 0.9 * 8_000_000 <= wanted.num_images * 12_800 <= 8_000_000
    assert wanted.images_per_shard == 10
    assert "the disk's free space" in note


@pytest.mark.parametrize(
    ("model", "per_file", "each", "full"),
    [
        ("resnet50", 1251, 114_660, 1_281_024),
        ("unet3d", 1, 146_600_628, 168),
        ("cosmoflow", 1, 2_828_486, 524_288),
    ],
)
def test_a_workload_is_generated_as_published_up_to_what_fits(model, per_file, each, full):
    asked = config(model=model, data={"workload": True}, disk_bytes=1_000_000_000)
    wanted, note = planned_data(asked, free_bytes=HUGE)
    assert isinstance(wanted, GenerateSamples)
    assert wanted.num_images == 1_000_000_000 // each
    assert wanted.images_per_shard == per_file
    assert wanted.workload.scaled
    assert f"of {full:,} samples of {model}" in note


def test_data_that_are_there_are_not_touched(page_set):
    before = sorted(path.stat().st_mtime_ns for path in page_set.folder.iterdir())
    run = new_run(page_set.folder)
    ensure_data(run)
    assert sorted(path.stat().st_mtime_ns for path in page_set.folder.iterdir()) == before
    assert run.scaled == []


# --- what is opened ----------------------------------------------------------------------------------------------


def test_an_image_folder_is_refused_before_its_index_takes_time(tmp_path):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "1.jpg").write_bytes(b"no picture, which its index would find out")
    with pytest.raises(WorkloadUsageError, match="iobench convert"):
        open_data(new_run(tmp_path))


def test_a_queue_takes_at_most_a_quarter_of_memory_and_the_depth_in_use_is_told(page_set, monkeypatch):
    from iobench.qualify import data as module

    monkeypatch.setattr(module, "ram_bytes", lambda: 4 * 2 * 4 * 4096 * 5 + 1)  # 2 ranks, 5 batches of 4 records
    run = new_run(page_set.folder, train={"prefetch_depth": 32})
    open_data(run)
    assert run.config.train.prefetch_depth == 5
    assert any("5 batches deep instead of 32" in text for text in run.scaled)
    shallow = new_run(page_set.folder, train={"prefetch_depth": 5})
    open_data(shallow)
    assert not any("deep" in text for text in shallow.scaled)


def test_a_requirement_of_more_ranks_than_run_here_is_told(page_set):
    run = new_run(page_set.folder, required_gpus=8, max_ranks=2)
    open_data(run)
    assert run.max_ranks == 2
    assert any("requirement of 8 accelerators is asked of 2 ranks" in text for text in run.scaled)


def test_samples_of_a_published_set_say_which_part_they_are(tmp_path):
    folder = tmp_path / "set"
    settings = {"model": "cosmoflow", "max_ranks": 4, "data": {"workload": True, "num_images": 4}}
    run = new_run(folder, **settings)
    ensure_data(run)
    open_data(run)
    assert (run.num_images, run.num_shards) == (4, 4)
    assert run.data_scaled
    assert run.data_label.startswith("cosmoflow (scaled")
    assert run.warnings == []
    other = new_run(folder, model="resnet50", data={"workload": True})
    open_data(other)
    assert any("samples of cosmoflow" in text for text in other.warnings)
    assert any("114,660 bytes, these have 2,8" in text for text in other.warnings)


# --- settings ----------------------------------------------------------------------------------------------------


def test_the_threshold_is_the_workloads_unless_given():
    assert config().threshold == 0.90
    assert config(model="cosmoflow").threshold == 0.70
    assert config(model="cosmoflow", au_threshold=0.8).threshold == 0.8


def test_too_short_a_time_for_a_slope_is_refused():
    with pytest.raises(ValueError, match="at least 200"):
        config(sustain={"seconds": 100, "block_seconds": 10})
    assert config(sustain={"seconds": 200, "block_seconds": 10}).total_seconds == 320
