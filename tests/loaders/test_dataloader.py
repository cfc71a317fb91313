"""The drop-in: torch's contract, the right bytes whatever the road, and batches that nobody overwrites."""

import inspect
import itertools
import os
import random
import threading
from time import sleep

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DistributedSampler, IterableDataset, RandomSampler, TensorDataset

from iobench.loaders.batches import PlannedBatches
from iobench.loaders.buffers import BufferPool
from iobench.loaders.dataloader import DataLoader
from iobench.loaders.engines.readers import BufferedReader, DirectReader, ReadError
from iobench.loaders.plan import SHUFFLE_MODES
from iobench.loaders.shards import ShardSet

TorchLoader = torch.utils.data.DataLoader


def pixels(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy()


def drain(loader):
    """All images (n, H, W, C) and labels of one epoch, copied."""
    parts = [(pixels(images).copy(), labels.numpy()) for images, labels in loader]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def find(known, images) -> list[int]:
    """Which records these images are: no two of a set are alike."""
    numbers = {image.tobytes(): number for number, image in enumerate(known.images)}
    return [numbers[image.tobytes()] for image in images]


# --- the right bytes


@pytest.mark.parametrize("mode", SHUFFLE_MODES)
@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_every_batch_equals_the_recomputed_samples(any_set, engine, mode, num_workers):
    shards = ShardSet.open(any_set.folder, engine=engine, shuffle_mode=mode, seed=4)
    shards.block_records = 5
    loader = DataLoader(shards, batch_size=16, shuffle=True, num_workers=num_workers)
    for _ in range(2):
        images, labels = drain(loader)
        order = find(any_set, images)
        assert sorted(order) == list(range(len(any_set)))
        assert labels.tolist() == any_set.labels[order].tolist()
    assert loader.tally.num_records == 2 * len(any_set)
    assert loader.tally.payload_bytes == 2 * any_set.images.nbytes


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_without_shuffle_records_come_in_the_order_on_disk(any_set, engine, batch_size):
    shards = ShardSet.open(any_set.folder, engine=engine)
    images, labels = drain(DataLoader(shards, batch_size=batch_size, num_workers=2))
    assert (images == any_set.images).all()
    assert (labels == any_set.labels).all()


def test_a_batch_has_torchs_shape_in_channels_last_memory(page_set):
    images, labels = next(iter(DataLoader(ShardSet.open(page_set.folder), batch_size=6)))
    assert (images.dtype, tuple(images.shape), labels.dtype) == (torch.uint8, (6, 3, 35, 35), torch.int64)
    assert images.stride() == (4096, 1, 35 * 3, 3)


@pytest.mark.parametrize("mode", ["shards", "blocks", "records"])
def test_the_order_is_the_same_with_any_number_of_threads_and_after_resuming(page_set, mode):
    def order(num_workers: int, *, epoch: int, seed: int = 9) -> list[int]:
        shards = ShardSet.open(page_set.folder, shuffle_mode=mode, seed=seed)
        shards.block_records = 5
        loader = DataLoader(shards, batch_size=8, shuffle=True, num_workers=num_workers)
        loader.set_epoch(epoch)
        return find(page_set, drain(loader)[0])

    first = order(0, epoch=3)
    assert order(1, epoch=3) == order(3, epoch=3) == first
    assert order(0, epoch=4) != first
    assert order(0, epoch=3, seed=10) != first


def test_epochs_are_counted(page_set):
    loader = DataLoader(ShardSet.open(page_set.folder), batch_size=50, shuffle=True)
    orders = [find(page_set, drain(loader)[0]) for _ in range(3)]
    assert loader.epoch == 3
    loader.set_epoch(1)
    assert find(page_set, drain(loader)[0]) == orders[1] != orders[0]


# --- ranks


@pytest.mark.parametrize("mode", ["off", "blocks", "records"])
@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_over_all_ranks_every_record_comes_exactly_once(odd_set, mode, world_size):
    seen, counts = [], []
    for rank in range(world_size):
        shards = ShardSet.open(odd_set.folder, shuffle_mode=mode, rank=rank, world_size=world_size)
        loader = DataLoader(shards, batch_size=6, shuffle=mode != "off", num_workers=1)
        batches = [(pixels(images).copy(), labels) for images, labels in loader]
        seen += find(odd_set, np.concatenate([images for images, _ in batches]))
        counts.append(len(batches))
        assert len(loader) == len(batches)
        assert loader.num_dropped == 0
    assert sorted(seen) == list(range(len(odd_set)))
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_with_drop_last_ranks_have_equal_whole_batches_and_the_dropped_are_counted(odd_set, world_size):
    seen = []
    for rank in range(world_size):
        shards = ShardSet.open(odd_set.folder, rank=rank, world_size=world_size)
        loader = DataLoader(shards, batch_size=6, shuffle=True, drop_last=True)
        batches = [pixels(images).copy() for images, _ in loader]
        assert len(batches) == len(loader) == (100 // world_size) // 6
        assert {len(images) for images in batches} == {6}
        assert loader.num_dropped == 100 - world_size * ((100 // world_size) // 6) * 6
        seen += find(odd_set, np.concatenate(batches))
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_ranks_have_as_many_batches_as_said(odd_set, world_size):
    def sizes(*, split=True, **options) -> list[list[int]]:
        """The sizes of each rank's batches; `sampler` and `batch_sampler` are made for each."""
        found = []
        for rank in range(world_size):
            ranks = {"rank": rank, "world_size": world_size} if split else {}
            shards = ShardSet.open(odd_set.folder, **ranks)
            made = {name: option(shards, rank) if callable(option) else option for name, option in options.items()}
            found.append([len(labels) for _, labels in DataLoader(shards, **made)])
        return found

    exact = sizes(batch_size=5)
    assert sum(map(sum, exact)) == 100
    assert max(map(len, exact)) - min(map(len, exact)) <= 1
    whole = sizes(batch_size=5, drop_last=True)
    assert whole == [[5] * (100 // world_size // 5)] * world_size
    for padded in (
        sizes(batch_sampler=lambda shards, rank: PlannedBatches(shards, 5, even_batches=True)),
        sizes(split=False, batch_size=5, sampler=lambda shards, rank: DistributedSampler(shards, world_size, rank)),
    ):
        assert padded == [padded[0]] * world_size
        assert 100 <= sum(map(sum, padded)) < 100 + world_size


@pytest.mark.parametrize(
    "make",
    [
        lambda shards: {"sampler": DistributedSampler(shards, num_replicas=2, rank=0)},
        lambda shards: {"batch_sampler": BatchSampler(DistributedSampler(shards, num_replicas=2, rank=0), 4, False)},
        lambda shards: {"sampler": RandomSampler(shards)},
    ],
    ids=["distributed", "distributed batches", "any sampler"],
)
def test_ranks_and_a_sampler_are_not_both_given(page_set, make):
    shards = ShardSet.open(page_set.folder, rank=0, world_size=2)
    with pytest.raises(
        ValueError, match=r"rank and world_size 2 were given to the ShardSet and a sampler to the loader"
    ):
        DataLoader(shards, **make(shards))


def test_a_distributed_sampler_splits_a_set_that_knows_no_ranks(page_set):
    shards = ShardSet.open(page_set.folder)
    seen = []
    for rank in range(2):
        sampler = DistributedSampler(shards, num_replicas=2, rank=rank, shuffle=True)
        seen += find(page_set, drain(DataLoader(shards, batch_size=8, sampler=sampler, num_workers=2))[0])
    assert sorted(seen) == list(range(130))


# --- zero copy


class Addresses(BufferedReader):
    """A real reader that remembers where in memory it was told to read to."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[tuple[int, int]] = []

    def read(self, path, offset, target, *, need=None) -> int:
        start = np.frombuffer(target, dtype=np.uint8).__array_interface__["data"][0]
        self.targets.append((start, start + len(target)))
        return super().read(path, offset, target, need=need)


@pytest.mark.parametrize("mode", SHUFFLE_MODES)
def test_a_batchs_memory_is_the_memory_that_was_read_into(any_set, mode):
    reader = Addresses()
    found = ShardSet.open(any_set.folder)
    shards = ShardSet(found.paths, found.index, reader, shuffle_mode=mode)
    loader = DataLoader(shards, batch_size=16, shuffle=True, num_workers=2)
    for images, _ in loader:
        payload = found.index.layout.payload_bytes
        for image in images:
            start = image.data_ptr()
            # an image of a large batch may come in several reads, side by side
            covered = sum(
                min(end, start + payload) - max(begin, start) for begin, end in overlap(reader, start, payload)
            )
            assert covered >= payload
        del images, image
    assert loader.tally.copied_bytes == 0


def overlap(reader: Addresses, start: int, length: int) -> set[tuple[int, int]]:
    return {(begin, end) for begin, end in reader.targets if begin < start + length and end > start}


@pytest.mark.parametrize("mode", SHUFFLE_MODES)
def test_direct_reads_of_an_aligned_stride_copy_nothing(page_set, direct_io, mode):
    shards = ShardSet.open(page_set.folder, engine="direct", shuffle_mode=mode)
    loader = DataLoader(shards, batch_size=16, shuffle=True, num_workers=2)
    drain(loader)
    assert loader.tally.copied_bytes == 0
    assert loader.tally.delivered_bytes == sum(path.stat().st_size for path in page_set.shards)


def test_direct_reads_of_another_stride_say_what_they_copied(odd_set, direct_io):
    shards = ShardSet.open(odd_set.folder, engine="direct", shuffle_mode="records")
    loader = DataLoader(shards, batch_size=10, shuffle=True)
    drain(loader)
    total = sum(path.stat().st_size for path in odd_set.shards)
    assert 0 < loader.tally.copied_bytes <= total
    assert loader.tally.delivered_bytes > total
    in_order = DataLoader(ShardSet.open(odd_set.folder, engine="direct"), batch_size=1)
    drain(in_order)
    assert in_order.tally.copied_bytes == 0


# --- a batch that somebody holds


@pytest.mark.parametrize("num_workers", [0, 2])
def test_one_held_image_keeps_its_bytes_while_a_hundred_batches_go_by(page_set, engine, num_workers):
    shards = ShardSet.open(page_set.folder, engine=engine)
    loader = DataLoader(shards, batch_size=4, shuffle=True, num_workers=num_workers)
    held = None
    num_batches = 0
    while num_batches <= 100:
        for images, _ in loader:
            if held is None:
                held = images[2]
                before = held.clone()
            num_batches += 1
        del images
    assert torch.equal(held, before)
    assert find(page_set, held.permute(1, 2, 0).numpy()[None])


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_a_list_of_a_whole_epochs_batches_is_an_epoch(any_set, engine, num_workers):
    shards = ShardSet.open(any_set.folder, engine=engine)
    held = list(DataLoader(shards, batch_size=8, shuffle=True, num_workers=num_workers))
    assert sorted(find(any_set, np.concatenate([pixels(images) for images, _ in held]))) == list(range(len(any_set)))


def test_memory_stays_bounded_when_nothing_is_held(page_set, engine, monkeypatch):
    made = []
    allocate = BufferPool.acquire

    def counted(self, size_bytes=0):
        buffer = allocate(self, size_bytes)
        made.append((id(self), buffer.address, self.num_allocated))
        return buffer

    monkeypatch.setattr(BufferPool, "acquire", counted)
    loader = DataLoader(ShardSet.open(page_set.folder, engine=engine), batch_size=4, shuffle=True, num_workers=2)
    for _ in range(6):
        for images, _ in loader:
            assert images.sum() > 0
    # 2 threads x 2 batches ahead, one being handed out, one in the loop's hands, one more of the loop's variable
    assert len(made) == 6 * 33
    assert len({pool for pool, _, _ in made}) == 1
    assert len({address for _, address, _ in made}) <= 7
    assert max(count for _, _, count in made) <= 7


@pytest.mark.parametrize("seed", range(4))
def test_random_holds_and_drops_of_views_never_see_an_overwritten_byte(any_set, engine, seed):
    """A hundred batches; at each step some views of old batches are dropped and some of new ones are kept."""
    chance = random.Random(seed)
    shards = ShardSet.open(any_set.folder, engine=engine, shuffle_mode=chance.choice(SHUFFLE_MODES), seed=seed)
    loader = DataLoader(shards, batch_size=chance.choice([3, 8]), shuffle=True, num_workers=chance.choice([0, 2, 4]))
    views = [
        lambda images: images,
        lambda images: images[chance.randrange(len(images))],
        lambda images: images[:, chance.randrange(3)],
        lambda images: images[..., ::2, 1:],
        lambda images: images.permute(0, 2, 3, 1).numpy()[-1:],
        lambda images: torch.from_dlpack(images[:1]),
        lambda images: images.detach()[0].flatten(1).T,
    ]
    held: list[tuple[object, bytes]] = []
    batches = itertools.islice(itertools.chain.from_iterable(loader for _ in itertools.count()), 100)
    for images, labels in batches:
        order = find(any_set, pixels(images))
        assert labels.tolist() == any_set.labels[order].tolist()
        for _ in range(chance.randrange(3)):
            view = chance.choice(views)(images)
            held.append((view, np.asarray(view).tobytes()))
        chance.shuffle(held)
        del held[chance.randrange(20) :]
        assert all(np.asarray(view).tobytes() == content for view, content in held)
    assert all(np.asarray(view).tobytes() == content for view, content in held)


def test_batches_may_be_used_and_dropped_in_other_threads(page_set):
    """The hand-over to a training thread: buffers come back from there while the loader goes on."""
    loader = DataLoader(ShardSet.open(page_set.folder), batch_size=4, shuffle=True, num_workers=2)
    waiting: list[tuple[torch.Tensor, bytes]] = []
    wrong: list[int] = []
    done = threading.Event()

    def consume() -> None:
        while waiting or not done.is_set():
            if waiting:
                images, content = waiting.pop(0)
                sleep(0.0005)
                wrong.extend([1] if images.numpy().tobytes() != content else [])
                del images

    consumers = [threading.Thread(target=consume) for _ in range(2)]
    for consumer in consumers:
        consumer.start()
    for _ in range(4):
        for images, _ in loader:
            waiting.append((images, images.numpy().tobytes()))
            del images
    done.set()
    for consumer in consumers:
        consumer.join()
    assert not wrong


# --- torch's contract


def test_the_constructor_is_torchs():
    ours, theirs = (inspect.signature(cls.__init__).parameters for cls in (DataLoader, TorchLoader))
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]
    assert issubclass(DataLoader, TorchLoader)


class Numbers(IterableDataset):
    def __iter__(self):
        return iter(range(10))


@pytest.mark.parametrize(
    ("dataset", "options"),
    [
        (TensorDataset(torch.arange(10), torch.arange(10) * 2), {"batch_size": 3}),
        (TensorDataset(torch.arange(10)), {"batch_size": 4, "drop_last": True}),
        (TensorDataset(torch.arange(10)), {"batch_size": None}),
        (TensorDataset(torch.arange(10)), {"sampler": [3, 1, 2]}),
        (list(range(20)), {"batch_sampler": [[1, 2], [5]]}),
        (list(range(20)), {"batch_size": 5, "num_workers": 2}),
        (list(range(20)), {"batch_size": 5, "collate_fn": sum}),
        (Numbers(), {"batch_size": 4}),
    ],
)
def test_over_any_other_data_set_it_is_torchs_loader(dataset, options):
    def flat(loader):
        return [[part.tolist() for part in b] if isinstance(b, list | tuple) else b for b in loader]

    ours, theirs = DataLoader(dataset, **options), TorchLoader(dataset, **options)
    assert [str(batch) for batch in ours] == [str(batch) for batch in theirs]
    if not isinstance(dataset, Numbers):
        assert len(ours) == len(theirs)


def test_torchs_shuffle_with_a_generator_is_the_same_over_any_other_data_set():
    dataset = list(range(50))
    ours, theirs = (
        [batch.tolist() for batch in cls(dataset, 8, shuffle=True, generator=torch.Generator().manual_seed(3))]
        for cls in (DataLoader, TorchLoader)
    )
    assert ours == theirs


@pytest.mark.parametrize(
    "make",
    [
        lambda shards: {"batch_size": 9, "shuffle": True, "generator": torch.Generator().manual_seed(3)},
        lambda shards: {
            "batch_size": 9,
            "shuffle": True,
            "drop_last": True,
            "generator": torch.Generator().manual_seed(3),
        },
        lambda shards: {"batch_size": 9, "sampler": RandomSampler(shards, generator=torch.Generator().manual_seed(3))},
        lambda shards: {"batch_size": 9, "sampler": [5, 129, 0, 5, 77, -1]},
        lambda shards: {"batch_sampler": [[1, 2, 3], [100], [7, 6, 5, 4, 3, 2, 1, 0]]},
        lambda shards: {"batch_sampler": BatchSampler(RandomSampler(shards, generator=gen(5)), 11, False)},
        lambda shards: {"batch_size": None},
        lambda shards: {"batch_size": None, "sampler": [3, 99]},
        lambda shards: {"batch_size": 13},
        lambda shards: {},
        lambda shards: {"batch_size": 60, "collate_fn": len},
        lambda shards: {"batch_size": None, "collate_fn": lambda sample: sample[1]},
        lambda shards: {"batch_size": 7, "collate_fn": lambda samples: [label for _, label in samples]},
    ],
)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_over_a_shard_set_batches_are_those_of_torchs_loader(page_set, make, num_workers):
    shards = ShardSet.open(page_set.folder)
    ours = DataLoader(shards, num_workers=num_workers, **make(shards))
    theirs = TorchLoader(shards, **make(shards))
    assert len(ours) == len(theirs)
    for _ in range(2):
        for mine, other in itertools.zip_longest(ours, theirs):
            assert type(mine) in (type(other), tuple)  # torch's collate makes a list of a tuple of two
            if isinstance(mine, tuple):
                assert torch.equal(mine[0], other[0])
                assert torch.equal(torch.as_tensor(mine[1]), torch.as_tensor(other[1]))
            else:
                assert mine == other


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_global_seed_gives_a_sampler_the_order_it_gives_torch(page_set):
    shards = ShardSet.open(page_set.folder)
    orders = []
    for cls in (DataLoader, TorchLoader):
        torch.manual_seed(77)
        orders.append([label for _, labels in cls(shards, 16, sampler=RandomSampler(shards)) for label in labels])
    assert orders[0] == orders[1]


def test_a_generator_orders_the_records_that_ranks_split(page_set):
    seen = []
    for rank in range(3):
        shards = ShardSet.open(page_set.folder, rank=rank, world_size=3)
        loader = DataLoader(shards, 8, shuffle=True, generator=gen(4))
        part = find(page_set, drain(loader)[0])
        assert len(loader) == -(-len(part) // 8)
        seen += part
    assert sorted(seen) == list(range(130))
    assert seen != list(range(130))


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [1, 13, 64, 130, 131])
def test_the_length_is_the_number_of_batches(page_set, drop_last, batch_size):
    loader = DataLoader(ShardSet.open(page_set.folder), batch_size, drop_last=drop_last, num_workers=1)
    assert len(loader) == len(list(loader)) == (130 // batch_size if drop_last else -(-130 // batch_size))


def test_two_iterators_over_one_loader_are_apart(page_set):
    loader = DataLoader(ShardSet.open(page_set.folder), batch_size=8, num_workers=1)
    for number, ((images, _), (again, _)) in enumerate(zip(loader, loader, strict=True)):
        expected = page_set.images[8 * number : 8 * number + 8]
        assert (pixels(images) == expected).all()
        assert (pixels(again) == expected).all()


def test_worker_init_fn_is_called_in_each_reader_thread(page_set):
    called = []

    def init(number: int) -> None:
        called.append((number, threading.current_thread().name))

    loader = DataLoader(ShardSet.open(page_set.folder), batch_size=8, num_workers=3, worker_init_fn=init)
    list(loader)
    assert sorted(called) == [(number, f"iobench-reader-{number}") for number in range(3)]


def test_a_time_out_is_torchs_runtime_error(page_set):
    answered = threading.Event()

    class Hanging(BufferedReader):
        def read(self, path, offset, target, *, need=None) -> int:
            answered.wait()
            return super().read(path, offset, target, need=need)

    found = ShardSet.open(page_set.folder)
    shards = ShardSet(found.paths, found.index, Hanging())
    batches = iter(DataLoader(shards, batch_size=8, num_workers=1, timeout=0.2))
    threading.Timer(0.4, answered.set).start()
    with pytest.raises(RuntimeError, match=r"no batch within 0\.2 s"):
        next(batches)


@pytest.mark.parametrize("num_workers", [0, 3])
def test_a_shard_cut_while_an_epoch_runs_is_named_with_its_byte(copied, any_set, engine, num_workers):
    known = copied(any_set)
    shards = ShardSet.open(known.folder, engine=engine)
    batches = iter(DataLoader(shards, batch_size=4, num_workers=num_workers))
    next(batches)
    os.truncate(known.shards[-1], 5000)
    with pytest.raises(ReadError, match="the file ends at byte 5000") as caught:
        list(batches)
    assert caught.value.filename == str(known.shards[-1])
    assert caught.value.exit_status == 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("iobench-reader")]


def test_a_process_context_is_refused_where_workers_are_threads(page_set):
    with pytest.raises(ValueError, match="multiprocessing_context has no meaning over a ShardSet"):
        DataLoader(ShardSet.open(page_set.folder), num_workers=1, multiprocessing_context="spawn")


@pytest.mark.parametrize(
    "options",
    [
        {"num_workers": -1},
        {"timeout": -1},
        {"prefetch_factor": 2},
        {"persistent_workers": True},
        {"sampler": [1], "shuffle": True},
        {"batch_sampler": [[1]], "batch_size": 2},
        {"batch_size": None, "drop_last": True},
    ],
)
def test_what_torch_refuses_is_refused_with_torchs_words(page_set, options):
    def refusal(cls) -> str:
        try:
            cls(ShardSet.open(page_set.folder), **options)
        except ValueError as error:
            return str(error)
        return "accepted"

    assert refusal(DataLoader) == refusal(TorchLoader) != "accepted"


@pytest.mark.filterwarnings("error")
def test_more_threads_than_cores_are_no_reason_to_warn(page_set):
    assert len(list(DataLoader(ShardSet.open(page_set.folder), batch_size=65, num_workers=100, prefetch_factor=1))) == 2


@pytest.mark.parametrize("sampler", [[3, 130], [3, -131]])
def test_a_sampler_that_names_a_record_that_is_not_there_is_an_index_error(page_set, sampler):
    with pytest.raises(IndexError, match="is not one of 130"):
        list(DataLoader(ShardSet.open(page_set.folder), batch_size=1, sampler=sampler, num_workers=1))


def test_a_batch_sampler_may_give_larger_batches_than_it_says(page_set, engine):
    class Growing:
        batch_size = 2

        def __iter__(self):
            return iter([[0], list(range(100)), [5], list(range(20, 130))])

    loader = DataLoader(ShardSet.open(page_set.folder, engine=engine), batch_sampler=Growing(), num_workers=2)
    found = [find(page_set, pixels(images)) for images, _ in loader]
    assert found == [[0], list(range(100)), [5], list(range(20, 130))]


def test_a_transform_of_the_set_reaches_the_batch(page_set):
    shards = ShardSet.open(page_set.folder, transform=lambda images: images.float() / 255)
    images, _ = next(iter(DataLoader(shards, batch_size=5)))
    assert images.dtype == torch.float32
    assert np.allclose(pixels(images) * 255, page_set.images[:5], atol=1e-4)


def test_a_closed_iterator_ends_and_its_batches_stay(page_set):
    batches = iter(DataLoader(ShardSet.open(page_set.folder), batch_size=8, num_workers=2))
    images, _ = next(batches)
    batches.close()
    assert list(batches) == []
    assert (pixels(images) == page_set.images[:8]).all()


def test_readers_and_their_threads_are_gone_after_an_epoch(page_set, direct_io):
    shards = ShardSet.open(page_set.folder, engine=DirectReader())
    list(DataLoader(shards, batch_size=8, num_workers=3))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("iobench-reader")]
