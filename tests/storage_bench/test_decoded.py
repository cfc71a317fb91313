"""What is recorded of encoded images: who decoded them, what was left out, and where ranks differ."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import features

from iobench.loaders.hand_out import MAX_NAMED, Tally
from iobench.loaders.images.decoders import RawPixels
from iobench.loaders.images.decoding import Decoding, SkippedImage
from iobench.loaders.images.opening import open_decoder
from iobench.loaders.images.regions import why_missing
from iobench.storage_bench.decoded import MAX_TOLD, Decoded, DecodedBy, decoded_of, together
from iobench.storage_bench.decoder_names import with_version
from iobench.storage_bench.generate import GenerateJpeg, generate
from iobench.storage_bench.load import measure_load
from iobench.storage_bench.load_setup import LoadConfig

TURBO = DecodedBy(decoder="libjpeg-turbo 3.2.0", reason="auto: no more pixels than needed")
SIMPLE = DecodedBy(decoder="simplejpeg 1.9.0", reason="auto: the compiled part is not there")


def decoded(by=TURBO, *, rank=0, host="a", **counts):
    return Decoded(requested="auto", by=(by,), **counts).at(rank, host)


def broken(number):
    return f"/data/x.tfrecord: record {number} (byte {number * 100}): its image cannot be decoded: it has no bytes"


# --- one process -------------------------------------------------------------------------------------------------


def test_a_process_tells_who_decoded_and_what_was_left_out():
    tally = Tally(num_records=20, num_skipped=3, num_by_host=2, skipped=[SkippedImage(4, broken(4))])
    decoding = Decoding(*open_decoder("simplejpeg"), None, "skip")
    told = decoded_of(decoding, tally, requested="simplejpeg").described()
    assert told == {
        "decoder_requested": "simplejpeg",
        "decoder": f"simplejpeg {version('simplejpeg')}",
        "decoder_reason": "asked for",
        "samples_by": "reader threads",
        "num_images": 20,
        "num_by_host": 2,
        "num_skipped": 3,
        "skipped": [broken(4)],
    }


def test_nothing_is_told_of_images_that_are_not_decoded():
    read = Tally(num_records=20)
    assert decoded_of(None, read, requested="auto") is None
    assert decoded_of(Decoding(RawPixels(), "stored as they are", None, "raise"), read, requested="auto") is None
    assert decoded_of(Decoding(*open_decoder("simplejpeg"), None, "raise"), Tally(), requested="auto") is None


@pytest.mark.skipif(bool(why_missing()), reason=why_missing() or "")
def test_libjpeg_turbo_is_told_with_the_version_that_is_in_this_process():
    open_decoder("libjpeg-turbo")
    assert features.version("libjpeg_turbo") in with_version("libjpeg-turbo").removeprefix("libjpeg-turbo ").split(
        " or "
    )


def test_names_that_have_a_version_stay_as_they_are():
    assert with_version("dali 1.52.0 (CPU)") == "dali 1.52.0 (CPU)"


def test_images_that_a_library_could_not_decode_are_told():
    by = DecodedBy(decoder="dali 1.52.0 (mixed)", reason="asked for", samples_by="one Triton kernel a batch")
    assert Decoded(requested="dali", by=(by,), num_images=20, num_by_host=3).warnings() == [
        "3 of 20 images were left to the decoder of reader threads: dali 1.52.0 (mixed) cannot"
    ]


def test_the_reason_of_a_decoder_shows_no_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    decoder, _ = open_decoder("simplejpeg")
    told = decoded_of(
        Decoding(decoder, f"auto: no part in {tmp_path}/x.so", None, "raise"), Tally(num_records=1), requested="auto"
    )
    assert told.reason == "auto: no part in ~/x.so"


# --- ranks -------------------------------------------------------------------------------------------------------


def test_what_ranks_left_out_is_added_up_and_each_image_named_once():
    parts = [
        decoded(rank=0, num_images=100, num_skipped=2, skipped=(broken(1),)),
        decoded(rank=1, num_images=60, num_skipped=1, num_by_host=4, skipped=(broken(7), broken(1))),
        None,
    ]
    told = together(parts)
    assert (told.num_images, told.num_skipped, told.num_by_host) == (160, 3, 4)
    assert told.skipped == (broken(1), broken(7))
    assert [(each.ranks, each.hosts) for each in told.by] == [((0, 1), ("a",))]
    assert told.warnings()[0].startswith("4 of 160 images")
    assert told.warnings()[1:] == ["3 images were left out, each in every epoch anew", broken(1), broken(7)]


def test_nobody_who_decoded_is_nothing():
    assert together([None, None]) is None
    assert together([]) is None


def test_at_most_a_thousand_are_named_and_twenty_are_told():
    parts = [
        decoded(rank=rank, num_skipped=800, skipped=tuple(map(broken, range(rank * 800, rank * 800 + 800))))
        for rank in (0, 1)
    ]
    told = together(parts)
    assert told.num_skipped == 1600
    assert len(told.skipped) == MAX_NAMED
    assert len(told.warnings()) == 1 + MAX_TOLD + 1
    assert told.warnings()[-1] == f"... and {MAX_NAMED - MAX_TOLD} more"


def test_parts_in_any_order_and_grouping_are_the_same():
    parts = [decoded(TURBO, rank=0, num_images=1), decoded(SIMPLE, rank=1, num_images=2), decoded(TURBO, rank=2)]
    left = together([together(parts[:2]), parts[2]])
    right = together([parts[0], together(parts[1:])])
    assert left == right
    assert [each.ranks for each in left.by] == [(0, 2), (1,)]


def test_ranks_that_decode_differently_are_named():
    parts = [decoded(TURBO, rank=rank, host="a") for rank in (0, 1, 2)] + [decoded(SIMPLE, rank=3, host="b")]
    told = together(parts)
    assert told.decoder == "libjpeg-turbo 3.2.0 (ranks 0-2), simplejpeg 1.9.0 (rank 3)"
    assert told.reason.endswith("; rank 3: auto: the compiled part is not there")
    (warning,) = told.warnings()
    assert warning == (
        "ranks did not decode alike, and their rates are not of one loader: ranks 0-2 on a: libjpeg-turbo 3.2.0 (auto: "
        "no more pixels than needed); rank 3 on b: simplejpeg 1.9.0 (auto: the compiled part is not there)"
    )
    assert [each["ranks"] for each in told.described()["ranks_differ"]] == ["0-2", "3"]


def test_ranks_that_say_why_in_other_words_decode_alike():
    elsewhere = SIMPLE.model_copy(update={"reason": "auto: the compiled part is not there (/opt/x)"})
    told = together([decoded(SIMPLE, rank=0), decoded(elsewhere, rank=1, host="b")])
    assert told.decoder == "simplejpeg 1.9.0"
    assert told.warnings() == []
    assert [each["hosts"] for each in told.described()["ranks_differ"]] == [["a"], ["b"]]


def test_what_ranks_say_goes_through_json():
    told = decoded(SIMPLE, rank=3, num_skipped=1, skipped=(broken(1),))
    assert Decoded.model_validate(json.loads(json.dumps(told.model_dump(mode="json")))) == told


def test_images_of_a_copy_are_named_as_those_they_were_copied_from():
    there = broken(1)
    copied = there.replace("/data/", "/scratch/staged-1/")
    told = together([decoded(num_skipped=1, skipped=(there,)), decoded(num_skipped=1, skipped=(copied,))])
    named = told.named({Path("/scratch/staged-1"): Path("/data")})
    assert (named.num_skipped, named.skipped) == (2, (there,))
    assert told.named({Path("/data/x.tfrecord"): Path("x.tfrecord")}).skipped == (there.removeprefix("/data/"), copied)
    assert told.named({Path("/dat"): Path("x"), Path("/data/x"): Path("y")}).skipped == (there, copied)


# --- load --------------------------------------------------------------------------------------------------------


def test_a_load_names_each_image_that_it_left_out(tmp_path):
    folder = tmp_path / "data"
    generate(folder, GenerateJpeg(num_images=24, images_per_shard=12))
    shard = sorted(folder.glob("*.tfrecord"))[0]
    data = bytearray(shard.read_bytes())
    start = data.index(b"\xff\xd8\xff", 100_000 + data.index(b"\xff\xd8\xff"))  # of an image that is not the first
    data[start : start + 4] = b"none"
    shard.write_bytes(data)
    settings = {"batch_size": 8, "seconds": 0.05, "blocks": 2, "num_workers": 1, "image_size": 32, "on_error": "skip"}
    result = measure_load(folder, LoadConfig.model_validate(settings))
    (name,) = result.images["skipped"]
    assert name.startswith(f"{shard}: record ")
    assert "its image cannot be decoded" in name
    assert result.images["num_skipped"] >= 1
    assert result.images["num_images"] >= 24
    assert name in result.warnings
