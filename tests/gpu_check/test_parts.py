"""Every part's CPU twin, in this process: the lines that run on a GPU, on small data."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from iobench.gpu_check.machine import what_is_missing
from iobench.gpu_check.part import Bench, PartSkippedError, parts_named
from iobench.gpu_check.parts import PARTS, run_of
from iobench.gpu_check.parts.storage import extra_of
from iobench.gpu_check.parts.tests import marked_files
from iobench.storage_bench.generate import GenerateJpeg, generate


@pytest.fixture(scope="session")
def jpeg_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jpeg")
    generate(folder, GenerateJpeg(num_images=8, images_per_shard=4, seed=5))
    return folder


@pytest.fixture(autouse=True)
def _one_thread():
    """As in a part's own process: with tensors this small threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def bench(page_set, jpeg_folder, tmp_path):
    return Bench("cpu", page_set.folder, jpeg_folder, tmp_path, 0.2, 2)


def found_by(name, bench):
    (part,) = parts_named([name], PARTS)
    return list(run_of(part)(bench))


def test_the_part_of_copies_has_a_rate_for_each_size_and_kind_of_memory(bench):
    points = found_by("copies", bench)[-1].points
    assert {(point.params["memory"], point.params["block_bytes"]) for point in points} == {
        (memory, size) for memory in ("pinned", "pageable") for size in (64 << 10, 1 << 20)
    }
    assert all(point.metrics["copy_gbps"].value > 0 for point in points)


def test_the_part_of_kernels_checks_the_numbers_before_it_tells_a_rate(bench):
    found = found_by("kernels", bench)[-1]
    assert found.sentence.startswith("numbers as on the CPU")
    kernels = {point.params["kernel"]: point for point in found.points}
    assert list(kernels) == ["normalise", "gather_normalised", "gather", "eager", "samples", "samples_eager"]
    assert {point.params["way"] for point in found.points} == {"eager"}  # there is no GPU, and nothing is interpreted
    assert kernels["samples"].metrics["images_per_s"].value > 0
    assert kernels["samples"].metrics["over_eager"].n == kernels["samples"].metrics["images_per_s"].n


def test_the_part_of_storage_holds_our_loader_against_the_bare_loop(bench):
    bare, ours = found_by("storage", bench)[-1].points
    assert bare.params["road"] == "bare"
    assert "of_bare_loop" not in bare.metrics
    assert ours.metrics["of_bare_loop"].value > 0
    assert ours.metrics["extra_per_batch_s"].n == ours.metrics["of_bare_loop"].n
    assert ours.read_path.delivered_bytes > 0
    assert ours.read_path.observed_route in ("host", "unknown")


def test_what_a_batch_costs_beyond_the_bare_loop_is_the_difference_of_their_times():
    """Batches of 20 MB: 4 ms at 5 GB/s, 2 ms at 10; and 5 ms at 4 GB/s, 4 ms at 5."""
    extra = extra_of([5e9, 4e9], [10e9, 5e9], 20_000_000)
    assert extra.samples == pytest.approx([0.002, 0.001])


def test_past_the_page_cache_the_counters_show_this_engines_reads_alone(bench, direct_io):
    _, ours = found_by("direct", bench)[-1].points
    path = ours.read_path
    if path.counter_class != "exact":
        pytest.skip(f"no exact counter sees this file system ({path.route_evidence})")
    assert path.device_bytes >= 0.98 * path.delivered_bytes


def test_kvikio_without_a_driver_is_skipped_with_its_reason(bench):
    if not what_is_missing():
        pytest.skip("there is a GPU")
    if importlib.util.find_spec("kvikio") is None:
        pytest.skip("kvikio is not installed (`make setup-test` installs it)")
    with pytest.raises(PartSkippedError, match=r"kvikio: .*libcuda"):
        found_by("kvikio", bench)


def test_the_meter_sees_what_was_injected(bench):
    (point,) = found_by("stall", bench)[-1].points
    assert point.metrics["meter_error"].value < 0.5
    assert point.metrics["data_wait_s"].value >= point.params["delay_s"] * 0.99  # a sleep is never shorter


def test_each_step_of_a_part_holds_all_that_was_found_until_then(bench):
    counts = [found.points[0].metrics["copy_gbps"].n for found in found_by("copies", bench)]
    assert counts == sorted(counts)
    assert counts[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["peers", "jpeg"])
def test_the_parts_that_compare_have_a_ratio_for_each_peer(name, bench):
    points = {point.params["road"]: point for point in found_by(name, bench)[-1].points}
    assert all(point.metrics["images_per_s"].value > 0 for point in points.values())
    ratios = {road for road, point in points.items() if "images_per_s_ratio" in point.metrics}
    assert ratios == points.keys() - {"iobench", "nvimgcodec"} >= {"torch"}


@pytest.mark.slow
def test_training_tells_what_each_source_adds_by_both_methods(bench):
    points = {point.params["source"]: point for point in found_by("train", bench)[-1].points}
    assert list(points) == ["synthetic", "host", "warm", "cold"]
    for name in ("host", "warm", "cold"):
        metrics = points[name].metrics
        steps, least = metrics["step_time_s"].samples, points["synthetic"].metrics["step_time_s"].samples
        pairs = [(step - floor) / step for step, floor in zip(steps, least, strict=True)]
        assert metrics["hop_cost_fraction"].samples == pytest.approx(pairs)
        apart = metrics["hop_cost_fraction"].value - metrics["data_stall_fraction"].value
        assert metrics["stall_disagreement"].value == pytest.approx(abs(apart))
    assert all(point.metrics["joules_per_image"].unit == "J/image" for point in points.values())


@pytest.mark.slow
def test_inference_comes_from_storage_and_beside_it_without(bench):
    points = found_by("infer", bench)[-1].points
    assert {point.params["source"] for point in points} == {"direct", "synthetic"}


def test_the_files_with_tests_for_a_gpu_are_found():
    names = {file.name for file in marked_files(Path(__file__).parents[1])}
    assert "test_device_kernels.py" in names
    assert "test_budget.py" not in names


def test_parts_have_names_of_their_own_and_all_their_modules_are_there():
    assert len({part.name for part in PARTS}) == len(PARTS)
    assert all(0 < part.least_s < part.seconds for part in PARTS)
    assert json.dumps([part.title for part in PARTS])
    assert all(callable(run_of(part)) for part in PARTS)
