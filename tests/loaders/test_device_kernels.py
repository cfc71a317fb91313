"""Normalising and gathering on the device: the same numbers everywhere, held to float64 and to plain indexing.

Each test runs on the CPU, and on a GPU where there is one; the lines of the Triton kernels run on the CPU as well, in
Triton's interpreter, and are compiled for GPUs that are not there, where Triton is installed.
"""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from iobench.loaders.device_kernels import KernelError, gather, gather_normalised, normalise, road
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


@pytest.mark.twin("test_the_kernels_own_lines_give_the_twins_numbers_in_tritons_interpreter")
@pytest.mark.gpu
@no_gpu
def test_a_gpu_gives_the_numbers_of_the_cpu_but_for_the_last_bit():
    images = strided(8, 64, gap=128)
    found, wanted = normalise(images.cuda()).cpu(), normalise(images)
    assert ((found - wanted).abs() <= 2.0**-22 * wanted.abs() + 2.0**-24).all()


def test_the_cpu_has_no_kernel_of_its_own():
    assert road("cpu") == "eager"


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


INTERPRETED = """
import torch
from iobench.loaders import triton_kernels as kernels
from iobench.loaders.device_kernels import _factors, _normalise_eager, gather, gather_normalised, normalise
from iobench.loaders.transforms import IMAGENET_MEAN, IMAGENET_STD

random = torch.Generator().manual_seed(3)
scale, shift = _factors(IMAGENET_MEAN, IMAGENET_STD, "cpu")
memory = torch.randint(0, 256, (60_000,), dtype=torch.uint8, generator=random)
images = torch.as_strided(memory, (4, 29, 29, 3), (2600, 87, 3, 1), 7).permute(0, 3, 1, 2)
starts = torch.tensor([40_001, 3, 17_777])
for dtype in (torch.float32, torch.float16):
    out = torch.empty((4, 3, 29, 29), dtype=dtype).to(memory_format=torch.channels_last)
    for batch in (images, images[:, :, 2:20, 5:26]):
        room = torch.empty(batch.shape, dtype=dtype, memory_format=torch.channels_last)
        found = kernels.normalise_strided(batch, scale, shift, room)
        torch.testing.assert_close(found, normalise(batch, dtype=dtype), rtol=2**-21, atol=1e-6)
    room = torch.empty((3, 3, 29, 29), dtype=dtype, memory_format=torch.channels_last)
    found = kernels.normalise_gathered(memory, starts, scale, shift, room)
    wanted = gather_normalised(memory, starts, (29, 29, 3), dtype=dtype)
    torch.testing.assert_close(found, wanted, rtol=2**-21, atol=1e-6)
records = torch.empty((3, 29 * 29 * 3), dtype=torch.uint8)
kernels.gather_bytes(memory, starts, records)
assert torch.equal(records.view(3, 29, 29, 3), gather(memory, starts, (29, 29, 3)))
print("the kernels agree")
"""


def test_the_kernels_own_lines_give_the_twins_numbers_in_tritons_interpreter(tmp_path):
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed (torch's CUDA builds bring it)")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "the kernels agree"


COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from iobench.loaders import triton_kernels as kernels

def compiled(kernel, signature, constants, arch):
    where = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=kernel, signature=signature, constexprs=where)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32)).asm["ptx"]

for arch in (80, 90):
    for kind in ("fp32", "bf16", "fp16"):
        names = ("source", "starts", "image_stride", "row_stride", "scales", "shifts", "target", "row_bytes", "size")
        for strided in (True, False):
            kinds = ("*u8", "*u8" if strided else "*i64", "i32", "i32", "*fp32", "*fp32", "*" + kind, "i32", "i32")
            text = compiled(
                kernels._normalise, dict(zip(names, kinds)), {"strided": strided, "block": kernels.BLOCK}, arch
            )
            assert f"sm_{arch}" in text
    names, kinds = ("source", "starts", "target", "size"), ("*u8", "*i64", "*u8", "i32")
    assert "ld.global" in compiled(kernels._gather, dict(zip(names, kinds)), {"block": kernels.BLOCK}, arch)
print("all are compiled")
"""


def test_the_kernels_compile_for_gpus_that_are_not_there(tmp_path):
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed (torch's CUDA builds bring it)")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "all are compiled"
