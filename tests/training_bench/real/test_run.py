"""What real training refuses before a rank starts, how steps become figures, and every precision on one rank."""

import os
from dataclasses import replace

import pytest
import torch
from torch import nn

from iobench.loaders.topology import parse_cores
from iobench.storage_bench.launching.launch import horovod_available
from iobench.storage_bench.launching.ranks import SingleRank
from iobench.training_bench import saved
from iobench.training_bench.command import TrainUsageError
from iobench.training_bench.feed import open_feed
from iobench.training_bench.models import ModelError
from iobench.training_bench.peers import Alone
from iobench.training_bench.real.asked import (
    RealRun,
    check_checkpoint,
    cores_shared,
    make_plan,
    refuse_torchrun,
    schedule_changed,
)
from iobench.training_bench.real.plan import RealConfig
from iobench.training_bench.real.points import summarise_real
from iobench.training_bench.real.ranks import Training
from iobench.training_bench.real.run import run_real

CPU = torch.device("cpu")


def make_run(path, *, model="resnet18", ranks=1, steps=4, config=None, **asked):
    settings = RealConfig(**{"num_classes": 10, **(config or {})})
    return RealRun(path=path, config=settings, model=model, device="cpu", num_ranks=ranks, steps=steps, **asked)


def nowhere(*_):
    """Shows nothing."""


def test_weak_scaling_keeps_a_ranks_batch_and_strong_scaling_shares_it(page_set):
    weak = make_plan(make_run(page_set.folder, ranks=2, batch_size=8))
    strong = make_plan(make_run(page_set.folder, ranks=2, batch_size=8, scaling="strong"))
    assert (weak.batch_size, weak.global_batch) == (8, 16)
    assert (strong.batch_size, strong.global_batch) == (4, 8)
    assert weak.learning_rate_at(0) == 2 * strong.learning_rate_at(0)


def test_a_training_says_that_its_reader_threads_share_the_cores_it_computes_on(page_set):
    (said,) = cores_shared(make_plan(make_run(page_set.folder, config={"reader_threads": 3})))
    assert "reads with 3 reader threads on the same" in said
    assert "--hops" in said
    assert not cores_shared(make_plan(make_run(page_set.folder, source="synthetic")))
    assert not cores_shared(make_plan(make_run(page_set.folder, config={"reader_threads": 0})))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"ranks": 3, "batch_size": 8, "scaling": "strong"}, "among 3 ranks, and it does not divide"),
        ({"source": "nfs"}, "--source nfs: choose direct, staged, synthetic"),
        ({"resume": True}, "--resume needs --checkpoint DIR"),
        ({"config": {"crop": 36}}, "crop=36: the images are 35x35"),
    ],
)
def test_what_does_not_go_together_is_refused(page_set, asked, message):
    with pytest.raises(TrainUsageError, match=message) as caught:
        make_plan(make_run(page_set.folder, **asked))
    assert caught.value.exit_status == 2


def test_images_too_small_for_a_network_are_refused_with_the_size_it_needs(page_set):
    with pytest.raises(ModelError, match="Inception-v3 needs images of at least 75x75, not 35x35"):
        make_plan(make_run(page_set.folder, model="inception_v3"))
    with pytest.raises(ModelError, match="at least 32x32, not 20x20"):
        make_plan(make_run(page_set.folder, config={"crop": 20}))


def test_validation_images_must_be_of_the_same_size(page_set, sector_set):
    with pytest.raises(TrainUsageError, match=r"its images are not \(35, 35, 3\)"):
        make_plan(make_run(page_set.folder, validate_on=sector_set.folder))


def test_checkpoints_are_refused_among_data_and_beside_those_of_another_training(page_set, tmp_path):
    with pytest.raises(TrainUsageError, match="would lie among the data"):
        run_real(make_run(page_set.folder, checkpoint=page_set.folder / "saved"), show=nowhere)
    (tmp_path / "step-00000004.pt").touch()
    with pytest.raises(TrainUsageError, match="go on with --resume, or give another"):
        run_real(make_run(page_set.folder, checkpoint=tmp_path), show=nowhere)


def test_a_finished_training_is_not_gone_on_with(page_set, tmp_path):
    run = make_run(page_set.folder, checkpoint=tmp_path, resume=True)
    nothing = {"model": {}, "optimizer": {}, "scaler": {}, "feed": {}, "losses": torch.zeros(4, 2)}
    saved.save(tmp_path, {"settings": make_plan(run).settings, "step": 4, **nothing})
    with pytest.raises(TrainUsageError, match="is at step 4, and --steps 4 asks for no more; go on with --steps 5"):
        run_real(run, show=nowhere)
    with pytest.raises(TrainUsageError, match="and --steps 3 asks for no more"):
        run_real(replace(run, steps=3), show=nowhere)


def test_more_steps_are_gone_on_to_and_a_rate_that_depends_on_their_number_is_told(page_set, tmp_path):
    def asked_for(steps, **config):
        return replace(first, steps=steps, resume=True, config=first.config.model_copy(update=config))

    first = make_run(page_set.folder, steps=20, checkpoint=tmp_path, config={"schedule": "constant", "warmup_steps": 2})
    nothing = {"model": {}, "optimizer": {}, "scaler": {}, "feed": {}, "losses": torch.zeros(20, 2)}
    saved.save(tmp_path, {"settings": make_plan(first).settings, "step": 20, **nothing})
    assert check_checkpoint(make_plan(asked_for(40)), tmp_path) == ()
    with pytest.raises(saved.SavedUsageError, match=r"this training has momentum=0\.5, the checkpoint momentum=0\.9"):
        check_checkpoint(make_plan(asked_for(40, momentum=0.5)), tmp_path)

    plan = make_plan(
        make_run(page_set.folder, steps=40, batch_size=64, config={"learning_rate": 0.4, "warmup_steps": 0})
    )
    (told,) = schedule_changed(plan, before=20, done=10)  # half a cosine from 0.1 to 0: step 9 of 20, step 10 of 40
    assert "the first 10 steps had the learning rate of a training of 20 (schedule cosine)" in told
    assert "those from here on have that of 40: it goes from 0.0578 to 0.0854" in told
    rising = plan.model_copy(update={"warmup_steps": 10})
    assert schedule_changed(rising, before=20, done=10) == ()
    assert schedule_changed(rising, before=20, done=12)
    assert schedule_changed(plan.model_copy(update={"schedule": "constant", "warmup_steps": None}), before=20, done=5)


@pytest.mark.slow
def test_a_training_that_goes_on_for_longer_makes_the_losses_of_one_that_was_as_long_from_its_beginning(
    page_set, tmp_path
):
    config = {"schedule": "constant", "warmup_steps": 1}
    shared = {"batch_size": 2, "config": config}
    whole = run_real(make_run(page_set.folder, steps=5, checkpoint=tmp_path / "whole", **shared), show=nowhere)
    run_real(make_run(page_set.folder, steps=2, checkpoint=tmp_path / "parts", **shared), show=nowhere)
    longer = make_run(page_set.folder, steps=5, checkpoint=tmp_path / "parts", resume=True, **shared)
    outcome = run_real(longer, show=nowhere)
    assert outcome.workload["first_step"] == 2
    assert outcome.workload["loss_curve"] == whole.workload["loss_curve"]
    assert not any("learning rate" in text for text in outcome.warnings)


def test_torchrun_is_told_by_its_environment():
    refuse_torchrun({"WORLD_SIZE": "2", "RANK": "0"})  # others set these as well
    with pytest.raises(TrainUsageError, match=r"started 2 copies .* --np 2` without torchrun"):
        refuse_torchrun({"WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"})


def test_gpus_that_are_not_there_are_refused(page_set):
    if torch.cuda.device_count():
        pytest.skip("this host has a GPU")
    run = RealRun(page_set.folder, RealConfig(), "resnet18", "cuda", num_ranks=1, steps=2)
    with pytest.raises(ValueError, match="1 ranks on cuda need a GPU each; this host has 0"):
        run_real(run, show=nowhere)


def trained(page_set, *, steps=2, **config):
    """A small network after its steps."""
    plan = make_plan(make_run(page_set.folder, batch_size=8, steps=steps, config={"learning_rate": 1.0, **config}))
    torch.set_num_threads(1)
    torch.manual_seed(plan.seed)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 81, 10))
    feed = open_feed(plan, rank=0, device=CPU)
    run = Training(model, feed, plan=plan, ranks=SingleRank(), peers=Alone(), device=CPU)
    run.loop(run.new_clock())
    return run


def test_channels_last_changes_the_layout_and_not_the_losses(page_set):
    plain, last = trained(page_set), trained(page_set, channels_last=True)
    assert last.model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not plain.model[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last.losses[0, 0], plain.losses[0, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_begins_at_the_loss_of_full_precision_and_keeps_weights_in_full(page_set, precision):
    full, reduced = trained(page_set), trained(page_set, precision=precision)
    assert reduced.losses[0, 0] != full.losses[0, 0]
    torch.testing.assert_close(reduced.losses[0, 0], full.losses[0, 0], rtol=0.03, atol=0.03)
    assert {parameter.dtype for parameter in reduced.model.parameters()} == {torch.float32}
    assert all(parameter.isfinite().all() for parameter in reduced.model.parameters())


def test_shuffled_labels_are_the_batchs_own_in_another_order(page_set):
    run = trained(page_set, labels="shuffled")
    images, labels = next(open_feed(run._plan, rank=0, device=CPU).batches())
    torch.manual_seed(1)
    _, shuffled = run.prepare(images, labels)
    assert sorted(shuffled.tolist()) == sorted(labels.tolist())
    assert shuffled.tolist() != labels.tolist()


def test_the_parts_of_a_step_add_up_over_ranks(page_set):
    plan = make_plan(make_run(page_set.folder, ranks=2, batch_size=10, steps=4, config={"drop_steps": 2}))
    # asked, got, computed, met, stepped; the two dropped steps are anything
    steps = [[0, 9, 9, 9, 9], [9, 9, 9, 9, 9], [1000, 1100, 1400, 1500, 1550], [1600, 1600, 1900, 2100, 2200]]
    learned = {"losses": [2.0, 1.0, 1.0, 0.5], "accuracies": [0.1, 0.2, 0.3, 0.75], "validation": None}
    results = [
        {"rank": rank, "local_rank": rank, "pid": 7 + rank, "host": "here", "machine": "this one", **learned}
        | {"delivered_bytes": 3_000_000_000, "read_s": 2.0 + rank}
        | {"steps_ns": [[mark * 10**6 * scale for mark in row] for row in steps]}
        for rank, scale in ((0, 1), (1, 2))
    ]
    point = summarise_real(plan, results, None)
    # one block of two steps: 600 ms a step on rank 0, 1,200 on rank 1
    assert point.metrics["gpu_data_wait_s"].value is None
    means = {name: metric.value for name, metric in point.metrics.items()}
    assert means["step_time_s"] == pytest.approx(0.9)
    # one client: 3 GB for each rank, in 2 s and in 3 s
    assert means["client_read_gbps"] == pytest.approx(2.0)
    assert [report.metrics["read_gbps"].value for report in point.ranks] == pytest.approx([1.5, 1.0])
    assert means["data_wait_s"] == pytest.approx(0.05 * 1.5)
    assert means["compute_s"] == pytest.approx(0.3 * 1.5)
    assert means["sync_wait_s"] == pytest.approx(0.15 * 1.5)
    assert means["optimizer_s"] == pytest.approx(0.075 * 1.5)
    assert means["overhead_s"] == pytest.approx(0.025 * 1.5)
    assert means["data_stall_fraction"] == pytest.approx(0.05 / 0.6)
    assert means["images_per_s"] == pytest.approx(10 / 0.6 + 10 / 1.2)
    assert (means["train_loss"], means["train_accuracy"]) == (0.5, 0.75)
    assert point.metrics["validation_accuracy"].reason == "no validation data were given (--validate)"
    assert [report.pid for report in point.ranks] == [7, 8]


@pytest.mark.slow
@pytest.mark.horovod
@pytest.mark.skipif(horovod_available() is not None, reason=f"Horovod: {horovod_available()}")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="this process may use one core only")
def test_ranks_train_on_cores_of_their_own_and_share_one_client(page_set):
    wide = {"num_classes": 1000}
    outcome = run_real(make_run(page_set.folder, ranks=2, steps=6, batch_size=4, config=wide), show=nowhere)
    placed = outcome.workload["placed"]
    cores = [parse_cores(rank["cores"]) for rank in placed]
    assert not cores[0] & cores[1]
    assert cores[0] | cores[1] == os.sched_getaffinity(0)
    for rank, mine in zip(placed, cores, strict=True):
        assert all(parse_cores(seen) <= mine for seen in (*rank["threads"], *rank["readers"]))
        assert sum(rank["readers"].values()) == 2
    assert [client["ranks"] for client in outcome.workload["clients"]] == [[0, 1]]
    rates = [report.metrics["read_gbps"].value for report in outcome.best.ranks]
    assert max(rates) < outcome.best.metrics["client_read_gbps"].value <= sum(rates) * (1 + 1e-9)
    off = wide | {"placement": "off"}
    free = run_real(make_run(page_set.folder, ranks=2, steps=6, batch_size=4, config=off), show=nowhere)
    assert {rank["cores"] for rank in free.workload["placed"]} == {None}
