"""Decoding whole batches onto the device, on the libraries' CPU backends, and on a GPU where there is one."""

import importlib.util
import io

import numpy as np
import pytest
import torch
from PIL import Image

from iobench.loaders import transforms
from iobench.loaders.images.augment import uniforms
from iobench.loaders.images.decoders import DecoderError, DecoderMissingError
from iobench.loaders.images.device_decoders import open_device_decoder, why_not
from iobench.loaders.images.device_images import samples_of

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_gpu])]


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


def installed(package):
    return importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec(package) is not None


@pytest.fixture(params=["nvimgcodec", "dali"])
def decoder(request, device):
    if not installed(f"nvidia.{request.param}"):
        pytest.skip(f"{request.param} is not installed (`make setup-test` installs it)")
    found, _ = open_device_decoder(request.param, device, num_threads=1)
    yield found
    found.close()


def photograph(height, width, *, seed=0):
    """A smooth picture with some detail."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def encoded(image, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=92, **options)
    return np.frombuffer(file.getvalue(), np.uint8)


def by_pillow(data):
    with Image.open(io.BytesIO(data.tobytes())) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


def test_images_of_many_sizes_come_out_as_pillow_sees_them(decoder, device):
    batch = [encoded(photograph(height, width, seed=height)) for height, width in ((96, 128), (240, 160), (64, 64))]
    found = decoder.decode(batch)
    for tensor, data in zip(found, batch, strict=True):
        assert tensor.device.type == device
        wanted = by_pillow(data)
        assert tuple(tensor.shape) == wanted.shape
        away = np.abs(tensor.cpu().numpy().astype(np.int16) - wanted)
        assert away.mean() < 1.0  # decoders round differently, and upsample colours so
        assert away.max() <= 24


def test_larger_batches_follow_smaller_ones(decoder):
    data = encoded(photograph(64, 80))
    assert [len(decoder.decode([data] * count)) for count in (1, 4, 2)] == [1, 4, 2]


def test_grey_images_become_rgb(decoder):
    (found,) = decoder.decode([encoded(photograph(64, 64)[:, :, 0])])
    pixels = found.cpu().numpy()
    assert pixels.shape == (64, 64, 3)
    assert (pixels[..., 0] == pixels[..., 1]).all()


def test_a_broken_image_is_given_back_and_the_next_batch_is_decoded(decoder):
    """DALI does not tell which one it is: all of its batch come back."""
    whole = encoded(photograph(64, 64))
    found = decoder.decode([whole, whole[:80]])
    assert found[1] is None
    assert (found[0] is None) == decoder.name.startswith("dali")
    assert all(image is not None for image in decoder.decode([whole, whole]))


def test_samples_cut_on_the_device_are_those_of_the_cpus_road(device):
    images = [photograph(height, width, seed=height) for height, width in ((200, 300), (320, 240), (96, 96))]
    transform = transforms.ImageNetTrain(64, dtype=torch.float32, scaled_decoding=False)
    numbers = uniforms(3, 0, np.arange(3), transform.num_numbers).tolist()
    found = samples_of([torch.from_numpy(image.copy()).to(device) for image in images], transform, numbers)
    assert found.is_contiguous(memory_format=torch.channels_last)
    wanted = torch.empty((3, 64, 64, 3))
    for slot, image in enumerate(images):
        cut = transform.cut(image.shape[0], image.shape[1], numbers[slot])
        transform.write(image.copy(), cut, wanted[slot], lambda size, dtype: torch.empty(size, dtype=dtype))
    level = 1 / 255 / min(transforms.IMAGENET_STD)
    away = (found.permute(0, 2, 3, 1).cpu() - wanted).abs()
    assert away.max() <= 2.05 * level  # each of the two rounds to levels, the CPU twice
    assert away.mean() <= 0.5 * level


def test_without_a_gpu_each_says_why_it_is_not_available():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for name in ("nvimgcodec", "dali"):
        reason = why_not(name, "cuda")
        assert reason.startswith("not available because ")
        with pytest.raises(DecoderMissingError, match="not available because"):
            open_device_decoder(name, "cuda")
    with pytest.raises(DecoderMissingError, match=r"nvimgcodec: .*; decoder dali: "):
        open_device_decoder("auto", "cuda")


def test_auto_says_which_it_took():
    if not installed("nvidia.nvimgcodec"):
        pytest.skip("nvimgcodec is not installed (`make setup-test` installs it)")
    found, reason = open_device_decoder("auto", "cpu", num_threads=1)
    assert found.name.startswith("nvimgcodec")
    assert reason == "auto: nvimgcodec"
    with pytest.raises(DecoderError, match="'nvjpeg' is not one of auto, nvimgcodec, dali"):
        open_device_decoder("nvjpeg", "cpu")
