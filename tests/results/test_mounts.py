"""The mount that holds a path, and the disks under a mount."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from iobench.results.mounts import (
    Mount,
    MountError,
    block_devices,
    covering,
    mount_of,
    parse_mountinfo,
)

MOUNTINFO = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw,discard
30 27 0:40 / /data rw,relatime shared:7 - autofs systemd-1 rw,fd=29
31 30 0:41 / /data rw,relatime shared:8 master:2 - nfs4 filer:/export rw,vers=4.2,nconnect=8
32 31 0:42 / /data/my\040set rw,nosuid - fuse.glusterfs filer:/gv0 rw,user_id=0,max_read=131072
"""


@pytest.mark.parametrize(
    ("path", "fstype", "source"),
    [
        ("/home/data", "ext4", "/dev/vda1"),
        ("/data", "nfs4", "filer:/export"),
        ("/data/train/x.tfrecord", "nfs4", "filer:/export"),
        ("/data/my set/x.tfrecord", "fuse.glusterfs", "filer:/gv0"),
        ("/data/my settings", "nfs4", "filer:/export"),
        ("/database", "ext4", "/dev/vda1"),
    ],
)
def test_the_mount_with_the_longest_parent_holds_a_path(path, fstype, source):
    mount = covering(parse_mountinfo(MOUNTINFO), Path(path))
    assert (mount.fstype, mount.source) == (fstype, source)


def test_a_mount_keeps_its_own_and_the_super_blocks_options_once_each():
    assert parse_mountinfo(MOUNTINFO)[-1] == Mount(
        "/data/my set", "fuse.glusterfs", "filer:/gv0", ("rw", "nosuid", "user_id=0", "max_read=131072"), "0:42"
    )


def test_a_path_that_no_mount_holds_is_an_error_with_the_path():
    with pytest.raises(MountError, match="some/relative/path"):
        covering(parse_mountinfo(MOUNTINFO), Path("some/relative/path"))


@pytest.mark.skipif(shutil.which("findmnt") is None, reason="findmnt is not installed")
@pytest.mark.parametrize("path", ["/", "/dev/shm", "/proc/self", "."])
def test_mount_of_agrees_with_findmnt(path):
    command = ["findmnt", "--first-only", "--json", "--output", "TARGET,FSTYPE", "--target", str(Path(path).resolve())]
    (expected,) = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["filesystems"]
    mount = mount_of(Path(path))
    assert (mount.mount_point, mount.fstype) == (expected["target"], expected["fstype"])


def test_mount_of_follows_links_and_takes_paths_that_do_not_exist_yet(tmp_path):
    (tmp_path / "link").symlink_to("/proc")
    assert mount_of(tmp_path / "link" / "not-there").fstype == "proc"


def block_device(sysfs: Path, name: str, number: str, *, inside: str = "", **attributes: str) -> Path:
    """One device folder of /sys with its attributes, and the link from its number."""
    folder = sysfs / "devices" / inside / name
    for attribute, text in attributes.items():
        file = folder / attribute.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    (sysfs / "dev/block").mkdir(parents=True, exist_ok=True)
    (sysfs / "dev/block" / number).symlink_to(folder)
    return folder


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """Two NVMe disks, a partition on the first, and a dm device over the partition and the second disk."""
    disk = {"queue__rotational": "0", "queue__scheduler": "[none] mq-deadline", "size": "2000"}
    first = block_device(tmp_path, "nvme0n1", "259:0", device__model="FAST DISK  ", **disk)
    partition = block_device(tmp_path, "nvme0n1p1", "259:1", inside=first.name, partition="1", size="1000")
    second = block_device(tmp_path, "nvme1n1", "259:2", **disk)
    mapper = block_device(tmp_path, "dm-0", "253:0", size="3000", queue__rotational="0")
    (mapper / "slaves").mkdir()
    for below in (partition, second):
        (mapper / "slaves" / below.name).symlink_to(below)
    return tmp_path


def mounted(device: str, source: str = "/dev/x") -> Mount:
    return Mount("/data", "ext4", source, ("rw",), device)


def test_a_partition_is_taken_back_to_its_disk(sysfs):
    assert block_devices(mounted("259:1"), sysfs=sysfs) == [
        {"name": "nvme0n1", "model": "FAST DISK", "size_bytes": 1_024_000, "rotational": False, "scheduler": "none"}
    ]


def test_a_mapped_device_is_followed_to_all_its_leaves(sysfs):
    disks = block_devices(mounted("253:0"), sysfs=sysfs)
    assert [(disk["name"], disk["model"]) for disk in disks] == [("nvme0n1", "FAST DISK"), ("nvme1n1", None)]


def test_a_network_mount_has_no_block_device(sysfs):
    assert block_devices(mounted("0:41", source="filer:/export"), sysfs=sysfs) == []
    assert block_devices(mounted("9:99"), sysfs=sysfs) == []
