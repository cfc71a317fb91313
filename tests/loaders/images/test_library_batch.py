"""DALI and nvImageCodec decode in host memory as well, where no batch goes to a device: samples are the same."""

import importlib.util
import io

import numpy as np
import pytest
import torch
from PIL import Image

from iobench.cli import run
from iobench.loaders import DataLoader, ShardSet, transforms
from iobench.loaders.formats.example import encode_example
from iobench.loaders.formats.tfrecord import frame
from iobench.loaders.images.decoders import DecoderError
from iobench.loaders.images.decoding import ImageError
from iobench.results.record import RunRecord

NUM = 70  # more than one call of a batch of 64
ODD = {5: "CMYK", 9: "PNG", 14: "Exif", 41: "cut"}


@pytest.fixture(params=["nvimgcodec", "dali"])
def decoder(request):
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec(f"nvidia.{request.param}") is None:
        pytest.skip(f"{request.param} is not installed (`make setup-test` installs it)")
    return request.param


def encoded(number, kind):
    waves = np.sin(np.add.outer(np.arange(60 + number), np.arange(80)) / (9 + number % 5))[..., None]
    image, file, exif = Image.fromarray((128 + 100 * waves.repeat(3, 2)).astype(np.uint8)), io.BytesIO(), Image.Exif()
    if kind == "Exif":
        exif[0x0112] = 6
    image = image.convert("CMYK") if kind == "CMYK" else image
    image.save(file, "PNG" if kind == "PNG" else "JPEG", exif=exif, quality=90)
    return file.getvalue()[: len(file.getvalue()) // 2 if kind == "cut" else None]


def write(folder, kinds):
    examples = [
        {"image/encoded": encoded(number, kinds.get(number, "JPEG")), "image/class/label": number}
        for number in range(NUM)
    ]
    (folder / "a.tfrecord").write_bytes(b"".join(frame(encode_example(example)) for example in examples))
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write(tmp_path_factory.mktemp("plain"), {})


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    return write(tmp_path_factory.mktemp("odd"), ODD)


def loader(folder, decoder, transform, **options):
    shards = ShardSet.open(folder, device="cpu", decoder=decoder, transform=transform, seed=3, **options)
    return DataLoader(shards, batch_size=64, shuffle=True, num_workers=2)


def train(**options):
    return transforms.ImageNetTrain(32, scaled_decoding=False, **options)


@pytest.mark.parametrize("transform", [train(dtype=torch.uint8), transforms.ImageNetValidation(32, dtype=torch.uint8)])
def test_samples_are_those_of_our_own_decoder(plain, decoder, transform):
    theirs, ours = loader(plain, decoder, transform), loader(plain, "auto", transform)
    for _ in range(2):
        for (images, labels), (expected, numbers) in zip(theirs, ours, strict=True):
            assert torch.equal(labels, numbers)
            assert (images.int() - expected.int()).abs().max() <= 2  # levels of 255
    assert theirs.tally.num_by_host == 0
    assert min(theirs.tally.decode_s, theirs.tally.augment_s) > 0


def test_what_the_library_does_not_do_ours_does_and_broken_ones_are_left_out(odd, decoder):
    theirs, ours = (loader(odd, name, train(), on_error="skip") for name in (decoder, "auto"))
    for (images, labels), (expected, numbers) in zip(theirs, ours, strict=True):
        assert torch.equal(labels, numbers)
        assert (images - expected).abs().max() < 0.05
    assert [skipped.record for skipped in theirs.tally.skipped] == [41]
    assert theirs.tally.num_by_host >= 3


def test_a_broken_image_is_an_error_with_its_place(odd, decoder):
    with pytest.raises(ImageError, match=r"a\.tfrecord: record 41 \(byte \d+\): its image cannot be decoded"):
        list(loader(odd, decoder, train()))


def test_without_a_transform_batches_are_lists_of_whole_images(plain, decoder):
    batches = [list(loader(plain, name, None)) for name in (decoder, "auto")]
    for (images, labels), (expected, numbers) in zip(*batches, strict=True):
        assert torch.equal(labels, numbers)
        assert [image.shape for image in images] == [image.shape for image in expected]
        assert max((mine.int() - theirs.int()).abs().max() for mine, theirs in zip(images, expected, strict=True)) <= 2


def test_single_samples_are_decoded_by_it_too(plain, decoder):
    theirs, ours = (
        ShardSet.open(plain, decoder=name, transform=transforms.ImageNetValidation(32)) for name in (decoder, "auto")
    )
    assert torch.allclose(theirs[3][0], ours[3][0], atol=0.05)


def test_load_takes_it_and_its_record_names_it(plain, decoder, tmp_path):
    command = [
        "load",
        str(plain),
        "--decoder",
        decoder,
        "--batch-size",
        "16",
        "--set",
        "seconds=0.1",
        "--set",
        "blocks=2",
    ]
    assert run([*command, "--transform", "validation", "--out", str(tmp_path / "run")]) == 0
    path = tmp_path / "run" / "record.json"
    record = RunRecord.model_validate_json(path.read_text())
    assert decoder in path.read_text()
    assert f"{decoder} " in str(record.points[0].params | record.workload)
    assert "(CPU)" in str(record.points[0].params | record.workload)


def test_raw_pixels_are_not_for_it(page_set, decoder):
    with pytest.raises(DecoderError, match="the set holds no encoded images; leave decoder out"):
        ShardSet.open(page_set.folder, decoder=decoder)
