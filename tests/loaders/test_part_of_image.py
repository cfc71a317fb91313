"""What a sample does not need is not decoded and not resized, and nobody can tell from the sample."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from iobench.loaders import transforms
from iobench.loaders.images.augment import Crop
from iobench.loaders.images.decoders import BrokenImageError, SimpleJpegDecoder
from iobench.loaders.images.jpeg import start_of
from iobench.loaders.transforms import Cut

DECODER = SimpleJpegDecoder()
SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


def noise(height, width, seed):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(height, width, *, mode="RGB", **options):
    target = io.BytesIO()
    Image.fromarray(noise(height, width, 0)).convert(mode).save(target, "JPEG", quality=90, **options)
    return np.frombuffer(target.getvalue(), np.uint8)


def memory(num_bytes):
    return np.full(num_bytes, 77, np.uint8)


def upper(data, rows, shrink=1):
    header = DECODER.header(data)
    region = Crop(0, 0, -(-rows // shrink), -(-header.width // shrink))
    return DECODER.decode(data, header, scratch=memory, shrink=shrink, region=region)


JPEGS = {
    **{name: encoded(90, 75, subsampling=number) for name, number in SUBSAMPLINGS.items()},
    "grey": encoded(90, 75, mode="L"),
    "restarted": encoded(90, 75, restart_marker_rows=1),
    "turned upright": encoded(90, 75, exif=Image.Exif()),
}


@pytest.mark.parametrize("name", list(JPEGS))
@pytest.mark.parametrize("shrink", [1, 2, 4])
def test_rows_that_are_decoded_are_those_of_the_whole_image(name, shrink):
    data = JPEGS[name]
    whole = DECODER.decode(data, DECODER.header(data), scratch=None, shrink=shrink)
    for rows in range(1, 91, 7):
        found = upper(data, rows, shrink)
        assert -(-rows // shrink) <= len(found) <= len(whole)
        assert np.array_equal(found[: -(-rows // shrink)], whole[: -(-rows // shrink)])
    assert len(upper(data, 20, shrink)) < 0.6 * len(whole)


def test_progressive_images_and_others_without_rows_in_order_are_decoded_whole():
    data = encoded(90, 75, progressive=True)
    assert start_of(data.data).height_at is None
    assert upper(data, 10).shape == (90, 75, 3)


def test_the_data_themselves_are_left_as_they_were():
    data = JPEGS["4:2:0"].copy()
    data.flags.writeable = False
    upper(data, 10)
    assert np.array_equal(data, JPEGS["4:2:0"])


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.99])
def test_a_file_that_ends_too_early_is_broken_even_where_no_row_of_its_end_is_wanted(share):
    data = JPEGS["4:2:0"]
    with pytest.raises(BrokenImageError, match="truncated"):
        upper(data[: int(share * len(data))], 10)


SIDE = st.integers(8, 300)


@settings(max_examples=60, deadline=None)
@given(sides=st.tuples(SIDE, SIDE), resized=st.tuples(SIDE, SIDE), shares=st.tuples(*[st.floats(0, 1)] * 4))
def test_a_window_of_a_resized_image_is_made_of_what_is_needed_for_it_alone(sides, resized, shares):
    top, left = (int(share * (side - 1)) for share, side in zip(shares[:2], resized, strict=True))
    height, width = (
        max(1, round(share * (side - start)))
        for share, side, start in zip(shares[2:], resized, (top, left), strict=True)
    )
    pixels = noise(*sides, seed=1)
    cut = Cut(Crop(0, 0, *sides), resized, Crop(top, left, height, width))
    rows, columns = slice(cut.needed.top, sum(cut.needed[::2])), slice(cut.needed.left, sum(cut.needed[1::2]))
    others = noise(*sides, seed=2)[: rows.stop]
    others[rows, columns] = pixels[rows, columns]
    whole = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last),
        resized,
        mode="bilinear",
        antialias=True,
    )
    wanted = whole[0].permute(1, 2, 0)[top : top + height, left : left + width]
    scratch = {}

    def room(count, dtype):
        return scratch.setdefault((count, dtype), torch.empty(count, dtype=dtype))

    target = torch.empty((height, width, 3), dtype=torch.uint8)
    transforms.ImageNetTrain(8, dtype=torch.uint8).write(others, cut, target, room)
    assert torch.equal(target, wanted)
