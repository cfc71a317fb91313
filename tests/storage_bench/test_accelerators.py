"""Emulated accelerators: published times, what is scaled and said to be, and the touch of every page."""

import time

import numpy as np
import pytest

from iobench.storage_bench.accelerators import Accelerator, AcceleratorError, resolve_accelerator, touch
from iobench.storage_bench.emulate import WORKLOADS, accelerator_utilisation, demand_bps


def strided(num, height, width, stride, *, fill=0):
    """Images (n, H, W, 3) in memory with `stride` bytes from one to the next, and that memory."""
    memory = np.full(num * stride, fill, dtype=np.uint8)
    images = np.lib.stride_tricks.as_strided(
        memory, shape=(num, height, width, 3), strides=(stride, width * 3, 3, 1), writeable=False
    )
    return images, memory


def test_published_step_times_are_those_of_the_rules():
    # MLPerf Storage v2.0: ResNet-50, batch 400
    h100, a100 = resolve_accelerator("h100"), resolve_accelerator("a100")
    assert (h100.step_time_s, h100.batch_size, h100.scaled) == (0.224, 400, False)
    assert (a100.step_time_s, a100.batch_size, a100.scaled) == (0.435, 400, False)
    assert "MLPerf" in h100.source
    assert WORKLOADS["unet3d"].step_time_s == {"a100": 0.636, "h100": 0.323}
    assert WORKLOADS["cosmoflow"].au_threshold == 0.70


def test_another_batch_is_scaled_per_image_and_labelled_so():
    accelerator = resolve_accelerator("h100", batch_size=100)
    assert accelerator.step_time_s == pytest.approx(0.056)
    assert accelerator.scaled
    assert "scaled" in accelerator.label
    assert "scaled per image to batch 100" in accelerator.source
    assert not resolve_accelerator("h100", batch_size=400).scaled


def test_seconds_hold_for_any_batch_and_are_not_scaled():
    accelerator = resolve_accelerator("0.25", batch_size=64)
    assert (accelerator.step_time_s, accelerator.batch_size, accelerator.scaled) == (0.25, 64, False)
    assert accelerator.source == "given by the user"


def test_every_accelerator_says_that_it_is_emulated():
    for name in ("h100", "a100", "0.1"):
        assert resolve_accelerator(name).emulated
        assert "emulated" in resolve_accelerator(name).label


@pytest.mark.parametrize("name", ["b300", "cpu", "cuda", "", "nan", "inf", "-1", "0", "3600"])
def test_an_accelerator_that_is_not_known_is_a_mistake_of_usage(name):
    with pytest.raises(AcceleratorError) as caught:
        resolve_accelerator(name)
    assert caught.value.exit_status == 2
    assert repr(name) in str(caught.value)


def test_real_devices_are_named_with_the_command_that_trains_on_them():
    with pytest.raises(AcceleratorError, match="iobench train really trains on it"):
        resolve_accelerator("cuda")


@pytest.mark.parametrize(("height", "width", "stride"), [(300, 300, 270_336), (35, 35, 4096), (31, 17, 1791)])
def test_a_touch_reads_one_byte_of_each_4_kib_of_every_image(height, width, stride):
    images, memory = strided(5, height, width, stride)
    size = height * width * 3
    expected = 0
    for image in range(5):
        for offset in range(0, size, 4096):
            memory[image * stride + offset] = 1
            expected += 1
    assert touch(images) == expected == 5 * -(-size // 4096)


def test_a_touch_reads_nothing_between_or_beyond_images():
    images, memory = strided(3, 35, 35, 4096, fill=255)
    for image in range(3):
        memory[image * 4096] = 7
    assert touch(images) == 21


def test_a_touch_reads_one_byte_of_each_4_kib_of_samples_of_unequal_size():
    random = np.random.default_rng(1)
    shapes = [(1,), (4096,), (4097,), (70, 90, 1), (3, 5000)]
    samples = [random.integers(0, 256, shape, np.uint8) for shape in shapes]
    expected = sum(int(content) for sample in samples for content in sample.tobytes()[::4096])
    assert touch(samples) == expected
    fortran = [np.asfortranarray(sample) for sample in samples]  # bytes count in the order in which they lie
    assert touch(fortran) == sum(int(content) for sample in fortran for content in sample.tobytes(order="A")[::4096])
    doubles = [random.random(3000) for _ in range(3)]
    assert touch(doubles) == sum(int(content) for sample in doubles for content in sample.tobytes()[::4096])


def test_a_touch_of_no_image_is_nothing():
    images, _ = strided(1, 35, 35, 4096)
    assert touch(images[:0]) == 0


def test_a_step_lasts_until_its_time_after_receipt_and_does_not_wait_when_that_is_over():
    images, _ = strided(1, 35, 35, 4096)
    accelerator = Accelerator("test", 0.05, 1, False, "test")
    received = time.perf_counter_ns()
    accelerator.step(images, received)
    assert time.perf_counter_ns() - received >= 0.05e9
    slow = Accelerator("test", 3000.0, 1, False, "test")
    slow.step(images, time.perf_counter_ns() - 3_000_000_000_000)  # received 3000 s ago: returns at once


def test_utilisation_and_demand_by_hand():
    # 10 steps of 0.2 s in 2.5 s; 400 images of 270,336 bytes each 0.224 s
    assert accelerator_utilisation(10, 0.2, 2.5) == pytest.approx(0.8)
    assert demand_bps(400, 270_336, 0.224) == pytest.approx(482_742_857, abs=1)


@pytest.mark.parametrize(
    ("name", "one", "two"),
    [
        ("h100", "emulated H100", "emulated H100"),
        ("0.25", "emulated accelerator of 0.25 s/step", "emulated accelerators of 0.25 s/step"),
    ],
)
def test_one_accelerator_is_no_accelerators(name, one, two):
    accelerator = resolve_accelerator(name)
    assert (accelerator.label_for(1), accelerator.label_for(2), accelerator.label_for(None)) == (one, two, two)
