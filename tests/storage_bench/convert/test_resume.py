"""A conversion that is ended goes on; what is whole stays, what is not is never seen; the source may not change."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from iobench.loaders import ShardSet
from iobench.loaders.discovery import ShardSetError
from iobench.loaders.page_cache import evict
from iobench.storage_bench.convert import Convert, ConvertError, ConvertUsageError, convert
from iobench.storage_bench.generate import Generate, generate

UNFINISHED, FINISHED = ".iobench-converting.jsonl", ".iobench-converted.jsonl"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that is seen, and its bytes."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def hidden(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.startswith(".")}


def interrupt_at(share: float, kind: type[BaseException] = KeyboardInterrupt):
    """A progress that ends the conversion when so much of it is done."""

    def progress(phase, done, total):
        if phase == "convert" and done >= share * total:
            raise kind

    return progress


@pytest.mark.parametrize("layout", ["tensors", "folder"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_conversion_goes_on_and_ends_as_if_it_had_not_been(page_set, tmp_path, layout, kind):
    config = Convert(format=layout, images_per_shard=10, jobs=2)
    convert(page_set.folder, tmp_path / "whole", config)
    before = threading.active_count()
    with pytest.raises(kind):
        convert(page_set.folder, tmp_path / "made", config, progress=interrupt_at(0.5, kind))
    assert threading.active_count() == before
    assert hidden(tmp_path / "made") == {UNFINISHED}
    half, whole = contents(tmp_path / "made"), contents(tmp_path / "whole")
    assert 0 < len(half) < len(whole)
    assert all(whole[name] == data for name, data in half.items())
    with pytest.raises(ShardSetError, match="not finished"):
        ShardSet.open(tmp_path / "made")
    inodes = {name: (tmp_path / "made" / name).stat().st_ino for name in half}
    found = convert(page_set.folder, tmp_path / "made", config)
    assert 0 < len(found.made) < 13
    assert contents(tmp_path / "made") == whole
    assert hidden(tmp_path / "made") - {".iobench-index"} == {FINISHED}
    assert all((tmp_path / "made" / name).stat().st_ino == inode for name, inode in inodes.items())
    assert len(ShardSet.open(tmp_path / "made")) == len(page_set)


@pytest.mark.slow
def test_a_killed_conversion_goes_on(tmp_path):
    generate(tmp_path / "data", Generate(num_images=1200, size=64, images_per_shard=400))
    words = [sys.executable, "-m", "iobench", "convert", "data", "made", "--format", "webdataset"]
    words += ["--images-per-shard", "20", "--jobs", "2", "--out", "run"]
    killed = 0
    for _ in range(2):
        with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
            seen = len(contents(tmp_path / "made")) if (tmp_path / "made").exists() else 0
            deadline = time.monotonic() + 30
            while process.poll() is None and time.monotonic() < deadline:
                if (tmp_path / "made").exists() and len(list((tmp_path / "made").glob("*.tar"))) > seen + 8:
                    process.kill()
                    killed += 1
                    break
                time.sleep(0.001)
    assert killed
    found = convert(tmp_path / "data", tmp_path / "made", Convert(format="webdataset", images_per_shard=20))
    assert len(found.made) < 60
    convert(tmp_path / "data", tmp_path / "whole", Convert(format="webdataset", images_per_shard=20))
    assert contents(tmp_path / "made") == contents(tmp_path / "whole")


def test_ctrl_c_ends_soon_says_how_to_go_on_and_leaves_no_room(tmp_path):
    generate(tmp_path / "data", Generate(num_images=2000, size=96, images_per_shard=500))
    words = [sys.executable, "-m", "iobench", "convert", "data", "made", "--format", "webdataset", "--json"]
    words += ["--images-per-shard", "20", "--jobs", "1", "--out", "run"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not list(tmp_path.glob("made/*.tar")):
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        out, err = process.communicate(timeout=30)
    assert time.monotonic() - sent < 5
    assert process.returncode == 130, err
    assert json.loads(out)["error"]["exit_status"] == 130
    assert "Traceback" not in err
    assert hidden(tmp_path / "made") == {UNFINISHED}
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("layout", ["tfrecord", "folder"])
def test_a_part_that_was_damaged_or_lost_is_made_again_and_no_other(page_set, tmp_path, layout):
    config = Convert(format=layout, images_per_shard=30)
    convert(page_set.folder, tmp_path / "made", config)
    whole = contents(tmp_path / "made")
    assert convert(page_set.folder, tmp_path / "made", config).made == ()
    paths = sorted(path for path in (tmp_path / "made").rglob("*.*") if path.suffix in (".tfrecord", ".jpg"))
    data = bytearray(paths[0].read_bytes())
    data[len(data) // 2] ^= 1
    paths[0].write_bytes(data)
    assert len(convert(page_set.folder, tmp_path / "made", config).made) == 1
    assert contents(tmp_path / "made") == whole
    paths[-1].unlink()
    with (tmp_path / "made" / FINISHED).open("ab") as file:
        file.write(b'{"name": "train-0000')  # what a crash may leave
    assert len(convert(page_set.folder, tmp_path / "made", config).made) == 1
    assert contents(tmp_path / "made") == whole


def test_a_changed_source_is_not_gone_on_with(page_set, copied, tmp_path):
    source, config = copied(page_set).folder, Convert(format="tensors", images_per_shard=10)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "made", config, progress=interrupt_at(0.5))
    half = contents(tmp_path / "made")
    os.utime(next(source.glob("*.tfrecord")), ns=(1, 1))
    with pytest.raises(ConvertError, match="another version of the source"):
        convert(source, tmp_path / "made", config)
    assert contents(tmp_path / "made") == half


def test_a_source_that_changes_on_the_way_makes_no_whole_set(page_set, copied, tmp_path):
    source = copied(page_set).folder

    def touch(phase, done, total):
        os.utime(source / page_set.shards[0].name, ns=(1, done + 1))

    with pytest.raises(ConvertError, match="was changed while it was converted"):
        convert(source, tmp_path / "made", Convert(format="tensors"), progress=touch)
    with pytest.raises(ShardSetError, match="not finished"):
        ShardSet.open(tmp_path / "made")


def test_another_conversion_into_the_same_folder_is_refused_and_says_what_differs(page_set, tmp_path):
    convert(page_set.folder, tmp_path / "made", Convert(format="tensors"))
    whole = contents(tmp_path / "made")
    for settings, named in (({"size": 9}, "size = None, asked for is 9"), ({"shuffle": True}, "shuffle = False")):
        with pytest.raises(ConvertUsageError, match=named):
            convert(page_set.folder, tmp_path / "made", Convert(format="tensors", **settings))
    with pytest.raises(ConvertUsageError, match="format = tensors"):
        convert(page_set.folder, tmp_path / "made", Convert(format="tfrecord"))
    assert convert(page_set.folder, tmp_path / "made", Convert(format="tensors", jobs=1)).made == ()
    assert contents(tmp_path / "made") == whole


def test_a_folder_with_anything_else_in_it_is_refused_and_left_as_it_is(page_set, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "thesis.txt").write_text("mine")
    with pytest.raises(ConvertUsageError, match=r"thesis\.txt"):
        convert(page_set.folder, tmp_path / "made", Convert(format="tensors"))
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["thesis.txt"]
    for target in (page_set.folder, page_set.folder / "below", page_set.folder.parent):
        with pytest.raises(ConvertUsageError, match="lies in"):
            convert(page_set.folder, target, Convert(format="tensors"))
    assert not (page_set.folder / "below").exists()
    (tmp_path / "one.tfrecord").write_bytes(page_set.shards[0].read_bytes())
    with pytest.raises(ConvertUsageError, match="holds 'made'"):
        convert(tmp_path / "one.tfrecord", tmp_path, Convert(format="tensors"))
    assert convert(tmp_path / "one.tfrecord", tmp_path / "beside", Convert(format="tensors")).num_images == 40


def test_what_would_not_fit_is_refused_before_a_byte_is_written(page_set, small_disk):
    with pytest.raises(ConvertError, match=r"130 images take about 1\.56 GB, .* GB are needed and .* MB are free"):
        convert(page_set.folder, small_disk / "made", Convert(format="tensors", size=2000))
    assert not (small_disk / "made").exists()


def test_a_disk_that_fills_up_keeps_what_is_whole_and_goes_on_when_there_is_room(page_set, new_disk):
    disk = new_disk(128 << 20)
    config = Convert(format="tensors", size=128, images_per_shard=10, jobs=1)
    filler = disk / "filler"

    def fill(phase, done, total):
        if phase == "convert" and done == 45:
            with filler.open("wb", buffering=0) as file:
                for size in (1 << 20, 4096, 512):
                    try:
                        while True:
                            file.write(bytes(size))
                    except OSError:
                        continue

    with pytest.raises(ConvertError, match=r"no space left.*the same command goes on") as caught:
        convert(page_set.folder, disk / "made", config, progress=fill)
    assert caught.value.exit_status == 4
    assert hidden(disk / "made") == {UNFINISHED}
    assert len(contents(disk / "made")) == 4
    filler.unlink()
    assert len(convert(page_set.folder, disk / "made", config).made) == 9
    assert len(ShardSet.open(disk / "made")) == len(page_set)


def test_bytes_that_read_back_otherwise_never_get_a_name(page_set, tmp_path, monkeypatch):
    """Flips a byte of one shard between writing and reading back, as an unsound disk would."""
    from iobench.storage_bench.convert import target

    write_description = target.write_description

    def write_and_flip(folder, description, shards):
        write_description(folder, description, shards)
        path = folder / shards[0].name
        if path.is_file() and path.name.startswith("train-00001"):
            data = bytearray(path.read_bytes())
            data[1000] ^= 1
            path.write_bytes(data)

    monkeypatch.setattr(target, "write_description", write_and_flip)
    with pytest.raises(ConvertError, match=r"train-00001-of-00003.*did not read back"):
        convert(page_set.folder, tmp_path / "made", Convert(format="tensors", images_per_shard=50, jobs=1))
    assert set(contents(tmp_path / "made")) == {"train-00000-of-00003.tensors"}


def test_a_file_that_somebody_else_puts_among_the_classes_makes_no_whole_set(page_set, encoded, tmp_path):
    def add(phase, done, total):
        if phase == "convert" and done == total:
            (tmp_path / "made" / "0").mkdir(exist_ok=True)
            (tmp_path / "made" / "0" / "mine.jpg").write_bytes(encoded(8, 8, 1))

    with pytest.raises(ConvertError, match="holds 131 images of 10 classes, 130 of 10 were made"):
        convert(page_set.folder, tmp_path / "made", Convert(format="folder"), progress=add)
    assert hidden(tmp_path / "made") >= {UNFINISHED}


def test_two_conversions_at_once_into_one_folder_are_refused(page_set, tmp_path):
    config = Convert(format="tensors", images_per_shard=20, jobs=1)
    seen = []

    def again(phase, done, total):
        if phase == "convert" and done == 30:
            with pytest.raises(RuntimeError, match="another process is writing here"):
                convert(page_set.folder, tmp_path / "made", config)
            seen.append(done)

    convert(page_set.folder, tmp_path / "made", config, progress=again)
    assert seen == [30]


def test_a_source_that_cannot_be_read_is_named_and_not_the_target(page_set, faults, tmp_path):
    shutil.copytree(page_set.folder, faults.backing / "data", ignore=shutil.ignore_patterns(".*"))
    ShardSet.open(faults.mount / "data")
    evict(list((faults.mount / "data").glob("*.tfrecord")))
    name = page_set.shards[2].name
    faults.set(f"eio data/{name} 40960 4096")
    config = Convert(format="tensors", images_per_shard=20, jobs=1)
    with pytest.raises(ConvertError, match=rf"{name}: .*(Input/output error|cannot be read)") as caught:
        convert(faults.mount / "data", tmp_path / "made", config)
    assert str(tmp_path / "made") not in str(caught.value)
    assert len(contents(tmp_path / "made")) == 4
    faults.set()
    assert convert(faults.mount / "data", tmp_path / "made", config).num_images == len(page_set)
