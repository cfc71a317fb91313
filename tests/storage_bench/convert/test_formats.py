"""Every format becomes every other: bytes kept, pixels as they were decoded or resized, labels and names of classes."""

import io
import tarfile
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tfrecord.reader import tfrecord_loader

from iobench.loaders import DataLoader, Fields, ShardSet
from iobench.loaders.formats.example import encode_example
from iobench.loaders.formats.tfrecord import frame
from iobench.storage_bench.convert import Convert, ConvertUsageError
from iobench.storage_bench.convert.samples import stored_bytes

LABELS = (-1, 0, 127, 128, 999, 2**40, 2**63 - 1, -(2**63))


def read(folder: Path) -> list[tuple[np.ndarray, int]]:
    """Every image (H, W, C) and label in order, decoded where they are encoded."""
    shards = ShardSet.open(folder)
    samples = [shards[number] for number in range(len(shards))]
    return [(image.permute(1, 2, 0).numpy(), label) for image, label in samples]


def stored(folder: Path) -> list[tuple[bytes, int]]:
    """The bytes of every encoded image as they are stored, and its label."""
    shards = ShardSet.open(folder, fields=Fields(opaque=True))
    return [(stored_bytes(image.numpy()).tobytes(), label) for image, label in (shards[i] for i in range(len(shards)))]


def same(mine, theirs) -> bool:
    return len(mine) == len(theirs) and all(
        label == other and np.array_equal(image, theirs_image)
        for (image, label), (theirs_image, other) in zip(mine, theirs, strict=True)
    )


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


# --- raw pixels


@pytest.mark.parametrize("known", ["page_set", "odd_set"])
def test_raw_records_become_tensors_and_records_again_with_every_pixel_and_label(known, request, make, tmp_path):
    source = request.getfixturevalue(known)
    found = make(source.folder, "tensors", format="tensors", images_per_shard=32)
    assert found.num_images == len(source)
    assert len(list((tmp_path / "tensors").glob("*.tensors"))) == -(-len(source) // 32)
    make(tmp_path / "tensors", "records", format="tfrecord", images_per_shard=50)
    expected = list(zip(source.images, source.labels.tolist(), strict=True))
    assert same(read(tmp_path / "tensors"), expected)
    assert same(read(tmp_path / "records"), expected)


def test_every_int64_is_a_label_and_another_package_reads_it(make, encode, tmp_path):
    (tmp_path / "data").mkdir()
    image = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    features = {"image/height": 5, "image/width": 4, "image/channels": 3, "image/encoded": image.tobytes()}
    records = [
        frame(encode_example({**features, "image/class/label": label}, padded_varints=False)) for label in LABELS
    ]
    (tmp_path / "data" / "a.tfrecord").write_bytes(b"".join(records))
    make(tmp_path / "data", "tensors", format="tensors")
    make(tmp_path / "tensors", "records", format="tfrecord")
    assert [label for _, label in read(tmp_path / "tensors")] == list(LABELS)
    (path,) = (tmp_path / "records").glob("*.tfrecord")
    theirs = list(tfrecord_loader(str(path), None))
    assert tuple(int(record["image/class/label"][0]) for record in theirs) == LABELS
    assert all(record["image/encoded"] == image.tobytes() for record in theirs)
    make(tmp_path / "tensors", "tar", format="webdataset")
    assert [label for _, label in read(tmp_path / "tar")] == list(LABELS)


def test_raw_records_keep_the_stride_that_direct_reads_want(make, page_set, tmp_path):
    make(page_set.folder, "records", format="tfrecord")
    layout = ShardSet.open(tmp_path / "records").index.layout
    assert layout.stride_bytes == ShardSet.open(page_set.folder).index.layout.stride_bytes
    assert layout.stride_bytes % 4096 == 0


def test_arrays_of_numpy_become_tensors_with_their_dtype(make, tmp_path):
    arrays = np.random.default_rng(1).normal(size=(6, 4, 5, 2)).astype(np.float32)
    (tmp_path / "data").mkdir()
    for number, array in enumerate(arrays):
        np.savez(tmp_path / "data" / f"{number}.npz", x=array, y=np.int64(number + 7))
    make(tmp_path / "data", "tensors", format="tensors")
    assert same(read(tmp_path / "tensors"), list(zip(arrays, range(7, 13), strict=True)))
    with pytest.raises(ConvertUsageError, match="does not say that its images are float32"):
        make(tmp_path / "data", "records", format="tfrecord")
    with pytest.raises(ConvertUsageError, match="4 x 5 x 2 float32 cannot be JPEGs"):
        make(tmp_path / "data", "jpegs", format="tfrecord-jpeg")
    assert not (tmp_path / "records").exists()


def test_raw_pixels_become_jpegs_of_the_quality_asked_for(make, page_set, tmp_path):
    make(page_set.folder, "fine", format="webdataset", quality=95)
    make(page_set.folder, "coarse", format="webdataset", quality=20)
    fine, coarse = stored(tmp_path / "fine"), stored(tmp_path / "coarse")
    assert [label for _, label in fine] == page_set.labels.tolist()
    assert sum(len(data) for data, _ in coarse) < 0.6 * sum(len(data) for data, _ in fine)
    # Pillow's tables for the same quality are libjpeg's own
    theirs = io.BytesIO()
    Image.fromarray(page_set.images[0]).save(theirs, "JPEG", quality=20)
    with Image.open(theirs) as expected, Image.open(io.BytesIO(coarse[0][0])) as mine:
        assert mine.quantization == expected.quantization


# --- encoded images


@pytest.mark.parametrize("road", [("webdataset",), ("webdataset", "tfrecord-jpeg"), ("tfrecord-jpeg",)])
def test_encoded_images_keep_their_bytes_order_and_labels(make, jpegs, images, tmp_path, road):
    source = jpegs
    for number, kind in enumerate(road):
        make(source, f"step-{number}", format=kind, images_per_shard=6)
        source = tmp_path / f"step-{number}"
    assert [data for data, _ in stored(source)] == images
    assert [label for _, label in stored(source)] == [i * 3 % 5 for i in range(len(images))]


def test_a_tar_holds_what_other_programs_expect(make, jpegs, images, tmp_path):
    make(jpegs, "tars", format="webdataset", images_per_shard=9)
    paths = sorted((tmp_path / "tars").glob("*.tar"))
    assert [path.name for path in paths] == [f"train-{number:05d}-of-00003.tar" for number in range(3)]
    members = {}
    for path in paths:
        with tarfile.open(path) as tar:
            members |= {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    assert len(members) == 2 * len(images)
    for number, image in enumerate(images):
        extension = "png" if number == 5 else "jpg"
        assert members[f"{number:012d}.{extension}"] == image
        assert members[f"{number:012d}.cls"] == b"%d" % (number * 3 % 5)


def test_folders_of_images_are_named_as_the_classes_in_every_step(make, jpegs, images, tmp_path):
    make(jpegs, "folder", format="folder", images_per_shard=6)
    found = {
        path.relative_to(tmp_path / "folder").as_posix(): path.read_bytes()
        for path in (tmp_path / "folder").rglob("*.*g")
    }
    names = ("ape", "bee", "cat", "dog", "eel")
    assert found == {
        f"{names[i * 3 % 5]}/{i:012d}.{'png' if i == 5 else 'jpg'}": image for i, image in enumerate(images)
    }
    assert ShardSet.open(tmp_path / "folder").classes == names
    make(tmp_path / "folder", "tars", format="webdataset")
    make(tmp_path / "tars", "again", format="folder")  # a tar has no names; the ledger beside it has them
    assert ShardSet.open(tmp_path / "again").classes == names
    make(tmp_path / "folder", "records", format="tfrecord-jpeg")
    (path,) = (tmp_path / "records").glob("*.tfrecord")
    for record in tfrecord_loader(str(path), None):
        assert bytes(record["image/class/synset"]).decode() == names[record["image/class/label"][0]]


def test_labels_that_are_no_row_of_numbers_are_refused_for_folders_unless_they_may_change(
    make, jpeg_records, images, tmp_path
):
    source = jpeg_records(tmp_path / "data", images[:6], [1, 5, 9, 1, 5, 9], ("n",) * 10)
    with pytest.raises(ConvertUsageError, match=r"labels are 1, 5, 9.*none would be 0.*--relabel"):
        make(source, "folder", format="folder")
    assert not (tmp_path / "folder").exists()
    make(source, "folder", format="folder", relabel=True)
    shards = ShardSet.open(tmp_path / "folder")
    assert shards.classes == ("0", "1", "2")
    assert shards.index.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_class_names_out_of_the_labels_order_give_way_to_numbers(make, jpeg_records, images, tmp_path):
    source = jpeg_records(tmp_path / "data", images[:12], list(range(12)), tuple("zyxwvutsrqpo"))
    make(source, "folder", format="folder")
    shards = ShardSet.open(tmp_path / "folder")
    assert shards.classes == tuple(f"{label:02d}" for label in range(12))
    assert shards.index.labels.tolist() == list(range(12))


def test_objects_on_a_server_are_converted_like_files(make, s3, odd_set, tmp_path):
    pytest.importorskip("obstore", reason="obstore is not installed (`make setup-test` installs it)")
    for path in odd_set.shards:
        headers, url = {"Content-Type": "application/octet-stream"}, f"{s3}/bucket/set/{path.name}"
        request = urllib.request.Request(url, path.read_bytes(), headers, method="PUT")
        urllib.request.urlopen(request, timeout=20).close()
    make("s3://bucket/set", "tensors", format="tensors", images_per_shard=30)
    assert same(read(tmp_path / "tensors"), list(zip(odd_set.images, odd_set.labels.tolist(), strict=True)))


# --- decoding and resizing


def test_decoded_pixels_are_those_of_pillow(make, encoded, jpeg_records, tmp_path):
    images = [encoded(40, 30, seed) for seed in range(7)]
    source = jpeg_records(tmp_path / "data", images, [3] * 7)
    make(source, "records", format="tfrecord")
    make(source, "tensors", format="tensors")
    expected = [(by_pillow(image), 3) for image in images]
    assert same(read(tmp_path / "records"), expected)
    assert same(read(tmp_path / "tensors"), expected)


def test_images_of_unequal_size_want_a_size_and_the_first_other_one_is_named(make, jpegs, tmp_path):
    with pytest.raises(
        ConvertUsageError, match=r"train-00000-of-00009: record 1 \(byte \d+\).*100 x 66.*75 x 100.*--size"
    ):
        make(jpegs, "tensors", format="tensors")
    assert not list((tmp_path / "tensors").glob("*.tensors"))


@pytest.mark.parametrize(("height", "width"), [(75, 100), (100, 66), (40, 30), (33, 33)])
@pytest.mark.parametrize("fit", ["crop", "stretch", "shorter"])
def test_resized_images_are_within_a_level_of_pillows(make, encoded, jpeg_records, tmp_path, height, width, fit):
    image = encoded(height, width, 1, "PNG")  # of which nothing is lost
    source = jpeg_records(tmp_path / "data", [image], [0])
    kind = "tfrecord-jpeg" if fit == "shorter" else "tensors"
    make(source, "made", format=kind, size=32, fit=fit, **({"quality": 100} if fit == "shorter" else {}))
    [(mine, _)] = read(tmp_path / "made")
    short = min(height, width)
    sides = (32, 32) if fit == "stretch" else (int(32 * width / short), int(32 * height / short))
    with Image.open(io.BytesIO(image)) as opened:
        expected = opened.convert("RGB").resize(sides, Image.Resampling.BILINEAR)
    if fit == "crop":
        left, top = round((sides[0] - 32) / 2.0), round((sides[1] - 32) / 2.0)
        expected = expected.crop((left, top, left + 32, top + 32))
    difference = np.abs(mine.astype(int) - np.asarray(expected).astype(int))
    assert mine.shape == np.asarray(expected).shape
    assert difference.max() <= (1 if kind == "tensors" else 40)
    assert difference.mean() <= (0.5 if kind == "tensors" else 4)


def test_an_image_that_has_the_size_already_keeps_its_bytes(make, encoded, jpeg_records, tmp_path):
    images = [encoded(32, 32, 1), encoded(32, 40, 2)]
    source = jpeg_records(tmp_path / "data", images, [0, 1])
    make(source, "made", format="tfrecord-jpeg", size=32)
    first, second = (data for data, _ in stored(tmp_path / "made"))
    assert first == images[0]
    assert second != images[1]
    assert by_pillow(second).shape == (32, 32, 3)


def test_raw_pixels_are_resized_too(make, sector_set, tmp_path):
    make(sector_set.folder, "small", format="tensors", size=16)
    expected = Image.fromarray(sector_set.images[9]).resize((16, 16), Image.Resampling.BILINEAR)
    mine = read(tmp_path / "small")[9][0]
    assert np.abs(mine.astype(int) - np.asarray(expected).astype(int)).max() <= 1


def test_another_order_is_drawn_from_the_seed_and_loses_nothing(make, odd_set, tmp_path):
    for name, seed in (("one", 1), ("two", 2), ("again", 1)):
        make(odd_set.folder, name, format="tensors", shuffle=True, seed=seed)
    one, two, again = (read(tmp_path / name) for name in ("one", "two", "again"))
    assert same(one, again)
    assert not same(one, two)
    expected = sorted((image.tobytes(), label) for image, label in zip(odd_set.images, odd_set.labels, strict=True))
    assert sorted((image.tobytes(), label) for image, label in one) == expected


def test_a_converted_set_is_trained_on_like_any_other(make, jpegs, tmp_path):
    make(jpegs, "tensors", format="tensors", size=24)
    batches = list(DataLoader(ShardSet.open(tmp_path / "tensors"), batch_size=8, shuffle=True, num_workers=2))
    assert [tuple(images.shape) for images, _ in batches] == [(8, 3, 24, 24), (8, 3, 24, 24), (7, 3, 24, 24)]


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"format": "tensors", "quality": 90}, "quality is that of JPEGs"),
        ({"format": "tfrecord", "size": 8, "fit": "shorter"}, "images of one size"),
        ({"format": "webdataset", "fit": "stretch"}, "needs a size"),
        ({"format": "npz"}, "tfrecord-jpeg"),
        ({"format": "folder", "quality": 0}, "greater than or equal to 1"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, rule):
    with pytest.raises(ValueError, match=rule):
        Convert.model_validate(settings)
