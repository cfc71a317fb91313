"""Of a JPEG, the pixels that a sample needs and no others, and these are the ones that the whole image has."""

import io
import pickle

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from iobench.loaders import DataLoader, ShardSet, transforms
from iobench.loaders.images import decoders, regions
from iobench.loaders.images.augment import Crop
from iobench.loaders.images.decoders import BrokenImageError, DecoderMissingError, SimpleJpegDecoder
from iobench.loaders.images.opening import open_decoder
from iobench.loaders.images.regions import RegionDecoder
from iobench.storage_bench.generate import GenerateJpeg, generate

pytestmark = pytest.mark.skipif(regions.why_missing() is not None, reason=str(regions.why_missing()))

UNTOUCHED = 77
SUBSAMPLINGS = ("444", "422", "420", "440", "411")
KINDS = (*SUBSAMPLINGS, "grey", "progressive", "progressive 444", "restarted")


def levels(height, width, seed):
    smooth = np.add.outer(np.arange(height) * 3, np.arange(width) * 2)[..., None] + np.array([0, 80, 160])
    return ((smooth + np.random.default_rng(seed).integers(0, 60, (height, width, 3))) % 256).astype(np.uint8)


def encoded(height, width, kind, seed=0):
    pixels = levels(height, width, seed)
    if kind in SUBSAMPLINGS:
        data = simplejpeg.encode_jpeg(pixels, quality=85, colorsubsampling=kind)
    elif kind == "grey":
        data = simplejpeg.encode_jpeg(pixels[..., :1].copy(), colorspace="GRAY", colorsubsampling="GRAY")
    else:
        ways = {
            "progressive": {"progressive": True},
            "progressive 444": {"progressive": True, "subsampling": 0},
            "restarted": {"restart_marker_blocks": 3},
        }
        target = io.BytesIO()
        Image.fromarray(pixels).save(target, "JPEG", quality=85, **ways[kind])
        data = target.getvalue()
    return np.frombuffer(data, np.uint8)


def untouched(num_bytes):
    return np.full(num_bytes, UNTOUCHED, np.uint8)


def decoded(data, region, shrink=1, decoder=None):
    decoder = decoder or RegionDecoder()
    return decoder.decode(data, decoder.header(data), scratch=untouched, shrink=shrink, region=region)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    sides=st.tuples(st.integers(8, 150), st.integers(8, 150)),
    shrink=st.sampled_from([1, 2, 4, 8]),
    shares=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_a_regions_pixels_are_those_of_the_whole_image(kind, sides, shrink, shares):
    data = encoded(*sides, kind)
    whole = SimpleJpegDecoder().decode(data, SimpleJpegDecoder().header(data), scratch=None, shrink=shrink)
    height, width, _ = whole.shape
    top, left = int(shares[0] * (height - 1)), int(shares[1] * (width - 1))
    high, wide = max(1, round(shares[2] * (height - top))), max(1, round(shares[3] * (width - left)))
    found = decoded(data, Crop(top, left, high, wide), shrink)
    assert found.shape == (top + high, width, 3)
    rows, columns = slice(top, top + high), slice(left, left + wide)
    assert np.array_equal(found[rows, columns], whole[rows, columns])


@pytest.mark.parametrize("kind", ["420", "444", "progressive"])
def test_what_lies_beside_a_region_is_not_made(kind):
    found = decoded(encoded(200, 300, kind), Crop(100, 150, 40, 50))
    assert (found[:100] == UNTOUCHED).all()
    assert (found[:, :112] == UNTOUCHED).all()  # 150 less 8 neighbours less up to 30 of two units of 16
    assert (found[:, 208:] == UNTOUCHED).all()
    assert not (found[100:140, 150:200] == UNTOUCHED).all(axis=(0, 1)).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
def test_a_file_that_ends_too_early_is_broken_even_where_no_row_of_its_end_is_wanted(kind, share):
    data = encoded(90, 75, kind)
    cut = data[: int(share * len(data))]
    with pytest.raises(BrokenImageError, match=r"truncated|broken data stream|image file|incomplete"):
        decoded(cut, Crop(0, 0, 4, 75))


def test_what_libjpeg_turbo_doubts_the_others_judge_of():
    data = encoded(90, 75, "420").copy()
    header = RegionDecoder().header(data)
    trailing = np.concatenate([data[:-2], np.full(40, 0x11, np.uint8), data[-2:]])  # bytes of no use before the end
    expected = SimpleJpegDecoder().decode(trailing, header, scratch=None)
    assert np.array_equal(decoded(trailing, Crop(0, 0, 90, 75)), expected)
    data[:] = 0x11
    with pytest.raises(BrokenImageError):
        RegionDecoder().decode(data, header, scratch=untouched, region=Crop(0, 0, 90, 75))


def test_an_image_without_tables_does_not_take_those_of_the_one_before():
    data = encoded(40, 30, "420").tobytes()
    tables = data.index(b"\xff\xdb")
    without = data[:tables] + data[data.index(b"\xff\xc0") :]
    assert decoded(np.frombuffer(data, np.uint8), Crop(0, 0, 40, 30)).shape == (40, 30, 3)
    with pytest.raises(ValueError, match="Quantization table 0x00 was not defined"):
        regions._compiled().decode(without, untouched(3600), (40, 30, 1), (0, 0, 40, 30))
    with pytest.raises(BrokenImageError):
        decoded(np.frombuffer(without, np.uint8), Crop(0, 0, 40, 30))


def test_a_header_of_another_image_is_noticed():
    data, other = encoded(90, 75, "420"), encoded(64, 64, "420")
    with pytest.raises(ValueError, match="not the size that its header was read with"):
        regions._compiled().decode(data, untouched(64 * 64 * 3), (64, 64, 1), (0, 0, 64, 64))
    assert decoded(other, Crop(0, 0, 64, 64)).shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("image", "region"),
    [
        ((0, 8, 1), (0, 0, 1, 1)),
        ((8, 8, 3), (0, 0, 8, 8)),
        ((8, 8, 1), (5, 0, 5, 8)),
        ((8, 8, 1), (0, 0, 9, 8)),
        ((8, 8, 1), (0, 0, 8, 9)),
        ((8, 8, 8), (0, 0, 2, 1)),
        ((70_000, 8, 1), (0, 0, 8, 8)),
        ((8, 9, 1), (0, 0, 8, 9)),  # 216 bytes
        ((-1, 8, 1), (0, 0, 8, 8)),
    ],
)
def test_no_byte_is_written_for_what_cannot_be(image, region):
    memory = untouched(215)
    with pytest.raises(ValueError, match="no such region, or no room"):
        regions._compiled().decode(encoded(8, 8, "444"), memory, image, region)
    assert (memory == UNTOUCHED).all()


def test_damage_anywhere_gives_pixels_or_an_error_and_writes_nowhere_else():
    whole, random = encoded(60, 50, "420"), np.random.default_rng(5)
    pixels = 40 * 50 * 3
    outcomes = set()
    for _ in range(500):
        data = whole.copy()
        data[random.integers(2, len(data), 3)] = random.integers(0, 256, 3)
        memory = untouched(pixels + 4096)
        try:
            regions._compiled().decode(data, memory[:pixels], (60, 50, 1), (3, 5, 40, 45))
            outcomes.add("pixels")
        except ValueError:
            outcomes.add("doubt")
        assert (memory[pixels:] == UNTOUCHED).all()
    assert outcomes == {"pixels", "doubt"}


def test_pixels_that_may_not_be_written_are_refused():
    with pytest.raises(TypeError, match="read-write"):
        regions._compiled().decode(encoded(8, 8, "444"), bytes(192), (8, 8, 1), (0, 0, 8, 8))


@pytest.mark.parametrize("name", ["libm.so.6", "libjpeg-that-is-nowhere.so"])
def test_a_library_that_is_not_libjpeg_turbo_is_refused_and_the_next_one_taken(name, monkeypatch):
    known = regions._pillows()
    monkeypatch.setattr(regions, "_pillows", lambda: [name, *known])
    regions._compiled.cache_clear()
    assert np.array_equal(decoded(encoded(20, 20, "444"), Crop(0, 0, 20, 20)).shape, (20, 20, 3))
    monkeypatch.setattr(regions, "_pillows", lambda: [name])
    monkeypatch.setattr(regions, "_OF_THE_SYSTEM", ())
    regions._compiled.cache_clear()
    try:
        with pytest.raises(DecoderMissingError, match=f"no library that fits .*{name}"):
            open_decoder("libjpeg-turbo")
        found, reason = open_decoder("auto")
        assert isinstance(found, SimpleJpegDecoder)
        assert reason.startswith("auto: decoder libjpeg-turbo finds no library")
    finally:
        monkeypatch.undo()
        regions._compiled.cache_clear()
        regions._compiled()


def test_auto_takes_it_and_says_why():
    found, reason = open_decoder("auto")
    assert (found.name, open_decoder("libjpeg-turbo")[1]) == ("libjpeg-turbo", "asked for")
    assert reason.startswith("auto: images are decoded by threads of the CPU")
    assert open_decoder("simplejpeg")[0].name == "simplejpeg"
    assert set(decoders.BY_THREADS.replace(",", "").split()) - {"or"} == {"auto", "libjpeg-turbo", "simplejpeg"}


def test_it_works_on_in_another_process():
    copy = pickle.loads(pickle.dumps(RegionDecoder()))
    data = encoded(40, 30, "422")
    assert np.array_equal(decoded(data, Crop(0, 0, 40, 30), decoder=copy), decoded(data, Crop(0, 0, 40, 30)))


@pytest.mark.parametrize("transform", [transforms.ImageNetTrain(32), transforms.ImageNetValidation(32)])
def test_samples_are_the_same_with_either_decoder(tmp_path, transform):
    generate(tmp_path / "set", GenerateJpeg(num_images=24, images_per_shard=12, mean_bytes=20_000))
    ours, others = (
        [
            batch.clone()
            for batch, _ in DataLoader(
                ShardSet.open(tmp_path / "set", transform=transform, decoder=name, seed=3, shuffle_mode="records"),
                batch_size=8,
                shuffle=True,
            )
        ]
        for name in ("libjpeg-turbo", "simplejpeg")
    )
    assert len(ours) == len(others) == 3
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(ours, others, strict=True))
