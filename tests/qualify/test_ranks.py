"""Which numbers of ranks run: what is required always and, where time is short, first; then where the answer lies."""

import pytest

from iobench.loaders.index import RecordLayout
from iobench.qualify import QualifyConfig, qualify
from iobench.qualify.data import open_data
from iobench.qualify.job import reserve_time
from iobench.qualify.ranks import decode_limits, next_search, required_ranks
from iobench.qualify.run import Run
from iobench.results.fed import Fed
from iobench.results.record import Metric, Point
from iobench.storage_bench.accelerators import resolve_accelerator
from iobench.storage_bench.launching.launch import horovod_available


def new_run(page_set, **settings):
    config = QualifyConfig.model_validate({"accelerator": "0.1", "batch_size": 4, "max_ranks": 8, **settings})
    run = Run(page_set.folder, page_set.folder, config, resolve_accelerator("0.1", batch_size=4), lambda *_: None)
    run.max_ranks = config.max_ranks
    return run


def ran(run, *counts):
    for count in counts:
        rate = Metric(value=0.95, unit="fraction", n=4)
        run.points.append(
            Point(params={"stage": "train", "source": "direct", "num_ranks": count}, metrics={"au_mlperf": rate})
        )
    return run


# --- where to look next ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "fed", "centre", "expected"),
    [
        ((4,), Fed(4, 4, None, "at least: more than 4 ranks were not run"), 2, (5, 7, 5)),  # predicted too low
        ((4,), Fed(4, 4, None, "at least: more than 4 ranks were not run"), 6, (5, 7, 6)),  # as predicted
        ((4,), Fed(4, 4, None, "at least: more than 4 ranks were not run"), 20, (5, 8, 8)),  # as far as ranks go
        ((4,), Fed(None, high=3, reason="fewer than 4"), 2, (1, 3, 2)),  # below what is required
        ((4,), Fed(None, high=3, reason="fewer than 4"), 9, (1, 3, 3)),
        ((1,), Fed(0, 0, 0), 1, None),  # not one is fed
        ((8,), Fed(8, 8, None, "at least: more than 8 ranks were not run"), 8, None),  # all that may run
        ((3, 4), Fed(3, 3, 3), 3, None),  # known
        ((4,), Fed(None, reason="4 ranks: the harness"), 6, (1, 3, 3)),  # nobody knows: fewer ranks may tell
        ((1,), Fed(None, reason="1 rank: too few steps"), 6, None),
    ],
)
def test_the_search_goes_on_where_the_answer_is_open(page_set, counts, fed, centre, expected):
    found = next_search(ran(new_run(page_set), *counts), fed, centre)
    assert (None if found is None else (found.low, found.high, found.hint)) == expected


# --- the time that is kept for them ------------------------------------------------------------------------------


def test_the_time_of_the_required_ranks_is_reserved_and_what_is_too_short_is_told(page_set):
    # two rounds of: 3 dropped and 10 counted steps, 1 and 4 of the control, 0.1 s each: 3.6 s, and half as much again
    run = new_run(page_set, required_gpus=2, measure_seconds=60)
    open_data(run)
    reserve_time(run)
    assert run.reserved_s == pytest.approx(1.5 * 3.6)
    assert run.share_s(0.5) == pytest.approx(0.5 * (60 - 1.5 * 3.6))
    assert run.warnings == []

    run = new_run(page_set, required_gpus=2, measure_seconds=10, train={"prefetch_depth": 8})
    open_data(run)
    reserve_time(run)
    assert run.reserved_s == pytest.approx(6.0)
    (told,) = run.warnings
    assert told == ("10 s of measuring are short for 2 ranks, whose steps alone take 11 s; allow --measure-seconds 27")


def test_no_more_ranks_are_required_than_run_here(page_set):
    assert required_ranks(new_run(page_set, required_gpus=3)) == 3
    assert required_ranks(new_run(page_set, required_gpus=12)) == 8


# --- storage or decoding -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "decoder", "reached", "predicted", "expected"),
    [
        ("jpeg", "auto", 0.5, 0.95, True),  # the storage gives the bytes of 0.95, and 0.5 is reached
        ("jpeg", "auto", 0.95, 0.99, False),  # fed
        ("jpeg", "auto", 0.5, 0.6, False),  # the storage gives too little as well
        ("jpeg", "auto", 0.5, None, False),  # nobody knows what it gives
        ("jpeg", "none", 0.5, 0.95, False),  # nothing is decoded
        (None, "auto", 0.5, 0.95, False),
    ],
)
def test_ranks_that_starve_although_the_storage_gives_enough_wait_for_the_decoder(
    page_set, codec, decoder, reached, predicted, expected
):
    run = new_run(page_set, train={"decoder": decoder})
    run.layout = RecordLayout(None, 0, (), "uint8", 100, codec)
    rate = Metric(value=reached, unit="fraction", n=4)
    point = Point(params={"source": "direct", "num_ranks": 1}, metrics={"au_mlperf": rate})
    told = Metric(value=predicted, unit="fraction", reason="why")
    assert decode_limits(run, point, told) is expected


# --- the job -----------------------------------------------------------------------------------------------------


@pytest.mark.horovod
@pytest.mark.slow
def test_with_little_time_the_required_number_has_its_steps_whatever_is_predicted(page_set):
    if reason := horovod_available():
        pytest.skip(reason)
    settings = {"accelerator": "0.1", "batch_size": 4, "measure_seconds": 10, "max_ranks": 3, "required_gpus": 2}
    record = qualify(
        page_set.folder,
        QualifyConfig.model_validate(settings),
        local=page_set.folder.parent / "local",
        preset=None,
        command=("iobench", "qualify"),
        show=lambda *_: None,
        keep=lambda _: None,
    )
    points = {point.params["num_ranks"]: point for point in record.points if point.params.get("source") == "direct"}
    assert "insufficient" not in points[2].flags
    assert any(text.startswith("scaled: storage: blocks of 0.1") for text in record.warnings)
    assert record.verdict.measured_seconds < 20
