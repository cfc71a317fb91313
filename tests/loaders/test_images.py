"""Encoded images come out as Pillow has them, cut as torchvision cuts, the same whatever batches, threads and ranks."""

import gc
import io
import math
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.utils.data
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from iobench.loaders import DataLoader, Fields, ShardSet, transforms
from iobench.loaders.formats.example import encode_example
from iobench.loaders.formats.tfrecord import frame
from iobench.loaders.images.augment import CROP_NUMBERS, Crop, random_resized_crop, uniforms
from iobench.loaders.images.decoders import BrokenImageError, DecoderError, SimpleJpegDecoder
from iobench.loaders.images.decoding import DecodingUsageError, ImageError
from iobench.loaders.route import RouteRefusedError
from iobench.loaders.transforms import TransformError, shrunk_crop

NUM = 24


def picture(height: int, width: int, seed: int) -> Image.Image:
    """Waves and a little noise: something that a wrong crop or a flip shows in."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width].astype(float)
    waves = [np.sin(rows / a + columns / b + c) for a, b, c in random.uniform((5, 5, 0), (40, 40, 6), (3, 3))]
    levels = 128 + 90 * np.stack(waves, axis=-1) + random.normal(0, 4, (height, width, 3))
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **{"quality": 90, **options})
    return target.getvalue()


def write(folder: Path, images: list[bytes], per_shard: int = 10) -> Path:
    """Shards with the fields of build_imagenet_data; labels are the numbers of the records."""
    folder.mkdir()
    records = [
        frame(
            encode_example(
                {
                    "image/height": 1,
                    "image/width": 1,
                    "image/colorspace": b"RGB",
                    "image/channels": 3,
                    "image/class/label": number,
                    "image/class/synset": b"n01440764",
                    "image/format": b"JPEG",
                    "image/filename": b"%d.JPEG" % number,
                    "image/encoded": image,
                },
                padded_varints=False,
            )
        )
        for number, image in enumerate(images)
    ]
    for start in range(0, len(records), per_shard):
        path = folder / f"train-{start // per_shard:05d}-of-{-(-len(records) // per_shard):05d}"
        path.write_bytes(b"".join(records[start : start + per_shard]))
    return folder


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def pixels(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    sides = [(375, 500), (500, 333), (120, 90), (300, 300)]
    return [encoded(picture(*sides[i % 4], seed=i), subsampling=i % 3) for i in range(NUM)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, images) -> Path:
    return write(tmp_path_factory.mktemp("jpeg") / "data", images)


def epoch_of(loader) -> dict[int, np.ndarray]:
    """Every sample of the next epoch, by its label; batches are held until the end."""
    batches = list(loader)
    return {int(label): image.numpy() for some, labels in batches for image, label in zip(some, labels, strict=True)}


@pytest.mark.parametrize("engine", ["buffered", "direct", "mmap"])
@pytest.mark.parametrize("threads", [0, 3])
def test_decoded_images_are_those_of_pillow(folder, images, engine, threads):
    shards = ShardSet.open(folder, engine=engine)
    assert shards.index.layout.codec == "jpeg"
    found = [image for some, _ in DataLoader(shards, batch_size=7, num_workers=threads) for image in some]
    for image, data in zip(found, images, strict=True):
        assert np.array_equal(pixels(image), by_pillow(data))
    image, label = shards[-1]
    assert label == NUM - 1
    assert np.array_equal(pixels(image), by_pillow(images[-1]))
    shards.close()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(40, 70, orientation), exif=exif)


ODD = {
    "CMYK": encoded(picture(50, 60, 1).convert("CMYK")),
    "grey": encoded(picture(50, 60, 2).convert("L")),
    "progressive": encoded(picture(50, 60, 3), progressive=True),
    "PNG in disguise": encoded(picture(50, 60, 4), "PNG"),
    "PNG with alpha": encoded(picture(50, 60, 5).convert("RGBA"), "PNG"),
    "trailing bytes": encoded(picture(50, 60, 6)) + b"trailing",
    "of one pixel": encoded(picture(1, 1, 7)),
    **{f"turned {number}": turned(number) for number in range(1, 9)},
}


def test_every_oddity_comes_out_as_pillow_has_it(tmp_path):
    folder = write(tmp_path / "odd", list(ODD.values()))
    shards = ShardSet.open(folder)
    for number, (name, data) in enumerate(ODD.items()):
        assert np.array_equal(pixels(shards[number][0]), by_pillow(data)), name
    cut = ShardSet.open(folder, transform=transforms.ImageNetValidation(24, resize=32))
    (batch, labels) = next(iter(DataLoader(cut, batch_size=len(ODD), num_workers=2)))
    assert batch.shape == (len(ODD), 3, 24, 24)
    assert labels.tolist() == list(range(len(ODD)))


def test_damaged_images_are_broken_or_as_large_as_they_say():
    decoder, random = SimpleJpegDecoder(), np.random.default_rng(1)
    outcomes = set()
    for data in [*ODD.values()] * 60:
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[random.integers(0, min(len(damaged), 300), 6)] = random.integers(0, 256, 6)
        damaged = damaged[: random.integers(1, 2 * len(damaged))]
        try:
            header = decoder.header(damaged)
            if header.height * header.width < 1 << 20:
                assert decoder.decode(damaged, header, scratch=None).shape == (header.height, header.width, 3)
                outcomes.add("whole")
        except BrokenImageError:
            outcomes.add("broken")
    assert outcomes == {"whole", "broken"}


@pytest.fixture
def broken(tmp_path, images) -> Path:
    some = list(images[:12])
    some[3], some[11] = some[3][: len(some[3]) // 2], b"\xff\xd8\xff\xe0 no image at all"
    return write(tmp_path / "broken", some)


@pytest.mark.parametrize("transform", [None, transforms.ImageNetTrain(32)])
@pytest.mark.parametrize("threads", [0, 2])
def test_a_broken_image_is_named_with_file_record_and_byte(broken, transform, threads):
    shards = ShardSet.open(broken, transform=transform)
    place = int(shards.index.extents.offsets[3])
    with pytest.raises(ImageError, match=rf"00000-of-00002: record 3 \(byte {place}\): .*truncated.*on_error='skip'"):
        list(DataLoader(shards, batch_size=4, num_workers=threads))


@pytest.mark.parametrize("transform", [None, transforms.ImageNetTrain(32)])
def test_broken_images_are_left_out_and_told_where_that_is_asked_for(broken, images, transform):
    shards = ShardSet.open(broken, transform=transform, on_error="skip")
    loader = DataLoader(shards, batch_size=4, num_workers=2)
    whole = ShardSet.open(write(broken.parent / "whole", images[:12]), transform=transform)
    wanted, found = epoch_of(DataLoader(whole, batch_size=4)), epoch_of(loader)
    assert set(found) == set(range(12)) - {3, 11}
    assert all(np.array_equal(found[number], wanted[number]) for number in found)
    assert loader.tally.num_skipped == 2
    assert sorted(skipped.record for skipped in loader.tally.skipped) == [3, 11]
    assert "00001-of-00002: record 1 (byte" in loader.tally.skipped[1].reason


def test_a_batch_of_which_nothing_is_left_is_an_error(broken):
    shards = ShardSet.open(broken, on_error="skip")
    with pytest.raises(ImageError, match="none is left"):
        list(DataLoader(shards, batch_size=1))


def torchvisions_crop(height, width, numbers, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """RandomResizedCrop.get_params as torchvision publishes it, with the numbers it would draw handed in.

    Source: torchvision/transforms/transforms.py of https://github.com/pytorch/vision.
    """
    drawn = iter(numbers)
    area = height * width
    log_ratio = torch.log(torch.tensor(ratio, dtype=torch.float64))
    for _ in range(10):
        target_area = area * (scale[0] + (scale[1] - scale[0]) * next(drawn))
        aspect_ratio = torch.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * next(drawn)).item()
        w = round(math.sqrt(target_area * aspect_ratio))
        h = round(math.sqrt(target_area / aspect_ratio))
        first, second = next(drawn), next(drawn)
        if 0 < w <= width and 0 < h <= height:
            return math.floor(first * (height - h + 1)), math.floor(second * (width - w + 1)), h, w
    in_ratio = float(width) / float(height)
    if in_ratio < min(ratio):
        w = width
        h = round(w / min(ratio))
    elif in_ratio > max(ratio):
        h = height
        w = round(h * max(ratio))
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (20, 1500), (1500, 20), (3, 3), (1, 1)])
def test_crops_are_torchvisions_given_the_same_numbers(height, width):
    for numbers in uniforms(1, 2, np.arange(300), CROP_NUMBERS).tolist():
        crop = random_resized_crop(height, width, numbers, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
        assert crop == Crop(*torchvisions_crop(height, width, numbers))
        assert crop.top + crop.height <= height
        assert crop.left + crop.width <= width


def splitmix64(state: int) -> int:
    """As published by Vigna, https://prng.di.unimi.it/splitmix64.c, in whole numbers; `state` before it is advanced."""
    mask = (1 << 64) - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_numbers_are_splitmix64_streams_of_seed_epoch_and_record():
    found = uniforms(7, 3, np.array([5, 1_281_166]), 3)
    gamma = 0x9E3779B97F4A7C15
    for row, record in zip(found, (5, 1_281_166), strict=True):
        key = splitmix64(splitmix64(7) ^ 3)
        stream = splitmix64((record ^ key) - gamma & (1 << 64) - 1)
        assert row.tolist() == [(splitmix64(stream + step * gamma & (1 << 64) - 1) >> 11) / 2**53 for step in range(3)]
    many = uniforms(0, 0, np.arange(20_000), 2)
    assert np.abs(many.mean(axis=0) - 0.5).max() < 5 / math.sqrt(12 * 20_000)
    assert abs(np.corrcoef(many.T)[0, 1]) < 5 / math.sqrt(20_000)


def test_a_training_sample_is_pillows_crop_resized_and_flipped(folder, images):
    shards = ShardSet.open(
        folder, transform=transforms.ImageNetTrain(64, dtype=torch.uint8, scaled_decoding=False), seed=4
    )
    found = epoch_of(DataLoader(shards, batch_size=5, num_workers=2))
    flips = set()
    for number, data in enumerate(images):
        drawn = uniforms(4, 0, np.array([number]), CROP_NUMBERS + 1)[0].tolist()
        image = Image.fromarray(by_pillow(data))
        top, left, height, width = torchvisions_crop(image.height, image.width, drawn)
        wanted = image.crop((left, top, left + width, top + height)).resize((64, 64), Image.Resampling.BILINEAR)
        if drawn[-1] < 0.5:
            wanted = ImageOps.mirror(wanted)
        flips.add(drawn[-1] < 0.5)
        got = found[number].transpose(1, 2, 0)
        assert np.abs(got.astype(int) - np.asarray(wanted).astype(int)).max() <= 1
    assert flips == {True, False}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_validation_sample_is_pillows_and_normalised(folder, images, dtype):
    shards = ShardSet.open(
        folder, transform=transforms.ImageNetValidation(56, resize=64, dtype=dtype, scaled_decoding=False)
    )
    batch, _ = next(iter(DataLoader(shards, batch_size=NUM, num_workers=2)))
    assert batch.dtype == dtype
    assert batch.is_contiguous(memory_format=torch.channels_last)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for image, data in zip(batch.double().numpy(), images, strict=True):
        source = Image.fromarray(by_pillow(data))
        height, width = source.height, source.width
        size = (64, int(64 * height / width)) if width <= height else (int(64 * width / height), 64)
        left, top = round((size[0] - 56) / 2.0), round((size[1] - 56) / 2.0)
        resized = np.asarray(source.resize(size, Image.Resampling.BILINEAR), np.float64)[
            top : top + 56, left : left + 56
        ]
        wanted = (resized / 255 - mean) / std
        level = (1 / 255 / std).max()  # Pillow and torch may round differently by one level
        assert np.abs(image.transpose(1, 2, 0) - wanted).max() <= level + 0.01 * (dtype != torch.float32) + 1e-5


def reference_resize(image: np.ndarray, size: int) -> np.ndarray:
    """A triangle as wide as the pixels that become one, in float64, along both sides."""

    def weights(length: int) -> np.ndarray:
        scale = length / size
        centres = (np.arange(size)[:, None] + 0.5) * scale
        found = np.maximum(0, 1 - np.abs((np.arange(length) + 0.5 - centres) / max(scale, 1)))
        return found / found.sum(axis=1, keepdims=True)

    rows, columns = weights(image.shape[0]), weights(image.shape[1])
    return np.einsum("ih,hwc,jw->ijc", rows, image.astype(np.float64), columns, optimize=True)


@given(
    sides=st.tuples(st.integers(8, 3000), st.integers(8, 3000)),
    shares=st.tuples(*[st.floats(0, 1)] * 4),
    factor=st.sampled_from([2, 4, 8]),
)
def test_a_piece_of_a_shrunk_image_lies_inside_and_hardly_moves(sides, shares, factor):
    size = [max(factor, round(share * side)) for share, side in zip(shares[:2], sides, strict=True)]
    corner = [int(share * (side - length)) for share, side, length in zip(shares[2:], sides, size, strict=True)]
    found = shrunk_crop(Crop(*corner, *size), factor, *sides)
    for axis in range(2):
        start, length = found[axis], found[axis + 2]
        assert start >= 0
        assert length >= 1
        assert (start + length) * factor <= sides[axis]
        assert abs(start * factor - corner[axis]) <= 1.5 * factor
        assert abs(length * factor - size[axis]) < factor


@pytest.mark.parametrize("scaled", [False, True])
def test_resizing_is_as_good_as_pillows_within_one_level(tmp_path, scaled):
    data = [encoded(picture(side, side + 96, side)) for side in (304, 704, 1104)]
    whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0}
    transform = transforms.ImageNetTrain(112, dtype=torch.uint8, scaled_decoding=scaled, **whole)
    shards = ShardSet.open(write(tmp_path / "large", data), transform=transform)
    for number, one in enumerate(data):
        image = by_pillow(one)
        left = (image.shape[1] - image.shape[0]) // 2
        square = image[:, left : left + image.shape[0]]
        wanted = reference_resize(square, 112)
        pillows = np.asarray(Image.fromarray(square).resize((112, 112), Image.Resampling.BILINEAR), np.float64)
        ours = pixels(shards[number][0]).astype(np.float64)
        assert np.abs(ours - wanted).mean() <= np.abs(pillows - wanted).mean() + 1


def test_a_sample_does_not_depend_on_batches_threads_ranks_or_order(folder):
    def samples(batch_size=6, threads=2, epoch=0, seed=9, **options):
        shards = ShardSet.open(folder, transform=transforms.ImageNetTrain(32), seed=seed, **options)
        loader = DataLoader(shards, batch_size=batch_size, shuffle=True, num_workers=threads)
        loader.set_epoch(epoch)
        return epoch_of(loader)

    wanted = samples()
    assert len(wanted) == NUM
    for other in (
        samples(batch_size=1),
        samples(batch_size=NUM, threads=0),
        samples(threads=5, shuffle_mode="blocks"),
        samples(rank=0, world_size=2) | samples(rank=1, world_size=2),
    ):
        assert set(other) == set(wanted)
        assert all(np.array_equal(other[number], wanted[number]) for number in wanted)
    for other in (samples(epoch=1), samples(seed=8)):
        assert sum(np.array_equal(other[number], wanted[number]) for number in wanted) == 0


@pytest.mark.parametrize("threads", [0, 2])
def test_an_epoch_is_resumed_with_the_same_samples(folder, threads):
    def new_loader():
        shards = ShardSet.open(folder, transform=transforms.ImageNetTrain(32), seed=2)
        return DataLoader(shards, batch_size=5, shuffle=True, num_workers=threads)

    first, second = new_loader(), new_loader()
    list(first)
    batches = iter(first)
    for _ in range(2):
        next(batches)
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    rest, resumed = list(batches), list(second)
    assert len(rest) == len(resumed) == 3
    for (images, labels), (again, same) in zip(rest, resumed, strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, same)


def test_a_batch_that_is_held_is_never_overwritten(folder):
    shards = ShardSet.open(folder, transform=transforms.ImageNetTrain(32))
    loader = DataLoader(shards, batch_size=4, num_workers=2, persistent_workers=True)
    held = [(images, images.clone()) for _ in range(5) for images, _ in loader]
    assert all(torch.equal(images, copy) for images, copy in held)


def test_an_epoch_that_is_left_early_leaves_no_thread_and_no_wait(folder):
    import threading
    import time

    shards = ShardSet.open(folder, transform=transforms.ImageNetTrain(64))
    before = torch.get_num_threads()
    for _ in range(10):
        batches = iter(DataLoader(shards, batch_size=8, num_workers=3))
        next(batches)
        begun = time.monotonic()
        batches.close()
        assert time.monotonic() - begun < 1.9  # nobody waited for a batch that never came
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("iobench-reader")]
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_torchs_own_loader_takes_the_set_in_worker_processes_too(folder):
    shards = ShardSet.open(folder, transform=transforms.ImageNetTrain(32))
    torch.manual_seed(0)
    loader = torch.utils.data.DataLoader(shards, batch_size=8, num_workers=1, multiprocessing_context="spawn")
    first, second = epoch_of(loader), epoch_of(loader)
    assert set(first) == set(second) == set(range(NUM))
    assert not any(np.array_equal(first[number], second[number]) for number in first)  # drawn anew in each epoch


def test_a_function_as_transform_takes_the_decoded_images(folder, images):
    shards = ShardSet.open(folder, transform=lambda batch: [image.shape for image in batch])
    shapes, _ = next(iter(DataLoader(shards, batch_size=3)))
    assert shapes == [(3, *by_pillow(data).shape[:2]) for data in images[:3]]


def test_hops_are_timed_and_bytes_counted(folder, images):
    loader = DataLoader(ShardSet.open(folder, transform=transforms.ImageNetTrain(32)), batch_size=8, num_workers=2)
    list(loader)
    tally = loader.tally
    assert tally.payload_bytes == sum(map(len, images))
    assert min(tally.read_s, tally.decode_s, tally.augment_s) > 0
    assert loader.evidence().delivered_bytes == tally.delivered_bytes >= tally.payload_bytes


def test_what_does_not_fit_is_refused_by_name(folder, tmp_path, monkeypatch):
    with pytest.raises(DecoderError, match="decoder 'pil' is not one of auto, libjpeg-turbo, simplejpeg"):
        ShardSet.open(folder, decoder="pil")
    with pytest.raises(DecodingUsageError, match="on_error 'ignore' is not one of raise, skip"):
        ShardSet.open(folder, on_error="ignore")
    with pytest.raises(
        TransformError,
        match=r"ImageNetTrain takes encoded images or pixels .*, and train-00000-of-00003 holds",
    ):
        ShardSet.open(folder, fields=Fields(opaque=True), transform=transforms.ImageNetTrain())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RouteRefusedError, match=r"encoded images \(jpeg\), which decoders parse in host memory"):
        ShardSet.open(folder, engine=Kvikio(), require_route="gds")


def test_dropping_an_epoch_ends_its_threads_though_images_are_underway(folder):
    gc.disable()  # what only the garbage collector ends may go on for long
    try:
        batches = iter(DataLoader(ShardSet.open(folder), batch_size=4, shuffle=True, num_workers=2, prefetch_factor=2))
        next(batches)
        assert [one for one in threading.enumerate() if one.name.startswith("iobench-reader")]
        del batches
        assert not [one for one in threading.enumerate() if one.name.startswith("iobench-reader")]
    finally:
        gc.enable()


def test_no_thread_decodes_while_the_interpreter_goes(folder):
    program = f"""
import atexit, threading
atexit.register(lambda: print([one.name for one in threading.enumerate()]))  # the last of what is called at the end
from iobench.loaders import DataLoader, ShardSet, transforms
shards = ShardSet.open({str(folder)!r}, transform=transforms.ImageNetTrain(size=224))
batches = iter(DataLoader(shards, batch_size=8, shuffle=True, num_workers=2, prefetch_factor=2))
next(batches)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "['MainThread']\n", "")


class Kvikio:
    """As far as it is looked at before it is refused."""

    engine = "kvikio"
    alignment_bytes = 1
    scatters = False
    delivered_bytes = 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: transforms.ImageNetTrain(0),
        lambda: transforms.ImageNetTrain(dtype=torch.int32),
        lambda: transforms.ImageNetTrain(scale=(0.5, 2.0)),
        lambda: transforms.ImageNetTrain(std=(0, 1, 1)),
        lambda: transforms.ImageNetValidation(300),
    ],
)
def test_a_transform_refuses_what_it_cannot_do(make):
    with pytest.raises(TransformError):
        make()
