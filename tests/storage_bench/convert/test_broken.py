"""Broken images end a conversion with file, record and byte, or are left out and listed."""

import pytest

from iobench.loaders import Fields, ShardSet
from iobench.storage_bench.convert import Convert, ConvertError, ConvertUsageError, convert


@pytest.fixture
def broken(tmp_path, images, jpeg_records):
    """Image 13 is cut short, image 4 is none; labels are 0 to 4 in turn."""
    damaged = list(images)
    damaged[13], damaged[4] = damaged[13][: len(damaged[13]) // 2], b"no image"
    return jpeg_records(tmp_path / "data", damaged, [i % 5 for i in range(len(damaged))])


@pytest.mark.parametrize("layout", ["tfrecord", "webdataset", "tfrecord-jpeg", "folder"])
def test_a_broken_image_is_named_with_file_record_and_byte(broken, make, tmp_path, layout):
    settings = {"size": 16} if layout == "tfrecord" else {}
    with pytest.raises(ConvertError, match=r"train-00000-of-00009: record 4 \(byte \d+\).*--on-error skip") as caught:
        make(broken, "made", format=layout, jobs=1, images_per_shard=5, **settings)
    assert caught.value.exit_status == 4


@pytest.mark.parametrize("layout", ["tfrecord", "webdataset", "tfrecord-jpeg", "folder"])
def test_broken_images_are_left_out_and_listed(broken, make, images, tmp_path, layout):
    settings = {"size": 16} if layout == "tfrecord" else {}
    wanted = {"format": layout, "on_error": "skip", "images_per_shard": 4, **settings}
    found = make(broken, "made", **wanted)
    assert found.num_images == len(images) - 2
    assert [row.record for row in found.skipped] == [4, 13]
    assert "train-00001-of-00009: record 3 (byte" in found.skipped[1].reason
    labels = [i % 5 for i in range(len(images)) if i not in (4, 13)]
    got = ShardSet.open(tmp_path / "made").index.labels.tolist()
    assert got == (sorted(labels) if layout == "folder" else labels)
    again = make(broken, "made", **wanted)
    assert again.made == ()
    assert [row.record for row in again.skipped] == [4, 13]


def test_a_conversion_that_a_broken_image_ended_goes_on_without_it(broken, make, images, tmp_path):
    wanted = {"format": "webdataset", "images_per_shard": 4, "jobs": 1}
    with pytest.raises(ConvertError, match="--on-error skip"):
        make(broken, "made", **wanted)
    found = make(broken, "made", **wanted, on_error="skip")
    assert found.num_images == len(images) - 2
    assert 0 < len(found.made) < len(found.rows)
    with pytest.raises(ConvertUsageError, match=r"were left out here \(.*record 4"):
        make(broken, "made", **wanted)
    assert len(ShardSet.open(tmp_path / "made")) == len(images) - 2


def test_a_shard_of_broken_images_only_is_left_out(images, jpeg_records, make, tmp_path):
    source = jpeg_records(tmp_path / "data", [*images[:4], b"bad", b"bad", *images[6:8]], [0] * 8)
    found = make(source, "made", format="webdataset", on_error="skip", images_per_shard=2)
    assert found.num_images == 6
    assert len(list((tmp_path / "made").glob("*.tar"))) == 3
    assert len(ShardSet.open(tmp_path / "made")) == 6
    assert make(source, "made", format="webdataset", on_error="skip", images_per_shard=2).made == ()


def test_a_class_of_broken_images_only_would_change_the_labels_of_others(images, jpeg_records, make, tmp_path):
    source = jpeg_records(tmp_path / "data", [images[0], b"bad", images[2]], [0, 1, 2])
    with pytest.raises(ConvertError, match="bee: every image of this class is broken"):
        make(source, "made", format="folder", on_error="skip")


def test_without_a_check_bytes_that_are_kept_are_not_decoded(images, jpeg_records, make, tmp_path):
    cut = images[13][:-40]
    source = jpeg_records(tmp_path / "data", [images[0], cut], [0, 1])
    with pytest.raises(ConvertError, match="record 1"):
        make(source, "checked", format="webdataset")
    make(source, "made", format="webdataset", check=False)
    shards = ShardSet.open(tmp_path / "made", fields=Fields(opaque=True))
    assert shards[1][0].numpy().tobytes() == cut


def test_images_that_are_neither_jpeg_nor_png_are_kept_by_nobody_but_can_be_encoded_anew(encoded, make, tmp_path):
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "1.bmp").write_bytes(encoded(20, 30, 1, "BMP"))
    with pytest.raises(ConvertError, match=r"1\.bmp.*BMP image.*--quality"):
        make(tmp_path / "data", "made", format="webdataset")
    make(tmp_path / "data", "new", format="webdataset", quality=90)
    assert ShardSet.open(tmp_path / "new")[0][0].shape == (3, 20, 30)


def test_a_set_of_nothing_but_broken_images_is_an_error(jpeg_records, tmp_path):
    source = jpeg_records(tmp_path / "data", [b"\xff\xd8\xff bad"] * 3, [0, 0, 0])
    with pytest.raises(ConvertError, match="cannot be decoded"):
        convert(source, tmp_path / "made", Convert(format="webdataset", on_error="skip"))
