"""Encoded images under ranks: every command records who decoded them, what was left out, and which hop limits."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from iobench.results.record import Metric, Point
from iobench.storage_bench.decoded import Decoded, DecodedBy
from iobench.storage_bench.encoded import EncodedImages
from iobench.storage_bench.image_hops import hops_of
from iobench.storage_bench.launching.ranks import SingleRank
from iobench.training_bench.command import run_train
from iobench.training_bench.images import ImagesTold, added_up, as_json, hop_metrics, told_of_images, with_images
from iobench.training_bench.infer.plan import InferConfig
from iobench.training_bench.infer.run import run_infer
from iobench.training_bench.infer.setup import InferRun
from iobench.training_bench.loop import main
from iobench.training_bench.outcome import Outcome
from iobench.training_bench.plan import Block, RankPlan
from iobench.training_bench.real.asked import RealRun
from iobench.training_bench.real.hop_run import run_real_hops
from iobench.training_bench.real.plan import RealConfig
from iobench.training_bench.real.run import run_real
from iobench.training_bench.scaling.grid import ScaleConfig, run_grid
from iobench.training_bench.scaling.journal import GridJournal, Trial
from iobench.training_bench.scaling.points import grid_outcome
from iobench.training_bench.train_run import TrainConfig

SIZE, BROKEN = 32, "class1/03.jpg"
SPENT = {"read": 1.0, "decode": 15.0, "augment": 3.0, "read_queue": 0.0, "decode_queue": 9.0, "ready": 1.0}
SIMPLE = DecodedBy(decoder="simplejpeg 1.9.0", reason="asked for")
LEFT_OUT = "/data/x.tfrecord: record 3 (byte 300): its image cannot be decoded: it has no bytes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """20 JPEGs in a folder tree, one of them cut off in its middle."""
    folder = tmp_path_factory.mktemp("images") / "data"
    random = np.random.default_rng(6)
    for number in range(20):
        path = folder / f"class{number % 2}" / f"{number // 2:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (70 + number, 100 - number, 3), np.uint8)).save(path)
    path = folder / BROKEN
    path.write_bytes(path.read_bytes()[:2000])
    return folder


@pytest.fixture(scope="module")
def tar(folder, tmp_path_factory):
    """The same images in a tar, of which copies can be made."""
    place = tmp_path_factory.mktemp("tar") / "data"
    place.mkdir()
    with tarfile.open(place / "x.tar", "w", format=tarfile.USTAR_FORMAT) as file:
        for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
            for name, data in ((f"{number:02}.jpg", path.read_bytes()), (f"{number:02}.cls", b"1")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
    return place


def told(**counts):
    return ImagesTold(Decoded(requested="simplejpeg", by=(SIMPLE,), **{"num_images": 40, **counts}), 2)


def point(*, waited=0.5, ranks=1, hops=True):
    metrics = {"data_stall_fraction": Metric(value=waited, unit="fraction")}
    found = hops_of(SPENT, told().decoded, num_threads=2, wall_s=10.0, waited=waited).metrics() if hops else {}
    return Point(params={"num_ranks": ranks}, metrics=metrics | found)


# --- one place for all commands ----------------------------------------------------------------------------------


def test_what_ranks_say_becomes_one_record_and_the_warnings():
    results = [
        {"rank": 0, "host": "a", "images": as_json([told(num_skipped=2, skipped=(LEFT_OUT,)).decoded])},
        {"rank": 1, "host": "a", "images": None},
        {"rank": 2, "host": "b", "images": as_json([told().decoded, None])},
    ]
    found = told_of_images(results, num_threads=2)
    (by,) = found.decoded.by
    assert (by.ranks, by.hosts) == ((0, 2), ("a", "b"))
    assert found.warnings == (
        "2 images were left out, each in every epoch anew",
        LEFT_OUT,
        "rates are of whole batches, images that were left out (2.50%) included",
    )
    images = found.workload(point())["images"]
    assert images.items() >= {"decoder_requested": "simplejpeg", "num_skipped": 2, "limit": "decode"}.items()


def test_an_outcome_without_encoded_images_stays_as_it_is():
    outcome = Outcome([point()], point(), {"model": "x"}, ("w",), (), {}, "It ran.")
    assert with_images(outcome, told_of_images([{"rank": 0, "host": "a", "images": None}], num_threads=2)) == outcome


def test_an_outcome_says_which_hop_limits_of_each_rank():
    outcome = Outcome([], point(ranks=2), {"model": "x"}, ("w",), (), {}, "It ran.")
    found = with_images(outcome, told())
    first, second = found.sentence.splitlines()
    assert first == "It ran."
    assert second == (
        "decode-bound, not storage-bound: of 2 threads of each rank there are on the average 0.10 read, 1.50 decode, "
        "0.30 augment; of the batches ahead wait 0.0 to be read, 0.9 to be decoded, 0.1 for the loop; the loop waits "
        "50% of its time (simplejpeg 1.9.0)."
    )
    assert found.workload["images"]["sentence"] == second
    assert found.warnings == ("w",)


def test_hops_that_were_not_measured_are_not_told():
    outcome = Outcome([], point(hops=False), {}, (), (), {}, "It ran.")
    found = with_images(outcome, told())
    assert found.sentence == "It ran."
    assert "limit" not in found.workload["images"]
    never = Metric(value=None, unit="fraction", reason="no step")
    assert hop_metrics(SPENT, told(), wall_s=10.0, waited=never, to_gpu=False) == {}
    assert hop_metrics({}, told(), wall_s=10.0, waited=Metric(value=0.5, unit="fraction"), to_gpu=False) == {}


def test_seconds_by_hop_add_up():
    assert added_up([{"read": 1.0}, {"read": 0.5, "decode": 2.0}, {}]) == {"read": 1.5, "decode": 2.0}


# --- a rank ------------------------------------------------------------------------------------------------------


def test_a_rank_tells_hops_of_blocks_that_decode_and_who_decoded_all(folder):
    rungs = ("synthetic", "host", "warm", "direct")
    plan = RankPlan(
        num_ranks=1,
        blocks=tuple(
            Block(source=rung, num_ranks=1, drop_steps=1, count_steps=3, limit_s=30.0, meets=False) for rung in rungs
        ),
        rounds=2,
        budget_s=60.0,
        folders={"direct": str(folder)},
        engines={"direct": "buffered"},
        record_bytes=SIZE * SIZE * 3,
        image_shape=(SIZE, SIZE, 3),
        accelerator="test",
        step_time_s=0.0,
        batch_size=10,
        reader_threads=1,
        prefetch_depth=1,
        images=EncodedImages(image_size=SIZE, on_error="skip", decoder="simplejpeg"),
    )
    result = main(plan.model_dump(mode="json"), SingleRank())
    for log in result["blocks"]:
        if rungs[log["block"]] in ("synthetic", "host"):
            assert log["hop_s"] == {}
        else:
            assert log["hop_s"]["decode"] > 0
    decoded = Decoded.model_validate(result["images"])
    # the host rung takes 3 batches of half the images each; warm and direct 4, all images twice, in both rounds
    assert decoded.num_images == (3 + 2 * 2 * 4) * 10
    assert decoded.num_skipped in (1 + 2 * 2 * 2, 2 + 2 * 2 * 2)
    (name,) = decoded.skipped
    assert name.startswith(f"{folder / BROKEN}: ")


# --- every command -----------------------------------------------------------------------------------------------


def images_in(outcome, place):
    """What every command has to say: the broken image, in the record and the warnings, by the place where it lies."""
    images = outcome.workload["images"]
    assert images["decoder_requested"] == "simplejpeg"
    assert images["decoder"].startswith("simplejpeg ")
    assert images["decoder_reason"]
    assert images["num_by_host"] == 0
    assert images["num_skipped"] >= 1
    (name,) = images["skipped"]
    assert name.startswith(f"{place}: record 13")
    assert name in outcome.warnings
    return images


def nowhere(*_):
    """Shows nothing."""


def test_emulated_training_records_its_images(folder, tmp_path):
    outcome = run_train(
        folder,
        TrainConfig(image_size=SIZE, on_error="skip", decoder="simplejpeg", rounds=2),
        num_ranks=1,
        accelerator="0.001",
        batch_size=10,
        steps=4,
        source="direct",
        engine="buffered",
        local=tmp_path / "local",
        seconds=60.0,
        show=nowhere,
        hops=True,
    )
    images = images_in(outcome, folder / BROKEN)
    assert outcome.best.params["source"] == "direct"
    assert images["sentence"] in outcome.sentence.splitlines()
    rungs = {each.params["source"]: each for each in outcome.points if each.params["stage"] == "train"}
    assert {name for name, each in rungs.items() if "decode_threads" in each.metrics} == {"warm", "direct"}
    assert 0 < rungs["direct"].metrics["decode_threads"].value <= 2


def test_inference_records_its_images(folder, tmp_path):
    config = InferConfig(
        accelerator="0.001",
        batch_sizes=(10,),
        batches=8,
        rounds=2,
        warmup_batches=1,
        queue_depth=2,
        prefetch_threads=1,
        image_size=SIZE,
        on_error="skip",
        decoder="simplejpeg",
    )
    outcome = run_infer(InferRun(folder, config, local=tmp_path), show=nowhere)
    images = images_in(outcome, folder / BROKEN)
    assert f"direct: {images['sentence']}" in outcome.sentence.splitlines()


REAL = {"num_classes": 2, "image_size": SIZE, "on_error": "skip", "decoder": "simplejpeg", "reader_threads": 1}


def real_run(folder, local, **asked):
    settings = RealConfig(**REAL, rounds=2)
    run = {"model": "resnet18", "device": "cpu", "num_ranks": 1, "steps": 6, "batch_size": 4, "engine": "buffered"}
    return RealRun(folder, settings, local=local, **{**run, **asked})


@pytest.mark.slow
def test_real_training_records_its_images_and_those_it_validates_on(folder, tmp_path):
    outcome = run_real(real_run(folder, tmp_path, validate_on=folder), show=nowhere)
    images = images_in(outcome, folder / BROKEN)
    assert images["num_images"] == 6 * 4 + 20
    assert images["sentence"] in outcome.sentence.splitlines()
    assert outcome.best.metrics["decode_threads"].value > 0


@pytest.mark.slow
def test_real_training_by_hops_names_images_of_a_copy_as_those_they_were_copied_from(tar, tmp_path):
    outcome = run_real_hops(real_run(tar, tmp_path / "local", source="staged", steps=2), seconds=120, show=nowhere)
    images = images_in(outcome, tar / "x.tar")
    assert images["sentence"] in outcome.sentence.splitlines()
    assert outcome.best.params["source"] == "staged"


@pytest.mark.slow
def test_a_grid_records_its_images_and_its_journal_keeps_them(tar, tmp_path):
    config = ScaleConfig(
        gpus=(1,),
        accelerator="0.001",
        batch_size=4,
        repeats=2,
        steps=4,
        rounds=1,
        sources=("direct", "staged"),
        image_size=SIZE,
        on_error="skip",
        decoder="simplejpeg",
    )
    begun = config.model_dump(mode="json")
    local = tmp_path / "local"
    grid = run_grid(tar, config, GridJournal(tmp_path, begun, resume=False), local=local, show=nowhere)
    images = images_in(grid_outcome(grid), tar / "x.tar")
    assert images["sentence"] in grid_outcome(grid).sentence.splitlines()
    kept = GridJournal(tmp_path, begun, resume=True).trials
    assert [trial.images for trial in kept] == [trial.images for trial in grid.trials]
    assert sum(trial.images.num_images for trial in kept) == images["num_images"]


def test_a_trial_of_an_older_journal_says_nothing_of_images():
    assert (
        Trial.model_validate({"repetition": 0, "layout": {"nodes": 1, "gpus_per_node": 1}, "sources": {}}).images
        is None
    )
