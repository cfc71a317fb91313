"""Images as they should not be: rare colour spaces, 16 bits, cut files, headers that promise too much."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from iobench.loaders import DataLoader, ShardSet, transforms
from iobench.loaders.formats.example import encode_example
from iobench.loaders.formats.fields import LayoutError
from iobench.loaders.formats.tfrecord import frame
from iobench.loaders.images.decoders import BrokenImageError, SimpleJpegDecoder
from iobench.loaders.images.decoding import KEPT_BYTES, ImageError, _Scratch


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def decoded(data: bytes) -> np.ndarray:
    decoder, bytes_ = SimpleJpegDecoder(), np.frombuffer(data, np.uint8)
    header = decoder.header(bytes_)
    pixels = decoder.decode(bytes_, header, scratch=None)
    assert pixels.shape == (header.height, header.width, 3)
    return pixels


def plain(mode: str, colour: tuple[int, ...]) -> Image.Image:
    return Image.new(mode, (48, 32), colour)


def png_of(levels: np.ndarray, colour_type: int, bits: int) -> bytes:
    """A PNG file by its specification: signature, IHDR, IDAT with a filter byte of 0 before each row, IEND."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = levels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2" if bits == 16 else ">u1").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_ycck_is_converted_to_inks_and_then_to_light():
    """Adobe's marker says YCCK; stored inks are inverted, as Adobe has them (T.871 for YCbCr, 1.402 and so on)."""
    y, cb, cr, k = 150, 110, 160, 200
    inks = encoded(plain("CMYK", (255 - y, 255 - cb, 255 - cr, 255 - k)), quality=95, subsampling=0)
    marker = inks.index(b"Adobe")
    assert inks[marker + 11] == 0  # no transform: CMYK
    ycck = inks[: marker + 11] + b"\x02" + inks[marker + 12 :]
    light = np.array(
        [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)]
    )
    wanted = (255 - light) * k / 255
    assert np.abs(decoded(ycck).reshape(-1, 3) - wanted).max() <= 3
    cmyk = np.array([y, cb, cr]) * k / 255
    assert np.abs(decoded(inks).reshape(-1, 3) - cmyk).max() <= 3


def test_grey_is_the_same_in_all_three_channels():
    assert np.abs(decoded(encoded(plain("L", 77))).astype(int) - 77).max() <= 1


def test_sixteen_bits_become_the_upper_eight_in_grey_and_in_colour():
    grey = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    found = decoded(png_of(grey, 0, 16))
    assert np.array_equal(found, np.repeat((grey >> 8)[..., None], 3, axis=2))
    colour = np.arange(0, 65536, 512, dtype=np.uint16)[: 8 * 5 * 3].reshape(8, 5, 3)
    assert np.array_equal(decoded(png_of(colour, 2, 16)), colour >> 8)


def test_alpha_is_left_out_and_a_palette_looked_up():
    seen = plain("RGBA", (10, 20, 30, 128))
    assert np.array_equal(np.unique(decoded(encoded(seen, "PNG")).reshape(-1, 3), axis=0), [[10, 20, 30]])
    palette = plain("RGB", (200, 100, 50)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert np.array_equal(np.unique(decoded(encoded(palette, "PNG")).reshape(-1, 3), axis=0), [[200, 100, 50]])


def promising(data: bytes, height: int, width: int) -> bytes:
    """A JPEG whose frame header (SOF0, SOF2) says another size; nothing else is changed."""
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


BOMBS = {
    "JPEG": promising(encoded(plain("RGB", (1, 2, 3))), 13_000, 13_000),
    "JPEG of the largest size": promising(encoded(plain("RGB", (1, 2, 3))), 65_500, 65_500),
    "progressive JPEG": promising(encoded(plain("RGB", (1, 2, 3)), progressive=True), 9_000, 9_000),
    "CMYK JPEG": promising(encoded(plain("CMYK", (1, 2, 3, 4))), 9_000, 9_000),
    "grey JPEG": promising(encoded(plain("L", 9)), 9_000, 9_000),
}


def png_bomb() -> bytes:
    """A PNG of 32 x 48 whose header says 12,000 x 12,000, with the right crc."""
    data = bytearray(encoded(plain("RGB", (1, 2, 3)), "PNG"))
    data[16:24] = struct.pack(">II", 12_000, 12_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.filterwarnings("ignore:.*decompression bomb")
@pytest.mark.parametrize("name", [*BOMBS, "PNG"])
def test_nothing_is_allocated_for_more_pixels_than_the_file_can_hold(name):
    data = png_bomb() if name == "PNG" else BOMBS[name]
    decoded(encoded(plain("RGB", (1, 2, 3)), "PNG"))  # what is imported on the way is not counted
    tracemalloc.start()
    try:
        with pytest.raises(BrokenImageError):
            decoded(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_flattest_images_there_are_are_no_bombs():
    flat = Image.new("RGB", (1600, 1200), (7, 7, 7))
    for data in (
        encoded(flat, quality=30, optimize=True, progressive=True),
        encoded(flat.convert("L"), quality=30, optimize=True, progressive=True),
        encoded(flat, quality=30, optimize=True),
        encoded(flat.convert("1"), "PNG", optimize=True),
        encoded(flat, "PNG", optimize=True),
    ):
        assert decoded(data).shape == (1200, 1600, 3)


def test_memory_for_a_large_image_is_not_kept():
    scratch = _Scratch()
    assert len(scratch.array(KEPT_BYTES + 1)) > KEPT_BYTES
    assert len(scratch.array(10)) == 10
    kept = scratch.array(1000)
    assert scratch.array(500) is kept


WHOLE = encoded(plain("RGB", (9, 99, 199)))
CUT = {
    "no bytes at all": b"",
    "one byte": b"\xff",
    "start of image only": b"\xff\xd8\xff",
    "cut in the frame header": WHOLE[: WHOLE.index(b"\xff\xc0") + 6],
    "cut before the scan": WHOLE[: WHOLE.index(b"\xff\xda")],
    "zeros": bytes(500),
    "text": b"<html>404 not found</html>",
    "a PNG cut in the middle": encoded(Image.effect_noise((64, 64), 50), "PNG")[:2000],
    "a PNG's signature only": b"\x89PNG\r\n\x1a\n",
}


@pytest.mark.parametrize("name", list(CUT))
def test_what_is_no_whole_image_is_broken(name):
    with pytest.raises(BrokenImageError):
        decoded(CUT[name])


def write(path, images):
    fields = [{"image/encoded": data, "image/class/label": number} for number, data in enumerate(images)]
    path.write_bytes(b"".join(frame(encode_example(one, padded_varints=False)) for one in fields))


def test_all_of_them_are_named_or_left_out(tmp_path):
    broken = [data for data in (*CUT.values(), *BOMBS.values()) if data]
    images = [WHOLE, *broken, WHOLE]
    write(tmp_path / "a.tfrecord", images)
    transform = transforms.ImageNetValidation(24, resize=32)
    with pytest.raises(ImageError, match=r"a.tfrecord: record 1 \(byte \d+\): its image cannot be decoded"):
        list(DataLoader(ShardSet.open(tmp_path, transform=transform), batch_size=len(images)))
    loader = DataLoader(ShardSet.open(tmp_path, transform=transform, on_error="skip"), batch_size=len(images))
    (samples, labels) = next(iter(loader))
    assert labels.tolist() == [0, len(images) - 1]
    assert len(samples) == 2
    assert loader.tally.num_skipped == len(broken)
    assert "13000 x 13000 pixels, which" in " ".join(skipped.reason for skipped in loader.tally.skipped)


def test_a_record_whose_image_has_no_byte_is_told_when_the_set_is_opened(tmp_path):
    write(tmp_path / "a.tfrecord", [WHOLE, b"", WHOLE])
    with pytest.raises(LayoutError, match=r"a.tfrecord: record 1 \(byte \d+\): 'image/encoded' is empty"):
        ShardSet.open(tmp_path)
