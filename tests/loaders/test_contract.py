"""CONTRACT.md, row by row: what each of torch's arguments does over a ShardSet and over any other data set."""

import copy
import inspect
import itertools
import pickle
import random
import re
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    default_collate,
    get_worker_info,
)
from torch.utils.data.dataloader import _BaseDataLoaderIter

from iobench.loaders import DataLoader, PlannedBatches, ShardSet
from iobench.loaders.engines.readers import BufferedReader
from iobench.loaders.route import EvidenceError

TorchLoader = torch.utils.data.DataLoader
CONTRACT = (Path(__file__).parents[2] / "loaders" / "CONTRACT.md").read_text()
TESTS = Path(__file__).parent


def table(heading: str) -> list[list[str]]:
    """The rows of the first table under a heading, cell by cell."""
    section = CONTRACT.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip().strip("|").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows[1:]]


def find(known, images: torch.Tensor) -> list[int]:
    """Which records these images are: no two of a set are alike."""
    numbers = {image.tobytes(): number for number, image in enumerate(known.images)}
    return [numbers[image.tobytes()] for image in images.permute(0, 2, 3, 1).contiguous().numpy()]


def order(known, loader) -> list[list[int]]:
    """The record numbers of each batch of an epoch."""
    return [find(known, images) for images, _ in loader]


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def shards(page_set) -> ShardSet:
    return ShardSet.open(page_set.folder)


# --- the table


def test_the_table_names_every_argument_of_torchs_constructor_in_its_order():
    arguments = list(inspect.signature(TorchLoader.__init__).parameters)[1:]
    assert [row[0].strip("`") for row in table("Arguments")] == arguments


@pytest.mark.parametrize("heading", ["Arguments", "What it has beyond torch's"])
def test_every_row_is_held_by_a_test_that_exists(heading):
    for row in table(heading):
        assert all(row), f"an empty cell in the row of {row[0]}"
        name = row[-1].strip("`")
        assert (TESTS / name).is_file() if name.endswith(".py") else callable(globals().get(name)), name


def test_every_member_that_the_table_names_is_there(shards):
    loader = DataLoader(shards)
    for row in table("What it has beyond torch's"):
        for member in re.findall(r"`(\w+)", row[0]):
            assert hasattr(loader, member), member


def test_all_that_others_read_of_a_loader_is_there(shards):
    """Lightning and accelerate take a loader apart by these names (multiprocessing_context is a property)."""
    loader = DataLoader(shards, batch_size=4, num_workers=1)
    for name in inspect.signature(TorchLoader.__init__).parameters.keys() - {"self", "shuffle"}:
        assert hasattr(loader, name), name
    assert {"_dataset_kind", "_auto_collation", "_index_sampler", "_iterator"} <= set(dir(loader))
    assert isinstance(loader.batch_sampler, BatchSampler)


@pytest.mark.parametrize(
    "name", ["batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers"]
)
def test_what_torch_lets_nobody_set_later_nobody_sets_here(shards, name):
    with pytest.raises(ValueError, match=f"{name} attribute should not be set after DataLoader is initialized"):
        setattr(DataLoader(shards), name, None)


# --- dataset: anything that is no ShardSet


class Letters(IterableDataset):
    """Thirty letters, each worker its share."""

    def __iter__(self):
        info = get_worker_info()
        return itertools.islice(
            map(chr, range(65, 95)), *((0, None) if info is None else (info.id, None, info.num_workers))
        )


class Noise(torch.utils.data.Dataset):
    """Samples drawn from the generators that a worker seeds."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, number):
        return number, torch.rand(1).item(), random.random(), np.random.rand()  # noqa: NPY002


PAIRS = TensorDataset(torch.arange(23), torch.arange(23) * 2)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    ("dataset", "options"),
    [
        (PAIRS, {"batch_size": 3, "shuffle": True}),
        (PAIRS, {"batch_size": 4, "drop_last": True, "sampler": [5, 1, 2, 2, 9]}),
        (PAIRS, {"batch_sampler": [[1, 2], [5]]}),
        (PAIRS, {"batch_size": None, "collate_fn": str}),
        (Noise(), {"batch_size": 6, "shuffle": True}),
        (Letters(), {"batch_size": 4}),
        (Letters(), {"batch_size": 4, "drop_last": True}),
    ],
    ids=["shuffled", "sampler", "batch sampler", "single", "random samples", "iterable", "iterable drop_last"],
)
def test_over_any_other_data_set_every_batch_is_torchs(dataset, options, num_workers):
    def two_epochs(cls) -> tuple[list[str], torch.Tensor]:
        torch.manual_seed(11)
        loader = cls(dataset, num_workers=num_workers, **options)
        if num_workers == 0:
            random.seed(1)
            np.random.seed(1)  # noqa: NPY002
        return [str(batch) for _ in range(2) for batch in loader], torch.get_rng_state()

    (ours, drawn), (theirs, as_drawn) = two_epochs(DataLoader), two_epochs(TorchLoader)
    assert ours == theirs
    assert torch.equal(drawn, as_drawn)


@pytest.mark.filterwarnings("ignore:Length of IterableDataset")
def test_lengths_and_iterators_over_any_other_data_set_are_torchs():
    class Sized(Letters):
        def __len__(self) -> int:
            return 29

    for options in ({"batch_size": 4}, {"batch_size": 4, "drop_last": True}, {"batch_size": None}):
        ours, theirs = DataLoader(Sized(), **options), TorchLoader(Sized(), **options)
        assert len(ours) == len(theirs)
        assert isinstance(iter(ours), type(iter(theirs)))
    with pytest.raises(TypeError, match="has no len"):
        len(DataLoader(Letters()))


def test_an_error_in_a_worker_process_is_raised_as_torch_raises_it():
    class Broken(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, number):
            raise LookupError(f"no sample {number}")

    batches = iter(DataLoader(Broken(), num_workers=1))
    with pytest.raises(LookupError, match="Caught LookupError in DataLoader worker process 0"):
        next(batches)
    batches._shutdown_workers()  # else whenever the error is collected


def test_worker_processes_that_persist_go_on_from_epoch_to_epoch():
    def two_epochs(cls) -> list[str]:
        torch.manual_seed(5)
        loader = cls(Noise(), batch_size=4, num_workers=2, persistent_workers=True, shuffle=True)
        return [str(batch) for _ in range(2) for batch in loader]

    assert two_epochs(DataLoader) == two_epochs(TorchLoader)


# --- one row after the other, over a ShardSet


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 7, 130, 200, 10**12])
def test_batches_have_the_size_they_were_asked_for(page_set, shards, batch_size, num_workers):
    sizes = [len(images) for images, _ in DataLoader(shards, batch_size, num_workers=num_workers)]
    assert sizes == [len(labels) for _, labels in TorchLoader(shards, batch_size)]
    image, label = next(iter(DataLoader(shards, batch_size=None)))
    assert (image.shape, type(label), label) == ((3, 35, 35), int, page_set.labels[0])


@pytest.mark.parametrize("mode", ["records", "blocks", "shards"])
def test_shuffle_takes_the_order_of_the_set(page_set, mode):
    def epoch(number: int, seed: int) -> list[list[int]]:
        shards = ShardSet.open(page_set.folder, shuffle_mode=mode, seed=seed)
        shards.block_records = 5
        loader = DataLoader(shards, batch_size=16, shuffle=True, num_workers=1)
        loader.set_epoch(number)
        return order(page_set, loader)

    first = epoch(0, 1)
    assert sorted(itertools.chain(*first)) == list(range(130))
    assert first == epoch(0, 1)
    assert first not in (epoch(1, 1), epoch(0, 2))
    in_order = DataLoader(ShardSet.open(page_set.folder, shuffle_mode=mode), batch_size=130)
    assert order(page_set, in_order) == [list(range(130))]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_sampler_gives_the_order(page_set, shards, num_workers):
    loader = DataLoader(shards, batch_size=4, sampler=[9, 1, 1, 120, 3], num_workers=num_workers)
    assert order(page_set, loader) == [[9, 1, 1, 120], [3]]
    ranked = ShardSet.open(page_set.folder, rank=1, world_size=2)
    with pytest.raises(ValueError, match="rank and world_size 2 were given to the ShardSet and a sampler"):
        DataLoader(ranked, sampler=[1])


def test_a_batch_sampler_gives_the_batches(page_set, shards):
    assert order(page_set, DataLoader(shards, batch_sampler=[[4, 5], [2]])) == [[4, 5], [2]]
    for kind in (np.array, torch.tensor, tuple):
        assert order(page_set, DataLoader(shards, batch_sampler=[kind([-1, 5])])) == [[129, 5]]
        with pytest.raises(IndexError, match="record 130 is not one of 130"):
            list(DataLoader(shards, batch_sampler=[kind([130, 5])]))
    ranked = ShardSet.open(page_set.folder, rank=1, world_size=2, shuffle_mode="blocks")
    planned = PlannedBatches(ranked, 8, shuffle=True, even_batches=True)
    loader = DataLoader(ranked, batch_sampler=planned, num_workers=1)
    assert (len(loader), loader.batch_size) == (9, None)
    assert [len(batch) for batch in order(page_set, loader)] == [8] * 8 + [1]


def test_workers_are_threads_over_a_shard_set_only(shards):
    before = {thread.ident for thread in threading.enumerate()}
    batches = iter(DataLoader(shards, batch_size=8, num_workers=3))
    started = [thread.name for thread in threading.enumerate() if thread.ident not in before]
    assert sorted(started) == [f"iobench-reader-{number}" for number in range(3)]
    assert not getattr(batches, "_workers", [])
    assert len(iter(DataLoader(PAIRS, num_workers=2))._workers) == 2


def test_a_collate_function_gets_the_samples(page_set, shards):
    def shapes(samples):
        return [image.shape for image, _ in samples]

    assert next(iter(DataLoader(shards, batch_size=8, num_workers=1, collate_fn=shapes))) == [(3, 35, 35)] * 8
    given_by_name = DataLoader(shards, batch_size=8, collate_fn=default_collate)
    images, _ = next(iter(given_by_name))
    assert images.stride() == (4096, 1, 35 * 3, 3)  # not collated: a view of the records as they were read
    assert given_by_name.tally.copied_bytes == 0


@pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator is here")
def test_pinning_without_an_accelerator_warns_as_torch_does(shards):
    def said(cls) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            next(iter(cls(shards, pin_memory=True, pin_memory_device="cuda")))
        return [str(warning.message) for warning in caught]

    assert said(DataLoader) == said(TorchLoader)
    assert any("no accelerator is found" in text for text in said(DataLoader))
    assert any("pin_memory_device is deprecated" in text for text in said(DataLoader))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a CUDA device, and torch sees none")
def test_pinned_batches_are_pinned(shards):
    images, labels = next(iter(DataLoader(shards, batch_size=4, pin_memory=True)))
    assert images.is_pinned()
    assert labels.is_pinned()


def test_drop_last_leaves_out_the_short_batch(page_set, shards):
    loader = DataLoader(shards, batch_size=50, drop_last=True)
    assert [len(batch) for batch in order(page_set, loader)] == [50, 50]
    assert (loader.num_dropped, loader.tally.num_records) == (30, 100)
    assert DataLoader(shards, batch_size=50).num_dropped == 0


def test_a_time_out_needs_workers_and_ends_the_wait(shards):
    answered = threading.Event()

    class Hanging(BufferedReader):
        def read(self, path, offset, target, *, need=None) -> int:
            answered.wait(5)
            return super().read(path, offset, target, need=need)

    hanging = ShardSet(shards.paths, shards.index, Hanging())
    threading.Timer(0.3, answered.set).start()
    with pytest.raises(RuntimeError, match=r"no batch within 0\.1 s"):
        next(iter(DataLoader(hanging, num_workers=1, timeout=0.1)))
    with pytest.raises(ValueError, match="timeout needs num_workers > 0"):
        DataLoader(shards, timeout=1)


def test_a_worker_init_fn_finds_what_it_finds_in_torch_and_changes_no_generator(shards):
    found = []

    def init(number: int) -> None:
        info = get_worker_info()
        drawn = torch.rand(1).item(), random.random(), np.random.rand()  # noqa: NPY002
        found.append((number, info.id, info.num_workers, info.seed, torch.initial_seed(), info.dataset, drawn))
        torch.manual_seed(0)

    def after(**options) -> tuple[object, ...]:
        torch.manual_seed(3)
        random.seed(4)
        np.random.seed(5)  # noqa: NPY002
        list(DataLoader(shards, batch_size=50, num_workers=3, **options))
        states = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        return *states, torch.initial_seed()

    assert after(worker_init_fn=init) == after()
    torch.manual_seed(3)
    base_seed = torch.empty((), dtype=torch.int64).random_().item()  # as torch draws it at iter()
    assert sorted(row[:5] for row in found) == [(n, n, 3, base_seed + n, base_seed + n) for n in range(3)]
    assert all(row[5] is shards for row in found)
    assert len({row[6] for row in found}) == 3
    assert get_worker_info() is None


def test_a_worker_init_fn_that_fails_is_raised_to_the_loop(shards):
    def init(number: int) -> None:
        raise LookupError(f"worker {number} has no key")

    with pytest.raises(LookupError, match="has no key"):
        next(iter(DataLoader(shards, num_workers=2, worker_init_fn=init)))


def test_a_process_context_is_refused_over_a_shard_set_only(shards):
    with pytest.raises(ValueError, match="multiprocessing_context has no meaning over a ShardSet"):
        DataLoader(shards, num_workers=1, multiprocessing_context="fork")
    loader = DataLoader(PAIRS, num_workers=1, multiprocessing_context="fork")
    assert loader.multiprocessing_context.get_start_method() == "fork"
    assert len(list(loader)) == 23


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_generator_gives_the_order_it_gives_torch(shards, num_workers):
    def two_epochs(cls) -> tuple[list[list[int]], torch.Tensor]:
        generator = gen(8)
        loader = cls(shards, 16, shuffle=True, generator=generator, num_workers=num_workers if cls is DataLoader else 0)
        return [labels.tolist() for _ in range(2) for _, labels in loader], generator.get_state()

    (ours, drawn), (theirs, as_drawn) = two_epochs(DataLoader), two_epochs(TorchLoader)
    assert ours == theirs
    assert torch.equal(drawn, as_drawn)


@pytest.mark.parametrize(("num_workers", "prefetch_factor", "ahead"), [(1, 1, 1), (1, None, 2), (2, 3, 6)])
def test_as_many_batches_are_read_ahead_as_asked_for(shards, num_workers, prefetch_factor, ahead):
    asked = []

    class Asking(list):
        def __iter__(self):
            for batch in list.__iter__(self):
                asked.append(batch)
                yield batch

    sampler = Asking([number] for number in range(20))
    loader = DataLoader(shards, batch_sampler=sampler, num_workers=num_workers, prefetch_factor=prefetch_factor)
    next(iter(loader))
    assert len(asked) == 1 + ahead  # the one that was given, and those being read behind it
    with pytest.raises(ValueError, match="prefetch_factor is 0"):
        DataLoader(shards, num_workers=1, prefetch_factor=0)


def test_persistent_workers_start_once(page_set, shards):
    started: list[int] = []
    options = {"batch_size": 50, "num_workers": 2, "worker_init_fn": started.append}
    loader = DataLoader(shards, persistent_workers=True, **options)
    first = [order(page_set, loader) for _ in range(3)]
    assert sorted(started) == [0, 1]
    anew = DataLoader(shards, **options)
    assert [order(page_set, anew) for _ in range(3)] == first
    assert sorted(started) == [0, 0, 0, 0, 1, 1, 1, 1]


def test_batches_in_any_order_may_come_in_order(page_set, shards):
    loader = DataLoader(shards, batch_size=8, num_workers=3, in_order=False)
    assert list(itertools.chain(*order(page_set, loader))) == list(range(130))
    assert loader.in_order is False


# --- beyond torch


def test_an_epoch_that_is_set_reaches_the_sampler(page_set, shards):
    sampler = DistributedSampler(shards, num_replicas=2, rank=0, seed=3)
    loader = DataLoader(shards, batch_size=65, sampler=sampler)
    loader.set_epoch(4)
    assert (loader.epoch, sampler.epoch) == (4, 4)
    seen = order(page_set, loader)
    sampler.set_epoch(4)
    assert seen == [list(sampler)]
    assert loader.epoch == 5


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", ["shards", "other"])
def test_a_loader_meters_its_own_epochs(shards, kind, num_workers):
    dataset = shards if kind == "shards" else PAIRS
    loader = DataLoader(dataset, batch_size=4, num_workers=num_workers)
    assert loader.stall["num_steps"] == 0
    for _ in range(2):
        batches = list(loader)
        seen = loader.meter.summary()
        assert seen["num_steps"] == len(batches) == len(loader)  # of this epoch alone
        assert 0 < seen["data_wait_s"] <= seen["wall_s"]
    assert loader.stall == seen
    for _ in loader:
        break
    assert loader.stall["num_steps"] == 1
    assert loader.stall["wall_s"] > 0


def test_evidence_tells_what_the_loader_read(shards):
    loader = DataLoader(shards, batch_size=16, num_workers=1)
    with pytest.raises(EvidenceError, match="nothing was read yet"):
        loader.evidence()
    list(loader)
    found = loader.evidence()
    assert (found.engine, found.requested_route) == ("buffered", "host")
    assert found.delivered_bytes == loader.tally.delivered_bytes > found.payload_bytes == 130 * 35 * 35 * 3
    with pytest.raises(EvidenceError, match="only over a ShardSet"):
        DataLoader(PAIRS).evidence()


# --- as an object


def test_iterators_are_torchs_to_whoever_asks(shards):
    batches = iter(DataLoader(shards, batch_size=8))
    assert isinstance(batches, _BaseDataLoaderIter)
    assert len(batches) == 17
    next(batches)
    assert batches._num_yielded == 1


@pytest.mark.parametrize("again", [copy.deepcopy, lambda loader: pickle.loads(pickle.dumps(loader))])
def test_a_loader_that_was_used_can_be_copied_and_sent_elsewhere(page_set, shards, again):
    loader = DataLoader(shards, batch_size=16, shuffle=True, num_workers=1)
    next(iter(loader))
    other = again(loader)
    assert other.epoch == 1
    assert order(page_set, other) == order(page_set, loader)


def test_a_loader_is_generic_as_torchs_is():
    assert DataLoader[int].__origin__ is DataLoader
    assert issubclass(DataLoader, TorchLoader)


def test_random_samplers_of_every_kind_draw_what_they_draw_in_torch(shards):
    for make in (
        lambda: {"sampler": RandomSampler(shards, replacement=True, num_samples=40, generator=gen(2))},
        lambda: {"sampler": torch.utils.data.WeightedRandomSampler([1.0] * 130, 50, generator=gen(2))},
        lambda: {"sampler": torch.utils.data.SubsetRandomSampler(range(30, 60), generator=gen(2))},
    ):
        ours, theirs = (
            [labels.tolist() for _ in range(2) for _, labels in loader]
            for loader in (DataLoader(shards, 8, num_workers=1, **make()), TorchLoader(shards, 8, **make()))
        )
        assert ours == theirs
