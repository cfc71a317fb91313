"""Tensor shards, described and headerless, give the pixels and labels that were written, or a reason and a way out."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from iobench.loaders.dataloader import DataLoader
from iobench.loaders.discovery import find_shards
from iobench.loaders.formats.fields import Fields
from iobench.loaders.formats.tensors import TensorShardError
from iobench.loaders.index import INDEX_NAME, ShardFormatError, build_index, load_index, verify_shards
from iobench.loaders.shards import ShardSet
from iobench.storage_bench.generate import Generate, generate, sample_label, sample_pixels

SEED = 11
SHAPE = (35, 35, 3)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Four shards of 30, 30, 30 and 10 images, 35 x 35 x 3."""
    folder = tmp_path_factory.mktemp("tensors")
    generate(folder, Generate(num_images=100, size=35, images_per_shard=30, seed=SEED, format="tensors"))
    return folder


@pytest.fixture
def folder(written, tmp_path) -> Path:
    """A copy that a test may damage."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in written.iterdir():
        if not path.name.startswith("."):
            (copy / path.name).write_bytes(path.read_bytes())
    return copy


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.stack([sample_pixels(SEED, i, SHAPE) for i in range(100)])


LABELS = [sample_label(SEED, i) for i in range(100)]


def describe(folder: Path, **changed) -> None:
    """Change what dataset.json says."""
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def test_the_index_says_where_pixels_lie_and_what_the_labels_are(folder, images):
    index = build_index(find_shards(folder))
    assert index.layout.stride_bytes == index.record_bytes == 4096
    assert (index.layout.payload_offset, index.layout.shape, index.layout.dtype) == (0, SHAPE, "uint8")
    assert index.labels.tolist() == LABELS
    assert index.layout_reason.startswith("constant stride, as dataset.json says")
    assert (index.shard_sizes, index.first_records.tolist()) == ((30, 30, 30, 10), [0, 30, 60, 90])
    content = b"".join(path.read_bytes() for path in find_shards(folder))
    for number in range(100):
        assert content[number * 4096 : number * 4096 + 3675] == images[number].tobytes()


@pytest.mark.parametrize("shuffle_mode", ["off", "records"])
@pytest.mark.parametrize("engine_name", ["buffered", "direct", "mmap"])
def test_batches_are_the_recomputed_samples(folder, images, engine_name, shuffle_mode, direct_io):
    shards = ShardSet.open(folder, engine=engine_name, shuffle_mode=shuffle_mode, seed=1)
    loader = DataLoader(shards, batch_size=16, shuffle=shuffle_mode != "off", num_workers=2)
    seen = []
    for batch, labels in loader:
        for image, label in zip(batch.permute(0, 2, 3, 1).numpy(), labels.tolist(), strict=True):
            number = next(i for i in range(100) if (images[i] == image).all())
            assert label == LABELS[number]
            seen.append(number)
    assert sorted(seen) == list(range(100))
    assert (seen == list(range(100))) == (shuffle_mode == "off")


def test_one_file_of_a_described_set_is_read_with_its_labels(folder):
    shards = ShardSet.open(folder / "train-00001-of-00004.tensors")
    assert [label for _, label in shards] == LABELS[30:60]


@pytest.mark.parametrize("label", [-(2**63), -1, 2**63 - 1])
def test_any_int64_is_a_label(folder, label):
    path = folder / "train-00002-of-00004.tensors"
    content = bytearray(path.read_bytes())
    content[4096 * 4 + 3675 : 4096 * 4 + 3683] = label.to_bytes(8, "little", signed=True)
    path.write_bytes(content)
    assert load_index(find_shards(folder)).labels[64] == label
    assert load_index(find_shards(folder)).status == "cached"


def test_bytes_that_are_not_zero_behind_a_label_are_told(folder):
    path = folder / "train-00002-of-00004.tensors"
    content = bytearray(path.read_bytes())
    content[4096 * 7 + 4000] = 1
    path.write_bytes(content)
    with pytest.raises(
        TensorShardError, match=r"what follows the label of record 7 \(byte 28672\) is not zero"
    ) as caught:
        load_index(find_shards(folder))
    assert str(path) in str(caught.value)
    assert caught.value.exit_status == 4


def test_labels_are_read_piece_by_piece(folder, monkeypatch):
    monkeypatch.setattr("iobench.loaders.formats.tensors._BLOCK_BYTES", 3000)
    assert build_index(find_shards(folder)).labels.tolist() == LABELS


def test_shards_are_verified_by_their_digests(folder):
    index = load_index(find_shards(folder))
    seen = []
    total = verify_shards(find_shards(folder), index, progress=lambda done, of: seen.append((done, of)))
    assert total == 100 * 4096
    assert seen == [(30 * 4096, total), (60 * 4096, total), (90 * 4096, total), (total, total)]


def test_a_flipped_pixel_is_found_with_its_file(folder):
    index = load_index(find_shards(folder))
    path = folder / "train-00001-of-00004.tensors"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        TensorShardError, match=r"its bytes are not those that dataset\.json has the xxh3_128 of"
    ) as caught:
        verify_shards(find_shards(folder), index)
    assert str(path) in str(caught.value)


@pytest.fixture
def headerless(tmp_path, images) -> Path:
    """Two files of pixels alone, 20 and 7 images."""
    folder = tmp_path / "headerless"
    folder.mkdir()
    (folder / "a.tensors").write_bytes(images[:20].tobytes())
    (folder / "b.tensors").write_bytes(images[20:27].tobytes())
    return folder


@pytest.mark.parametrize("engine_name", ["buffered", "direct", "mmap"])
def test_headerless_shards_are_read_with_the_shape_given(headerless, images, engine_name, direct_io):
    shards = ShardSet.open(headerless, shape=SHAPE, engine=engine_name)
    assert (len(shards), shards.index.layout.stride_bytes) == (27, 3675)
    assert shards.index.layout_reason.endswith("headerless shards prove nothing but their size")
    batches = list(DataLoader(shards, batch_size=5, num_workers=1))
    assert (torch.cat([batch for batch, _ in batches]).permute(0, 2, 3, 1).numpy() == images[:27]).all()
    assert torch.cat([labels for _, labels in batches]).tolist() == [-1] * 27


def test_headerless_shards_of_another_dtype_are_read(tmp_path):
    values = np.random.default_rng(0).random((9, 5, 7, 2), dtype=np.float32)
    (tmp_path / "a.tensors").write_bytes(values.tobytes())
    shards = ShardSet.open(tmp_path, shape=(5, 7, 2), dtype="float32")
    images, _ = next(iter(DataLoader(shards, batch_size=9)))
    assert images.dtype == torch.float32
    assert (images.permute(0, 2, 3, 1).numpy() == values).all()


def test_each_shape_has_an_index_of_its_own(headerless):
    first = load_index(find_shards(headerless), shape=SHAPE)
    other = load_index(find_shards(headerless), shape=(35, 7, 3))
    assert (first.num_records, other.num_records) == (27, 135)
    assert first.location != other.location
    assert load_index(find_shards(headerless), shape=SHAPE).status == "cached"
    assert load_index(find_shards(headerless), shape=(35, 7, 3)).status == "cached"


def test_without_a_shape_headerless_shards_are_refused(headerless):
    with pytest.raises(
        TensorShardError, match=r"says nothing of its shape; give shape=\(height, width, channels\)"
    ) as caught:
        ShardSet.open(headerless)
    assert str(headerless / "a.tensors") in str(caught.value)
    assert not (headerless / INDEX_NAME).exists()


def test_there_is_nothing_to_verify_headerless_shards_against(headerless):
    paths = find_shards(headerless)
    with pytest.raises(ShardFormatError, match=r"there is nothing to verify against: .* leave --verify out") as caught:
        verify_shards(paths, load_index(paths, shape=SHAPE))
    assert caught.value.exit_status == 4


def test_a_size_that_is_no_whole_number_of_records_is_told_with_those_that_would_fit(headerless):
    """20 * 3675 = 73500 = 19 * 3700 + 3200."""
    with pytest.raises(TensorShardError) as caught:
        ShardSet.open(headerless, shape=(37, 100, 1))
    assert str(caught.value) == (
        f"{headerless / 'a.tensors'}: 73500 bytes are no whole number of 37 x 100 x 1 uint8 images of 3700 bytes: "
        f"70300 bytes would be 19, 74000 bytes 20; give the right shape= and dtype="
    )


def test_padded_shards_without_their_description_are_told_from_headerless_ones(folder):
    (folder / "dataset.json").unlink()
    with pytest.raises(
        TensorShardError, match=r"with labels behind the pixels they would fit, but that takes a dataset\.json"
    ):
        ShardSet.open(folder, shape=SHAPE)


@pytest.mark.parametrize("shape", [SHAPE, None])
def test_an_empty_shard_is_refused(headerless, shape):
    (headerless / "a.tensors").write_bytes(b"")
    with pytest.raises(TensorShardError, match=r"no record in it|says nothing of its shape"):
        ShardSet.open(headerless, shape=shape)


def test_what_is_given_may_not_contradict_the_description(folder):
    assert len(ShardSet.open(folder, shape=SHAPE, dtype="uint8")) == 100
    with pytest.raises(
        TensorShardError, match=r"says shape \(35, 35, 3\), but \(35, 105, 1\) was given; leave shape= out"
    ):
        ShardSet.open(folder, shape=(35, 105, 1))
    with pytest.raises(TensorShardError, match="says dtype uint8, but float32 was given"):
        ShardSet.open(folder, dtype="float32")


def test_tensor_shards_have_no_fields(folder):
    with pytest.raises(ShardFormatError, match="fields name features of TFRecords"):
        ShardSet.open(folder, fields=Fields())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": "tfrecord"}, "describes tfrecord shards"),
        ({"shape": [35, 35]}, "not a data set's description"),
        ({"shape": [35, 0, 3]}, "not a data set's description"),
        ({"dtype": "complex64"}, "not a data set's description"),
        ({"record_bytes": 4095}, "record_bytes 4095 is not the 4096 that 35 x 35 x 3 uint8 with a label take"),
        ({"shape": [70, 70, 3]}, "record_bytes 4096 is not the 16384"),
        ({"record_bytes": None}, "not a data set's description"),
    ],
)
def test_a_description_that_is_none_is_told(folder, changed, message):
    describe(folder, **changed)
    with pytest.raises(TensorShardError, match=message) as caught:
        ShardSet.open(folder)
    assert str(folder / "dataset.json") in str(caught.value)


def test_a_changed_description_drops_the_index(folder):
    """70 x 17 x 3 = 3570 and its label fill 4096 bytes too; the padding then is none, and says so."""
    load_index(find_shards(folder))
    describe(folder, shape=[35, 35, 3], num_images=99)
    assert load_index(find_shards(folder)).status == "cached"
    describe(folder, shape=[105, 35, 1])
    index = load_index(find_shards(folder))
    assert index.status == "rebuilt: the cached index is of another description"
    assert index.layout.shape == (105, 35, 1)
    describe(folder, shape=[70, 17, 3])
    with pytest.raises(TensorShardError, match="what follows the label of record 0"):
        load_index(find_shards(folder))


def test_a_truncated_shard_of_a_described_set_is_refused(folder):
    path = folder / "train-00000-of-00004.tensors"
    os.truncate(path, 4096 * 3 + 7)
    message = (
        r"12295 bytes are no whole number of records of 4096 bytes: 12288 bytes would be 3, 16384 bytes 4; truncated"
    )
    with pytest.raises(TensorShardError, match=message):
        ShardSet.open(path)
    with pytest.raises(ShardFormatError, match=r"12295 bytes, but dataset\.json says 122880"):
        ShardSet.open(folder)


def test_a_shard_that_the_description_does_not_name_is_refused(folder, headerless):
    (folder / "other.tensors").write_bytes((headerless / "a.tensors").read_bytes())
    with pytest.raises(TensorShardError, match=r"other\.tensors: not one of the shards dataset\.json names"):
        ShardSet.open(f"{folder}/*.tensors")
    assert len(ShardSet.open(folder / "other.tensors", shape=SHAPE)) == 20


def test_both_formats_in_one_set_are_refused(folder, page_set):
    mixed = folder / "train-00000.tfrecord"
    mixed.write_bytes(page_set.shards[0].read_bytes())
    (folder / "dataset.json").unlink()
    for source in (folder, f"{folder}/*", [mixed, folder / "train-00000-of-00004.tensors"]):
        with pytest.raises(ShardFormatError, match=r"a tensor shard, and train-00000\.tfrecord is none"):
            ShardSet.open(source)
