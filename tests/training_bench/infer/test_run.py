"""Inference: plans, refusals, real launches of one rank on real small shards, and the command's presets."""

import numpy as np
import pytest

from iobench.configs import load, presets
from iobench.loaders.shards import ShardSet
from iobench.storage_bench.launching.launch import horovod_available
from iobench.training_bench.infer.plan import STUDY_MODELS, InferConfig, InferError, InferUsageError
from iobench.training_bench.infer.points import control_step_s, mean_queue
from iobench.training_bench.infer.run import run_infer
from iobench.training_bench.infer.setup import InferRun, effective_depth, make_plan, resolve


def quiet(_part, _share, _detail):
    pass


def small(**settings):
    return InferConfig(
        **{
            "accelerator": "0.004",
            "batch_sizes": (8,),
            "batches": 40,
            "rounds": 2,
            "warmup_batches": 2,
            "queue_depth": 2,
            "prefetch_threads": 2,
            **settings,
        }
    )


def points_by(outcome, *names):
    return {tuple(point.params[name] for name in names): point for point in outcome.points}


def test_the_defaults_are_the_figures_of_the_study():
    config = InferConfig()
    assert (config.warmup_batches, config.batches, config.prefetch_threads, config.queue_depth) == (10, 400, 13, 32)
    assert load(InferConfig, preset="hpe-validation", folder="validations").batches == 400


@pytest.mark.parametrize("name", presets("validations"))
def test_every_preset_of_validation_loads(name):
    assert load(InferConfig, preset=name, folder="validations").about


def test_the_scaled_preset_computes_the_five_networks():
    config = load(InferConfig, preset="five-models", folder="validations")
    assert set(config.models) == set(STUDY_MODELS)
    assert config.real


def test_what_is_less_than_in_the_study_is_told_with_the_figure_of_the_study():
    assert InferConfig().scaled_down(images_per_file=20_000, side=300) == {}
    found = InferConfig(batches=10, queue_depth=64).scaled_down(images_per_file=1024, side=300)
    assert found == {"batches": (10, 400), "images_per_file": (1024, 20_000)}


def test_the_queues_of_all_ranks_fill_at_most_a_quarter_of_memory():
    config = InferConfig(num_ranks=2)
    assert effective_depth(config, 10, 8000, 2) == 32
    assert effective_depth(config, 100, 8000, 2) == 10  # a quarter is 2000 bytes: 10 batches of 100 for each of 2
    with pytest.raises(InferError, match="smaller --batch-size"):
        effective_depth(config, 1001, 8000, 2)


def test_what_fills_the_queue_before_the_clock_runs_is_not_counted(page_set):
    run = InferRun(page_set.folder, small(queue_depth=6, warmup_batches=3, sources=("direct",)))
    plan, _ = make_plan(run, "resnet50", {"direct": page_set.folder}, {"direct": "buffered"}, ShardSet.open(run.path))
    direct, control = plan.sizes[0].blocks
    assert (direct.source, direct.drop_steps, direct.count_steps) == ("direct", 7, 20)
    assert (control.source, control.count_steps) == ("synthetic", 10)
    assert not direct.meets


def test_a_step_time_is_never_invented():
    with pytest.raises(InferUsageError, match="no step time of VGG-16 on h100 is published"):
        resolve(InferConfig(accelerator="h100"), "vgg16", 128)
    assert resolve(InferConfig(accelerator="h100"), "resnet50", 400).step_time_s == 0.224
    assert resolve(InferConfig(accelerator="h100"), "resnet50", 128).scaled
    assert resolve(InferConfig(accelerator="0.5"), "vgg16", 128).step_time_s == 0.5
    assert not resolve(InferConfig(accelerator="cpu"), "vgg16", 128).emulated


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"precision": "bf16"}, "changes nothing of an emulated"),
        ({"accelerator": "cpu", "models": ("vgg16",), "crop": 36}, "at most 35"),
        ({"accelerator": "cpu", "models": ("resnet50",), "crop": 20}, "at least 32x32"),
    ],
)
def test_what_does_not_go_together_is_refused_before_a_rank_starts(page_set, settings, text):
    with pytest.raises(ValueError, match=text):
        run_infer(InferRun(page_set.folder, small(**settings)), show=quiet)


def test_how_full_the_queue_is_agrees_with_looking_into_it_often():
    random = np.random.default_rng(5)
    steps, depth = 4000, 8
    taken = np.cumsum(random.integers(800, 1200, steps))  # a step of about 1000 ns
    ready = taken - random.integers(0, 1000 * depth, steps)
    times = np.stack([taken - 10, taken, taken + 700, taken + 700], axis=1)
    looks = np.linspace(taken[100], taken[-100], 20_000)
    seen = np.mean([(ready <= at).sum() - (taken <= at).sum() for at in looks])
    assert mean_queue(times, ready, depth=depth) == pytest.approx(seen, rel=0.02)


def test_a_slow_step_before_a_few_counted_ones_does_not_fill_the_queue_beyond_its_depth():
    times = np.array([[100, 101, 110, 110], [110, 111, 120, 120]])
    ready = np.array([0, 0])  # both since long before: a batch each of 101 and 111 in a window of 20
    assert mean_queue(times, ready, depth=4) == 4.0


def test_sources_and_batch_sizes_stand_beside_each_other_with_their_latencies_and_queues(page_set, tmp_path):
    config = small(batch_sizes=(8, 16), sources=("direct", "staged"))
    outcome = run_infer(InferRun(page_set.folder, config, local=tmp_path), show=quiet)
    found = points_by(outcome, "batch_size", "source")
    assert set(found) == {(size, source) for size in (8, 16) for source in ("direct", "staged", "synthetic")}
    for (size, source), point in found.items():
        metrics = point.metrics
        assert point.params["stage"] == "infer"
        assert point.params["emulated"] is True
        assert metrics["latency_p50_s"].value >= 0.004
        assert metrics["latency_max_s"].value >= metrics["latency_p99_s"].value >= metrics["latency_p50_s"].value
        assert metrics["images_per_s"].samples == pytest.approx([size / s for s in metrics["step_time_s"].samples])
        assert (metrics["queue_batches"].value is None) is (source == "synthetic")
        if source != "synthetic":
            assert 0 <= metrics["queue_batches"].value <= 2
            assert 0 <= metrics["queue_empty_fraction"].value <= 1
            assert point.params["counted_steps"] == 40
            assert "p99 of 40 batches" in metrics["latency_p99_s"].reason
            assert point.read_path.payload_bytes > 0
    assert not list(tmp_path.iterdir())  # the staged copy is gone
    assert outcome.workload["placement"] == "auto"
    assert [each["readers_reason"] for each in outcome.workload["placed"]] == [
        "batches go to cpu, which is near all cores"
    ]


def test_the_rate_within_a_bound_is_proven_by_arrivals_of_its_own(page_set):
    config = small(latency_bound_s=1.0, trial_batches=100, arrivals="even")
    outcome = run_infer(InferRun(page_set.folder, config), show=quiet)
    direct = points_by(outcome, "source")[("direct",)]
    rate = direct.metrics["rate_within_bound_images_per_s"]
    # a bound of 250 steps is kept at the closed loop's own rate by even arrivals
    assert rate.value == pytest.approx(outcome.workload["searches"][0]["capacity_batches_per_s"] * 8)
    assert direct.metrics["arrival_latency_p99_s"].value <= 1.0
    assert [trial["proof"] for trial in outcome.workload["searches"][0]["trials"]] == [False, True]


@pytest.mark.horovod
def test_ranks_answer_at_once_and_agree_on_the_rate_that_keeps_the_bound(page_set):
    if reason := horovod_available():
        pytest.skip(reason)
    config = small(num_ranks=2, rounds=1, batches=20, latency_bound_s=2.0, trial_batches=100, arrivals="even")
    outcome = run_infer(InferRun(page_set.folder, config), show=quiet)
    direct = points_by(outcome, "source")[("direct",)]
    search = outcome.workload["searches"][0]
    assert len({report.pid for report in direct.ranks}) == 2
    assert direct.metrics["rate_within_bound_images_per_s"].value == pytest.approx(search["batches_per_s"] * 2 * 8)
    assert search["trials"][-1]["answered"] == 100  # of both ranks together
    assert "sync_wait_s" not in direct.metrics


def test_a_bound_below_the_step_time_is_kept_by_no_rate_and_says_why(page_set):
    config = small(latency_bound_s=0.001, trial_batches=100)
    direct = points_by(run_infer(InferRun(page_set.folder, config), show=quiet), "source")[("direct",)]
    assert direct.metrics["rate_within_bound_images_per_s"].value is None
    assert "more than 1 %" in direct.metrics["rate_within_bound_images_per_s"].reason
    assert direct.metrics["images_per_s"].value > 0


def test_a_search_without_the_time_for_a_trial_is_not_begun(page_set):
    config = small(latency_bound_s=1.0, trial_batches=100_000, seconds=5.0)
    outcome = run_infer(InferRun(page_set.folder, config), show=quiet)
    direct = points_by(outcome, "source")[("direct",)]
    assert "not over within 5 s" in direct.metrics["rate_within_bound_images_per_s"].reason
    assert outcome.workload["searches"][0]["trials"] == []


def test_a_network_is_really_computed_and_its_step_time_is_what_was_measured(sector_set):
    config = small(
        accelerator="cpu", models=("resnet18",), precision="bf16", batches=2, rounds=1, crop=32, queue_depth=1
    )
    config = config.model_copy(update={"batch_sizes": (2,), "agreement_batches": 2})
    outcome = run_infer(InferRun(sector_set.folder, config), show=quiet)
    found = points_by(outcome, "source")
    direct, control = found[("direct",)], found[("synthetic",)]
    assert direct.params["emulated"] is False
    assert direct.params["step_time_s"] == control.params["step_time_s"] > 0
    agreement = direct.metrics["top1_agreement"]
    assert agreement.n == 2
    assert agreement.value in {0, 0.25, 0.5, 0.75, 1}
    assert any("weights are random" in text for text in outcome.warnings)


def test_the_measured_step_time_is_the_mean_of_computing_on_synthetic_batches(page_set):
    run = InferRun(page_set.folder, small(rounds=1, sources=("direct",)))
    plan, _ = make_plan(run, "resnet50", {"direct": page_set.folder}, {"direct": "buffered"}, ShardSet.open(run.path))
    marks = [[0, 0, 9, 9], [10, 10, 13, 13], [20, 20, 25, 25], [30, 30, 40, 40]]  # the first is dropped
    rows = [[second * 1_000_000_000 for second in row] for row in marks]
    logs = [{"block": 1, "round": 0, "steps_ns": rows, "ready_ns": []}]
    assert control_step_s(plan.sizes[0], [{"blocks": logs}]) == 6.0
