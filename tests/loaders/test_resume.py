"""A place in an epoch: exact to the batch as yielded, from every source of an order, with any number of workers."""

import importlib.util
import io
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)

from iobench.loaders import DataLoader, PlannedBatches, ShardSet
from iobench.loaders.resume import ResumeError

PROGRAM = Path(__file__).with_name("programs") / "killed_epoch.py"


def gen(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Remembering(Sampler):
    """A sampler with a state of its own, and an order that goes on from epoch to epoch."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.random = gen(3)
        self.begun = self.random.get_state()
        self.place = 0
        self.go_to = 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self):
        if not self.go_to:
            self.begun = self.random.get_state()
        self.place, self.go_to = self.go_to, 0
        for number in torch.randperm(self.size, generator=self.random).tolist()[self.place :]:
            self.place += 1
            yield number

    def state_dict(self):
        done = self.place == self.size
        return {"place": 0 if done else self.place, "begun": self.random.get_state() if done else self.begun}

    def load_state_dict(self, state):
        self.go_to = state["place"]
        self.random.set_state(state["begun"])
        self.begun = state["begun"]


class Forgetful(Sampler):
    """As torchdata's StatefulDistributedSampler: at the end of an epoch its state is a place with nothing behind it."""

    def __init__(self, size: int) -> None:
        self.size, self.place, self.go_to = size, 0, 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self):
        self.place, self.go_to = self.go_to, 0
        for number in range(self.place, self.size):
            self.place += 1
            yield number

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.go_to = state["place"]


class Letters(IterableDataset):
    def __iter__(self):
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        return itertools.islice(map(chr, range(65, 105)), first, None, step)


ROADS = {
    "in order": lambda shards: {"batch_size": 9},
    "records": lambda shards: {"batch_size": 9, "shuffle": True},
    "drop_last": lambda shards: {"batch_size": 9, "shuffle": True, "drop_last": True},
    "single samples": lambda shards: {"batch_size": None, "shuffle": True},
    "even batches": lambda shards: {
        "batch_sampler": PlannedBatches(shards, 9, shuffle=True, rank=1, world_size=3, even_batches=True)
    },
    "generator": lambda shards: {"batch_size": 9, "shuffle": True, "generator": gen()},
    "global generator": lambda shards: {"batch_size": 9, "sampler": RandomSampler(shards)},
    "global generator behind a batch sampler": lambda shards: {
        "batch_sampler": BatchSampler(RandomSampler(shards), 9, False),
        "generator": gen(),
    },
    "sampler's generator": lambda shards: {"batch_size": 9, "sampler": RandomSampler(shards, generator=gen())},
    "weights": lambda shards: {
        "batch_size": 9,
        "sampler": WeightedRandomSampler(torch.linspace(0.1, 1, len(shards)), 100, generator=gen()),
    },
    "list": lambda shards: {"batch_size": 9, "sampler": list(range(129, 29, -1))},
    "batches": lambda shards: {"batch_sampler": [[n, n + 1, 129 - n] for n in range(30)]},
    "distributed": lambda shards: {"batch_size": 9, "sampler": DistributedSampler(shards, num_replicas=2, rank=1)},
    "stateful": lambda shards: {"batch_size": 9, "sampler": Remembering(len(shards))},
    "forgetful": lambda shards: {"batch_size": 9, "sampler": Forgetful(len(shards))},
}


def new_loader(folder: Path, road: str, *, num_workers: int = 0, **options) -> DataLoader:
    shards = ShardSet.open(folder, seed=5)
    return DataLoader(shards, num_workers=num_workers, **{**ROADS[road](shards), **options})


def drain(loader) -> list[list[int]]:
    """One epoch by its labels and the bytes of its images."""
    return [fingerprint(batch) for batch in loader]


def fingerprint(batch) -> list[int]:
    images, labels = batch
    return [hash(images.numpy().tobytes()), *torch.as_tensor(labels).flatten().tolist()]


def saved(state):
    """Through a file, as weights only: nothing unpickled."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def one_by_one(loader, after: int) -> tuple[list[list[int]], dict]:
    """The first `after` batches of an epoch that is left then, and the state."""
    seen = [fingerprint(batch) for batch in itertools.islice(loader, after)]
    return seen, saved(loader.state_dict())


# --- over a ShardSet


@pytest.mark.parametrize("workers", [(0, 2), (2, 0), (3, 1)], ids=str)
@pytest.mark.parametrize("road", ROADS)
def test_from_every_place_the_rest_of_the_epoch_and_the_next_one_are_the_same(page_set, road, workers):
    before, after = workers
    torch.manual_seed(21)
    whole = new_loader(page_set.folder, road, num_workers=before)
    first = drain(whole)
    for place in (0, 1, len(first) // 2, len(first)):
        torch.manual_seed(21)
        seen, state = one_by_one(new_loader(page_set.folder, road, num_workers=before), place)
        torch.manual_seed(99)
        resumed = new_loader(page_set.folder, road, num_workers=after)
        resumed.load_state_dict(state)
        assert seen + drain(resumed) == first
    if "global" not in road:  # the next epoch's order is for the loop's own generator to say
        assert drain(resumed) == drain(whole)


@pytest.mark.parametrize("road", ROADS)
def test_between_epochs_a_state_is_the_beginning_of_the_next_one(page_set, road):
    torch.manual_seed(21)
    whole = new_loader(page_set.folder, road, num_workers=1)
    drain(whole)
    state = saved(whole.state_dict())
    second = drain(whole)
    torch.manual_seed(99)
    resumed = new_loader(page_set.folder, road)
    resumed.load_state_dict(state)
    assert resumed.epoch == 1
    assert drain(resumed) == second


def test_after_the_last_batch_and_before_the_end_nothing_is_left(page_set):
    loader = new_loader(page_set.folder, "records")
    _, state = one_by_one(loader, len(loader))
    resumed = new_loader(page_set.folder, "records")
    resumed.load_state_dict(state)
    assert drain(resumed) == []
    assert resumed.epoch == 1


def test_what_was_prefetched_and_not_yielded_is_read_again(page_set):
    loader = new_loader(page_set.folder, "records", num_workers=2, prefetch_factor=3)
    batches = iter(loader)
    first, second = fingerprint(next(batches)), fingerprint(next(batches))
    state = saved(loader.state_dict())
    assert state["num_yielded"] == 2
    rest = drain(batches)
    other = new_loader(page_set.folder, "records", num_workers=2)
    other.load_state_dict(state)
    assert drain(other) == rest
    assert [first, second, *rest] == drain(new_loader(page_set.folder, "records"))


def test_a_state_that_was_loaded_is_the_state_until_the_next_iter(page_set):
    loader = new_loader(page_set.folder, "generator")
    _, state = one_by_one(loader, 3)
    loader.load_state_dict(state)
    assert loader.state_dict()["num_yielded"] == 3
    batches = iter(loader)
    assert loader.state_dict()["num_yielded"] == 3
    next(batches)
    assert loader.state_dict()["num_yielded"] == 4
    assert state["num_yielded"] == 3


def test_an_empty_state_changes_nothing(page_set):
    loader = new_loader(page_set.folder, "records")
    loader.load_state_dict({})
    assert drain(loader) == drain(new_loader(page_set.folder, "records"))


def test_a_state_applies_once(page_set):
    loader = new_loader(page_set.folder, "records")
    _, state = one_by_one(loader, 4)
    loader.load_state_dict(state)
    assert (len(drain(loader)), len(drain(loader))) == (11, 15)


@pytest.mark.parametrize("road", ["records", "distributed"])
def test_setting_the_same_epoch_keeps_the_place_and_another_leaves_it(page_set, road):
    loader = new_loader(page_set.folder, road)
    loader.set_epoch(3)
    third = drain(loader)
    loader.set_epoch(3)
    _, state = one_by_one(loader, 4)
    assert state["epoch"] == 3
    for epoch, rest in ((3, third[4:]), (4, None)):
        resumed = new_loader(page_set.folder, road)
        resumed.load_state_dict(state)
        resumed.set_epoch(epoch)
        seen = drain(resumed)
        assert seen == rest if rest is not None else len(seen) == len(third)


def test_a_sampler_whose_epoch_nobody_set_again_gets_it_from_the_state(page_set):
    loader = new_loader(page_set.folder, "distributed")
    loader.sampler.set_epoch(6)
    seen, state = one_by_one(loader, 2)
    loader.sampler.set_epoch(6)
    whole = drain(loader)
    resumed = new_loader(page_set.folder, "distributed")
    resumed.load_state_dict(state)
    assert seen + drain(resumed) == whole


def test_resuming_leaves_torchs_global_generator_where_a_fresh_epoch_leaves_it(page_set):
    _, state = one_by_one(new_loader(page_set.folder, "global generator"), 5)

    def drawn(*, resume: bool) -> torch.Tensor:
        torch.manual_seed(1)
        loader = new_loader(page_set.folder, "list")
        if resume:
            loader = new_loader(page_set.folder, "global generator")
            loader.load_state_dict(state)
        drain(loader)
        return torch.get_rng_state()

    assert torch.equal(drawn(resume=True), drawn(resume=False))


def test_a_state_of_one_rank_holds_for_every_rank(page_set):
    def loader_of(rank: int) -> DataLoader:
        shards = ShardSet.open(page_set.folder, rank=rank, world_size=2, shuffle_mode="blocks")
        return DataLoader(shards, batch_size=8, shuffle=True)

    _, state = one_by_one(loader_of(0), 3)
    resumed = loader_of(1)
    resumed.load_state_dict(state)
    assert drain(resumed) == drain(loader_of(1))[3:]


# --- refusals


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"batch_size": 10}, "batch_size=9, this loader has batch_size=10"),
        ({"drop_last": True}, "drop_last=False, this loader has drop_last=True"),
        ({"shuffle": False}, "mode='records', this loader has mode='off'"),
        ({"generator": gen()}, "mode='records', this loader has mode='generator'"),
        ({"sampler": [1, 2], "shuffle": None}, "sampler='PlannedBatches', this loader has sampler='list'"),
    ],
)
def test_a_place_in_another_order_is_refused_with_what_differs(page_set, changed, said):
    state = new_loader(page_set.folder, "records").state_dict()
    with pytest.raises(ResumeError, match=said) as caught:
        new_loader(page_set.folder, "records", **changed).load_state_dict(state)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": 6}, "seed=5, this loader has seed=6"),
        ({"seed": 5, "shuffle_mode": "shards"}, "mode='records', this loader has mode='shards'"),
        ({"seed": 5, "rank": 1, "world_size": 2}, "world_size=1, this loader has world_size=2"),
    ],
)
def test_a_place_in_a_set_opened_otherwise_is_refused(page_set, options, said):
    state = new_loader(page_set.folder, "records").state_dict()
    other = DataLoader(ShardSet.open(page_set.folder, **options), batch_size=9, shuffle=True)
    with pytest.raises(ResumeError, match=said):
        other.load_state_dict(state)


def test_a_place_in_other_data_is_refused(page_set, sector_set):
    state = new_loader(page_set.folder, "in order").state_dict()
    with pytest.raises(ResumeError, match=r"data='130 records, [0-9a-f]+', this loader has data='70 records"):
        new_loader(sector_set.folder, "in order").load_state_dict(state)


@pytest.mark.parametrize("state", [{"_snapshot": {}}, [], {"version": 2}])
def test_something_else_is_no_state(page_set, state):
    loader = new_loader(page_set.folder, "records")
    if not state:
        loader.load_state_dict(state)
        return
    with pytest.raises(ResumeError, match="not a state of iobench's DataLoader"):
        loader.load_state_dict(state)


def test_a_sampler_that_became_shorter_is_told(page_set):
    _, state = one_by_one(new_loader(page_set.folder, "list"), 8)
    shorter = new_loader(page_set.folder, "list", sampler=[1, 2, 3])
    shorter.load_state_dict(state)
    with pytest.raises(ResumeError, match="8 batches were yielded, but the sampler has 1"):
        next(iter(shorter))


# --- over any other data set


PAIRS = TensorDataset(torch.arange(50), torch.arange(50) * 3)


@pytest.mark.parametrize("workers", [(0, 2), (2, 0)], ids=str)
@pytest.mark.parametrize(
    "make",
    [
        lambda: {"shuffle": True},
        lambda: {"shuffle": True, "generator": gen()},
        lambda: {"sampler": Remembering(50)},
        lambda: {"batch_size": None},
    ],
    ids=["global generator", "generator", "stateful", "single"],
)
def test_over_any_other_map_style_data_set_a_place_is_found_again(make, workers):
    def loader_with(num_workers: int) -> DataLoader:
        return DataLoader(PAIRS, num_workers=num_workers, **{"batch_size": 4, **make()})

    torch.manual_seed(4)
    whole = [str(batch) for batch in loader_with(workers[0])]
    torch.manual_seed(4)
    loader = loader_with(workers[0])
    seen = [str(batch) for batch in itertools.islice(loader, 5)]
    torch.manual_seed(5)
    resumed = loader_with(workers[1])
    resumed.load_state_dict(saved(loader.state_dict()))
    assert seen + [str(batch) for batch in resumed] == whole


def test_persistent_worker_processes_go_on_from_the_place():
    loader = DataLoader(PAIRS, batch_size=4, shuffle=True, generator=gen(), num_workers=1, persistent_workers=True)
    batches = iter(loader)
    seen = [str(next(batches)) for _ in range(3)]
    state = saved(loader.state_dict())
    rest = [str(batch) for batch in batches]
    next_epoch = [str(batch) for batch in loader]
    loader.load_state_dict(state)
    assert [str(batch) for batch in loader] == rest
    assert [str(batch) for batch in loader] == next_epoch
    assert len(seen) + len(rest) == 13


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_iterable_data_set_is_read_up_to_the_place(num_workers):
    whole = list(DataLoader(Letters(), batch_size=3, num_workers=num_workers))
    loader = DataLoader(Letters(), batch_size=3, num_workers=num_workers)
    assert list(itertools.islice(loader, 5)) == whole[:5]
    resumed = DataLoader(Letters(), batch_size=3, num_workers=num_workers)
    resumed.load_state_dict(saved(loader.state_dict()))
    assert list(resumed) == whole[5:]
    assert list(resumed) == whole


def test_an_iterable_data_set_that_became_shorter_is_told():
    class Few(Letters):
        def __iter__(self):
            return itertools.islice(super().__iter__(), 4)

    Few.__name__ = "Letters"
    loader = DataLoader(Letters(), batch_size=3)
    list(itertools.islice(loader, 5))
    resumed = DataLoader(Few(), batch_size=3)
    resumed.load_state_dict(loader.state_dict())
    with pytest.raises(ResumeError, match="5 batches were yielded, but the data set ends after 2"):
        iter(resumed)


# --- beside torchdata


@pytest.mark.skipif(importlib.util.find_spec("torchdata") is None, reason="torchdata is not installed")
@pytest.mark.filterwarnings("ignore:.set_vital. is deprecated")
@pytest.mark.parametrize("place", [0, 1, 6, 13])
def test_a_place_means_what_it_means_to_torchdata(place):
    from torchdata.stateful_dataloader import StatefulDataLoader

    def rest(cls) -> list[str]:
        loader = cls(PAIRS, batch_size=4, num_workers=0, sampler=range(49, -1, -1))
        batches = iter(loader) if place else None
        for _ in range(place):
            next(batches)
        resumed = cls(PAIRS, batch_size=4, num_workers=0, sampler=range(49, -1, -1))
        resumed.load_state_dict(loader.state_dict())
        return [*map(str, resumed), "and then", *map(str, resumed)]

    assert rest(DataLoader) == rest(StatefulDataLoader)


# --- killed


@pytest.mark.parametrize("kind", ["planned", "sampler"])
def test_after_kill_9_in_the_middle_of_an_epoch_the_rest_is_the_same_bit_for_bit(page_set, tmp_path, kind):
    check_killed(page_set.folder, tmp_path, kind)


def test_after_kill_9_encoded_images_are_cut_and_turned_over_as_they_would_have_been(encoded_set, tmp_path):
    check_killed(encoded_set.folder, tmp_path, "augmented")


def check_killed(data: Path, tmp_path: Path, kind: str) -> None:
    spec = importlib.util.spec_from_file_location("killed_epoch", PROGRAM)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    torch.manual_seed(31)
    whole = [images.clone() for images, _ in program.new_loader(data, kind, num_workers=0)]

    words = [sys.executable, str(PROGRAM), str(data), str(tmp_path), kind, "31"]
    running = subprocess.Popen(words)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "state-7.pt").exists() and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
    finally:
        os.kill(running.pid, signal.SIGKILL)
    assert running.wait(10) == -signal.SIGKILL

    last = max(tmp_path.glob("state-*.pt"), key=lambda path: int(path.stem.partition("-")[2]))
    state = torch.load(last, weights_only=True)
    assert 7 <= state["num_yielded"] < len(whole)
    resumed = program.new_loader(data, kind, num_workers=3)
    resumed.load_state_dict(state)
    rest = [images.clone() for images, _ in resumed]
    assert len(rest) == len(whole) - state["num_yielded"]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(rest, whole[state["num_yielded"] :], strict=True))
