"""What a data set is, what it is not, and that torch's own DataLoader can read it."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from iobench.loaders.dataloader import DataLoader
from iobench.loaders.discovery import ShardSetError, find_shards
from iobench.loaders.formats.layout import LayoutError
from iobench.loaders.formats.tfrecord import TFRecordError
from iobench.loaders.index import ShardFormatError
from iobench.loaders.shards import ShardSet


@pytest.fixture
def known(copied, page_set):
    return copied(page_set)


def names(paths) -> list[str]:
    return [path.name for path in paths]


def test_a_folder_a_glob_a_list_and_a_file_are_found(known):
    shards = known.shards
    assert find_shards(known.folder) == find_shards(str(known.folder)) == shards
    assert find_shards(f"{known.folder}/*-of-*") == find_shards(f"{known.folder}/*") == shards
    assert find_shards([str(shards[2]), shards[0]]) == [shards[2], shards[0]]
    assert find_shards(shards[1]) == [shards[1]]


def test_linked_shards_and_a_linked_folder_are_found(known, tmp_path):
    folder = tmp_path / "links"
    folder.mkdir()
    for path in known.shards:
        (folder / path.name).symlink_to(path)
    (tmp_path / "link").symlink_to(folder)
    for place in (folder, tmp_path / "link"):
        shards = ShardSet.open(place)
        assert (shards[129][0].permute(1, 2, 0).numpy() == known.images[129]).all()


def test_a_set_says_what_it_is(known):
    shown = repr(ShardSet.open(known.folder, engine="buffered"))
    assert shown == "<ShardSet of 130 records, 35 x 35 x 3 uint8, in 4 shards, read with buffered>"
    assert "in 1 shard, read with mmap>" in repr(ShardSet.open(known.shards[0], engine="mmap"))


def test_sets_are_added_as_torchs_are(known):
    shards = ShardSet.open(known.folder)
    both = shards + shards
    assert len(both) == 260
    assert torch.equal(both[131][0], shards[1][0])
    assert sum(len(labels) for _, labels in DataLoader(both, batch_size=64)) == 260


@pytest.mark.parametrize("source", [None, 5])
def test_what_names_no_data_set_is_said(source):
    with pytest.raises(TypeError, match=rf"^{source} names no data set: give a path"):
        ShardSet.open(source)


def test_dotfiles_and_the_description_are_no_shards(known):
    (known.folder / ".hidden").write_text("x")
    (known.folder / ".cache").mkdir()
    assert len(find_shards(known.folder)) == 4


@pytest.mark.parametrize(
    ("name", "make", "kind"),
    [
        ("notes.txt", lambda path: path.write_text("hello"), "a file that is no shard"),
        ("more", lambda path: path.mkdir(), "a folder that is no shard"),
        ("more.tfrecord", lambda path: path.mkdir(), "a folder that is no shard"),
        ("pipe.tfrecord", os.mkfifo, "a pipe, socket or device that is no shard"),
        ("gone.tfrecord", lambda path: path.symlink_to("nowhere"), "a link to a file that is missing that is no shard"),
    ],
)
def test_anything_else_among_the_shards_is_named(known, name, make, kind):
    make(known.folder / name)
    with pytest.raises(ShardFormatError, match=kind) as caught:
        find_shards(known.folder)
    assert str(caught.value).startswith(f"{known.folder / name}: ")
    assert "move it out of the data folder" in str(caught.value)
    assert caught.value.exit_status == 4


@pytest.mark.parametrize("name", ["pipe.tfrecord", "folder.tfrecord", "gone.tfrecord"])
@pytest.mark.parametrize("way", ["file", "list", "glob"])
def test_a_pipe_or_folder_is_never_opened_as_a_shard(known, tmp_path, name, way):
    path = tmp_path / name
    if name.startswith("pipe"):
        os.mkfifo(path)
    elif name.startswith("folder"):
        path.mkdir()
    source = {"file": path, "list": [path, known.shards[0]], "glob": f"{tmp_path}/*.tfrecord"}[way]
    with pytest.raises((ShardFormatError, ShardSetError)) as caught:
        find_shards(source)
    assert str(path) in str(caught.value) or "*" in str(caught.value)
    assert caught.value.exit_status == 4


def test_a_folder_of_folders_of_shards_says_which_to_name(known, tmp_path):
    (tmp_path / "all").mkdir()
    known.folder.rename(tmp_path / "all" / "train")
    with pytest.raises(ShardSetError, match=r"all: no shards in this folder, .* as \S+/all/train, or"):
        ShardSet.open(tmp_path / "all")
    glob = f"{tmp_path}/all/*/*"
    with pytest.raises(ShardSetError, match=re.escape(f"in quotes: '{glob}'")):
        find_shards(tmp_path / "all")
    assert len(find_shards(glob)) == len(find_shards(tmp_path / "all" / "train"))


def test_text_named_as_a_shard_is_told_from_a_damaged_one(known):
    (known.folder / "dataset.json").unlink()
    (known.folder / "a.tfrecord").write_text("just some words, and more than twelve of them\n")
    with pytest.raises(TFRecordError, match=r"a\.tfrecord: .* this is no TFRecord file, .* text") as caught:
        ShardSet.open(known.folder)
    assert str(known.folder / "a.tfrecord") in str(caught.value)
    assert caught.value.exit_status == 4


def test_an_empty_shard_is_named(known):
    (known.folder / "dataset.json").unlink()
    (known.folder / "a.tfrecord").write_bytes(b"")
    with pytest.raises(LayoutError, match="no record in it") as caught:
        ShardSet.open(known.folder)
    assert str(known.folder / "a.tfrecord") in str(caught.value)


@pytest.mark.parametrize("source", ["nothing", "nothing/*.tfrecord"])
def test_what_is_not_there_is_said_with_the_way_out(tmp_path, source):
    with pytest.raises(ShardSetError, match="no such file or folder; make one with `iobench generate"):
        ShardSet.open(tmp_path / source)


def test_an_empty_folder_is_said_with_the_way_out(tmp_path):
    with pytest.raises(ShardSetError, match="no shards in this folder; make some with `iobench generate") as caught:
        ShardSet.open(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert caught.value.exit_status == 4
    with pytest.raises(ShardSetError, match="names no shard"):
        ShardSet.open([])


def test_a_shard_that_the_description_names_is_missed(known):
    known.shards[2].unlink()
    with pytest.raises(ShardFormatError, match=r"missing, though dataset\.json names it") as caught:
        ShardSet.open(known.folder)
    assert str(known.folder / "train-00002-of-00004.tfrecord") in str(caught.value)


def test_a_shard_of_another_size_than_described_is_refused(known):
    os.truncate(known.shards[2], 4096)
    with pytest.raises(ShardFormatError, match=r"4096 bytes, but dataset\.json says 163840: truncated or changed"):
        ShardSet.open(known.folder)


def test_a_shard_that_the_description_does_not_name_is_refused(known):
    """What is left of an older, larger data set would be read as part of this one."""
    shutil.copy(known.shards[0], known.folder / "train-00004-of-00005.tfrecord")
    with pytest.raises(ShardFormatError, match=r"00004-of-00005.tfrecord: not one of the shards dataset\.json names"):
        ShardSet.open(known.folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"shards": 3}', '{"shards": [{"name": "x"}]}', "\udcff"])
def test_a_damaged_description_is_named(known, text):
    (known.folder / "dataset.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ShardFormatError, match=r"dataset\.json: not a data set's description") as caught:
        ShardSet.open(known.folder)
    assert caught.value.exit_status == 4


def test_the_description_says_what_the_shards_hold(known):
    described = json.loads((known.folder / "dataset.json").read_text())
    shards = ShardSet.open(known.folder)
    assert described["num_images"] == len(shards) == 130
    assert tuple(described["shape"]) == shards.index.layout.shape
    assert described["record_bytes"] == shards.index.layout.stride_bytes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "floppy"}, "engine 'floppy' is not one of auto, buffered, direct"),
        ({"shuffle_mode": "all"}, "shuffle_mode 'all' is not one of off, shards, blocks, records"),
        ({"rank": 2, "world_size": 2}, "rank 2 is not one of world_size 2"),
        ({"seed": -1}, "seed -1 is no whole number of 0 or more"),
        ({"seed": "x"}, "seed 'x' is no whole number of 0 or more"),
    ],
)
def test_an_option_that_does_not_exist_is_refused(known, options, message):
    with pytest.raises(ValueError, match=message):
        ShardSet.open(known.folder, **options)


def test_single_records_are_the_recomputed_samples(any_set, engine):
    shards = ShardSet.open(any_set.folder, engine=engine)
    assert len(shards) == len(any_set)
    for position in (0, 1, len(shards) - 1, -1, np.int64(7), torch.tensor(9)):
        image, label = shards[position]
        assert image.dtype == torch.uint8
        assert type(label) is int
        assert (image.permute(1, 2, 0).numpy() == any_set.images[int(position)]).all()
        assert label == any_set.labels[int(position)]


def test_several_records_come_in_the_order_they_were_asked_for(any_set, engine):
    shards = ShardSet.open(any_set.folder, engine=engine)
    wanted = [5, 64, 65, 66, 5, -1, 0, 23, 24]
    samples = shards.__getitems__(wanted)
    assert [label for _, label in samples] == any_set.labels[wanted].tolist()
    for (image, _), number in zip(samples, wanted, strict=True):
        assert (image.permute(1, 2, 0).numpy() == any_set.images[number]).all()
    assert shards.__getitems__([]) == []


@pytest.mark.parametrize("position", [130, -131, 10**12])
def test_a_record_that_does_not_exist_is_an_index_error(page_set, position):
    shards = ShardSet.open(page_set.folder)
    with pytest.raises(IndexError, match=f"record {position} is not one of 130"):
        shards[position]
    with pytest.raises(IndexError, match=f"record {position} is not one of 130"):
        shards.__getitems__([0, position])


@pytest.mark.parametrize("position", [1.0, "1", None, slice(3)])
def test_what_is_no_number_is_a_type_error(page_set, position):
    with pytest.raises(TypeError):
        ShardSet.open(page_set.folder)[position]


def test_iterating_over_a_set_ends_after_its_last_record(odd_set):
    assert [label for _, label in ShardSet.open(odd_set.folder)] == odd_set.labels.tolist()


def test_a_transform_runs_once_per_batch_on_the_whole_of_it(page_set):
    shapes = []

    def halve(images: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(images.shape))
        return images[:, :, ::2, ::2].float()

    shards = ShardSet.open(page_set.folder, transform=halve)
    samples = shards.__getitems__([3, 90])
    assert shapes == [(2, 3, 35, 35)]
    assert (samples[1][0].permute(1, 2, 0).numpy() == page_set.images[90][::2, ::2]).all()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_torchs_own_loader_reads_a_set_in_worker_processes(any_set, engine, num_workers):
    shards = ShardSet.open(any_set.folder, engine=engine)
    shards[0]  # a file is open, and a lock exists, before the workers are forked
    loader = torch.utils.data.DataLoader(shards, batch_size=16, num_workers=num_workers)
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert (images.permute(0, 2, 3, 1).numpy() == any_set.images).all()
    assert (labels.numpy() == any_set.labels).all()


def test_torchs_own_loader_may_be_forked_while_reader_threads_are_at_work(page_set):
    shards = ShardSet.open(page_set.folder)
    ahead = iter(DataLoader(shards, batch_size=4, num_workers=3))
    next(ahead)
    loader = torch.utils.data.DataLoader(shards, batch_size=16, num_workers=2, timeout=60)
    assert (torch.cat([labels for _, labels in loader]).numpy() == page_set.labels).all()
    rest = torch.cat([labels for _, labels in ahead])
    assert (rest.numpy() == page_set.labels[4:]).all()


def test_samples_cross_to_the_parent_without_a_collate(page_set):
    loader = torch.utils.data.DataLoader(
        ShardSet.open(page_set.folder), batch_size=8, num_workers=1, collate_fn=lambda samples: samples
    )
    numbers = iter(range(130))
    for samples in loader:
        for image, label in samples:
            number = next(numbers)
            assert label == page_set.labels[number]
            assert (image.permute(1, 2, 0).numpy() == page_set.images[number]).all()


def test_a_pickled_set_reads_the_same(any_set, engine):
    shards = ShardSet.open(any_set.folder, engine=engine, seed=5, shuffle_mode="blocks")
    shards[0]
    again = pickle.loads(pickle.dumps(shards))
    assert (again.seed, again.shuffle_mode, again.reader.engine) == (5, "blocks", engine)
    assert (again[77 % len(again)][0] == shards[77 % len(shards)][0]).all()


def test_a_closed_set_holds_no_file_open(page_set, engine):
    before = set(os.listdir("/proc/self/fd"))  # a set of an earlier test may not be collected yet
    shards = ShardSet.open(page_set.folder, engine=engine)
    shards.__getitems__(list(range(130)))
    shards.close()
    links = [Path(f"/proc/self/fd/{name}") for name in set(os.listdir("/proc/self/fd")) - before]
    assert not [link for link in links if link.exists() and page_set.folder in link.resolve().parents]
