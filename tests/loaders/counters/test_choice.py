"""Which counter decides for which file system: on real mounts where they can be made here, else on drawn ones."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from iobench.loaders.counters.block import DeviceCounter
from iobench.loaders.counters.choice import counter_for, counters_of_mount
from iobench.loaders.counters.counter import NoCounter, Roots, SumCounter, moved, total
from iobench.loaders.counters.mounts import Mount, mount_of, read_mounts
from iobench.loaders.evidence import judge
from iobench.loaders.page_cache import cache_fraction, evict

MIB = 1 << 20


def drawn(fstype: str, *options: str, device: str = "8:1") -> Mount:
    return Mount(1, device, Path("/"), Path("/data"), fstype, "source", ("rw", *options))


@pytest.fixture
def roots(tmp_path):
    """A machine with one disk, 8:1, and one network interface."""
    node = tmp_path / "sys/dev/block/8:1"
    node.mkdir(parents=True)
    (node / "dev").write_text("8:1\n")
    (node / "stat").write_text("1 0 10 0 0 0 0 0 0 0 0\n")
    folder = tmp_path / "sys/class/net/eth0"
    (folder / "statistics").mkdir(parents=True)
    (folder / "type").write_text("1\n")
    (folder / "statistics/rx_bytes").write_text("5\n")
    return Roots(tmp_path / "proc", tmp_path / "sys")


@pytest.mark.parametrize(
    ("mount", "counter_class", "said"),
    [
        (drawn("ext4"), "exact", "sectors read by 8:1"),
        (drawn("xfs", "attr2", "inode64", "dax=inode"), "exact", "sectors read by 8:1"),
        (drawn("xfs", "dax=always"), "bounding", "reads pass the device's counter by"),
        (drawn("ext4", "dax"), "bounding", "reads pass the device's counter by"),
        (drawn("xfs", "rtdev=/dev/sdb1"), "bounding", "real-time device"),
        (drawn("squashfs"), "bounding", "may hold the data compressed"),
        (drawn("f2fs"), "bounding", "may hold the data compressed"),
        (drawn("fuseblk"), "none", "a program (FUSE) reads the block device"),
        (drawn("zfs", device="0:40"), "none", "device 0:40 is anonymous, and nothing counts what zfs reads"),
        (drawn("tmpfs", device="0:40"), "none", "file system in memory"),
        (drawn("virtiofs", device="0:40"), "none", "nothing counts what virtiofs reads"),
        (drawn("9p", "trans=virtio", device="0:40"), "none", "nothing counts what 9p reads"),
        (drawn("9p", "trans=tcp", device="0:40"), "bounding", "bytes received by eth0"),
        (drawn("fuse.glusterfs", device="0:40"), "bounding", "bytes received by eth0"),
        (drawn("fuse.sshfs", device="0:40"), "bounding", "bytes received by eth0"),
        (drawn("fuse", device="0:40"), "bounding", "bytes received by eth0"),
        (drawn("wekafs", device="0:40"), "bounding", "bytes received by eth0"),
        (drawn("ceph", device="0:40"), "bounding", "bytes received by eth0"),
        (None, "none", "not to be seen from here"),
    ],
)
def test_each_file_system_has_the_class_of_what_can_be_counted(roots, mount, counter_class, said):
    deciding, *_ = counters_of_mount(mount, Path("/data"), roots=roots)
    assert deciding.counter_class == counter_class
    assert said in deciding.reason


def test_without_an_interface_a_network_file_system_has_no_counter(tmp_path):
    empty = Roots(tmp_path, tmp_path)
    (deciding,) = counters_of_mount(drawn("fuse.sshfs", device="0:40"), Path("/data"), roots=empty)
    assert isinstance(deciding, NoCounter)
    assert "no network interface counts" in deciding.reason


# --- real mounts


def test_the_mount_of_a_path_is_that_which_the_kernel_says(tmp_path):
    (tmp_path / "a b").mkdir()
    mount = mount_of(tmp_path / "a b")
    assert mount is not None
    assert mount == read_mounts()[mount.mount_id]
    assert f"{os.major(tmp_path.stat().st_dev)}:{os.minor(tmp_path.stat().st_dev)}" == mount.device
    assert (tmp_path / "a b").is_relative_to(mount.point)
    with pytest.raises(FileNotFoundError):
        mount_of(tmp_path / "none")


def mounted(point: Path, *words: object) -> Iterator[Path]:
    """What is mounted by these words, as a fixture."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    done = subprocess.run(["mount", *map(str, words), point], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount {' '.join(map(str, words))}: {done.stderr.strip()}")
    yield point
    subprocess.run(["umount", point], check=True)


@pytest.fixture
def overlay(tmp_path) -> Iterator[Path]:
    """Two lower layers and an upper one, with a blank in a name."""
    for name in ("lower one", "lower two", "upper", "work", "seen"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower one/deep").mkdir()
    (tmp_path / "lower one/deep/file").write_bytes(os.urandom(4 * MIB))
    (tmp_path / "lower two/file").write_bytes(os.urandom(MIB))
    os.sync()
    layers = f"lowerdir={tmp_path}/lower one:{tmp_path}/lower two,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    yield from mounted(tmp_path / "seen", "-t", "overlay", "overlay", "-o", layers)


def test_files_of_an_overlay_are_counted_where_they_lie(overlay, tmp_path):
    below = counter_for([tmp_path])
    if below.counter_class != "exact":
        pytest.skip(f"temporary files lie where nothing counts: {below.reason}")
    (overlay / "new").write_bytes(b"x" * 5000)
    for path in (overlay / "deep/file", overlay / "file", overlay / "new", overlay, overlay / "deep"):
        assert counter_for([path]).deciding == below.deciding, path


def test_reads_through_an_overlay_are_seen_by_the_disk_below(overlay):
    path = overlay / "deep/file"
    counter = counter_for([path])
    if counter.counter_class != "exact":
        pytest.skip(f"temporary files lie where nothing counts: {counter.reason}")
    evict([path])
    before = counter.read_bytes()
    path.read_bytes()
    assert counter.read_bytes() - before >= 4 * MIB


def test_an_overlay_whose_layers_are_not_to_be_seen_has_no_counter(overlay, tmp_path):
    """As in a container, where they are paths of the host; or where other files have taken those names."""
    (tmp_path / "lower one").rename(tmp_path / "away")
    hidden = counter_for([overlay / "deep/file"])
    assert hidden.counter_class == "none"
    assert "an overlay whose layers are not to be seen from here" in hidden.reason
    (tmp_path / "lower one/deep").mkdir(parents=True)
    (tmp_path / "lower one/deep/file").write_bytes(os.urandom(4 * MIB))
    for path in (overlay / "deep/file", overlay / "deep"):
        assert counter_for([path]).counter_class == "none"


def test_what_of_an_overlays_file_is_resident_is_told_of_the_file_below(overlay, tmp_path):
    path, below = overlay / "deep/file", tmp_path / "lower one/deep/file"
    path.read_bytes()
    assert cache_fraction([path]) == cache_fraction([below]) == 1.0
    evict([path])
    assert cache_fraction([path]) == cache_fraction([below]) == 0.0


@pytest.fixture
def squashed(tmp_path) -> Iterator[Path]:
    """Zeros in a compressing file system on a loop device."""
    if shutil.which("mksquashfs") is None:
        pytest.skip("no mksquashfs (Debian: squashfs-tools)")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/zeros").write_bytes(bytes(8 * MIB))
    (tmp_path / "seen").mkdir()
    subprocess.run(["mksquashfs", tmp_path / "in", tmp_path / "image", "-quiet"], check=True, stdout=subprocess.DEVNULL)
    yield from mounted(tmp_path / "seen", "-o", "loop", tmp_path / "image")


def test_cold_reads_of_compressed_files_are_not_invalid_for_the_few_bytes_of_their_device(squashed):
    path = squashed / "zeros"
    counter = counter_for([path])
    evict([path])
    before = counter.read_bytes()
    delivered = len(path.read_bytes())
    found = judge(
        counter,
        engine="buffered",
        page_cache="cold",
        cache_fraction=0.0,
        delivered_bytes=delivered,
        payload_bytes=delivered,
        raw_device_bytes=counter.read_bytes() - before,
        background_bytes=0.0,
    )
    assert (found.counter_class, found.observed_route, found.device_bytes) == ("bounding", "unknown", None)
    assert found.invalid_reason() is None
    assert "of the bytes delivered, not 1 to 1.15" in found.route_evidence


@pytest.fixture
def btrfs(tmp_path) -> Iterator[Path]:
    """A btrfs on a loop device: its files have an anonymous device."""
    if shutil.which("mkfs.btrfs") is None:
        pytest.skip("no mkfs.btrfs (Debian: btrfs-progs)")
    with (tmp_path / "image").open("wb") as file:
        file.truncate(128 * MIB)
    subprocess.run(["mkfs.btrfs", "-q", tmp_path / "image"], check=True)
    (tmp_path / "seen").mkdir()
    yield from mounted(tmp_path / "seen", "-o", "loop", tmp_path / "image")


def test_a_btrfs_is_counted_by_its_disks_and_only_bounded(btrfs):
    path = btrfs / "file"
    path.write_bytes(os.urandom(4 * MIB))
    os.sync()
    counter = counter_for([path])
    assert (counter.counter_class, len(counter.leaves)) == ("bounding", 1)
    evict([path])
    before = counter.read_bytes()
    path.read_bytes()
    assert 4 * MIB <= counter.read_bytes() - before <= 5 * MIB


def test_files_on_two_file_systems_are_as_uncertain_as_the_weaker_one(tmp_path, memory_folder):
    (memory_folder / "x").write_bytes(b"x")
    counter = counter_for([tmp_path, memory_folder / "x"])
    assert (counter.counter_class, counter.read_bytes(), counter.leaves) == ("none", None, ())
    assert "file system in memory" in counter.reason


def test_a_sum_is_as_weak_as_its_weakest_part_and_names_it():
    strong = DeviceCounter((), "exact", "sectors")
    weak = NoCounter("nobody knows")
    both = SumCounter((strong, weak))
    assert (both.counter_class, both.reason, both.read_bytes()) == ("none", "nobody knows", None)


def test_differences_are_of_counters_that_were_there_both_times():
    assert moved({"a": 1, "b": 2}, {"a": 5, "c": 9}) == {"a": 4}
    assert total([{"a": 1, "b": 1}, {"a": 2}]) == {"a": 3}
    assert total([]) == {}
