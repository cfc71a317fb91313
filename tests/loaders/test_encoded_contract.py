"""The contract on encoded images, in TFRecords, tars and folders: what holds of pixels holds of samples that are drawn.

A sample is a function of (seed, epoch, record).  `drawn` has every sample of an epoch by its record, from a loader as
plain as can be; all others must give the same, whoever orders the records and whatever threads there are.
"""

import itertools
import random
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DistributedSampler, RandomSampler, WeightedRandomSampler

from iobench.loaders import DataLoader, PlannedBatches, ShardSet, hand_out, transforms
from iobench.loaders.images.decoding import ImageError
from iobench.loaders.resume import ResumeError
from iobench.loaders.route import RouteRefusedError

NUM, SIZE = 130, 24
CONTRACT = Path(__file__).parents[2] / "loaders" / "CONTRACT.md"
TorchLoader = torch.utils.data.DataLoader


def open_set(known, **options) -> ShardSet:
    return ShardSet.open(known.folder, **{"transform": transforms.ImageNetTrain(SIZE), "seed": 5, **options})


def gen(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(batches) -> list[list[tuple[int, bytes]]]:
    """Batch by batch, the record and the bytes of each sample."""
    return [
        [(int(label), image.numpy().tobytes()) for image, label in zip(images, labels, strict=True)]
        for images, labels in batches
    ]


def drawn(known, epoch: int = 0, **options) -> dict[int, bytes]:
    loader = DataLoader(open_set(known, **options), batch_size=1)
    loader.set_epoch(epoch)
    return dict(itertools.chain(*rows(loader)))


@pytest.fixture(scope="module")
def first(encoded_set) -> dict[int, bytes]:
    found = drawn(encoded_set)
    assert sorted(found) == list(range(NUM))
    assert len(set(found.values())) == NUM
    return found


@pytest.fixture(scope="module")
def second(encoded_set, first) -> dict[int, bytes]:
    found = drawn(encoded_set, 1)
    assert not set(found.values()) & set(first.values())
    return found


def test_every_row_of_the_contract_is_held_by_a_test_that_exists():
    section = CONTRACT.read_text().split("\n## Encoded images\n", 1)[1].split("\n## ", 1)[0]
    named = re.findall(r"\| `(test_\w+)` \|$", section, re.MULTILINE)
    assert len(named) == sum(line.startswith("| ") for line in section.splitlines()) - 1
    assert all(callable(globals()[name]) for name in named)


# --- torch's arguments


ORDERS = {
    "in order": lambda shards: {"batch_size": 9},
    "dropped": lambda shards: {"batch_size": 9, "drop_last": True},
    "sampler": lambda shards: {"batch_size": 4, "sampler": [9, 1, 1, 120, 3]},
    "batch sampler": lambda shards: {"batch_sampler": [[4, 5], [129], [2, 100, 7]]},
    "generator": lambda shards: {"batch_size": 16, "shuffle": True, "generator": gen()},
    "global generator": lambda shards: {"batch_sampler": BatchSampler(RandomSampler(shards), 9, drop_last=True)},
    "weights": lambda shards: {
        "batch_size": 9,
        "sampler": WeightedRandomSampler(torch.linspace(0.1, 1, NUM), 50, generator=gen()),
    },
    "distributed": lambda shards: {"batch_size": 9, "sampler": DistributedSampler(shards, num_replicas=2, rank=1)},
}


@pytest.mark.parametrize("num_workers", [0, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_records_come_in_torchs_order_and_each_with_its_own_sample(encoded_set, first, order, num_workers):
    shards = open_set(encoded_set)
    torch.manual_seed(3)
    ours = rows(DataLoader(shards, num_workers=num_workers, **ORDERS[order](shards)))
    torch.manual_seed(3)
    theirs = [labels.tolist() for _, labels in TorchLoader(shards, **ORDERS[order](shards))]
    assert [[record for record, _ in batch] for batch in ours] == theirs
    assert all(sample == first[record] for batch in ours for record, sample in batch)


def test_single_samples_and_those_of_a_collate_function_are_the_same(encoded_set, first):
    shards = open_set(encoded_set)
    alone = [(label, image.numpy().tobytes()) for image, label in DataLoader(shards, batch_size=None, num_workers=1)]
    assert alone == sorted(first.items())

    def collate(samples):
        assert threading.current_thread() is threading.main_thread()
        return [(label, image.numpy().tobytes()) for image, label in samples]

    collated = list(DataLoader(shards, batch_size=50, collate_fn=collate, num_workers=2))
    assert [len(batch) for batch in collated] == [50, 50, 30]
    assert list(itertools.chain(*collated)) == alone


def test_persistent_workers_with_an_init_function_that_seeds_draw_the_same(encoded_set, first, second):
    started = []

    def init(number: int) -> None:
        started.append(number)
        torch.manual_seed(number)
        random.seed(number)

    options = {"batch_size": 9, "num_workers": 2, "persistent_workers": True, "prefetch_factor": 3, "timeout": 30}
    loader = DataLoader(open_set(encoded_set), worker_init_fn=init, shuffle=True, in_order=False, **options)
    one, two = (dict(itertools.chain(*rows(loader))) for _ in range(2))
    assert (one, two) == (first, second)
    assert sorted(started) == [0, 1]


# --- ranks


@pytest.mark.parametrize("world_size", [2, 3])
def test_over_all_ranks_every_record_comes_once_with_the_sample_it_has_on_one(encoded_set, first, world_size):
    ranks = [open_set(encoded_set, rank=rank, world_size=world_size) for rank in range(world_size)]
    own = [rows(DataLoader(shards, 9, shuffle=True, num_workers=rank)) for rank, shards in enumerate(ranks)]
    shared = list(itertools.chain(*itertools.chain(*own)))
    assert len(shared) == NUM
    assert dict(shared) == first

    shards = open_set(encoded_set)
    samplers = [DistributedSampler(shards, num_replicas=world_size, rank=rank) for rank in range(world_size)]
    split = [rows(DataLoader(shards, 9, sampler=sampler, num_workers=1)) for sampler in samplers]
    assert len({len(batches) for batches in split}) == 1
    assert dict(itertools.chain(*itertools.chain(*split))) == first

    even = [PlannedBatches(one, 9, shuffle=True, even_batches=True) for one in ranks]
    steps = [rows(DataLoader(plan.shards, batch_sampler=plan, num_workers=1)) for plan in even]
    assert len({tuple(map(len, batches)) for batches in steps}) == 1
    assert dict(itertools.chain(*itertools.chain(*steps))) == first


@pytest.mark.parametrize("epoch", [1, 2])
def test_samples_are_those_of_the_epoch_that_a_sampler_is_set_to(encoded_set, epoch):
    """As a training goes on that was stopped between two epochs, by torch's own idiom."""
    shards = open_set(encoded_set)
    sampler = DistributedSampler(shards, num_replicas=2, rank=0)
    loader = DataLoader(shards, 9, sampler=sampler, num_workers=1)
    sampler.set_epoch(epoch)
    state = loader.state_dict()
    wanted = drawn(encoded_set, epoch)
    found = rows(loader)
    assert all(sample == wanted[record] for batch in found for record, sample in batch)
    assert loader.epoch == epoch + 1
    resumed = DataLoader(shards, 9, sampler=DistributedSampler(shards, num_replicas=2, rank=0))
    resumed.load_state_dict(state)
    assert rows(resumed) == found
    assert resumed.epoch == epoch + 1  # nobody sets the sampler: the loader counts on


# --- a place in an epoch


PLACES = {
    "records": lambda shards: {"batch_size": 9, "shuffle": True},
    "in order": lambda shards: {"batch_size": 9},
    "generator": lambda shards: {"batch_size": 9, "shuffle": True, "generator": gen()},
    "distributed": lambda shards: {"batch_size": 9, "sampler": DistributedSampler(shards, num_replicas=2, rank=1)},
}


@pytest.mark.parametrize("workers", [(0, 3), (2, 0)], ids=str)
@pytest.mark.parametrize("road", PLACES)
def test_the_rest_of_an_epoch_and_the_next_one_are_drawn_alike_with_any_threads(encoded_set, road, workers):
    def new_loader(num_workers: int) -> DataLoader:
        shards = open_set(encoded_set)
        return DataLoader(shards, num_workers=num_workers, **PLACES[road](shards))

    whole = new_loader(workers[0])
    whole.set_epoch(1)
    one, two = rows(whole), rows(whole)
    loader = new_loader(workers[0])
    loader.set_epoch(1)
    batches = iter(loader)
    seen = rows(itertools.islice(batches, 4))
    state = loader.state_dict()
    del batches
    resumed = new_loader(workers[1])
    resumed.load_state_dict(state)
    assert (seen + rows(resumed), rows(resumed)) == (one, two)


@pytest.mark.parametrize("road", PLACES)
def test_a_state_of_another_seed_is_refused_where_samples_are_drawn_from_it(encoded_set, road):
    shards, others = open_set(encoded_set), open_set(encoded_set, seed=6)
    state = DataLoader(shards, **PLACES[road](shards)).state_dict()
    with pytest.raises(ResumeError, match="seed=5, this loader has seed=6"):
        DataLoader(others, **PLACES[road](others)).load_state_dict(state)
    plain, again = (open_set(encoded_set, transform=transforms.ImageNetValidation(SIZE), seed=n) for n in (5, 6))
    state = DataLoader(plain, 9).state_dict()
    DataLoader(again, 9).load_state_dict(state)  # nothing is drawn: the seed does not matter in order


# --- evidence


@pytest.mark.parametrize("engine", ["buffered", "direct"])
def test_evidence_counts_the_encoded_bytes_of_an_epoch(encoded_set, engine, direct_io):
    loader = DataLoader(open_set(encoded_set, engine=engine), 9, shuffle=True, num_workers=2)
    for epoch in range(1, 3):
        list(loader)
        found = loader.evidence()
        assert (found.engine, found.requested_route) == (engine, "host")
        assert found.payload_bytes == epoch * sum(map(len, encoded_set.images))
        assert found.delivered_bytes == loader.tally.delivered_bytes >= found.payload_bytes
    assert loader.tally.num_records == 2 * NUM


def test_a_required_route_is_held_at_the_end_of_each_epoch(encoded_set):
    class Counting(type(open_set(encoded_set).reader)):
        """Counts by itself, as kvikio's reader does."""

        told = "posix"

        def counters(self):
            return {f"kvikio_{self.told}_bytes": self.delivered_bytes}

    found, reader = open_set(encoded_set), Counting()
    transform = transforms.ImageNetTrain(SIZE)
    shards = ShardSet(found.paths, found.index, reader, transform=transform, require_route="host")
    loader = DataLoader(shards, 9, num_workers=2)
    assert len(list(loader)) == 15
    assert loader.evidence().observed_route == "host"
    reader.told = "remote_http"
    with pytest.raises(RuntimeError, match=r"require_route='host', but the way of \d+ bytes .* was remote"):
        list(DataLoader(shards, 9, num_workers=2))
    for route in ("gds", "p2pdma"):
        with pytest.raises(RouteRefusedError, match=f"require_route='{route}' is not possible"):
            open_set(encoded_set, require_route=route)


# --- broken images that are left out


BROKEN = (3, 40, 41, 129)


@pytest.fixture(scope="module")
def broken_set(encoded_set, write_encoded_set, tmp_path_factory):
    """The same images, of which some are cut, one is none and one says that it is larger than it can be."""
    images = list(encoded_set.images)
    images[3], images[40] = images[3][: len(images[3]) // 2], b"\xff\xd8\xff no image"
    images[41], images[129] = images[41][:-200], b"nothing"
    return write_encoded_set(tmp_path_factory.mktemp("broken") / "data", encoded_set.kind, images)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_without_broken_images_are_shorter_and_as_many(broken_set, first, num_workers, drop_last):
    shards = open_set(broken_set, on_error="skip")
    loader = DataLoader(shards, 20, drop_last=drop_last, num_workers=num_workers)
    found = rows(loader)
    whole = [list(range(start, min(NUM, start + 20))) for start in range(0, NUM, 20)][: len(loader)]
    assert [[record for record, _ in batch] for batch in found] == [
        [record for record in batch if record not in BROKEN] for batch in whole
    ]
    assert all(sample == first[record] for batch in found for record, sample in batch)
    assert (len(found), loader.num_dropped) == ((6, 10) if drop_last else (7, 0))
    assert loader.tally.num_records == sum(map(len, whole))
    left_out = [record for record in BROKEN if not drop_last or record < 120]
    assert (loader.tally.num_skipped, sorted(one.record for one in loader.tally.skipped)) == (len(left_out), left_out)


def test_a_place_counts_batches_whatever_was_left_out_of_them(broken_set):
    def new_loader(num_workers: int) -> DataLoader:
        return DataLoader(open_set(broken_set, on_error="skip"), 9, shuffle=True, num_workers=num_workers)

    whole, loader = rows(new_loader(0)), new_loader(2)
    assert sum(map(len, whole)) == NUM - len(BROKEN)
    for place in (1, 7, 14):
        batches = iter(loader)
        seen = rows(itertools.islice(batches, place))
        state = loader.state_dict()
        assert state["num_yielded"] == place
        del batches
        loader.set_epoch(0)
        resumed = new_loader(1)
        resumed.load_state_dict(state)
        assert seen + rows(resumed) == whole


def test_images_that_are_left_out_in_each_epoch_are_counted_each_time_and_named_once(broken_set):
    loader = DataLoader(open_set(broken_set, on_error="skip"), 20, shuffle=True, num_workers=2)
    for epoch in (1, 2, 3):
        list(loader)
        assert loader.tally.num_skipped == epoch * len(BROKEN)
        assert sorted(one.record for one in loader.tally.skipped) == list(BROKEN)


def test_all_ranks_have_as_many_batches_as_said_whatever_is_left_out(broken_set):
    ranks = [open_set(broken_set, on_error="skip", rank=rank, world_size=2) for rank in range(2)]
    plans = [PlannedBatches(shards, 9, shuffle=True, even_batches=True) for shards in ranks]
    loaders = [DataLoader(plan.shards, batch_sampler=plan, num_workers=1) for plan in plans]
    found = [rows(loader) for loader in loaders]
    assert [len(batches) for batches in found] == [len(loader) for loader in loaders] == [8, 8]
    assert sum(loader.tally.num_skipped for loader in loaders) == len(BROKEN)


def test_a_batch_of_broken_images_alone_names_one_of_its_own(broken_set, monkeypatch):
    monkeypatch.setattr(hand_out, "MAX_NAMED", 1)
    loader = DataLoader(open_set(broken_set, on_error="skip"), batch_sampler=[[2, 3], [40, 41]], num_workers=1)
    batches = iter(loader)
    next(batches)
    index = loader.dataset.index
    name = str(loader.dataset.paths[40]) if index.extents.files else f"byte {index.extents.offsets[40]})"
    with pytest.raises(ImageError, match="none is left of it: take larger batches") as caught:
        next(batches)
    assert name in str(caught.value)
    assert (loader.tally.num_skipped, [one.record for one in loader.tally.skipped]) == (3, [3])


def test_a_batch_that_is_held_outlives_errors_and_later_epochs(broken_set):
    loader = DataLoader(open_set(broken_set), 3, num_workers=2, persistent_workers=True, prefetch_factor=1)
    held = []
    for _ in range(3):
        batches = iter(loader)
        held.append(next(batches)[0])
        held.append(held[-1].clone())
        with pytest.raises(ImageError, match=r"cannot be decoded: .*on_error='skip'"):
            list(batches)
    assert all(torch.equal(image, copy) for image, copy in zip(held[::2], held[1::2], strict=True))
    assert np.isfinite(held[0].numpy()).all()
