"""Samples made where images were decoded: on a GPU by one kernel, which is held to torch's operators there."""

import numpy as np
import pytest
import torch

from iobench.loaders.device_kernels import KernelError
from iobench.loaders.images.augment import Crop, uniforms
from iobench.loaders.images.device_images import made_by, write_eagerly, write_samples
from iobench.loaders.transforms import Cut, ImageNetTrain, ImageNetValidation

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_gpu])]
SIZES = ((200, 300), (96, 64), (17, 400), (64, 64))


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


def noise(height, width, *, channels=3, seed=0):
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.integers(0, 256, (height, width, channels), dtype=np.uint8))


def batch_of(transform, images, device):
    numbers = uniforms(5, 0, np.arange(len(images)), transform.num_numbers).tolist()
    cuts = [transform.cut(*image.shape[:2], mine) for image, mine in zip(images, numbers, strict=True)]
    return cuts, torch.empty((len(images), *transform.shape), dtype=transform.dtype, device=device)


@pytest.mark.parametrize("make", [ImageNetTrain, ImageNetValidation])
def test_levels_are_those_of_torchs_operators_on_the_cpu(device, make):
    transform = make(48, dtype=torch.uint8, **({"resize": 64} if make is ImageNetValidation else {}))
    images = [noise(*size, seed=number) for number, size in enumerate(SIZES)]
    cuts, out = batch_of(transform, images, device)
    write_samples([image.to(device) for image in images], cuts, transform, out)
    wanted = torch.empty(out.shape, dtype=torch.uint8)
    write_eagerly(images, cuts, transform, wanted)
    away = (out.cpu().int() - wanted.int()).abs()
    assert away.max() <= 1
    assert (away > 0).double().mean() < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_levels_are_normalised_by_the_transforms_own_numbers(device, dtype):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.4)
    images = [noise(60, 60, seed=number).to(device) for number in range(3)]
    levels, floats = (ImageNetTrain(60, dtype=kind, mean=mean, std=std) for kind in (torch.uint8, dtype))
    cuts, bytes_out = batch_of(levels, images, device)
    out = torch.empty(bytes_out.shape, dtype=dtype, device=device)
    write_samples(images, cuts, levels, bytes_out)
    write_samples(images, cuts, floats, out)
    exact = (bytes_out.cpu().double() / 255 - torch.tensor(mean).double()) / torch.tensor(std).double()
    torch.testing.assert_close(out.cpu().double(), exact, rtol=torch.finfo(dtype).eps / 2 + 2.0**-22, atol=1e-6)


def test_an_image_of_the_host_and_one_with_odd_strides_are_among_the_others(device):
    """What the device did not decode comes from the CPU; a decoder may leave room behind rows, and behind pixels."""
    plain, wide, four = noise(40, 50), noise(40, 90, seed=1)[:, 11:61], noise(40, 50, channels=4, seed=2)[:, :, :3]
    transform = ImageNetTrain(24, dtype=torch.uint8)
    cuts, out = batch_of(transform, [plain, wide, four], device)
    views = [wide.contiguous().to(device), noise(40, 90, seed=1).to(device)[:, 11:61], four.to(device)]
    write_samples([plain, views[1], views[2]], cuts, transform, out)
    wanted = torch.empty_like(out)
    write_samples([plain.to(device), views[0], four.contiguous().to(device)], cuts, transform, wanted)
    assert torch.equal(out, wanted)


def test_no_images_make_no_samples(device):
    transform = ImageNetTrain(24)
    whole = torch.full((2, *transform.shape), 7.0, device=device)
    write_samples([], [], transform, whole[:0])
    assert (whole == 7.0).all(), "nothing is written where no sample is to go"


WHOLE = Crop(0, 0, 24, 24)


@pytest.mark.parametrize(
    ("image", "cut", "said"),
    [
        (noise(40, 50), Cut(Crop(20, 0, 21, 50), (24, 24), WHOLE), "of 40 x 50 pixels, .* must be within its image"),
        (noise(40, 50), Cut(Crop(0, -1, 40, 50), (24, 24), WHOLE), "must be within its image"),
        (noise(40, 50), Cut(Crop(0, 0, 0, 50), (24, 24), WHOLE), "must be within its image"),
        (noise(40, 50), Cut(Crop(0, 0, 40, 50), (24, 24), Crop(0, 1, 24, 24)), "must be within its image"),
        (noise(40, 50), Cut(Crop(0, 0, 40, 50), (24, 24), Crop(0, 0, 24, 23)), "does not fill a sample of 24 x 24"),
        (noise(40, 50).float(), Cut(Crop(0, 0, 40, 50), (24, 24), WHOLE), "samples are made of bytes"),
        (noise(40, 50, channels=4), Cut(Crop(0, 0, 40, 50), (24, 24), WHOLE), "samples are made of bytes"),
    ],
)
def test_what_a_kernel_would_read_beyond_an_image_is_refused(device, image, cut, said):
    with pytest.raises(KernelError, match=said):
        write_samples([image.to(device)], [cut], ImageNetTrain(24), torch.empty((1, 24, 24, 3), device=device))


def test_the_host_makes_samples_by_torchs_operators_and_says_why():
    assert made_by("cpu") == "torch's operators, image by image (Triton's kernels are for GPUs)"
