"""The Triton kernels' own lines, run on the CPU by Triton's interpreter and held to torch's operators.

What they are run on is gathered below (`CASES`), and one process runs them all: the interpreter is chosen when a kernel
is imported, for the whole process.  It cuts bfloat16 off where a GPU rounds; that kernels round there is seen in what
they are compiled to, for GPUs that are not there.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from iobench.loaders.device_kernels import factors, gather, gather_normalised, normalise, road, why_eager
from iobench.loaders.images.augment import Crop, uniforms
from iobench.loaders.images.device_images import write_eagerly
from iobench.loaders.transforms import IMAGENET_MEAN, IMAGENET_STD, Cut, ImageNetTrain, ImageNetValidation

pytest.importorskip("triton", reason="Triton is not installed (`make setup-test` installs it)")

PROGRAM = Path(__file__).parent / "programs" / "interpreted_kernels.py"
FLOATS = [torch.float32, torch.float16, torch.bfloat16]
DTYPES = [*FLOATS, torch.uint8]
FACTORS = factors(IMAGENET_MEAN, IMAGENET_STD, "cpu")


class Case(NamedTuple):
    """One call of a kernel, what it fills, and what by torch's operators should be in it (float64, or bytes)."""

    module: str
    function: str
    arguments: tuple
    out: torch.Tensor
    wanted: torch.Tensor


def random_bytes(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def channels_last(shape, dtype):
    return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)


def normalised(images, dtype):
    out = channels_last(images.shape, dtype)
    return Case("triton_kernels", "normalise_strided", (images, *FACTORS), out, normalise(images))


def gathered_normalised(memory, starts, shape, dtype):
    out = channels_last((len(starts), 3, *shape[:2]), dtype)
    wanted = gather_normalised(memory, starts, shape)
    return Case("triton_kernels", "normalise_gathered", (memory, starts, *FACTORS), out, wanted)


def gathered(memory, starts, shape):
    out = torch.empty((len(starts), int(np.prod(shape))), dtype=torch.uint8)
    wanted = gather(memory, starts, shape).view(out.shape)
    return Case("triton_kernels", "gather_bytes", (memory, starts), out, wanted)


def samples(images, cuts, transform):
    out = torch.empty((len(images), *transform.shape), dtype=transform.dtype)
    wanted = torch.empty(out.shape, dtype=torch.uint8)
    write_eagerly(images, cuts, type(transform)(transform.size, dtype=torch.uint8), wanted)
    return Case("images.sample_kernel", "write_batch", (images, cuts, *factors_of(transform)), out, wanted)


def factors_of(transform):
    return factors(transform.mean, transform.std, "cpu")


def strided_cases():
    memory = random_bytes(60_000, seed=1)
    images = torch.as_strided(memory, (4, 29, 29, 3), (2600, 87, 3, 1), 7).permute(0, 3, 1, 2)
    starts = torch.tensor([40_001, 3, 17_777])
    for dtype in FLOATS:
        yield f"normalise whole {dtype}", normalised(images, dtype)
        yield f"normalise window {dtype}", normalised(images[:, :, 2:20, 5:26], dtype)
        yield f"normalise gathered {dtype}", gathered_normalised(memory, starts, (29, 29, 3), dtype)
    yield "normalise one pixel", normalised(images[:1, :, :1, :1], torch.float32)
    yield "normalise none", normalised(images[:0], torch.float32)
    yield "normalise 2049 bytes", normalised(random_bytes(1, 1, 683, 3).permute(0, 3, 1, 2), torch.float32)
    yield "gather", gathered(memory, starts, (29, 29, 3))
    yield "gather one channel", gathered(memory, starts, (31, 70, 1))
    yield "gather none", gathered(memory, starts[:0], (29, 29, 3))


SIZES = ((40, 60), (61, 43), (16, 16), (9, 120), (1, 1))


def photographs():
    return [random_bytes(*size, 3, seed=number) for number, size in enumerate(SIZES)]


def drawn(transform, images, *, seed=3):
    numbers = uniforms(seed, 0, np.arange(len(images)), transform.num_numbers).tolist()
    return [transform.cut(*image.shape[:2], mine) for image, mine in zip(images, numbers, strict=True)]


def sample_cases():
    images = photographs()
    for dtype in DTYPES:
        train, validation = ImageNetTrain(16, dtype=dtype), ImageNetValidation(13, resize=17, dtype=dtype)
        yield f"train {dtype}", samples(images, drawn(train, images), train)
        yield f"validation {dtype}", samples(images[:4], drawn(validation, images[:4]), validation)
    exact = ImageNetTrain(12, dtype=torch.uint8)
    place, whole = Crop(3, 5, 12, 12), Crop(0, 0, 12, 12)
    kept = [Cut(place, (12, 12), whole, flip) for flip in (False, True)]
    yield "as it is", samples([images[0], images[0]], kept, exact)
    halved = [Cut(Crop(1, 2, 24, 24), (12, 12), whole, True)]
    yield "halved", samples([images[1]], halved, exact)
    rows = random_bytes(50, 70, 4, seed=9)[:, :, :3]  # a pixel of four bytes
    padded = random_bytes(50, 90, 3, seed=9)[:, 7:70]  # rows with something behind them
    yield "strides", samples([rows, padded], drawn(exact, [rows, padded]), exact)
    own = ImageNetTrain(12, dtype=torch.float32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    yield "own mean", samples(images, drawn(own, images), own)
    large = ImageNetTrain(40, dtype=torch.uint8)  # more values than one program's
    yield "many programs", samples(images[:2], drawn(large, images[:2], seed=4), large)
    yield "no images", samples([], [], exact)


CASES = dict([*strided_cases(), *sample_cases()])


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the kernels made of every case."""
    folder = tmp_path_factory.mktemp("interpreted")
    calls = [(case.module, case.function, (*case.arguments, case.out)) for case in CASES.values()]
    torch.save(calls, folder / "calls")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    words = [sys.executable, str(PROGRAM), str(folder / "calls"), str(folder / "results")]
    done = subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(CASES, torch.load(folder / "results", weights_only=False), strict=True))


def named(*beginnings, dtypes=DTYPES):
    """The cases of these kinds, in these types."""
    told = [str(dtype) for dtype in DTYPES if dtype not in dtypes]
    names = [name for name in CASES if name.startswith(beginnings)]
    return pytest.mark.parametrize("name", [name for name in names if not name.endswith(tuple(told))])


def rounding_of(dtype):
    return {torch.float32: 2.0**-22, torch.float16: 2.0**-11}[dtype]


@named("normalise", dtypes=[torch.float32, torch.float16])
def test_normalised_values_are_torchs_own_rounded_to_their_type(found, name):
    wanted = CASES[name].wanted
    assert found[name].stride() == CASES[name].out.stride()
    torch.testing.assert_close(found[name].double(), wanted.double(), rtol=rounding_of(found[name].dtype), atol=3e-7)


@named("normalise whole", "normalise window", "normalise gathered", "train", "validation", dtypes=[torch.bfloat16])
def test_bfloat16_is_the_float32_without_its_lower_half(found, name):
    exact = found[name.replace("bfloat16", "float32")]
    assert torch.equal(found[name].view(torch.int16), (exact.view(torch.int32) >> 16).to(torch.int16))


@named("gather")
def test_records_are_gathered_byte_by_byte(found, name):
    assert torch.equal(found[name], CASES[name].wanted)


@named(
    "train", "validation", "strides", "own mean", "many programs", dtypes=[torch.float32, torch.float16, torch.uint8]
)
def test_samples_are_torchs_own_but_for_a_level_where_a_half_is_rounded(found, name):
    values, wanted = found[name], CASES[name].wanted.double()
    levels = values.double()
    if values.dtype != torch.uint8:
        scale, shift = (factor.double() for factor in CASES[name].arguments[2:4])
        levels = torch.round((values.double() - shift) / scale)
        torch.testing.assert_close(values.double(), levels * scale + shift, rtol=rounding_of(values.dtype), atol=3e-7)
    away = (levels - wanted).abs()
    assert away.max() <= 1
    assert (away > 0).double().mean() < 0.01


def test_a_piece_that_keeps_its_size_is_copied_and_turned_over(found):
    piece = photographs()[0][3:15, 5:17]
    assert torch.equal(found["as it is"], torch.stack([piece, piece.flip(1)]))


def test_halving_takes_one_three_three_and_one_eighths_within_the_piece(found):
    """Rounded half up; at an edge, where the first is missing, by what is left."""
    rows = np.zeros((12, 24))
    for row in range(12):
        for pixel, weight in zip(range(2 * row - 1, 2 * row + 3), (1, 3, 3, 1), strict=True):
            if 0 <= pixel < 24:
                rows[row, pixel] = weight
    rows /= rows.sum(axis=1, keepdims=True)
    piece = photographs()[1].numpy()[1:25, 2:26].astype(np.float64)
    exact = np.einsum("yi,xj,ijc->yxc", rows, rows, piece)[:, ::-1]
    levels = np.floor(exact + 0.5)
    sure = np.abs(exact - np.round(exact * 2) / 2) > 1e-4  # sevenths of an edge come near a half
    wanted = found["halved"][0].numpy().astype(np.float64)
    np.testing.assert_array_equal(wanted[sure], levels[sure])
    np.testing.assert_array_equal(wanted[1:-1, 1:-1], levels[1:-1, 1:-1])


def test_samples_are_within_two_levels_of_the_cpus_own_road(found):
    case = CASES["train torch.uint8"]
    images, cuts = case.arguments[:2]
    transform = ImageNetTrain(16, dtype=torch.uint8)
    for image, cut, sample in zip(images, cuts, found["train torch.uint8"], strict=True):
        wanted = torch.empty(transform.shape, dtype=torch.uint8)
        transform.write(image.numpy(), cut, wanted, lambda size, dtype: torch.empty(size, dtype=dtype))
        assert (sample.int() - wanted.int()).abs().max() <= 2


def test_both_ways_to_turn_are_among_the_samples():
    assert {cut.flip for cut in CASES["train torch.uint8"].arguments[1]} == {False, True}


WHY = (
    "import iobench.loaders.device_kernels as kernels; print(kernels.road('cuda'), kernels.why_eager('cuda'), sep=': ')"
)


def test_the_interpreter_never_does_a_gpus_work():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", WHY], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "eager: TRITON_INTERPRET is set: Triton would run its kernels on the CPU\n"


def test_without_a_gpu_triton_says_why_it_launches_nothing():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert road("cuda") == "eager"
    assert why_eager("cuda").startswith("Triton cannot launch kernels (it needs a C compiler")


COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from iobench.loaders import triton_kernels as kernels
from iobench.loaders.images import sample_kernel

def compiled(kernel, kinds, constants, arch):
    names = [name for name in kernel.arg_names if name not in constants]
    signature = dict(zip(names, kinds, strict=True)) | dict.fromkeys(constants, "constexpr")
    where = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=where)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32)).asm

for arch in ARCHS:
    for kind in KINDS:
        rounded = {"fp32": "", "bf16": "cvt.rn.bf16", "fp16": "cvt.rn.f16.f32", "u8": ""}[kind]
        for strided in (True, False) if kind != "u8" else ():
            kinds = ("*u8", "*u8" if strided else "*i64", "i32", "i32", "*fp32", "*fp32", "*" + kind, "i32", "i32")
            made = compiled(kernels._normalise, kinds, {"strided": strided, "block": kernels.BLOCK}, arch)
            assert f"sm_{arch}" in made["ptx"] and rounded in made["ptx"]
        kinds = ("*i64", "*fp32", "*fp32", "*" + kind, "i32", "i32", "i32")
        constants = {"bytes_alone": kind == "u8", "block": sample_kernel.BLOCK}
        made = compiled(sample_kernel._samples, kinds, constants, arch)
        assert rounded in made["ptx"] and made["cubin"]
    made = compiled(kernels._gather, ("*u8", "*i64", "*u8", "i32"), {"block": kernels.BLOCK}, arch)
    assert "ld.global" in made["ptx"]
print("all are compiled")
"""


EVERY_KIND = ("fp32", "bf16", "fp16", "u8")


@pytest.mark.parametrize(
    ("archs", "kinds"), [((90,), ("bf16",)), pytest.param((80, 89, 90, 100), EVERY_KIND, marks=pytest.mark.slow)]
)
def test_the_kernels_compile_for_gpus_that_are_not_there(tmp_path, archs, kinds):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    program = COMPILED.replace("ARCHS", str(archs)).replace("KINDS", str(kinds))
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "all are compiled"
