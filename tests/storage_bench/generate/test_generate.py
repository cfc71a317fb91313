"""Generated data: the right bytes, recomputable, incompressible; and a folder that is whole or as it was before."""

import bz2
import fcntl
import lzma
import os
import re
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import xxhash
from numpy.typing import NDArray
from pydantic import ValidationError
from tfrecord import example_pb2
from tfrecord.reader import tfrecord_loader

from iobench.loaders.formats.tfrecord import verify_payload_crc, walk_frames
from iobench.storage_bench.generate import (
    Dataset,
    Generate,
    GenerateError,
    GenerateUsageError,
    find_dataset,
    generate,
    label_of_pixels,
    read_dataset,
    record_bytes,
    sample_label,
    sample_pixels,
)

SMALL = Generate(num_images=25, size=16, images_per_shard=10, seed=5)


def payloads(path: Path) -> list[bytes]:
    """What a file's frames hold, once every crc is found right."""
    with path.open("rb") as file:
        frames = walk_frames(file.fileno(), path.stat().st_size, path=path)
        verify_payload_crc(file.fileno(), frames.offsets, frames.lengths, path=path)
    data = path.read_bytes()
    return [data[offset + 12 : offset + 12 + length] for offset, length in zip(*frames, strict=True)]


def parsed(folder: Path, dataset: Dataset) -> Iterator[dict[str, bytes | int]]:
    """Every record in order, by google's protobuf."""
    for shard in dataset.shards:
        for payload in payloads(folder / shard.name):
            features = example_pb2.Example.FromString(payload).features.feature
            yield {
                name: feature.bytes_list.value[0] if feature.bytes_list.value else feature.int64_list.value[0]
                for name, feature in features.items()
            }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset]:
    """Two shards of 300 x 300 images."""
    folder = tmp_path_factory.mktemp("full")
    return folder, generate(folder, Generate(num_images=50, images_per_shard=40, seed=2))


def test_records_of_the_standard_size_start_on_4_kib_boundaries(full_size: tuple[Path, Dataset]) -> None:
    folder, dataset = full_size
    assert dataset.record_bytes == 270_336
    for shard in dataset.shards:
        with (folder / shard.name).open("rb") as file:
            frames = walk_frames(file.fileno(), shard.bytes, path=file.name)
        assert frames.offsets.tolist() == [66 * 4096 * i for i in range(shard.num_images)]


@pytest.mark.parametrize(
    ("size", "stride"),
    [
        (300, 270_336),
        (224, 151_552),  # 150,528 of pixels: 37 * 4096
        (64, 12_800),  # 12,288 of pixels: 4 * 4096 would cost 23 %, 25 * 512 costs 2 %
    ],
)
def test_a_record_is_padded_to_a_block_where_that_costs_little(size: int, stride: int) -> None:
    assert record_bytes(Generate(num_images=1, size=size)) == stride


def test_a_record_that_no_padding_suits_is_not_padded(tmp_path: Path) -> None:
    # 768 bytes of pixels and some 270 around them: the next multiple of 512 costs more than 5 %
    record = next(parsed(tmp_path, generate(tmp_path, SMALL)))
    assert record["image/filename"] == b"seed-0000000000000000005/image-000000000000.raw"


@pytest.mark.parametrize("config", [SMALL, Generate(num_images=5, size=64, seed=2**63 - 1, images_per_shard=99)])
def test_every_record_holds_what_its_index_says(tmp_path: Path, config: Generate) -> None:
    dataset = generate(tmp_path, config)
    for index, record in enumerate(parsed(tmp_path, dataset)):
        assert bytes(record.pop("image/filename")).rstrip() == b"seed-%019d/image-%012d.raw" % (config.seed, index)
        assert record == {
            "image/height": config.size,
            "image/width": config.size,
            "image/channels": 3,
            "image/format": b"raw",
            "image/class/label": sample_label(config.seed, index),
            "image/encoded": sample_pixels(config.seed, index, config.shape).tobytes(),
        }
    assert index == config.num_images - 1


def test_pixels_alone_tell_the_label(full_size: tuple[Path, Dataset]) -> None:
    folder, dataset = full_size
    records = list(parsed(folder, dataset))
    stored = [record["image/class/label"] for record in records]
    images = np.stack([np.frombuffer(bytes(record["image/encoded"]), np.uint8) for record in records])
    images = images.reshape(-1, 300, 300, 3)
    assert label_of_pixels(images).tolist() == stored
    assert label_of_pixels(images[:48].reshape(6, 8, 300, 300, 3)).shape == (6, 8)
    assert [int(label_of_pixels(image)) for image in images] == stored


@pytest.mark.parametrize("size", [8, 9, 13, 16, 31, 64, 65])
def test_pixels_tell_the_label_at_any_size(size: int) -> None:
    for index in range(40):
        assert label_of_pixels(sample_pixels(1, index, (size, size, 3))) == sample_label(1, index)


def test_every_class_is_drawn_about_as_often() -> None:
    counts = np.bincount([sample_label(3, index) for index in range(5000)], minlength=10)
    assert len(counts) == 10
    assert counts.min() > 500 - 5 * 21.2  # five standard deviations of a binomial(5000, 0.1)


def test_the_classes_differ_in_half_of_the_square_and_nowhere_else() -> None:
    def cells(image: NDArray[np.uint8]) -> list[int]:
        square = image[134:166, 134:166] >> 7
        blocks = square.reshape(4, 8, 4, 8, 3).transpose(0, 2, 1, 3, 4).reshape(16, -1)
        assert (blocks == blocks[:, :1]).all()
        return blocks[:, 0].tolist()

    images = {sample_label(3, index): sample_pixels(3, index, (300, 300, 3)) for index in range(100)}
    patterns = [cells(image) for _, image in sorted(images.items())]
    assert len(patterns) == 10
    distances = {sum(a != b for a, b in zip(p, q, strict=True)) for p in patterns for q in patterns if p is not q}
    assert distances == {8}
    means = np.mean(list(images.values()), axis=(0, 1, 2))
    assert abs(means - 127.5).max() < 5 * 73.9 / np.sqrt(900_000)  # uniform bytes deviate by 73.9


def sfc64_words(words: list[int], count: int) -> list[int]:
    """Chris Doty-Humphrey's SFC64, seeded as numpy does it: three words, a counter of 1, twelve rounds."""
    a, b, c, counter = *words, 1
    mask, output = 2**64 - 1, []
    for _ in range(12 + count):
        word = (a + b + counter) & mask
        counter += 1
        a, b = b ^ (b >> 11), (c + (c << 3)) & mask
        c = (((c << 24) | (c >> 40)) + word) & mask
        output.append(word)
    return output[12:]


@pytest.mark.parametrize(("seed", "index"), [(0, 0), (5, 2**32), (2**40 + 5, 1)])
def test_samples_are_the_words_of_a_stream_of_their_own(seed: int, index: int) -> None:
    state = np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(3, np.uint64)
    words = sfc64_words([int(word) for word in state], 25)
    assert sample_label(seed, index) == words[0] % 10
    expected = np.array(words[1:], "<u8").view(np.uint8).reshape(8, 8, 3)
    found = sample_pixels(seed, index, (8, 8, 3))
    assert (found & 0x7F == expected & 0x7F).all()
    outside = np.ones((8, 8), bool)
    outside[2:6, 2:6] = False
    assert (found[outside] == expected[outside]).all()


def test_no_compressor_gains_half_a_percent(full_size: tuple[Path, Dataset]) -> None:
    folder, dataset = full_size
    data = (folder / dataset.shards[1].name).read_bytes()
    for packed in (zlib.compress(data, 9), bz2.compress(data), lzma.compress(data, preset=1)):
        assert len(packed) > 0.995 * len(data)


def test_no_block_comes_twice(full_size: tuple[Path, Dataset]) -> None:
    folder, dataset = full_size
    data = b"".join((folder / shard.name).read_bytes() for shard in dataset.shards)
    blocks = [data[i : i + 4096] for i in range(0, len(data), 4096)]
    assert len(set(blocks)) == len(blocks) == 50 * 66


def test_the_tfrecord_package_reads_the_shards(tmp_path: Path) -> None:
    dataset = generate(tmp_path, SMALL)
    description = {"image/encoded": "byte", "image/class/label": "int", "image/height": "int"}
    for shard, first in zip(dataset.shards, (0, 10, 20), strict=True):
        for i, record in enumerate(tfrecord_loader(str(tmp_path / shard.name), None, description)):
            assert bytes(record["image/encoded"]) == sample_pixels(5, first + i, SMALL.shape).tobytes()
            assert record["image/class/label"].tolist() == [sample_label(5, first + i)]
            assert record["image/height"].tolist() == [16]


def test_the_description_tells_shards_sizes_and_digests(tmp_path: Path) -> None:
    dataset = generate(tmp_path, SMALL)
    assert read_dataset(tmp_path) == dataset
    assert names(tmp_path) == ["dataset.json", *(f"train-0000{i}-of-00003.tfrecord" for i in range(3))]
    assert [shard.num_images for shard in dataset.shards] == [10, 10, 5]
    for shard in dataset.shards:
        data = (tmp_path / shard.name).read_bytes()
        assert len(data) == shard.bytes == shard.num_images * dataset.record_bytes
        assert shard.xxh3_128 == xxhash.xxh3_128_hexdigest(data)
    expected = {
        "format": "tfrecord",
        "shape": (16, 16, 3),
        "dtype": "uint8",
        "num_images": 25,
        "seed": 5,
        "images_per_shard": 10,
        "num_classes": 10,
    }
    assert expected.items() <= dataset.model_dump().items()


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_threads(tmp_path: Path) -> None:
    first = generate(tmp_path / "a", SMALL, num_threads=1)
    assert generate(tmp_path / "b", SMALL, num_threads=5) == first
    other = generate(tmp_path / "c", SMALL.model_copy(update={"seed": 6}))
    assert not {shard.xxh3_128 for shard in first.shards} & {shard.xxh3_128 for shard in other.shards}


@pytest.mark.parametrize("images_per_shard", [4095, 4096, 5000, 20_000])
def test_shards_longer_than_one_write_are_whole(tmp_path: Path, images_per_shard: int) -> None:
    config = Generate(num_images=20_000, size=8, images_per_shard=images_per_shard)
    index = 0
    for record in parsed(tmp_path, generate(tmp_path, config)):
        if index % 997 == 0:
            assert record["image/encoded"] == sample_pixels(0, index, config.shape).tobytes()
        assert bytes(record["image/filename"]).endswith(b"image-%012d.raw" % index)
        index += 1
    assert index == 20_000


def test_progress_goes_up_to_the_last_byte(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    dataset = generate(tmp_path, SMALL, progress=lambda done, total: seen.append((done, total)))
    total = 25 * dataset.record_bytes
    assert {pair[1] for pair in seen} == {total}
    assert [pair[0] for pair in seen] == sorted({pair[0] for pair in seen})
    assert seen[-1] == (total, total)


def test_data_that_is_there_already_is_found_not_written(tmp_path: Path) -> None:
    dataset = generate(tmp_path, SMALL)
    before = [(path.name, path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(tmp_path.iterdir())]
    seen: list[int] = []
    assert generate(tmp_path, SMALL, progress=lambda done, _: seen.append(done)) == dataset
    assert find_dataset(tmp_path, SMALL) == dataset
    assert seen == []
    after = [(path.name, path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(tmp_path.iterdir())]
    assert after == before


@pytest.mark.parametrize(("name", "value"), [("seed", 6), ("num_images", 26), ("images_per_shard", 11), ("size", 24)])
def test_another_data_set_is_refused_and_left_alone(tmp_path: Path, name: str, value: int) -> None:
    generate(tmp_path, SMALL)
    before = contents(tmp_path)
    with pytest.raises(GenerateUsageError, match=r"holds a data set with \w+ = .*give another folder") as raised:
        generate(tmp_path, SMALL.model_copy(update={name: value}))
    assert raised.value.exit_status == 2
    assert contents(tmp_path) == before


def test_a_shard_that_is_gone_or_cut_is_named(tmp_path: Path) -> None:
    dataset = generate(tmp_path, SMALL)
    last = tmp_path / dataset.shards[2].name
    os.truncate(last, 100)
    with pytest.raises(GenerateError, match=rf"{last}: this shard has 100 bytes instead of {dataset.shards[2].bytes}"):
        generate(tmp_path, SMALL)
    last.unlink()
    with pytest.raises(GenerateError, match=f"{last}: this shard is missing; generate with --force") as raised:
        generate(tmp_path, SMALL)
    assert raised.value.exit_status == 4
    assert generate(tmp_path, SMALL, force=True) == dataset
    assert last.stat().st_size == dataset.shards[2].bytes


def test_a_damaged_description_is_named(tmp_path: Path) -> None:
    generate(tmp_path, SMALL)
    (tmp_path / "dataset.json").write_text('{"format": "tfrecord"}')
    with pytest.raises(GenerateError, match=r"dataset\.json: shape: Field required; generate with --force"):
        generate(tmp_path, SMALL)
    assert generate(tmp_path, SMALL, force=True).num_images == 25


def test_force_replaces_another_data_set_with_nothing_left_of_it(tmp_path: Path) -> None:
    generate(tmp_path, SMALL)
    (tmp_path / ".iobench-index.npz").write_bytes(b"an index is no data")
    dataset = generate(tmp_path, SMALL.model_copy(update={"num_images": 12}), force=True)
    shards = ["train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord"]
    assert names(tmp_path) == [".iobench-index.npz", "dataset.json", *shards]
    assert dataset.num_images == 12


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_holds_other_files_is_refused(tmp_path: Path, force: bool) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(GenerateUsageError, match=r"holds 'thesis.tex', which is no generated data; give an empty"):
        generate(tmp_path, SMALL, force=force)
    assert contents(tmp_path) == {"thesis.tex": b"precious"}


def test_dotfiles_are_no_reason_to_refuse(tmp_path: Path) -> None:
    (tmp_path / ".nfs0001").touch()
    assert generate(tmp_path, SMALL).num_images == 25


def test_shards_without_a_description_are_replaced_only_with_force(tmp_path: Path) -> None:
    dataset = generate(tmp_path, SMALL)
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(GenerateUsageError, match=r"but no dataset\.json.*--force to replace these 3 files"):
        generate(tmp_path, SMALL)
    assert generate(tmp_path, SMALL, force=True) == dataset


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(GenerateUsageError, match="is a file; give a folder"):
        generate(tmp_path / "data", SMALL)
    with pytest.raises(GenerateError, match="Not a directory"):
        generate(tmp_path / "data" / "below", SMALL)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".iobench-train-00000-of-00003.tfrecord.tmp").write_bytes(b"being written")
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(GenerateError, match="another process is writing here"):
            generate(tmp_path, SMALL)
    finally:
        os.close(handle)
    assert names(tmp_path) == [".iobench-train-00000-of-00003.tfrecord.tmp"]
    generate(tmp_path, SMALL)
    assert names(tmp_path)[0] == "dataset.json"


def test_too_little_space_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    num_images = free // 270_336
    needed = num_images * 270_336 + num_images * 270_336 // 50
    with pytest.raises(GenerateError) as raised:
        generate(tmp_path / "new" / "folder", Generate(num_images=num_images))
    assert raised.value.exit_status == 4
    told = re.search(r"a reserve ([\d.]+) ([MGT]B) are needed and .* are free", str(raised.value))
    assert told is not None
    assert float(told[1]) * {"MB": 1e6, "GB": 1e9, "TB": 1e12}[told[2]] == pytest.approx(needed, rel=0.005)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "wrong", [{"num_images": 0}, {"size": 7}, {"seed": -1}, {"images_per_shard": 0}, {"format": "jpeg"}, {"sise": 8}]
)
def test_a_configuration_out_of_range_or_misspelt_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Generate.model_validate({"num_images": 10, **wrong})


class Stopped(BaseException):
    """As KeyboardInterrupt, but the test run survives it."""


def stop_at(fraction: float) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done >= fraction * total:
            raise Stopped

    return progress


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_what_ends_the_run_early_leaves_the_folder_as_it_was(tmp_path: Path, fraction: float) -> None:
    (tmp_path / ".kept").touch()
    for folder in (tmp_path, tmp_path / "new" / "deep"):
        with pytest.raises(Stopped):
            generate(folder, SMALL, progress=stop_at(fraction))
        assert names(tmp_path) == [".kept"]


def test_an_older_data_set_survives_a_replacement_that_fails(tmp_path: Path) -> None:
    dataset = generate(tmp_path, SMALL)
    before = contents(tmp_path)
    with pytest.raises(Stopped):
        generate(tmp_path, SMALL.model_copy(update={"seed": 6}), force=True, progress=stop_at(0.9))
    assert contents(tmp_path) == before
    assert find_dataset(tmp_path, SMALL) == dataset


PROGRAM = """
import sys
from pathlib import Path
from iobench.storage_bench.generate import Generate, generate
config = Generate(num_images=8000, images_per_shard=100)
try:
    generate(Path(sys.argv[1]), config, progress=lambda done, total: print(done, flush=True))
except KeyboardInterrupt:
    sys.exit(130)
"""


def started(folder: Path, num_lines: int) -> subprocess.Popen[str]:
    """A process that has generated `num_lines` chunks and goes on."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(num_lines):
        assert process.stdout.readline(), "the process ended by itself"
    return process


def started_at_first_byte(folder: Path) -> subprocess.Popen[str]:
    process = started(folder, 0)
    while not names(folder):
        assert process.poll() is None
    return process


@pytest.mark.parametrize("num_chunks", [0, 1, 2, 5, 30])
def test_ctrl_c_leaves_the_folder_empty(tmp_path: Path, num_chunks: int) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    process = started(folder, num_chunks) if num_chunks else started_at_first_byte(folder)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0].count("\n") < 200
    assert process.returncode == 130
    assert names(folder) == []


def test_what_a_killed_run_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    process = started(tmp_path, 20)
    process.kill()
    process.communicate()
    assert names(tmp_path)
    assert all(name.startswith(".iobench-") and name.endswith(".tmp") for name in names(tmp_path))
    dataset = generate(tmp_path, SMALL)
    assert names(tmp_path) == ["dataset.json", *(shard.name for shard in dataset.shards)]


def mounted(tmp_path: Path, *arguments: str) -> Path:
    """A file system mounted below the test's folder, or a skip that says why not."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    point = tmp_path / "mount"
    point.mkdir()
    done = subprocess.run(["mount", *arguments, str(point)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount {' '.join(arguments)}: {done.stderr.strip()}")
    return point


def test_a_disk_that_fills_up_meanwhile_is_an_error_and_leaves_nothing(new_disk: Callable[[int], Path]) -> None:
    disk = new_disk(200 << 20)
    folder = disk / "data"

    def fill_the_disk(done: int, total: int) -> None:
        with suppress(OSError), (disk / "somebody-else").open("ab") as file:
            os.posix_fallocate(file.fileno(), done * 2, 20 << 20)

    with pytest.raises(GenerateError, match=r"no space left \(No space left on device\)") as raised:
        generate(folder, Generate(num_images=300, images_per_shard=100), progress=fill_the_disk)
    assert raised.value.exit_status == 4
    assert names(disk) == ["lost+found", "somebody-else"]


def test_a_set_is_not_made_among_the_data_of_another(tmp_path: Path) -> None:
    generate(tmp_path / "set", SMALL)
    before = names(tmp_path / "set")
    with pytest.raises(GenerateUsageError, match=r"more: would lie among the data in .*set, which may hold nothing"):
        generate(tmp_path / "set" / "more", SMALL)
    assert names(tmp_path / "set") == before


def test_a_disk_that_is_too_small_is_refused(new_disk: Callable[[int], Path]) -> None:
    disk = new_disk(200 << 20)
    with pytest.raises(GenerateError, match=r"800 images take 216 MB, with a reserve 283 MB are needed"):
        generate(disk / "data", Generate(num_images=800))
    assert names(disk) == ["lost+found"]


def test_a_read_only_file_system_is_an_error(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(GenerateError, match=r"cannot write .*Read-only file system.*give a folder that can be written"):
        generate(small_disk / "data", SMALL)


@pytest.fixture
def no_direct_io(tmp_path: Path) -> Iterator[Path]:
    """A ramfs, which does not take O_DIRECT."""
    point = mounted(tmp_path, "-t", "ramfs", "none")
    yield point
    subprocess.run(["umount", str(point)], check=True)


def test_where_direct_io_is_refused_the_bytes_are_the_same(no_direct_io: Path, tmp_path: Path) -> None:
    config = Generate(num_images=400, images_per_shard=300)
    with pytest.raises(OSError, match="Invalid argument"):
        os.open(no_direct_io / "probe", os.O_CREAT | os.O_WRONLY | os.O_DIRECT)
    shutil.rmtree(no_direct_io, ignore_errors=True)
    assert generate(no_direct_io, config).shards == generate(tmp_path / "disk", config).shards
