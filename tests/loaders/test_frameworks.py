"""Frameworks over our loader, on two ranks where ranks are the point; the examples are those of CONTRACT.md."""

import copy
import importlib.util
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from iobench.loaders import DataLoader, PlannedBatches, ShardSet, prepare, transforms
from iobench.loaders.frameworks import PrepareError
from iobench.storage_bench.launching.launch import horovod_available, launch_ranks

PROGRAMS = Path(__file__).with_name("programs")
LIMIT_S = 120
FAST = "iobench.loaders.dataloader.DataLoader"


def needs(package: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed; the extra `dev` brings it")


@pytest.fixture
def folder(page_set, tmp_path) -> Path:
    """Where an example runs: the data set is `data`."""
    (tmp_path / "data").symlink_to(page_set.folder)
    return tmp_path


def start(folder: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    """A rank, or what starts ranks, in `folder`; torch gets one thread, since ranks share the cores."""
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(running: list[subprocess.Popen[str]]) -> None:
    """Wait until all have ended well; where one does not, none outlives the test."""
    try:
        for process in running:
            told, _ = process.communicate(timeout=LIMIT_S)
            assert process.returncode == 0, told
    except BaseException:
        for process in running:  # and what it has started
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise


def on_two_ranks(folder: Path, program: str, *words: str) -> list[dict[str, Any]]:
    """Run a program as torch.distributed's ranks 0 and 1; what each wrote to rank-R.json."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank), **shared} for rank in range(2)]
    finish([start(folder, str(PROGRAMS / program), *words, **rank) for rank in ranks])
    return reports(folder)


def reports(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


def check_example(known, ranks: list[dict[str, Any]], *, loader: str, sampler: str) -> None:
    """Two epochs of 65 records a rank in batches of 8, by the fast road; every record once, in another order then."""
    check_epochs([{digest(image): number for number, image in enumerate(known.images)}] * 2, ranks, loader, sampler)


def digest(image: np.ndarray) -> str:
    return blake2b(image.tobytes(), digest_size=16).hexdigest()


def check_epochs(numbers: list[dict[str, int]], ranks: list[dict[str, Any]], loader: str, sampler: str) -> None:
    """The same, of images that each epoch has by these digests."""
    epochs = []
    for number in range(2):
        steps = [rank["steps"][9 * number : 9 * number + 9] for rank in ranks]
        assert [[len(step) for step in part] for part in steps] == [[8] * 8 + [1]] * 2
        epochs.append([numbers[number][one] for part in steps for step in part for one in step])
        assert sorted(epochs[-1]) == list(range(130))
    assert epochs[0] != epochs[1]
    for rank in ranks:
        assert (rank["loader"], rank["sampler"], rank["num_workers"]) == (loader, sampler, 2)
        assert (rank["batches"], rank["records_by_fast_road"]) == (9, 130)


# --- the examples of CONTRACT.md


@pytest.mark.slow
@needs("lightning")
def test_lightning_rebuilds_our_loader_and_every_record_comes_once_on_two_ranks(page_set, folder):
    finish([start(folder, str(PROGRAMS / "example.py"), "Lightning", str(folder))])
    check_example(page_set, reports(folder), loader=FAST, sampler="DistributedSampler")


@needs("accelerate")
def test_accelerate_keeps_our_loader_and_every_record_comes_once_on_two_ranks(page_set, folder):
    ranks = on_two_ranks(folder, "example.py", "accelerate", str(folder))
    check_example(page_set, ranks, loader="iobench.loaders.frameworks.PreparedLoader", sampler="SequentialSampler")


def test_over_torch_distributed_every_record_comes_once_on_two_ranks(page_set, folder):
    ranks = on_two_ranks(folder, "example.py", "torch.distributed", str(folder))
    check_example(page_set, ranks, loader=FAST, sampler="SequentialSampler")


@pytest.mark.horovod
@pytest.mark.skipif(horovod_available() is not None, reason=f"Horovod: {horovod_available()}")
def test_under_horovod_every_record_comes_once_on_two_ranks(page_set, folder, monkeypatch):
    ranks = under_horovod(folder, monkeypatch)
    check_example(page_set, ranks, loader=FAST, sampler="DistributedSampler")


def under_horovod(folder: Path, monkeypatch: pytest.MonkeyPatch, *, encoded: bool = False) -> list[dict[str, Any]]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(PROGRAMS), os.environ.get("PYTHONPATH")])))
    config = {"folder": str(folder), "encoded": encoded}
    return launch_ranks("horovod_example", config, num_ranks=2, folder=folder / "run", timeout_s=LIMIT_S)


# --- the same over encoded images, each cut and turned over by numbers of its own


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "loader", "sampler"),
    [
        pytest.param("Lightning", FAST, "DistributedSampler", marks=needs("lightning")),
        pytest.param(
            "accelerate", "iobench.loaders.frameworks.PreparedLoader", "SequentialSampler", marks=needs("accelerate")
        ),
        ("torch.distributed", FAST, "SequentialSampler"),
        pytest.param(
            "Horovod",
            FAST,
            "DistributedSampler",
            marks=[
                pytest.mark.horovod,
                pytest.mark.skipif(horovod_available() is not None, reason=f"Horovod: {horovod_available()}"),
            ],
        ),
    ],
)
def test_encoded_images_come_once_on_two_ranks_drawn_as_on_one(
    encoded_set, tmp_path, monkeypatch, name, loader, sampler
):
    (tmp_path / "data").symlink_to(encoded_set.folder)
    if name == "Lightning":  # starts its other rank itself
        finish([start(tmp_path, str(PROGRAMS / "example.py"), name, str(tmp_path), "encoded")])
        ranks = reports(tmp_path)
    elif name == "Horovod":
        ranks = under_horovod(tmp_path, monkeypatch, encoded=True)
    else:
        ranks = on_two_ranks(tmp_path, "example.py", name, str(tmp_path), "encoded")
    shards = ShardSet.open(encoded_set.folder, transform=transforms.ImageNetTrain(24, dtype=torch.uint8))
    alone = DataLoader(shards, 130)
    wanted = []
    for _ in range(2):
        images, labels = next(iter(alone))
        pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        wanted.append({digest(image): int(label) for image, label in zip(pixels, labels, strict=True)})
    assert not wanted[0].keys() & wanted[1].keys()
    check_epochs(wanted, ranks, loader, sampler)


# --- Lightning


class Recorder:
    """A small LightningModule that keeps the labels of every step; made where Lightning is."""

    @staticmethod
    def make(labels_seen: list[list[int]]) -> Any:
        import lightning

        class Model(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.layer = torch.nn.Linear(3, 10)

            def training_step(self, batch, number):
                images, labels = batch
                labels_seen.append(labels.tolist())
                return torch.nn.functional.cross_entropy(self.layer(images.float().mean((2, 3))), labels)

            def predict_step(self, batch, number):
                labels_seen.append(batch[1].tolist())

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.1)

        return Model()


@needs("lightning")
@pytest.mark.filterwarnings("ignore")
def test_a_lightning_checkpoint_in_the_middle_of_an_epoch_goes_on_at_the_next_batch(page_set, tmp_path):
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    def fit(*, max_steps: int, checkpoint: Path | None, num_workers: int) -> list[list[int]]:
        seen: list[list[int]] = []
        loader = DataLoader(ShardSet.open(page_set.folder, seed=3), 16, shuffle=True, num_workers=num_workers)
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=max_steps,
            default_root_dir=tmp_path,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=5, save_top_k=-1)],
        )
        trainer.fit(Recorder.make(seen), loader, ckpt_path=checkpoint)
        return seen

    whole = fit(max_steps=14, checkpoint=None, num_workers=0)
    assert len(whole) == 14  # nine batches an epoch
    assert fit(max_steps=14, checkpoint=tmp_path / "step=5.ckpt", num_workers=2) == whole[5:]


@needs("lightning")
@pytest.mark.filterwarnings("ignore")
def test_lightning_predicts_over_our_loader_in_order(page_set, tmp_path):
    import lightning

    seen: list[list[int]] = []
    loader = DataLoader(ShardSet.open(page_set.folder), 16, num_workers=1)
    trainer = lightning.Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    trainer.predict(Recorder.make(seen), loader, return_predictions=False)
    assert list(itertools.chain(*seen)) == page_set.labels.tolist()
    (used,) = trainer.predict_loop._combined_loader.flattened  # rebuilt with a sampler that keeps the indices
    assert type(used) is DataLoader
    assert used.tally.num_records == 130


# --- accelerate


@pytest.mark.slow
@needs("accelerate")
def test_accelerate_sees_ends_remainders_and_states_of_a_prepared_loader(page_set, tmp_path):
    ranks = on_two_ranks(tmp_path, "accelerate_ranks.py", str(page_set.folder), str(tmp_path))
    labels = sorted(page_set.labels.tolist())
    for rank in ranks:
        assert (rank["class"], rank["length"]) == ("iobench.loaders.dataloader", 10)  # 130 / (2 * 7) steps, rounded up
        assert rank["same"]
        for epoch in (rank["first"], rank["second"]):
            assert [len(batch) for batch in epoch["seen"]] == [7] * 9 + [2]
            assert sorted(epoch["gathered"]) == labels
            assert epoch["ends"] == [False] * 9 + [True]
            assert not epoch["left"]
        assert rank["first"]["gathered"] == ranks[0]["first"]["gathered"] != rank["second"]["gathered"]
        assert rank["resumed"]
        assert rank["skipped"]
        assert [len(batch) for batch in rank["exact"]["seen"]] == [3] * 21 + [2]
        assert rank["plain"]["class"] == "DataLoaderShard"  # accelerator.prepare without ours: right, and torch's road
    for way in ("exact", "plain"):
        seen = [rank[way]["seen"] for rank in ranks]
        assert sorted(itertools.chain(*seen[0], *seen[1])) == labels


def accelerator(**changed: Any) -> Any:
    """What `prepare` asks of an Accelerator before it takes a loader."""
    plain = {
        "process_index": 1,
        "num_processes": 2,
        "split_batches": False,
        "even_batches": True,
        "dispatch_batches": None,
        "torch_device_mesh": None,
    }
    return SimpleNamespace(**{**plain, **changed})


@pytest.mark.parametrize(
    ("changed", "opened", "options", "said"),
    [
        ({}, {}, {"batch_size": None}, "it gives single samples"),
        ({}, {}, {"sampler": [1]}, "it has a sampler of its own"),
        ({"dispatch_batches": True}, {}, {}, "dispatch_batches=True"),
        ({"torch_device_mesh": object()}, {}, {}, "a device mesh"),
        ({}, {"rank": 0, "world_size": 2}, {}, "its ShardSet is rank 0 of 2, and this process is 1 of 2"),
        ({"split_batches": True}, {}, {"batch_size": 5}, "its batch_size is no multiple of 2"),
    ],
)
def test_what_cannot_be_prepared_is_refused_with_the_reason(page_set, changed, opened, options, said):
    loader = DataLoader(ShardSet.open(page_set.folder, **opened), **options)
    with pytest.raises(PrepareError, match=said) as caught:
        prepare(accelerator(**changed), loader)
    assert caught.value.exit_status == 2


def test_over_any_other_data_set_prepare_is_accelerates_own():
    loader = DataLoader(list(range(10)))
    assert prepare(SimpleNamespace(prepare=lambda one: ("prepared", one)), loader) == ("prepared", loader)


# --- the plan that frameworks are given


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 130, 140])
@pytest.mark.parametrize("batch_size", [1, 8, 64, 200])
def test_even_batches_are_equal_leave_none_out_and_repeat_at_the_end(page_set, world_size, batch_size):
    shards = ShardSet.open(page_set.folder, shuffle_mode="blocks", seed=4)
    shards.block_records = 5
    plans = [
        PlannedBatches(shards, batch_size, shuffle=True, rank=rank, world_size=world_size, even_batches=True)
        for rank in range(world_size)
    ]
    batches = [list(plan) for plan in plans]
    assert len({len(plan) for plan in plans}) == 1
    assert {tuple(len(batch) for batch in mine) for mine in batches} == {tuple(len(batch) for batch in batches[0])}
    assert all(len(plan) == len(mine) for plan, mine in zip(plans, batches, strict=True))
    whole = [np.concatenate([mine[step] for mine in batches]) for step in range(len(plans[0]))]
    remainder = 130 % (batch_size * world_size)
    if remainder:
        assert len(whole[-1]) - remainder < world_size
        whole[-1] = whole[-1][:remainder]  # what accelerate's gather_for_metrics keeps
    assert sorted(np.concatenate(whole).tolist()) == list(range(130))


def test_a_plan_is_a_batch_sampler_for_torchs_own_loader(page_set):
    shards = ShardSet.open(page_set.folder, rank=1, world_size=2)
    plan = PlannedBatches(shards, 9, shuffle=True)
    plan.set_epoch(2)
    theirs = [labels.tolist() for _, labels in torch.utils.data.DataLoader(shards, batch_sampler=plan)]
    ours = DataLoader(shards, batch_size=9, shuffle=True)
    ours.set_epoch(2)
    assert theirs == [labels.tolist() for _, labels in ours]
    assert copy.deepcopy(plan).epoch == 2


def test_a_plan_that_does_not_fit_is_refused(page_set, sector_set):
    shards = ShardSet.open(page_set.folder)
    with pytest.raises(ValueError, match="rank 2 is not one of world_size 2"):
        PlannedBatches(shards, 4, rank=2, world_size=2)
    with pytest.raises(ValueError, match="batch_size is 0"):
        PlannedBatches(shards, 0)
    with pytest.raises(ValueError, match="of another set: it has 130 records, the loader's has 70"):
        DataLoader(ShardSet.open(sector_set.folder), batch_sampler=PlannedBatches(shards, 4))


def test_a_plan_over_something_else_is_refused_with_what_puts_it_there(page_set):
    with pytest.raises(TypeError, match=r"over a ShardSet, not over a list; .*use_distributed_sampler=False"):
        PlannedBatches([1, 2, 3], batch_size=4, drop_last=False)
