"""TFRecords of other writers: the tfrecord package, protobuf in any order, compressed files; read right or refused.

Labels are 1 to 1000 in canonical varints, so that records differ in length; every batch is held against the images.
"""

import gzip
import itertools
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from tfrecord import example_pb2
from tfrecord.writer import TFRecordWriter

from iobench.loaders import DataLoader, Fields, ShardSet
from iobench.loaders.formats.compressed import CompressedShardError
from iobench.loaders.formats.fields import LayoutError
from iobench.loaders.formats.tfrecord import TFRecordError, frame
from iobench.loaders.index import verify_shards
from iobench.loaders.opening import open_index

SHAPE = (19, 23, 3)
SIZES = (41, 1, 58)
TOTAL = sum(SIZES)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (TOTAL, *SHAPE), dtype=np.uint8)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.random.default_rng(2).integers(1, 1001, TOTAL)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    return tmp_path / ".cache"


def features_of(image: np.ndarray, label: int, number: int) -> dict[str, example_pb2.Feature]:
    """What TensorFlow's scripts for ImageNet write, and a float list."""

    def text(value: bytes) -> example_pb2.Feature:
        return example_pb2.Feature(bytes_list=example_pb2.BytesList(value=[value]))

    def whole(*values: int) -> example_pb2.Feature:
        return example_pb2.Feature(int64_list=example_pb2.Int64List(value=values))

    height, width, channels = image.shape
    boxes = [0.1 * number, 0.5]
    return {
        "image/height": whole(height),
        "image/width": whole(width),
        "image/channels": whole(channels),
        "image/colorspace": text(b"RGB"),
        "image/class/label": whole(label),
        "image/class/synset": text(b"n%08d" % label),
        "image/object/bbox/xmin": example_pb2.Feature(float_list=example_pb2.FloatList(value=boxes)),
        "image/object/bbox/label": whole(*[label] * (number % 3)),
        "image/filename": text(b"n%08d_%d.JPEG" % (label, number**2)),
        "image/encoded": text(image.tobytes()),
    }


def entries_in_order(features: dict[str, example_pb2.Feature], order: list[str]) -> bytes:
    """A tf.Example whose map has its entries in this order: messages one behind the other are one message."""
    parts = [example_pb2.Features(feature={name: features[name]}).SerializeToString() for name in order]
    whole = example_pb2.Example.FromString(b"")
    whole.features.ParseFromString(b"".join(parts))
    size = whole.features.ByteSize()
    prefix = example_pb2.Example(features=whole.features).SerializeToString()[:-size]
    return prefix + b"".join(parts)


def write_in_any_order(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    random, number = np.random.default_rng(3), 0
    for shard, size in enumerate(SIZES):
        records = []
        for _ in range(size):
            features = features_of(images[number], int(labels[number]), number)
            order = [str(name) for name in random.permutation(list(features))]
            records.append(frame(entries_in_order(features, order)))
            number += 1
        (folder / f"train-{shard:05d}-of-00003").write_bytes(b"".join(records))


def write_with_the_package(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    number = itertools.count()
    for shard, size in enumerate(SIZES):
        writer = TFRecordWriter(str(folder / f"part-{shard}.tfrecord"))
        for i in itertools.islice(number, size):
            writer.write(
                {"image": (images[i].tobytes(), "byte"), "label": (int(labels[i]), "int"), "id": (i**2, "int")}
            )
        writer.close()


def write_with_protobuf(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    number = itertools.count()
    for shard, size in enumerate(SIZES):
        records = []
        for i in itertools.islice(number, size):
            features = example_pb2.Features(feature=features_of(images[i], int(labels[i]), i))
            records.append(frame(example_pb2.Example(features=features).SerializeToString()))
        (folder / f"set-train.tfrecord-{shard:05d}-of-00003").write_bytes(b"".join(records))


PACKAGE_OPTIONS = {"fields": Fields(image="image", label="label"), "shape": SHAPE}
WRITERS = {
    "any order": (write_in_any_order, {}),
    "tfrecord package": (write_with_the_package, PACKAGE_OPTIONS),
    "protobuf": (write_with_protobuf, {}),
}


@pytest.fixture(scope="module", params=WRITERS)
def foreign(request, tmp_path_factory, images, labels):
    """A folder, and the options that it is opened with."""
    folder = tmp_path_factory.mktemp("foreign")
    write, options = WRITERS[request.param]
    write(folder, images, labels)
    return folder, options


def assert_samples(shards: ShardSet, images: np.ndarray, labels: np.ndarray, *, shuffle: bool = False) -> None:
    loader = DataLoader(shards, batch_size=16, shuffle=shuffle, num_workers=2)
    found, told = (torch.cat(parts) for parts in zip(*loader, strict=True))
    pixels = found.permute(0, 2, 3, 1).numpy()
    order = range(len(images))
    if shuffle:
        number_of = {image.tobytes(): number for number, image in enumerate(images)}
        order = [number_of[image.tobytes()] for image in pixels]
        assert sorted(order) == list(range(len(images))) != order
    assert (pixels == images[order]).all()
    assert (told.numpy() == labels[order]).all()


@pytest.mark.parametrize("shuffle", [False, True], ids=["in order", "shuffled"])
@pytest.mark.parametrize("engine_name", ["buffered", "direct", "mmap"])
def test_every_batch_is_right_whoever_wrote_it(foreign, images, labels, engine_name, shuffle, direct_io):
    folder, options = foreign
    shards = ShardSet.open(folder, engine=engine_name, seed=4, **options)
    assert_samples(shards, images, labels, shuffle=shuffle)


def test_the_index_has_the_place_of_each_records_pixels(foreign, images, labels):
    folder, options = foreign
    for status in ("", "cached"):
        paths, index = open_index(folder, **options)
        assert index.status.endswith(status)
        assert (index.layout.stride_bytes, index.layout.payload_offset) == (None, 0)
        assert index.layout.slot_bytes == index.layout.payload_bytes == 19 * 23 * 3
        assert (index.layout.shape, index.shard_sizes, index.labels.tolist()) == (SHAPE, SIZES, labels.tolist())
        assert index.layout_reason.startswith(
            f"varying stride: record {index.layout_reason.split()[3]} of {paths[0].name}"
        )
        assert index.record_bytes == sum(path.stat().st_size for path in paths) // TOTAL
        numbers = iter(range(TOTAL))
        for path, size in zip(paths, SIZES, strict=True):
            content = path.read_bytes()
            for number in itertools.islice(numbers, size):
                at = int(index.payload_offsets[number])
                assert content[at : at + 19 * 23 * 3] == images[number].tobytes()


def test_foreign_records_are_verified_and_a_flipped_bit_is_named(foreign, tmp_path):
    folder, options = foreign
    copy = Path(shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns(".*")))
    paths, index = open_index(copy, **options)
    assert verify_shards(paths, index) == sum(path.stat().st_size for path in paths)
    content = bytearray(paths[2].read_bytes())
    content[int(index.payload_offsets[TOTAL - 1]) + 100] ^= 1
    paths[2].write_bytes(content)
    with pytest.raises(TFRecordError, match=r"payload crc is wrong \(record 57") as caught:
        verify_shards(paths, index)
    assert str(paths[2]) in str(caught.value)


def test_a_stale_index_of_foreign_records_is_rebuilt(foreign, tmp_path, labels):
    folder, options = foreign
    copy = Path(shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns(".*")))
    paths, _ = open_index(copy, **options)
    os.replace(paths[0], paths[2])
    paths, index = open_index(copy, **options)
    assert index.status == "rebuilt: the cached index is of other shards"
    assert index.labels.tolist() == [labels[41], *labels[:41]]
    paths[0].write_bytes(paths[1].read_bytes())
    _, index = open_index(copy, **options)
    assert index.status == f"rebuilt: {paths[0].name} has changed since it was indexed"
    assert index.labels.tolist() == [*labels[:41], *labels[:41]]


def test_shards_of_one_stride_each_and_not_the_same_are_gathered(write_set, images):
    """Ours, and one by protobuf with more features; in each the records are equally long."""
    known = write_set(SHAPE, [5])
    records = []
    for number in range(6):
        features = example_pb2.Features(feature=features_of(images[number], number, 0))
        records.append(frame(example_pb2.Example(features=features).SerializeToString(deterministic=True)))
    (known.folder / "z.tfrecord").write_bytes(b"".join(records))
    shards = ShardSet.open(known.folder)
    assert shards.index.layout.stride_bytes is None
    assert shards.index.layout_reason.startswith("varying stride: record 0 of z.tfrecord takes")
    assert_samples(shards, np.concatenate([known.images, images[:6]]), np.array([*known.labels, *range(6)]))


@pytest.mark.parametrize("named", [1, 2, 3, 4])
def test_floats_that_would_not_lie_aligned_are_gathered(tmp_path, named):
    """Names of different lengths move pixels; a tensor over them must start at a multiple of four."""
    values = np.random.default_rng(0).random((12, 5, 7, 2), dtype=np.float32)
    records = []
    for label, image in enumerate(values):
        features = example_pb2.Features()
        features.feature["i" * named].bytes_list.value[:] = [image.tobytes()]
        features.feature["y"].int64_list.value[:] = [label]
        records.append(frame(example_pb2.Example(features=features).SerializeToString(deterministic=True)))
    (tmp_path / "a.tfrecord").write_bytes(b"".join(records))
    options = {"fields": Fields(image="i" * named, label="y"), "shape": (5, 7, 2), "dtype": "float32"}
    shards = ShardSet.open(tmp_path, **options)
    layout = shards.index.layout
    if layout.stride_bytes is None:
        assert shards.index.layout_reason.endswith("do not keep float32 aligned")
    else:
        assert layout.stride_bytes % 4 == layout.payload_offset % 4 == 0
    images, labels = next(iter(DataLoader(shards, batch_size=12)))
    assert images.data_ptr() % 4 == 0
    assert (images.permute(0, 2, 3, 1).numpy() == values).all()
    assert labels.tolist() == list(range(12))


def test_features_that_are_missing_are_named_with_those_that_are_there(tmp_path, images, labels):
    write_with_the_package(tmp_path, images, labels)
    message = (
        r"part-0\.tfrecord: record 0: has no feature 'image/encoded'; it has 'id', 'image', 'label': name the image "
        r"with fields=Fields\(image=\.\.\.\)"
    )
    with pytest.raises(LayoutError, match=message):
        ShardSet.open(tmp_path)
    with pytest.raises(LayoutError, match=r"has no feature 'image/height'; .*, or give shape=\(H, W, C\)"):
        ShardSet.open(tmp_path, fields=Fields(image="image", label="label"))
    with pytest.raises(LayoutError, match="was given no feature for its height"):
        ShardSet.open(tmp_path, fields=Fields(image="image", label="label", height=None))
    assert not list(tmp_path.glob(".iobench*"))


def test_encoded_images_are_told_from_raw_ones(tmp_path, images):
    features = features_of(images[0], 7, 0)
    features["image/encoded"].bytes_list.value[:] = [b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(300)]
    payload = example_pb2.Example(features=example_pb2.Features(feature=features)).SerializeToString()
    (tmp_path / "a.tfrecord").write_bytes(frame(payload))
    with pytest.raises(
        LayoutError, match=r"holds a JPEG image where raw pixels were expected; .* leave shape and dtype"
    ):
        ShardSet.open(tmp_path, shape=SHAPE)
    found = ShardSet.open(tmp_path).index
    assert found.layout.codec == "jpeg"
    assert "encoded images (jpeg)" in found.layout_reason


def compress(folder: Path, kind: str) -> None:
    """Put compressed files in the place of plain ones, under the names that TensorFlow users give them."""
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        path.unlink()
        half = len(content) // 2
        if kind == "gzip":
            path.write_bytes(gzip.compress(content))
        elif kind == "gzip in two members, named .gz":
            whole = gzip.compress(content[:half]) + gzip.compress(content[half:])
            path.with_name(path.name + ".gz").write_bytes(whole)
        else:
            path.write_bytes(zlib.compress(content))


@pytest.mark.parametrize("kind", ["gzip", "gzip in two members, named .gz", "zlib"])
def test_compressed_files_are_read_right_and_said_to_be(tmp_path, cache, images, labels, kind):
    folder = tmp_path / "data"
    folder.mkdir()
    write_in_any_order(folder, images, labels)
    compress(folder, kind)
    for status in ("built", "cached"):
        shards = ShardSet.open(folder)
        assert_samples(shards, images, labels)
        assert shards.index.status.startswith(
            f"{status}; 3 of 3 shards are {kind[:4]}: read from plain copies in {cache}"
        )
        assert all(cache in path.parents for path in shards.paths)
    assert not list(folder.glob(".*"))


@pytest.fixture
def zipped(tmp_path, images, labels) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    write_with_protobuf(folder, images, labels)
    compress(folder, "gzip")
    return folder


def test_a_compressed_file_that_changes_is_decompressed_again(zipped, cache, labels):
    _, index = open_index(zipped)
    assert index.labels.tolist() == labels.tolist()
    first, _, last = sorted(zipped.iterdir())
    first.write_bytes(last.read_bytes())
    paths, index = open_index(zipped)
    assert index.labels.tolist() == [*labels[42:], *labels[41:]]
    assert len(list((cache / "iobench" / "plain").rglob("*.tfrecord"))) == len(paths) == 3


def test_a_compressed_file_is_decompressed_once(zipped, cache):
    paths, _ = open_index(zipped)
    before = [path.stat().st_mtime_ns for path in paths]
    assert [path.stat().st_mtime_ns for path in open_index(zipped)[0]] == before


def no_tfrecord(content: bytes) -> bytes:
    return gzip.compress(b"just some words that are many more than twelve")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[: len(content) // 2], "gzip data that is cut at its end"),
        (lambda content: content[:-3], "gzip data that is cut at its end"),
        (lambda content: content[:500] + bytes(200) + content[700:], "damaged gzip data"),
        (no_tfrecord, "gzip data, but no TFRecord shard is in it"),
        (lambda content: gzip.compress(b"short"), "gzip data, but no TFRecord shard is in it"),
    ],
)
def test_compressed_files_that_are_damaged_are_named_and_leave_no_copy(zipped, cache, damage, message):
    path = sorted(zipped.iterdir())[1]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CompressedShardError, match=message) as caught:
        ShardSet.open(zipped)
    assert str(path) in str(caught.value)
    assert caught.value.exit_status == 4
    assert len(list((cache / "iobench" / "plain").rglob("*.*"))) == 1


def test_a_damaged_record_inside_a_compressed_file_is_named(zipped):
    path = sorted(zipped.iterdir())[1]
    content = bytearray(gzip.decompress(path.read_bytes()))
    path.write_bytes(gzip.compress(content[:-10]))
    with pytest.raises(TFRecordError, match=f"{path.name}.*: shard is truncated: record 0"):
        ShardSet.open(zipped)


def test_no_copy_is_made_where_it_would_fill_the_disk(zipped, cache, monkeypatch):
    usage = shutil.disk_usage(zipped)._replace(free=1 << 30)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(CompressedShardError, match=r"would leave less than 1073741824 bytes free in .*; decompress it"):
        ShardSet.open(zipped)
    assert not list((cache / "iobench" / "plain").rglob("*.*"))


def test_without_a_place_for_a_copy_the_way_out_is_told(zipped, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(
        CompressedShardError, match=r"its plain copy .* cannot be written \(.*\); decompress it yourself"
    ):
        ShardSet.open(zipped)


def test_a_plain_shard_whose_length_looks_like_a_compressed_file_is_plain(tmp_path, images):
    """A record of 0x088b1f payload bytes starts as gzip does; the crc of its length is right, so it is none."""
    features = features_of(images[0], 7, 0)
    whole = example_pb2.Example(features=example_pb2.Features(feature=features))
    padding = whole.features.feature["image/filename"].bytes_list
    padding.value[:] = [bytes(0x088B1F)]
    padding.value[:] = [bytes(0x088B1F - (whole.ByteSize() - 0x088B1F))]
    path = tmp_path / "a.tfrecord"
    path.write_bytes(frame(whole.SerializeToString()))
    assert path.read_bytes().startswith(b"\x1f\x8b\x08")
    index = ShardSet.open(tmp_path).index
    assert (index.status, index.labels.tolist()) == ("built", [7])
