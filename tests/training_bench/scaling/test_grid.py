"""Grids with one rank, on real small shards: order, predictions before runs, failures, interrupts and resumption."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.configs import ConfigError, load, presets
from iobench.results.scaling import Layout, Prediction
from iobench.storage_bench.launching.hosts import HostSlots
from iobench.training_bench.scaling.grid import ScaleConfig, ScaleError, check_grid, order_of, run_grid
from iobench.training_bench.scaling.journal import GridJournal, GridJournalError, SourceTrial, Trial
from iobench.training_bench.scaling.points import grid_outcome
from iobench.training_bench.scaling.trial import make_trial_plan
from iobench.training_bench.train_run import TrainError

ONE = {"gpus": (1,), "accelerator": "0.01", "batch_size": 4, "repeats": 2, "steps": 4, "rounds": 1}


def run_small(folder, out, *, resume=False, **more):
    config = ScaleConfig(**{**ONE, **more})
    journal = GridJournal(out, config.model_dump(mode="json"), resume=resume)
    return run_grid(folder, config, journal, local=out / "local", show=lambda *_: None)


def lines_of(out):
    return [json.loads(line) for line in (out / "cells.jsonl").read_text().splitlines()]


def trial_of(repetition, layout, *, images_per_s=100.0, given=None, failed=None):
    seen = SourceTrial(
        images_per_s=images_per_s,
        data_stall_fraction=0.0,
        given_images_per_s=given,
        phases={"train": images_per_s},
        counted_steps=4,
    )
    return Trial(
        repetition=repetition,
        layout=layout,
        sources={} if failed else {"synthetic": seen, "direct": seen},
        failed=failed,
    )


@given(seed=st.integers(0, 2**31), repetition=st.integers(0, 99))
def test_every_repetition_has_every_layout_once_and_the_first_ascends(seed, repetition):
    config = ScaleConfig(nodes=(4, 1, 2), gpus=(2, 1), seed=seed)
    order = order_of(config, repetition)
    assert sorted(order) == sorted(Layout(n, g) for n in (1, 2, 4) for g in (1, 2))
    assert order == order_of(config, repetition)
    first = [layout.num_ranks for layout in order_of(config, 0)]
    assert first == sorted(first)


@pytest.mark.parametrize("workload", ["train", "infer", "train+validate"])
@pytest.mark.parametrize("source", ["direct", "staged"])
def test_a_cell_has_its_rates_and_its_proof(page_set, tmp_path, workload, source):
    grid = run_small(page_set.folder, tmp_path, workload=workload, sources=(source,))
    outcome = grid_outcome(grid)
    assert [point.params["source"] for point in outcome.points] == [source, "synthetic"]
    point, control = outcome.points
    assert point.params["stage"] == "scale"
    assert point.params["emulated"] is True
    assert point.params["nodes_simulated"] is False  # one node is this host itself
    assert outcome.workload["nodes_simulated"] is False
    assert not outcome.warnings
    # 4 images every 10 ms at the most; a source that computes nothing gives more than it is asked for here
    assert 0 < point.metrics["images_per_s"].value <= 400 * 1.001
    assert point.metrics["images_per_s"].n == 2
    assert point.metrics["source_images_per_s"].value > 0
    assert point.metrics["read_gbps"].value == pytest.approx(
        point.metrics["images_per_s"].value * grid.run.stored_bytes / 1e9
    )
    assert control.metrics["read_gbps"].value is None
    assert point.metrics["images_per_s_predicted"].reason == "no smaller cell to predict from"
    assert point.read_path is not None
    phases = {"train_images_per_s", "validate_images_per_s"}
    assert phases & point.metrics.keys() == (phases if workload == "train+validate" else set())
    assert not list((tmp_path / "local").glob("*"))  # the copy is gone


def test_ranks_meet_in_training_and_not_in_inference(page_set, tmp_path):
    run = run_small(page_set.folder, tmp_path, workload="train+validate", repeats=1).run
    plan, phases = make_trial_plan(run, Layout(2, 2), 0)
    assert plan.num_ranks == 4
    told = {
        (block.source, phase): (block.meets, block.step_time_s)
        for block, phase in zip(plan.blocks, phases, strict=True)
    }
    assert told == {
        ("synthetic", "train"): (True, None),
        ("synthetic", "validate"): (False, None),
        ("direct", "train"): (True, None),
        ("direct", "validate"): (False, None),
        ("direct", "given"): (True, 0.0),
    }
    again, _ = make_trial_plan(run, Layout(2, 2), 1)
    assert again.seed != plan.seed


def test_predictions_are_on_record_before_their_cell_is_run(page_set, tmp_path):
    run_small(page_set.folder, tmp_path)
    kinds = [next(iter(line)) for line in lines_of(tmp_path)]
    assert kinds == ["grid", "predicted", "predicted", "trial", "trial"]


def test_an_interrupted_grid_goes_on_with_what_is_missing(page_set, tmp_path):
    whole = run_small(page_set.folder, tmp_path)
    file = tmp_path / "cells.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]) + lines[-1][:40])  # the last trial was cut short
    again = run_small(page_set.folder, tmp_path, resume=True)
    assert again.trials[0] == whole.trials[0]
    assert [trial.repetition for trial in again.trials] == [0, 1]
    assert again.predictions == whole.predictions
    assert file.read_text().startswith("".join(lines[:-1]))


def test_a_folder_with_a_grid_is_not_begun_again_by_mistake(page_set, tmp_path):
    with pytest.raises(GridJournalError, match="there is no grid to go on with"):
        run_small(page_set.folder, tmp_path, resume=True)
    run_small(page_set.folder, tmp_path, repeats=1)
    with pytest.raises(GridJournalError, match="go on with --resume"):
        run_small(page_set.folder, tmp_path, repeats=1)
    with pytest.raises(GridJournalError, match=r"other settings \(repeats, steps\)"):
        run_small(page_set.folder, tmp_path, repeats=3, steps=5, resume=True)


def test_a_damaged_journal_is_refused_with_its_line(tmp_path):
    GridJournal(tmp_path, {}, resume=False).add(trial_of(0, Layout(1, 1)))
    with (tmp_path / "cells.jsonl").open("a") as file:
        file.write('{"trial": {"repetition": "x"}}\n')
    with pytest.raises(GridJournalError, match="line 3 is damaged"):
        GridJournal(tmp_path, {}, resume=True)
    (tmp_path / "cells.jsonl").write_text("not JSON\n")
    with pytest.raises(GridJournalError, match="not JSON"):
        GridJournal(tmp_path, {}, resume=True)


def test_what_a_journal_was_told_is_what_it_tells_when_taken_up(tmp_path):
    journal = GridJournal(tmp_path, {"a": (1, 2)}, resume=False)
    journal.predict(Layout(1, 1), "direct", None)
    journal.predict(Layout(1, 2), "direct", Prediction(2.0, 1.0, 3.0, "x"))
    journal.add(trial_of(0, Layout(1, 1)))
    journal.add(trial_of(0, Layout(1, 2), failed="the host is gone"))
    taken = GridJournal(tmp_path, {"a": (1, 2)}, resume=True)
    assert taken.predictions == journal.predictions
    assert taken.has(0, Layout(1, 1))
    assert not taken.has(0, Layout(1, 2))  # what failed is tried again


def test_failed_cells_are_told_and_the_others_stand(page_set, tmp_path):
    config = ScaleConfig(**{**ONE, "gpus": (1, 2), "repeats": 1})
    journal = GridJournal(tmp_path, {}, resume=False)
    journal.add(trial_of(0, Layout(1, 1)))
    journal.add(trial_of(0, Layout(1, 2), failed="rank 1 was killed"))
    outcome = grid_outcome(run_grid(page_set.folder, config, journal, local=tmp_path, show=lambda *_: None))
    lost = [point for point in outcome.points if point.params["num_ranks"] == 2]
    assert all(point.flags == ("failed",) for point in lost)
    assert {point.metrics["images_per_s"].reason for point in lost} == {"failed: rank 1 was killed"}
    assert outcome.best.params["num_ranks"] == 1
    assert outcome.invalid == ("1x2, repetition 1, failed: rank 1 was killed",)


def test_what_cannot_be_run_is_refused_before_any_work(page_set, tmp_path):
    hosts = (HostSlots("a", 2),)
    with pytest.raises(ScaleError, match="up to 2 nodes of 1; the hosts are a:2"):
        check_grid(page_set.folder, ScaleConfig(nodes=(1, 2), gpus=(1,)), hosts)
    with pytest.raises(ScaleError, match="more than 1024"):
        check_grid(page_set.folder, ScaleConfig(nodes=(64,), gpus=(64,)))
    with pytest.raises(TrainError, match="do not give work to 512 ranks"):
        check_grid(page_set.folder, ScaleConfig(gpus=(512,)))


@pytest.mark.parametrize("wrong", ["nodes=[]", "gpus=[2, 2]", "sources=['memory']", "repeats=0", "workload='x'"])
def test_settings_that_are_no_grid_are_refused(wrong):
    with pytest.raises(ConfigError):
        load(ScaleConfig, sets=[wrong])


def test_every_grid_that_comes_along_is_valid():
    assert "two-cores" in presets("grids")
    for name in presets("grids"):
        assert load(ScaleConfig, preset=name, folder="grids").about
    assert not set(presets("grids")) & set(presets())


def test_the_folder_of_a_grid_is_made(tmp_path: Path):
    GridJournal(tmp_path / "new" / "run", {}, resume=False)
    assert (tmp_path / "new" / "run" / "cells.jsonl").exists()
