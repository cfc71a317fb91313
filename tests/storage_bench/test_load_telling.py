"""What `iobench load` says: a sentence on what was handed over, and what was asked for in vain."""

import pytest

from iobench.loaders.index import load_index
from iobench.results.record import Metric, Point
from iobench.storage_bench.generate import GenerateJpeg, generate
from iobench.storage_bench.load_setup import LoadConfig, asked_in_vain
from iobench.storage_bench.load_telling import sentence_of


@pytest.mark.parametrize(
    ("flags", "ends"), [((), "1 reader thread."), (("noisy",), "blocks differ widely: take longer ones (--seconds).")]
)
def test_what_is_handed_over_is_a_sentence_with_its_interval(flags, ends):
    metrics = {
        "images_per_s": Metric(value=2000.0, unit="images/s", ci95=(1900.0, 2100.0), n=8),
        "read_gbps": Metric(value=0.5, unit="GB/s", ci95=(0.48, 0.52), n=8),
    }
    params = {"stage": "load", "batch_size": 64, "num_workers": 1, "page_cache": "cold"}
    said = sentence_of(Point(params=params, metrics=metrics, flags=flags))
    assert said.startswith(
        "The loader hands over 2,000 images/s (95 %: 1,900 to 2,100), 500 MB/s of what is stored, cold"
    )
    assert said.endswith(ends)


def test_settings_of_encoded_images_that_were_given_for_raw_ones_are_told(page_set, tmp_path):
    raw = load_index(page_set.shards)
    (told,) = asked_in_vain(LoadConfig(transform="train"), raw)
    assert told.startswith("--transform had no effect: these are no encoded images")
    assert asked_in_vain(LoadConfig(transform="none", decoder="none"), raw) == []
    assert asked_in_vain(LoadConfig(), raw) == []
    generate(tmp_path / "jpegs", GenerateJpeg(num_images=4, mean_bytes=20_000))
    jpegs = load_index(sorted((tmp_path / "jpegs").glob("*.tfrecord")))
    assert asked_in_vain(LoadConfig(transform="train", decoder="simplejpeg"), jpegs) == []
