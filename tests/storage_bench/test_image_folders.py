"""Folders of images in the bench: the loader is measured on them, and what is not done with them is refused by name."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iobench.loaders.engines.choice import EngineError
from iobench.loaders.roads.road import RoadOptions
from iobench.storage_bench.contest import open_contest
from iobench.storage_bench.load import measure_load
from iobench.storage_bench.load_setup import LoadConfig
from iobench.storage_bench.staging.opening import open_source
from iobench.storage_bench.staging.place import StagingUsageError
from iobench.storage_bench.workload import WorkloadUsageError, data_files

NUM = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images") / "root"
    for number in range(NUM):
        target = io.BytesIO()
        noise = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(target, "JPEG")
        path = root / f"class-{number % 3}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(target.getvalue())
    return root


def test_the_loader_is_measured_on_them(folder):
    config = LoadConfig(batch_size=8, seconds=0.02, num_workers=2, page_cache="warm", engine="buffered")
    result = measure_load(folder, config)
    assert result.point.metrics["images_per_s"].n == config.blocks
    assert result.point.read_path is not None
    assert result.point.read_path.cache_fraction in (1.0, None)
    assert "a file each, in folders of 3 classes" in result.layout_reason
    with pytest.raises(EngineError, match="engine mmap wants large ones"):
        measure_load(folder, config.model_copy(update={"engine": "mmap"}))


def test_storage_is_not_measured_with_them_unless_there_are_other_files(folder, tmp_path):
    with pytest.raises(
        WorkloadUsageError, match=r"folders of images, files too small .* `iobench load .* `iobench convert"
    ):
        data_files(folder)
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "large").write_bytes(b"x" * 5000)
    assert [file.path.name for file in data_files(tmp_path)] == ["large"]


def test_they_are_not_copied_nor_compared(folder):
    with pytest.raises(StagingUsageError, match=r"folders of images, .* write shards of them with `iobench convert"):
        open_source(folder)
    with pytest.raises(WorkloadUsageError, match=r"folders of images are read by our loader alone; leave --peers out"):
        open_contest(folder, RoadOptions(transform="train"), consumer="touch", seconds=0.1)
