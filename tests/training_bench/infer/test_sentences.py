"""What inference says of itself: every network and source, and no more than is known of a latency bound."""

from iobench.results.record import Metric, Point, not_measured
from iobench.training_bench.infer.plan import InferConfig
from iobench.training_bench.infer.sentences import infer_sentences


def answered(model, source, batch, rate, *, within=None):
    params = {"model": model, "source": source, "batch_size": batch, "num_ranks": 1, "accelerator": "cpu"}
    metrics = {
        "images_per_s": not_measured("images/s", "no batch") if rate is None else Metric(value=rate, unit="images/s"),
        "data_stall_fraction": Metric(value=0.25, unit="fraction"),
    }
    if within is not None:
        metrics["rate_within_bound_images_per_s"] = within
    return Point(params={**params, "emulated": False}, metrics=metrics)


def test_each_network_is_told_at_its_fastest_batch_with_every_source():
    config = InferConfig(models=("resnet18", "resnet50"), sources=("direct", "staged"), batch_sizes=(8, 16))
    points = [
        answered("resnet18", "direct", 8, 10.0),
        answered("resnet18", "staged", 8, 30.0),
        answered("resnet18", "direct", 16, 20.0),
        answered("resnet50", "direct", 16, 5.0),
        answered("resnet50", "staged", 16, None),
    ]
    waiting = "(25.0% of the time waiting for data)"
    assert infer_sentences(config, points) == [
        f"ResNet-18, 1 x CPU, batch 8: direct 10.0 images/s {waiting}, staged 30.0 images/s {waiting}.",
        f"ResNet-50, 1 x CPU, batch 16: direct 5.0 images/s {waiting}, staged no batch in time.",
    ]


def test_a_search_that_was_not_over_does_not_say_that_no_rate_keeps_the_bound():
    config = InferConfig(models=("resnet18",), batch_sizes=(8,), latency_bound_s=0.05)
    open_ = answered("resnet18", "direct", 8, 10.0, within=not_measured("images/s", "not over within 15 s"))
    known = answered("resnet18", "direct", 8, 10.0, within=Metric(value=8.5, unit="images/s"))
    assert infer_sentences(config, [open_])[1] == (
        "direct: no rate is known to keep p99 under 0.05 s: not over within 15 s."
    )
    assert infer_sentences(config, [known])[1] == "direct: up to 8.5 images/s arrive with p99 under 0.05 s."
