"""Work of networks against published and hand-made counts, and where a measured rate stands among roofs."""

import pytest

from iobench.results.record import Point
from iobench.results.stats import summarise
from iobench.training_bench.roofline import Roof, no_roof, roofline_lines, roofline_points, standing, training_work


def test_operations_of_the_forward_pass_are_twice_the_published_multiply_adds():
    # torchvision's documentation: 1.814 (ResNet-18), 4.089 (ResNet-50), 0.714 (AlexNet) GFLOPS, a multiply-add as one
    for name, published in (("resnet18", 1.814e9), ("resnet50", 4.089e9), ("alexnet", 0.714e9)):
        work = training_work(name, rows=224, columns=224, training=False)
        assert work.flops == pytest.approx(2 * published, rel=0.002)


def test_training_takes_about_three_forward_passes():
    # each layer's backward pass is two products of its size, but for the images, which need no gradient
    forward = training_work("vgg16", rows=224, columns=224, training=False)
    whole = training_work("vgg16", rows=224, columns=224)
    first_layer = 2 * 64 * 3 * 9 * 224 * 224
    assert whole.flops == pytest.approx(3 * forward.flops - first_layer, rel=1e-6)
    assert whole.memory_bytes > 2 * forward.memory_bytes


def test_smaller_images_take_less_in_proportion_to_their_area():
    large, small = (training_work("resnet18", rows=side, columns=side, training=False) for side in (128, 64))
    head = 2 * 512 * 1000
    assert large.flops - head == pytest.approx(4 * (small.flops - head))


ROOFS = (
    Roof("compute", "GFLOP/s", (200.0, 220.0), 2.0),  # 105 images/s
    Roof("memory_bandwidth", "GB/s", (30.0, 30.0), 0.01),  # 3000
    no_roof("host_to_device", "GB/s", "no GPU"),
    Roof("storage", "images/s", (50.0, 70.0)),  # 60
)


def test_a_rate_stands_under_the_lowest_roof_and_the_next_one_says_what_lifting_it_brings():
    where = standing(ROOFS, 45.0)
    assert (where.lowest, where.next_roof) == ("storage", "compute")
    assert where.reached == pytest.approx(0.75)
    assert where.distance == pytest.approx(105 / 60)
    assert "75% of the lowest roof, storage; the next, compute, is 1.75 times" in where.text


def test_without_roofs_a_rate_stands_nowhere():
    assert standing([no_roof("storage", "images/s", "synthetic")], 45.0) is None
    assert "no other roof" in standing([ROOFS[3]], 45.0).text


def test_each_roof_is_a_point_with_the_share_of_it_that_was_reached():
    measured = Point(params={}, metrics={"images_per_s": summarise([40.0, 50.0], unit="images/s")})
    *points, last = roofline_points(ROOFS, measured, about={"model": "resnet18"})
    found = {point.params["roof"]: point for point in points}
    assert all(point.params["stage"] == "roofline" for point in points)
    assert found["compute"].metrics["images_per_s"].samples == pytest.approx([100, 110])
    assert found["compute"].metrics["roof_rate"].value == pytest.approx(210)
    assert found["compute"].metrics["roof_reached_fraction"].value == pytest.approx(45 / 105)
    assert found["compute"].flags == ("next",)
    assert found["storage"].flags == ("lowest",)
    assert found["memory_bandwidth"].flags == ()
    assert found["host_to_device"].metrics["images_per_s"].reason == "no GPU"
    assert (last.params["roof"], last.metrics["images_per_s"]) == ("measured", measured.metrics["images_per_s"])
    assert last.metrics["roof_reached_fraction"].value == pytest.approx(45 / 60)
    assert last.metrics["next_roof_ratio"].value == pytest.approx(105 / 60)
    lines = roofline_lines(points).splitlines()
    assert [line.split()[1] for line in lines] == ["storage", "compute", "memory", "host"]
