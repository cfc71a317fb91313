"""Which hop limits is told from where threads spend their time; `iobench load` on JPEG shards says it."""

import pytest

from iobench.loaders.images.device_decoders import why_not
from iobench.loaders.images.opening import open_decoder
from iobench.loaders.index import load_index
from iobench.loaders.traced import Recorder
from iobench.storage_bench.generate import GenerateJpeg, generate
from iobench.storage_bench.image_hops import ImageHops
from iobench.storage_bench.load import measure_load
from iobench.storage_bench.load_setup import LoadConfig


def hops(read, decode, augment, *, waited=0.9, threads=2):
    found = {"read": read, "decode": decode, "augment": augment}
    waiting = {"read_queue": 0.25, "decode_queue": 2.5, "ready": 0.0}
    return ImageHops(found, waiting, threads, waited, decoder="simplejpeg")


@pytest.mark.parametrize(
    ("found", "limit", "words"),
    [
        (
            hops(0.1, 1.4, 0.4),
            "decode",
            "decode-bound, not storage-bound: of 2 threads there are on the average 0.10 read",
        ),
        (hops(1.6, 0.2, 0.1), "read", "storage-bound, not decode-bound"),
        (hops(0.1, 0.6, 1.2), "augment", "augment-bound"),
        (hops(0.1, 1.4, 0.4, waited=0.02), "loop", "bound by the loop behind the loader"),
        (hops(0.1, 0.4, 0.2), "none", "threads have time left"),
    ],
)
def test_the_hop_that_limits_is_named(found, limit, words):
    assert found.limit == limit
    assert words in found.sentence


def test_the_batches_that_wait_before_each_hop_are_told():
    told = "of the batches ahead wait 0.2 to be read, 2.5 to be decoded, 0.0 for the loop"
    assert told in hops(0.1, 1.4, 0.4).sentence


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jpeg") / "data"
    generate(folder, GenerateJpeg(num_images=24, images_per_shard=12))
    return folder


@pytest.mark.parametrize("transform", ["train", "validation", "none"])
def test_a_load_of_jpegs_tells_its_hops(folder, transform):
    settings = {
        "batch_size": 8,
        "seconds": 0.05,
        "blocks": 2,
        "num_workers": 1,
        "transform": transform,
        "image_size": 32,
    }
    result = measure_load(folder, LoadConfig.model_validate(settings))
    assert result.images["decoder"].startswith(f"{open_decoder('auto')[0].name} ")
    assert result.images["limit"] in ("decode", "loop", "read", "augment", "none")
    metrics = result.point.metrics
    busy = [metrics[f"{hop}_threads"].value for hop in ("read", "decode", "augment")]
    assert all(value > 0 for value in busy)
    assert sum(busy) <= 1.05  # of one thread
    assert metrics["transfer_threads"].value is None
    assert metrics["transfer_threads"].reason
    lying = [metrics[f"{queue}_batches"].value for queue in ("read_queue", "decode_queue", "ready")]
    assert all(value >= 0 for value in lying)
    assert 0 < sum(lying) <= 2 * 1.1  # no more than are read ahead
    assert metrics["augment_queue_batches"].value is None


@pytest.mark.parametrize("decoder", ["nvimgcodec", "dali"])
def test_a_load_of_jpegs_that_the_device_decodes_tells_its_hops(folder, device, decoder):
    if why_not(decoder, "cpu"):
        pytest.skip(f"{decoder} is not installed (`make setup-test` installs it)")
    settings = {"batch_size": 8, "seconds": 0.05, "blocks": 2, "num_workers": 1, "image_size": 32, "decoder": decoder}
    result = measure_load(folder, LoadConfig.model_validate(settings), device=device)
    assert result.images["decoder"].startswith(f"{decoder} ")
    assert "augment" not in result.images["sentence"]
    metrics = result.point.metrics
    assert metrics["decode_threads"].value > 0
    assert metrics["augment_threads"].value is None
    assert metrics["augment_threads"].reason == "the GPU makes samples of what it has decoded"
    assert result.chosen["placed"]["reason"] == "batches go to fake:0, which is near all cores"
    assert not [text for text in result.warnings if "left to the decoder" in text]
    here = measure_load(folder, LoadConfig.model_validate(settings))
    assert here.images["decoder"].startswith(f"{decoder} ")
    assert here.images["samples_by"] == "reader threads"


@pytest.mark.parametrize("decoder", ["nvimgcodec", "dali"])
def test_a_trace_shows_batches_decoded_for_the_device_as_a_profiler_does(folder, device, decoder):
    if why_not(decoder, "cpu"):
        pytest.skip(f"{decoder} is not installed (`make setup-test` installs it)")
    recorder = Recorder()
    settings = {"batch_size": 8, "seconds": 0.05, "blocks": 2, "num_workers": 1, "image_size": 32, "decoder": decoder}
    measure_load(folder, LoadConfig.model_validate(settings), device=device, recorder=recorder)
    noted = [span.what for span in recorder.spans if span.thread.startswith("iobench-reader-")]
    shown = [name for thread, name in device.ranges if thread.startswith("iobench-reader-")]
    assert 0 < noted.count("decode") <= shown.count("decode")  # the probe's were forgotten
    assert shown.count("decode") >= shown.count("batch to device") > 0


@pytest.mark.parametrize(
    ("decoder", "to_gpu", "reason"),
    [
        ("auto", False, "batches stay in host memory"),
        ("auto", True, "copies go in a stream of the GPU, beside all threads"),
        ("nvimgcodec", True, "the decoder takes what it decodes to the GPU"),
    ],
)
def test_why_no_thread_is_in_transfer_is_told(folder, device, decoder, to_gpu, reason):
    if decoder != "auto" and why_not(decoder, "cpu"):
        pytest.skip(f"{decoder} is not installed (`make setup-test` installs it)")
    settings = {"batch_size": 8, "seconds": 0.05, "blocks": 2, "num_workers": 1, "image_size": 32, "decoder": decoder}
    result = measure_load(folder, LoadConfig.model_validate(settings), device=device if to_gpu else None)
    assert result.point.metrics["transfer_threads"].value is None
    assert result.point.metrics["transfer_threads"].reason == reason


def test_without_a_decoder_samples_are_bytes(folder):
    settings = {"batch_size": 8, "seconds": 0.05, "blocks": 2, "num_workers": 1, "decoder": "none"}
    result = measure_load(folder, LoadConfig.model_validate(settings))
    assert result.images is None
    assert load_index(sorted(folder.glob("*.tfrecord"))).layout.codec == "jpeg"
