"""One hop: a copy that is whole, verified and gone on with, or none at all."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from iobench.loaders.shards import ShardSet
from iobench.storage_bench.generate import Generate, generate, sample_pixels
from iobench.storage_bench.staging import (
    StagingError,
    StagingUsageError,
    copying,
    on_same_device,
    place,
    remove_stage,
    room_for,
    stage,
    stage_point,
    streams,
)

SLOW_COPY = """
import sys
import time
from itertools import accumulate
from pathlib import Path

from iobench.storage_bench.staging import stage, streams

streams.BLOCK_BYTES = 4096
source, target = map(Path, sys.argv[1:])
ends = list(accumulate(path.stat().st_size for path in sorted(source.glob("*.tfrecord"))))


def tell(phase, done, total):
    print(phase, done, 1 + sum(done > end for end in ends), flush=True)
    time.sleep(0.002)


stage(source, target, streams=1, progress=tell)
"""


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []


def same_bytes(source: Path, target: Path) -> bool:
    return source.read_bytes() == target.read_bytes()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "local" / "copy"


@pytest.fixture
def source(copied, page_set) -> Path:
    return copied(page_set).folder


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("num_streams", [1, 3])
def test_a_copy_holds_the_same_bytes_and_opens_as_the_same_data_set(page_set, source, target, num_streams):
    seen = []
    result = stage(source, target, streams=num_streams, progress=lambda *told: seen.append(told))
    assert names(target) == names(source)
    assert all(same_bytes(source / name, target / name) for name in names(source))
    total = sum(path.stat().st_size for path in page_set.shards)
    assert (result.num_files, result.total_bytes, result.copied_bytes) == (4, total, total)
    assert result.copy_gbps == pytest.approx(total / result.copy_s / 1e9)
    for phase in ("copy", "verify"):
        done = [told[1] for told in seen if told[0] == phase]
        assert done == sorted(done)
        assert done[-1] == total
    assert {told[2] for told in seen} == {total}
    assert len(ShardSet.open(target)) == len(page_set)


def test_shards_without_a_description_are_copied_and_verified_too(odd_set, target):
    result = stage(odd_set.folder, target)
    assert result.copied_bytes == result.total_bytes
    assert all(same_bytes(path, target / path.name) for path in odd_set.shards)


def test_one_file_can_be_staged_and_is_held_against_its_digest(source, target):
    shard = sorted(source.glob("*.tfrecord"))[0]
    stage(shard, target)
    assert names(target) == [shard.name]
    flip(shard, 100)
    with pytest.raises(StagingError, match="digest"):
        stage(shard, target.with_name("another"))


def test_a_copy_that_is_there_already_is_verified_and_not_made_again(source, target):
    stage(source, target)
    before = {name: (target / name).stat().st_ino for name in names(target)}
    result = stage(source, target)
    assert result.copied_bytes == 0
    assert result.copy_gbps is None
    shards = [name for name in before if name.endswith(".tfrecord")]
    assert all((target / name).stat().st_ino == before[name] for name in shards)


def test_only_what_is_missing_short_or_wrong_is_copied_again(source, target):
    stage(source, target)
    shards = sorted(target.glob("*.tfrecord"))
    shards[0].unlink()
    os.truncate(shards[1], 4096)
    flip(shards[2], 5000)
    (target / "dataset.json").unlink()
    expected = sum((source / path.name).stat().st_size for path in shards[:3])
    assert stage(source, target).copied_bytes == expected
    assert all(same_bytes(source / name, target / name) for name in names(source))


def test_a_sample_is_whole_shards_and_says_so(page_set, source, target):
    sizes = [path.stat().st_size for path in page_set.shards]
    result = stage(source, target, limit_bytes=sum(sizes[:2]) + 100)
    assert result.num_files == 2
    assert names(target) == ["dataset.json", *(path.name for path in page_set.shards[:2])]
    assert json.loads((target / "dataset.json").read_text())["num_images"] == 80
    assert len(ShardSet.open(target)) == 80
    with pytest.raises(StagingError, match="larger than the 100 bytes"):
        stage(source, target.with_name("another"), limit_bytes=100)


def test_a_source_that_changed_since_it_was_written_is_found_by_its_digest(source, target):
    shard = sorted(source.glob("*.tfrecord"))[2]
    flip(shard, 9000)
    with pytest.raises(StagingError, match="digest") as caught:
        stage(source, target)
    assert str(shard) in str(caught.value)
    assert caught.value.exit_status == 4
    assert shard.name not in names(target)
    assert not list(target.glob(".iobench-*"))


def test_a_copy_that_reads_back_otherwise_is_removed(source, target, monkeypatch):
    """Flips a byte of one copy between writing and verifying, as an unsound disk would."""
    evict = copying.evict

    def evict_and_flip(paths):
        evict(paths)
        if paths[0].name.startswith("train-00001"):
            flip(paths[0], 4242)

    monkeypatch.setattr(copying, "evict", evict_and_flip)
    with pytest.raises(StagingError, match="did not read back"):
        stage(source, target)
    assert not any(name.startswith("train-00001") for name in names(target))
    assert "dataset.json" not in names(target)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_copy_leaves_no_half_shard_and_no_thread_and_can_go_on(source, target, kind, monkeypatch):
    monkeypatch.setattr(streams, "BLOCK_BYTES", 8192)  # so that there is something to interrupt

    def interrupt(phase, done, total):
        if done >= total // 3:
            raise kind

    before = threading.active_count()
    with pytest.raises(kind):
        stage(source, target, streams=2, progress=interrupt)
    assert threading.active_count() == before
    for name in names(target):
        assert same_bytes(source / name, target / name)
    assert "dataset.json" not in names(target)
    monkeypatch.undo()
    result = stage(source, target)
    assert result.copied_bytes <= result.total_bytes
    assert all(same_bytes(source / name, target / name) for name in names(source))


def test_without_promised_digests_whole_shards_are_kept_by_the_ledger(odd_set, copied, target):
    source = copied(odd_set).folder
    sizes = [path.stat().st_size for path in odd_set.shards]

    def interrupt(phase, done, total):
        if phase == "copy" and done > sizes[0] + sizes[1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage(source, target, streams=1, progress=interrupt)
    assert names(target) == [".iobench-staged.jsonl", "part-0.tfrecord", "part-1.tfrecord"]
    with (target / ".iobench-staged.jsonl").open("ab") as file:
        file.write(b'{"name": "part-2.tfr')  # what a crash may leave
    assert stage(source, target).copied_bytes == sum(sizes[2:])
    assert stage(source, target).copied_bytes == 0
    flip(target / "part-3.tfrecord", 77)
    assert stage(source, target).copied_bytes == sizes[3]
    shard = source / "part-2.tfrecord"
    flip(shard, 33)
    os.utime(shard, ns=(1, 1))  # another version of the same size
    assert stage(source, target).copied_bytes == sizes[2]
    assert all(same_bytes(path, target / path.name) for path in source.iterdir())


def test_a_shard_that_changes_while_it_is_copied_is_not_taken(odd_set, copied, target):
    source = copied(odd_set).folder

    def touch(phase, done, total):
        if phase == "copy" and done:
            os.utime(source / "part-0.tfrecord", ns=(1, 1))

    with pytest.raises(StagingError, match=r"part-0\.tfrecord: changed while it was copied"):
        stage(source, target, streams=1, progress=touch)
    assert names(target) == []


def test_a_source_that_cannot_be_read_any_more_is_named_with_the_place(odd_set, copied, target):
    source = copied(odd_set).folder

    def truncate(phase, done, total):
        if phase == "copy" and done:
            os.truncate(source / "part-3.tfrecord", 100)

    with pytest.raises(StagingError, match=r"part-3\.tfrecord: cannot be read \(the file ends at byte 100") as caught:
        stage(source, target, streams=1, progress=truncate)
    assert "name another folder" not in str(caught.value)
    assert names(target) == [".iobench-staged.jsonl", *(f"part-{number}.tfrecord" for number in range(3))]


def test_a_link_to_the_source_is_no_copy(source, target):
    target.mkdir(parents=True)
    shard = sorted(source.glob("*.tfrecord"))[1]
    (target / shard.name).symlink_to(shard)
    result = stage(source, target)
    assert result.copied_bytes == result.total_bytes
    assert not (target / shard.name).is_symlink()
    assert shard.is_file()


def test_two_copies_into_one_folder_at_once_are_refused(source, target):
    def stage_again(phase, done, total):
        if done:
            with pytest.raises(StagingError, match="another `iobench stage` is copying"):
                stage(source, target)

    stage(source, target, progress=stage_again)
    assert names(target) == names(source)


def test_a_hop_says_how_its_bytes_came_and_how_many_were_in_flight(source, target, monkeypatch):
    monkeypatch.setattr(streams, "BLOCK_BYTES", 64 << 10)
    result = stage(source, target, streams=2)
    assert 64 << 10 <= result.peak_in_flight_bytes <= 2 * (64 << 10)
    assert result.evidence.payload_bytes == result.total_bytes
    assert result.evidence.delivered_bytes >= result.total_bytes
    assert result.evidence.page_cache == "cold"
    point = stage_point(result)
    assert (point.params["hop"], point.params["source"], point.params["target"]) == (1, str(source), str(target))
    assert point.metrics["verify_gbps"].value == pytest.approx(result.total_bytes / result.verify_s / 1e9)
    assert point.read_path.engine in ("direct", "buffered")
    again = stage_point(stage(source, target))
    assert again.read_path is None
    assert again.metrics["stage_time_s"].value is None


def test_a_killed_copy_goes_on_and_leaves_nothing(odd_set, target, tmp_path):
    """Killed in the middle of the third shard: two are whole, the third begins again."""
    program = tmp_path / "slow.py"
    program.write_text(SLOW_COPY)
    words = [sys.executable, "-P", str(program), str(odd_set.folder), str(target)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            if line.split()[-1] == b"3":  # the third shard has begun
                process.kill()
                break
    left = names(target)
    assert left == [".iobench-part-2.tfrecord.tmp", ".iobench-staged.jsonl", "part-0.tfrecord", "part-1.tfrecord"]
    result = stage(odd_set.folder, target)
    assert result.copied_bytes == sum(path.stat().st_size for path in odd_set.shards[2:])
    assert names(target) == [".iobench-staged.jsonl", *(path.name for path in odd_set.shards)]
    assert all(same_bytes(path, target / path.name) for path in odd_set.shards)


def test_what_a_killed_copy_left_is_removed_by_the_next(source, target):
    target.mkdir(parents=True)
    (target / ".iobench-train-00000-of-00004.tfrecord.tmp").write_bytes(b"half")
    stage(source, target)
    assert names(target) == names(source)


@pytest.mark.parametrize("inside", [".", "copy", "a/b"])
def test_a_target_inside_the_source_is_refused(source, inside):
    before = names(source)
    with pytest.raises(StagingUsageError, match="lies in the source"):
        stage(source, source / inside)
    with pytest.raises(StagingError, match="lies in the source"):
        stage(sorted(source.glob("*.tfrecord"))[0], source / inside)
    assert names(source) == before


def test_a_target_that_holds_another_data_set_is_refused_and_kept(source, odd_set, sector_set, tmp_path):
    stage(sector_set.folder, tmp_path / "described")
    stage(odd_set.folder, tmp_path / "bare")
    for folder, rule in (("described", "another data set"), ("bare", "not a shard of")):
        before = names(tmp_path / folder)
        with pytest.raises(StagingUsageError, match=rule):
            stage(source, tmp_path / folder)
        assert names(tmp_path / folder) == before


def test_shards_are_not_copied_among_folders_of_images(source, tmp_path):
    (tmp_path / "images" / "cats").mkdir(parents=True)
    (tmp_path / "images" / "cats" / "1.jpg").write_bytes(b"a cat")
    with pytest.raises(StagingUsageError, match="holds folders of images"):
        stage(source, tmp_path / "images")
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["cats"]


def test_two_shards_of_one_name_are_refused(source, tmp_path, target):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.tfrecord").write_bytes(sorted(source.glob("*.tfrecord"))[0].read_bytes())
    with pytest.raises(StagingError, match=r"named x\.tfrecord"):
        stage(tmp_path / "*" / "x.tfrecord", target)


def test_a_file_that_would_be_no_shard_in_the_copy_is_refused(tmp_path, target):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "odd.bin").write_bytes(b"x")
    with pytest.raises(StagingError, match=r"odd\.bin"):
        stage(tmp_path / "data" / "odd.bin", target)


def test_a_description_without_digests_is_an_error_that_names_it(source, target):
    described = json.loads((source / "dataset.json").read_text())
    del described["shards"][1]["xxh3_128"]
    (source / "dataset.json").write_text(json.dumps(described))
    with pytest.raises(StagingError, match=r"dataset\.json: no digest"):
        stage(source, target)


def test_a_target_that_is_a_file_or_lies_below_one_is_an_error(source, tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "copy"):
        with pytest.raises(StagingError, match="name another folder") as caught:
            stage(source, path)
        assert str(path) in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_too_little_space_is_refused_before_anything_is_written(source, small_disk):
    """32 MiB are less than the reserve that a copy leaves free."""
    assert room_for(1, small_disk / "not" / "yet" / "there")
    assert room_for(1, source) is None
    with pytest.raises(StagingError, match="are free"):
        stage(source, small_disk / "copy")
    assert not (small_disk / "copy").exists()


def test_other_files_in_the_target_do_not_count_as_part_of_the_copy(source, small_disk):
    (small_disk / "copy").mkdir()
    (small_disk / "copy" / "mine.bin").write_bytes(bytes(1 << 20))
    with pytest.raises(StagingError, match="are free"):
        stage(source, small_disk / "copy")


def test_a_disk_that_fills_up_meanwhile_leaves_no_half_shard(source, small_disk, monkeypatch):
    monkeypatch.setattr(place, "RESERVE_BYTES", 0)
    filler = small_disk / "filler"

    def fill(phase, done, total):
        with filler.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass

    with pytest.raises(StagingError, match="No space left"):
        stage(source, small_disk / "copy", streams=1, progress=fill)
    for name in names(small_disk / "copy"):
        assert same_bytes(source / name, small_disk / "copy" / name)
    filler.unlink()
    stage(source, small_disk / "copy")
    assert names(small_disk / "copy") == names(source)


def test_a_target_that_cannot_be_written_is_an_error(source, small_disk, monkeypatch):
    monkeypatch.setattr(place, "RESERVE_BYTES", 0)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StagingError, match=r"Read-only file system.*name another folder"):
        stage(source, small_disk / "copy")


def test_a_disk_of_its_own_is_another_device_and_a_folder_beside_is_not(source, small_disk, tmp_path):
    assert on_same_device(source, tmp_path / "not" / "there" / "yet")
    assert not on_same_device(source, small_disk / "copy")


def test_removing_a_copy_leaves_nothing_of_it(source, target):
    stage(source, target)
    ShardSet.open(target).close()  # keeps an index there
    assert any(name.startswith(".iobench-index") for name in names(target))
    (target / ".iobench-half.tfrecord.tmp").touch()
    remove_stage(target)
    assert not target.exists()
    remove_stage(target)


def test_partitions_of_one_disk_are_one_device(tmp_path, monkeypatch):
    """Two file systems on sda1 and on a volume that spans sda2 and sdb, as /sys shows them; another on sdc."""
    monkeypatch.setattr(place, "SYS_BLOCK", tmp_path / "dev")
    for leaf, node in {"8:1": "sda/sda1", "8:2": "sda/sda2", "8:16": "sdb", "8:32": "sdc"}.items():
        (tmp_path / "block" / node).mkdir(parents=True, exist_ok=True)
        if "/" in node:
            (tmp_path / "block" / node / "partition").touch()
        (tmp_path / "dev").mkdir(exist_ok=True)
        (tmp_path / "dev" / leaf).symlink_to(tmp_path / "block" / node)
    leaves = {"one": ("8:1",), "volume": ("8:2", "8:16"), "other": ("8:32",), "memory": ()}

    def disks(name):
        return place.disks(leaves[name])

    assert disks("one") == {"sda"}
    assert disks("volume") == {"sda", "sdb"}
    assert disks("one") & disks("volume")
    assert not disks("one") & disks("other")
    assert disks("memory") == set()


def test_a_sample_of_tensor_shards_is_described_as_that_and_opens(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    generate(source, Generate(num_images=12, images_per_shard=4, size=16, format="tensors"))
    stage(source, target, limit_bytes=2 * (source / "train-00000-of-00003.tensors").stat().st_size)
    shards = ShardSet.open(target)
    assert len(shards) == 8
    assert (shards[7][0].permute(1, 2, 0).numpy() == sample_pixels(0, 7, (16, 16, 3))).all()


def test_an_unreadable_block_of_the_source_is_named_and_whole_shards_are_kept(odd_set, target, faults):
    for path in odd_set.shards:
        (faults.backing / path.name).write_bytes(path.read_bytes())
    faults.set("eio part-2.tfrecord 4096 4096")
    with pytest.raises(StagingError, match=r"mount/part-2\.tfrecord: cannot be read .*Input/output error") as caught:
        stage(faults.mount, target, streams=1)
    assert "name another folder" not in str(caught.value)
    assert names(target) == [".iobench-staged.jsonl", "part-0.tfrecord", "part-1.tfrecord"]
    faults.set()
    result = stage(faults.mount, target)
    assert result.copied_bytes == sum(path.stat().st_size for path in odd_set.shards[2:])
    assert result.evidence.observed_route == "unknown"  # FUSE has no counter


def test_a_copy_that_cannot_be_read_back_is_no_copy(odd_set, faults):
    faults.set("eio part-1.tfrecord 0 4096")
    with pytest.raises(StagingError, match=r"part-1\.tfrecord: the copy cannot be read back .*name another folder"):
        stage(odd_set.folder, faults.mount)


def test_a_folder_that_nothing_came_into_is_gone_again(source, tmp_path):
    def stop(_phase, _done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage(source, tmp_path / "new" / "copy", progress=stop)
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(KeyboardInterrupt):
        stage(source, tmp_path / "mine" / "copy", progress=stop)
    assert (tmp_path / "mine").is_dir()
