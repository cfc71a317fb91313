"""Checkpoints: whole or not there, the last two kept, and what is none is refused without being run."""

import pickle
from pathlib import Path

import pytest
import torch

from iobench.training_bench import saved
from iobench.training_bench.saved import SavedError, SavedUsageError

SETTINGS = {"model": "resnet18", "seed": 10, "steps": 10}


def document(step, *, size=10):
    return {
        "settings": SETTINGS,
        "step": step,
        "model": {"weight": torch.arange(float(size))},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        "scaler": {},
        "feed": {"epoch": 1, "random": None},
        "losses": torch.tensor([[1.5, 0.25]]),
    }


def load(path, settings=SETTINGS):
    return saved.parse(path.read_bytes(), path=path, settings=settings)


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    path = saved.save(tmp_path / "new", document(3))
    found = load(path)
    assert path.name == "step-00000003.pt"
    assert found["step"] == 3
    assert torch.equal(found["model"]["weight"], torch.arange(10.0))
    assert torch.equal(found["optimizer"]["state"][0]["momentum_buffer"], torch.ones(3))
    assert found["feed"] == {"epoch": 1, "random": None}


def test_the_last_two_stay_and_what_a_killed_writer_left_goes(tmp_path):
    (tmp_path / ".step-00000002.pt.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    for step in (2, 4, 6, 8):
        saved.save(tmp_path, document(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "step-00000006.pt", "step-00000008.pt"]
    assert saved.last(tmp_path).name == "step-00000008.pt"


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(tmp_path):
    (tmp_path / "step-1.pt").touch()  # not a name of ours
    with pytest.raises(SavedUsageError, match="there is no checkpoint to go on from") as caught:
        saved.last(tmp_path)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("keep", [0, 1, 100, -1, -50])
def test_a_cut_file_is_refused_and_named(tmp_path, keep):
    path = saved.save(tmp_path, document(3, size=1000))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SavedError, match=r"step-00000003\.pt: this is no checkpoint, or a damaged one") as caught:
        load(path)
    assert caught.value.exit_status == 4


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return (Path.touch, (self._path,))


@pytest.mark.parametrize("write", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing, 2))])
def test_a_file_that_would_run_something_is_refused_and_does_not_run(tmp_path, write):
    path, trace = tmp_path / "step-00000001.pt", tmp_path / "trace"
    write({"version": 1, **document(1), "feed": Runs(trace)}, path)
    with pytest.raises(SavedError, match="this is no checkpoint"):
        load(path)
    assert not trace.exists()


def test_another_documents_keys_are_refused(tmp_path):
    path = tmp_path / "step-00000001.pt"
    torch.save({"model": {}}, path)
    with pytest.raises(SavedError, match="no checkpoint of iobench train"):
        load(path)


def test_another_trainings_checkpoint_is_refused_with_what_differs(tmp_path):
    path = saved.save(tmp_path, document(3))
    with pytest.raises(SavedUsageError, match=r"seed=20, the checkpoint seed=10; go on with the same") as caught:
        load(path, {**SETTINGS, "seed": 20})
    assert caught.value.exit_status == 2


def test_how_many_steps_there_are_to_be_may_change(tmp_path):
    path = saved.save(tmp_path, document(3))
    assert load(path, {**SETTINGS, "steps": 20})["settings"]["steps"] == 10


def test_a_full_disk_keeps_the_checkpoint_before_and_leaves_nothing_half(small_disk):
    saved.save(small_disk, document(1, size=2 << 20))
    saved.save(small_disk, document(2, size=2 << 20))
    with pytest.raises(SavedError, match=r"step-00000003\.pt: the checkpoint cannot be written") as caught:
        saved.save(small_disk, document(3, size=4 << 20))
    assert caught.value.exit_status == 4
    assert not list(small_disk.glob(".step*"))
    assert load(saved.last(small_disk))["step"] == 2


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SavedError, match=r"no checkpoint can be written there .*; give another --checkpoint") as caught:
        saved.check_writable(tmp_path / "file" / "saved")
    assert caught.value.exit_status == 4
    saved.check_writable(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
