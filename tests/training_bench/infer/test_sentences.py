"""What inference says of itself: every network and source, and no more than is known of a latency bound."""

from iobench.results.record import Metric, Point, not_measured
from iobench.storage_bench.decoded import Decoded, DecodedBy
from iobench.storage_bench.image_hops import hops_of
from iobench.training_bench.images import ImagesTold
from iobench.training_bench.infer.plan import InferConfig
from iobench.training_bench.infer.sentences import infer_sentences

RAW = ImagesTold(None, 2)
JPEGS = ImagesTold(
    Decoded(requested="auto", by=(DecodedBy(decoder="simplejpeg 1.9.0", reason="why"),), num_images=8), 2
)


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
    assert infer_sentences(config, points, RAW) == [
        f"ResNet-18, 1 x CPU, batch 8: direct 10.0 images/s {waiting}, staged 30.0 images/s {waiting}.",
        f"ResNet-50, 1 x CPU, batch 16: direct 5.0 images/s {waiting}, staged no batch in time.",
    ]


def test_a_search_that_was_not_over_does_not_say_that_no_rate_keeps_the_bound():
    config = InferConfig(models=("resnet18",), batch_sizes=(8,), latency_bound_s=0.05)
    open_ = answered("resnet18", "direct", 8, 10.0, within=not_measured("images/s", "not over within 15 s"))
    known = answered("resnet18", "direct", 8, 10.0, within=Metric(value=8.5, unit="images/s"))
    assert infer_sentences(config, [open_], RAW)[1] == (
        "direct: no rate is known to keep p99 under 0.05 s: not over within 15 s."
    )
    assert infer_sentences(config, [known], RAW)[1] == "direct: up to 8.5 images/s arrive with p99 under 0.05 s."


def test_what_limits_encoded_images_is_told_of_each_source():
    spent = {"read": 1.0, "decode": 15.0, "augment": 3.0, "read_queue": 0.0, "decode_queue": 9.0, "ready": 0.0}
    point = answered("resnet18", "direct", 8, 10.0)
    hops = hops_of(spent, JPEGS.decoded, num_threads=2, wall_s=10.0, waited=0.25)
    found = point.model_copy(update={"metrics": point.metrics | hops.metrics()})
    assert infer_sentences(InferConfig(models=("resnet18",), batch_sizes=(8,)), [found], JPEGS)[1] == (
        "direct: decode-bound, not storage-bound: of 2 threads there are on the average 0.10 read, 1.50 decode, 0.30 "
        "augment; of the batches ahead wait 0.0 to be read, 0.9 to be decoded, 0.0 for the loop; the loop waits 25% of "
        "its time (simplejpeg 1.9.0)."
    )
