"""File systems that cuFile reads directly, the disks below a stack, and what O_DIRECT asks of a file."""

import mmap
import os
from pathlib import Path

import pytest

from iobench.results.mounts import Mount
from iobench.storage_bench.doctor.alignment import Alignment, direct_alignment
from iobench.storage_bench.doctor.devices import Disk, disks_of, stack_of
from iobench.storage_bench.doctor.gds_support import gds_support, p2pdma_support
from iobench.storage_bench.doctor.storage import named_path


def disk(name):
    return Disk(name, None, 10**12, False, "none", 1023, 8, 512, 4096, 1024, 128, 0)


def mount(fstype, *options, source="/dev/x"):
    return Mount("/mnt", fstype, source, options, "0:50")


@pytest.mark.parametrize(
    ("fstype", "options", "names", "available"),
    [
        ("xfs", ["rw"], ["nvme0n1", "nvme1n1"], True),
        ("ext4", ["rw", "data=ordered"], ["nvme0n1"], True),
        ("ext4", ["rw"], ["nvme0n1"], None),
        ("ext4", ["rw", "data=journal"], ["nvme0n1"], False),
        ("ext4", ["rw", "data=ordered"], ["sda"], False),
        ("xfs", ["rw"], ["nvme0n1", "sda"], False),
        ("xfs", ["rw"], [], False),
        ("nfs4", ["rw", "vers=4.2", "proto=rdma"], [], None),
        ("nfs4", ["rw", "vers=4.2", "proto=tcp"], [], False),
        ("lustre", ["rw"], [], None),
        ("wekafs", ["rw"], [], None),
        ("btrfs", ["rw"], ["nvme0n1"], False),
        ("tmpfs", ["rw"], [], False),
        ("fuse.glusterfs", ["rw"], [], False),
    ],
)
def test_gds_is_promised_only_for_what_is_on_the_list(fstype, options, names, available):
    seen = gds_support(mount(fstype, *options), [disk(name) for name in names])
    assert seen.available is available
    assert available or seen.advice


@pytest.mark.parametrize(
    ("fstype", "names", "stack", "available"),
    [
        ("xfs", ["nvme0n1"], ["nvme0n1p1"], True),
        ("ext4", ["nvme0n1"], ["nvme0n1"], True),
        ("xfs", ["nvme0n1", "nvme1n1"], ["md0", "nvme0n1", "nvme1n1"], False),
        ("xfs", ["nvme0n1"], ["dm-0", "nvme0n1"], False),
        ("ext4", ["sda"], ["sda1"], False),
        ("nfs4", [], [], False),
    ],
)
def test_a_disk_sends_to_a_gpu_by_itself_only_where_it_is_alone(fstype, names, stack, available):
    seen = p2pdma_support(mount(fstype), [disk(name) for name in names], stack)
    assert seen.available is available
    assert available or seen.advice


def make_sysfs(root: Path) -> None:
    """dm-0 on md0 on two NVMe disks, one of them as a partition, as /sys has them."""
    devices = root / "devices"
    for name, number in (("dm-0", "253:0"), ("md0", "9:0"), ("nvme0n1", "259:0"), ("nvme1n1", "259:2")):
        queue = devices / name / "queue"
        queue.mkdir(parents=True)
        (devices / name / "size").write_text("2000\n")
        values = {"scheduler": "[none] mq-deadline", "rotational": "0", "nr_requests": "1023", "read_ahead_kb": "128"}
        values |= {"logical_block_size": "512", "physical_block_size": "4096", "max_sectors_kb": "256"}
        for key, value in values.items():
            (queue / key).write_text(f"{value}\n")
        link(root / "dev/block" / number, devices / name)
        link(root / "block" / name, devices / name)
    for number in range(4):
        (devices / "nvme0n1/mq" / str(number)).mkdir(parents=True)
    partition = devices / "nvme1n1/nvme1n1p1"
    partition.mkdir()
    (partition / "partition").write_text("1\n")
    (devices / "nvme0n1/device").mkdir()
    (devices / "nvme0n1/device/numa_node").write_text("1\n")
    link(devices / "dm-0/slaves/md0", devices / "md0")
    link(devices / "md0/slaves/nvme0n1", devices / "nvme0n1")
    link(devices / "md0/slaves/nvme1n1p1", partition)


def link(place: Path, target: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


def test_a_stack_is_followed_to_its_disks_and_their_queues_are_read(tmp_path):
    make_sysfs(tmp_path)
    stacked = Mount("/mnt", "xfs", "/dev/mapper/v", (), "253:0")
    first, second = disks_of(stacked, sysfs=tmp_path)
    assert (first.name, second.name) == ("nvme0n1", "nvme1n1")
    assert (first.num_queues, first.num_requests, first.numa_node) == (4, 1023, 1)
    assert (first.logical_bytes, first.physical_bytes, first.max_read_kib) == (512, 4096, 256)
    assert (second.num_queues, second.numa_node) == (0, None)
    assert first.size_bytes == 2000 * 512
    assert "not rotating, scheduler none, 4 queue(s) of 1023" in str(first)
    assert stack_of(stacked, sysfs=tmp_path) == ["dm-0", "md0", "nvme0n1", "nvme1n1p1"]


def test_a_mount_without_a_device_has_no_disks():
    assert disks_of(mount("tmpfs", source="tmpfs")) == []
    assert stack_of(mount("tmpfs", source="tmpfs")) == []


def test_what_the_kernel_says_of_o_direct_is_enough_for_a_read(tmp_path, direct_io):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 16))
    found = direct_alignment(path)
    assert found is not None
    assert found.possible
    assert found.fits
    step = found.offset_bytes
    with mmap.mmap(-1, 1 << 16) as memory:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            count = os.preadv(fd, [memoryview(memory)[:step]], step)
        finally:
            os.close(fd)
        assert count == step
        assert memory[:step] == path.read_bytes()[step : 2 * step]


@pytest.mark.parametrize(
    ("offset", "memory", "fits"),
    [(512, 4, True), (4096, 512, True), (512, None, True), (8192, 4, False), (3000, None, False), (0, 0, False)],
)
def test_an_alignment_fits_where_it_divides_that_of_our_reads(offset, memory, fits):
    assert Alignment(offset, memory, "by hand").fits is fits


def test_a_path_that_is_not_there_is_said_and_what_is_looked_at_instead(tmp_path):
    assert named_path(tmp_path).available is True
    seen = named_path(tmp_path / "mnt" / "bnech")
    assert seen.available is False
    assert seen.text == f"{tmp_path}/mnt/bnech does not exist: what follows is of {tmp_path}"
    assert "mounted" in seen.advice
