"""Opaque samples: the right bytes in the formats DLIO writes, sizes as asked for, a folder that is whole or as before.

Read by google's protobuf, by numpy and by the zip module, not by our own readers.
"""

import bz2
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xxhash
from pydantic import ValidationError
from tfrecord.reader import tfrecord_loader

from iobench.loaders import ShardSet
from iobench.loaders.formats.npz import NpzError
from iobench.loaders.index import verify_shards
from iobench.storage_bench.generate import (
    Dataset,
    Generate,
    GenerateError,
    GenerateSamples,
    GenerateUsageError,
    WorkloadData,
    find_dataset,
    generate,
    read_dataset,
    sample_bytes_of,
    sample_label,
    sample_sizes,
    total_bytes,
)

VOLUMES = GenerateSamples(num_images=5, sample_bytes=1_500_000, sample_bytes_sd=400_000, format="npz", seed=3)
RECORDS = GenerateSamples(num_images=25, sample_bytes=5000, images_per_shard=10, seed=5)
FILES = GenerateSamples(num_images=4, sample_bytes=2_828_486, sample_bytes_sd=71_311, seed=7)
CONFIGS = pytest.mark.parametrize("config", [VOLUMES, RECORDS, FILES], ids=["npz", "records", "one record a file"])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".")


def decoded(folder: Path, dataset: Dataset) -> list[bytes]:
    """Every sample in order, by somebody else's reader; what says how long it is must be right."""
    found = []
    for shard in dataset.shards:
        path = folder / shard.name
        if dataset.format == "npz":
            with np.load(path) as arrays:
                assert arrays.files == ["x", "y"]
                found.append(arrays["x"].tobytes())
            continue
        for record in tfrecord_loader(str(path), None, {"image": "byte", "size": "int"}):
            assert record["size"].tolist() == [len(record["image"])]
            found.append(bytes(record["image"]))
    return found


@CONFIGS
def test_every_byte_is_known_and_every_checksum_right(tmp_path: Path, config: GenerateSamples) -> None:
    dataset = generate(tmp_path, config)
    samples = decoded(tmp_path, dataset)
    assert samples == [sample_bytes_of(config, index).tobytes() for index in range(config.num_images)]
    assert [len(sample) for sample in samples] == sample_sizes(config).tolist()
    for shard in dataset.shards:
        content = (tmp_path / shard.name).read_bytes()
        assert (len(content), xxhash.xxh3_128_hexdigest(content)) == (shard.bytes, shard.xxh3_128)
    shards = ShardSet.open(tmp_path)
    verify_shards(shards.paths, shards.index)


@CONFIGS
def test_our_own_reader_takes_them_without_being_told_what_they_are(tmp_path: Path, config: GenerateSamples) -> None:
    generate(tmp_path, config)
    shards = ShardSet.open(tmp_path)
    assert len(shards) == config.num_images
    for index in (0, config.num_images - 1):
        sample, label = shards[index]
        assert sample.numpy().tobytes() == sample_bytes_of(config, index).tobytes()
        assert label == (sample_label(config.seed, index) if config.format == "npz" else -1)


def test_an_npz_file_is_as_savez_makes_it(tmp_path: Path) -> None:
    generate(tmp_path / "ours", VOLUMES)
    path = tmp_path / "ours" / "train-00000-of-00005.npz"
    with np.load(path) as arrays:
        x, y = arrays["x"], arrays["y"]
    assert (x.dtype, x.ndim, x.shape[2]) == (np.uint8, 3, 1)
    assert abs(x.shape[0] - x.shape[1]) <= 2  # nearly square
    assert (y.dtype, y.tolist()) == (np.int64, [sample_label(3, 0)])
    np.savez(tmp_path / "theirs.npz", x=x, y=y)
    ours, theirs = (zipfile.ZipFile(file).infolist() for file in (path, tmp_path / "theirs.npz"))
    assert [(one.filename, one.CRC, one.file_size, one.compress_type) for one in ours] == [
        (one.filename, one.CRC, one.file_size, one.compress_type) for one in theirs
    ]
    first = 30 + 5 + 20 + 128  # where the array starts: header, name, zip64 field, npy header
    assert path.read_bytes()[first:][: x.nbytes] == (tmp_path / "theirs.npz").read_bytes()[first:][: x.nbytes]
    assert zipfile.ZipFile(path).testzip() is None


def test_sizes_spread_around_their_mean_and_stay_within_two_deviations() -> None:
    config = GenerateSamples(num_images=20_000, sample_bytes=1_000_000, sample_bytes_sd=300_000)
    sizes = sample_sizes(config)
    # a normal distribution cut off at two deviations has 0.8796 of its deviation left
    assert sizes.mean() == pytest.approx(1_000_000, rel=4 * 0.264 / 20_000**0.5)
    assert sizes.std() == pytest.approx(0.8796 * 300_000, rel=0.02)
    assert sizes.min() >= 400_000
    assert sizes.max() <= 1_600_000
    assert (np.abs(sizes - 1_000_000) < 300_000).mean() == pytest.approx(0.6827 / 0.9545, abs=0.02)


def test_a_size_depends_on_seed_and_index_alone() -> None:
    few, many = (GenerateSamples(num_images=n, sample_bytes=5000, sample_bytes_sd=900, seed=1) for n in (10, 40))
    assert sample_sizes(few).tolist() == sample_sizes(many).tolist()[:10]
    assert sample_sizes(few.model_copy(update={"seed": 2})).tolist() != sample_sizes(few).tolist()


def test_a_sample_is_made_of_pieces_of_streams_of_their_own() -> None:
    sample = sample_bytes_of(FILES, 2)
    for piece, start in enumerate(range(0, len(sample), 1 << 20)):
        words = np.random.SFC64(np.random.SeedSequence(7, spawn_key=(2, 2, piece))).random_raw(1 << 17)
        length = min(1 << 20, len(sample) - start)
        assert (sample[start : start + length] == words.astype("<u8").view(np.uint8)[:length]).all()


def test_no_compressor_gains_and_no_block_comes_twice() -> None:
    data = b"".join(sample_bytes_of(FILES, index).tobytes() for index in range(2))
    assert len(bz2.compress(data)) > len(data)
    assert len({data[at : at + 512] for at in range(0, len(data), 512)}) == -(-len(data) // 512)


@CONFIGS
def test_the_same_seed_gives_the_same_bytes_with_any_number_of_threads(tmp_path: Path, config: GenerateSamples) -> None:
    first = generate(tmp_path / "a", config, num_threads=1)
    assert generate(tmp_path / "b", config, num_threads=5) == first
    assert generate(tmp_path / "c", config.model_copy(update={"seed": 6})).shards != first.shards


@pytest.mark.parametrize("size", [16, 17, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 4_194_000, 4_194_304, 9_000_001])
@pytest.mark.parametrize("kind", ["npz", "tfrecord"])
def test_samples_of_any_size_fit_between_their_frames(tmp_path: Path, kind: str, size: int) -> None:
    """Around whole pieces, and where frames cross the buffers that are written."""
    config = GenerateSamples(num_images=2, sample_bytes=size, format=kind, images_per_shard=1 if kind == "npz" else 2)
    dataset = generate(tmp_path, config)
    assert decoded(tmp_path, dataset) == [sample_bytes_of(config, index).tobytes() for index in range(2)]
    assert sum(shard.bytes for shard in dataset.shards) == total_bytes(config)


def test_the_description_names_the_workload_and_what_is_smaller(tmp_path: Path) -> None:
    workload = WorkloadData(name="unet3d", scale=0.03, record_scale=0.25, scaled=True)
    dataset = generate(tmp_path, VOLUMES.model_copy(update={"workload": workload}))
    said = json.loads((tmp_path / "dataset.json").read_text())
    assert said["workload"] == {"name": "unet3d", "scale": 0.03, "record_scale": 0.25, "scaled": True}
    assert (said["format"], said["shape"], said["sample_bytes"], said["sample_bytes_sd"]) == (
        "npz",
        None,
        1_500_000,
        400_000,
    )
    assert said["record_bytes"] == sum(shard.bytes for shard in dataset.shards) // 5
    assert read_dataset(tmp_path) == dataset
    assert dataset.workload is not None
    assert dataset.workload.label == "unet3d (scaled: 0.03 of its samples, each at 0.25 of its size)"


def test_a_description_of_images_says_nothing_of_samples(tmp_path: Path) -> None:
    generate(tmp_path, Generate(num_images=2, size=16))
    assert (
        not {"workload", "sample_bytes", "sample_bytes_sd"} & json.loads((tmp_path / "dataset.json").read_text()).keys()
    )


@pytest.mark.parametrize(
    "change",
    [{"seed": 9}, {"num_images": 4}, {"sample_bytes": 1_500_001}, {"format": "tfrecord"}, {"sample_bytes_sd": 1}],
)
def test_another_data_set_is_refused_and_left_alone(tmp_path: Path, change: dict[str, object]) -> None:
    dataset = generate(tmp_path, VOLUMES)
    with pytest.raises(GenerateUsageError, match="holds a data set with"):
        generate(tmp_path, VOLUMES.model_copy(update=change))
    assert generate(tmp_path, VOLUMES) == find_dataset(tmp_path, VOLUMES) == dataset


def test_force_replaces_images_by_samples_and_back(tmp_path: Path) -> None:
    images = Generate(num_images=2, size=16)
    for config, suffix in ((images, ".tfrecord"), (VOLUMES, ".npz"), (images, ".tfrecord")):
        generate(tmp_path, config, force=True)
        assert {Path(name).suffix for name in names(tmp_path)} == {".json", suffix}


class Stopped(BaseException):
    """As KeyboardInterrupt, but the test run survives it."""


@CONFIGS
@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_what_ends_the_run_early_leaves_nothing(tmp_path: Path, config: GenerateSamples, fraction: float) -> None:
    def progress(done: int, total: int) -> None:
        if done >= fraction * total:
            raise Stopped

    with pytest.raises(Stopped):
        generate(tmp_path / "new", config, progress=progress)
    assert not (tmp_path / "new").exists()


def test_progress_goes_up_to_the_last_byte(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    generate(tmp_path, RECORDS, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (total_bytes(RECORDS), total_bytes(RECORDS))


def test_a_published_data_set_does_not_fit_and_is_refused_before_a_byte_is_written(tmp_path: Path) -> None:
    config = GenerateSamples(num_images=10**11, sample_bytes=1 << 30, sample_bytes_sd=1 << 28, images_per_shard=1000)
    for asked in (config, config.model_copy(update={"sample_bytes_sd": 0})):
        with pytest.raises(GenerateError, match=r"100,000,000,000 images take .* are free"):
            generate(tmp_path, asked)
    assert names(tmp_path) == []
    generate(tmp_path, RECORDS)
    with pytest.raises(GenerateUsageError, match="num_images = 25, asked for is 100000000000"):
        generate(tmp_path, config)


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"sample_bytes": 15}, "sample_bytes"),
        ({"sample_bytes": 1 << 32}, "sample_bytes"),
        ({"sample_bytes_sd": 2500}, "not less than half of 5000"),
        ({"format": "tensors"}, "format"),
        ({"format": "npz", "images_per_shard": 2}, "an npz file holds one sample"),
        ({"num_images": 0}, "num_images"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(wrong: dict[str, object], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        GenerateSamples.model_validate({"num_images": 10, "sample_bytes": 5000, **wrong})


def test_a_flipped_byte_is_found_and_named(tmp_path: Path) -> None:
    generate(tmp_path, VOLUMES)
    shards = ShardSet.open(tmp_path)
    with shards.paths[3].open("r+b") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes([byte[0] ^ 64]))
    with pytest.raises(NpzError, match=r"train-00003-of-00005\.npz: the crc32 of x\.npy is wrong \(sample 3, "):
        verify_shards(shards.paths, shards.index)
