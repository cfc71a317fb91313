"""Normalising and gathering on the device: the same numbers everywhere, held to float64 and to plain indexing.

Each test runs on the CPU, and on a GPU where there is one; the lines of the Triton kernels run on the CPU as well, in
Triton's interpreter (test_triton_kernels.py).
"""

import sys

import numpy as np
import pytest
import torch

from iobench.loaders import device_kernels
from iobench.loaders.device_kernels import KernelError, gather, gather_normalised, normalise, road, why_eager
from iobench.loaders.transforms import IMAGENET_MEAN, IMAGENET_STD

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_gpu])]
DTYPES = {torch.float32: 2.0**-22, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


def strided(count, side, *, gap, seed=0):
    """A batch as a ShardSet gives it: records with a gap between them, pixels interleaved."""
    random = np.random.default_rng(seed)
    memory = torch.from_numpy(random.integers(0, 256, count * (side * side * 3 + gap) + 64, dtype=np.uint8))
    stride = side * side * 3 + gap
    return torch.as_strided(memory, (count, side, side, 3), (stride, side * 3, 3, 1), 13).permute(0, 3, 1, 2)


def exact(images):
    """(x / 255 - mean) / std in float64, (B, 3, H, W)."""
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images.cpu().numpy().astype(np.float64) / 255 - mean) / std


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_normalised_values_are_the_exact_ones_rounded(device, dtype):
    images = strided(5, 31, gap=97).to(device)
    found = normalise(images, dtype=dtype)
    assert found.dtype == dtype
    assert found.shape == (5, 3, 31, 31)
    assert found.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(found.double().cpu().numpy(), exact(images), rtol=DTYPES[dtype], atol=3e-7)


def test_a_window_of_a_batch_is_normalised_where_it_lies(device):
    images = strided(4, 40, gap=8).to(device)
    window = images[:, :, 3:35, 5:29]
    np.testing.assert_allclose(normalise(window).double().cpu().numpy(), exact(window), rtol=1e-6, atol=3e-7)


def test_the_result_goes_where_it_is_wanted(device):
    images = strided(3, 16, gap=0).to(device)
    room = torch.empty((3, 3, 16, 16), dtype=torch.bfloat16, device=device, memory_format=torch.channels_last)
    assert normalise(images, out=room) is room
    assert torch.equal(room, normalise(images, dtype=torch.bfloat16))


def skewed(count, shape, *, seed=1):
    """Records with a skew of their own, in no order, and where each begins; with the records themselves."""
    random = np.random.default_rng(seed)
    size = int(np.prod(shape))
    starts = random.permutation(count) * (size + 5000) + random.integers(0, 4096, count)
    memory = random.integers(0, 256, count * (size + 5000) + 4096, dtype=np.uint8)
    records = np.stack([memory[start : start + size].reshape(shape) for start in starts])
    return torch.from_numpy(memory), torch.from_numpy(starts), records


def test_records_are_gathered_from_wherever_they_begin(device):
    memory, starts, records = skewed(9, (17, 23, 3))
    found = gather(memory.to(device), starts.to(device), (17, 23, 3))
    np.testing.assert_array_equal(found.cpu().numpy(), records)


def test_gathering_and_normalising_at_once_is_doing_the_one_after_the_other(device):
    memory, starts, _ = skewed(6, (24, 20, 3))
    memory, starts = memory.to(device), starts.to(device)
    one_by_one = normalise(gather(memory, starts, (24, 20, 3)).permute(0, 3, 1, 2), dtype=torch.float16)
    assert torch.equal(gather_normalised(memory, starts, (24, 20, 3), dtype=torch.float16), one_by_one)


def test_an_empty_batch_stays_one(device):
    assert normalise(torch.empty((0, 3, 8, 8), dtype=torch.uint8, device=device)).shape == (0, 3, 8, 8)
    memory, nowhere = torch.zeros(9, dtype=torch.uint8, device=device), torch.zeros(0, dtype=torch.int64, device=device)
    assert gather(memory, nowhere, (1, 2, 3)).shape == (0, 1, 2, 3)
    assert gather_normalised(memory, nowhere, (1, 2, 3)).shape == (0, 3, 1, 2)


@pytest.mark.twin("test_triton_kernels.py::test_normalised_values_are_torchs_own_rounded_to_their_type")
@pytest.mark.gpu
@no_gpu
def test_a_gpu_gives_the_numbers_of_the_cpu_but_for_the_last_bit():
    images = strided(8, 64, gap=128)
    found, wanted = normalise(images.cuda()).cpu(), normalise(images)
    assert ((found - wanted).abs() <= 2.0**-22 * wanted.abs() + 2.0**-24).all()


def test_the_cpu_has_no_kernel_of_its_own():
    assert road("cpu") == "eager"
    assert why_eager("cpu") == "Triton's kernels are for GPUs"


def test_without_triton_a_gpu_is_left_to_torchs_operators(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)  # as if it could not be found
    device_kernels._why_no_triton.cache_clear()
    assert road("cuda") == "eager"
    assert why_eager("cuda") == "Triton is not installed"
    device_kernels._why_no_triton.cache_clear()


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros((2, 3, 8, 8)), "bytes"),
        (torch.zeros((2, 1, 8, 8), dtype=torch.uint8), "bytes"),
        (torch.zeros((2, 3, 8, 8), dtype=torch.uint8), "interleaved"),
    ],
)
def test_batches_that_are_none_are_refused(images, said):
    with pytest.raises(KernelError, match=said):
        normalise(images)


def test_what_cannot_be_written_or_read_is_refused():
    images = strided(2, 8, gap=0)
    with pytest.raises(KernelError, match="int8"):
        normalise(images, dtype=torch.int8)
    with pytest.raises(KernelError, match="above 0"):
        normalise(images, std=(0.0, 1.0, 1.0))
    with pytest.raises(KernelError, match="channels-last"):
        normalise(images, out=torch.empty((2, 3, 8, 8)))
    memory = torch.zeros(100, dtype=torch.uint8)
    with pytest.raises(KernelError, match="do not lie in"):
        gather(memory, torch.tensor([0, 90]), (2, 2, 3))
    with pytest.raises(KernelError, match="int64"):
        gather(memory, torch.tensor([0], dtype=torch.int32), (2, 2, 3))
