"""Where a run took place: mounts, disks, versions, and what must not be told."""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from iobench.results import environment
from iobench.results.environment import (
    Mount,
    MountError,
    block_devices,
    collect,
    covering,
    mount_of,
    parse_mountinfo,
    public_path,
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


def test_the_home_directory_is_shown_as_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert public_path("/home/ada") == "~"
    assert public_path(Path("/home/ada/data")) == "~/data"
    assert public_path("/home/adamas/data") == "/home/adamas/data"
    assert public_path("data/x") == "data/x"
    monkeypatch.setenv("HOME", "/")
    assert public_path("/data") == "/data"


def test_the_users_own_name_is_no_part_of_a_shown_path(monkeypatch):
    monkeypatch.setattr("iobench.results.environment._user_name", lambda: "ada")
    assert public_path("/scratch/ada/set") == "/scratch/$USER/set"


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("username=ada", "username=(hidden)"),
        ("password=1234", "password=(hidden)"),
        ("secret=AQBd", "secret=(hidden)"),
        ("passwd_file=/etc/s3", "passwd_file=(hidden)"),
        ("user_id=1000", "user_id=(hidden)"),
        ("lowerdir=/home/ada/images", "lowerdir=/home/$USER/images"),
        ("url=https://ada:1234@store/bucket", "url=https://store/bucket"),
        ("nouser_xattr", "nouser_xattr"),
        ("sec=sys", "sec=sys"),
    ],
)
def test_mount_options_keep_no_names_and_no_credentials(option, shown):
    assert environment._public_option(option) == shown


def test_the_source_of_a_mount_keeps_no_user():
    assert environment._without_names("ada@host:/home/ada/set") == "host:/home/$USER/set"
    assert environment._without_names("//filer/share") == "//filer/share"


def test_the_environment_names_machine_software_and_file_system(tmp_path):
    found = collect(tmp_path)
    json.dumps(found)
    assert found["host"] == platform.node()
    assert found["python"] == platform.python_version()
    assert found["cpu"]["logical_cores"] == os.cpu_count()
    assert found["versions"]["numpy"] == pytest.importorskip("numpy").__version__
    assert found["storage"]["fstype"] == mount_of(tmp_path).fstype
    assert found["storage"]["free_bytes"] > 0
    assert found["storage"]["reason"] is None
    assert bool(found["gpus"]) is not bool(found["gpus_reason"])


def test_without_a_path_there_is_no_storage():
    assert collect()["storage"] is None


def test_the_environment_imports_none_of_the_libraries_it_names():
    code = (
        "import sys; from iobench.results.environment import collect; collect();"
        "print([m for m in ('torch', 'horovod', 'numpy', 'kvikio', 'nvidia') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "[]"


def nvml(folder: Path, monkeypatch: pytest.MonkeyPatch, init: str) -> None:
    """Put a stand-in for nvidia-ml-py first on the path, with two GPUs."""
    (folder / "pynvml.py").write_text(f"""
import time
from types import SimpleNamespace
class NVMLError(Exception): pass
def nvmlInit():
    {init}
def nvmlShutdown(): pass
def nvmlSystemGetDriverVersion(): return "580.1"
def nvmlDeviceGetCount(): return 2
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetName(handle): return f"GPU {{handle}}"
def nvmlDeviceGetMemoryInfo(handle): return SimpleNamespace(total=80_000_000_000)
""")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(sys.modules, "pynvml", None)  # so that whatever is imported is gone again after the test
    monkeypatch.delitem(sys.modules, "pynvml")


def test_gpus_are_listed_as_nvml_tells_them(tmp_path, monkeypatch):
    nvml(tmp_path, monkeypatch, "pass")
    found = collect()
    assert [gpu["name"] for gpu in found["gpus"]] == ["GPU 0", "GPU 1"]
    assert found["gpus_reason"] is None


def test_a_driver_that_is_missing_is_the_reason_for_no_gpus(tmp_path, monkeypatch):
    nvml(tmp_path, monkeypatch, "raise NVMLError('Driver Not Loaded')")
    found = collect()
    assert (found["gpus"], found["gpus_reason"]) == ([], "NVML: Driver Not Loaded")


def test_a_driver_that_does_not_answer_holds_nobody_up(tmp_path, monkeypatch):
    nvml(tmp_path, monkeypatch, "time.sleep(600)")
    monkeypatch.setattr("iobench.results.environment.PATIENCE_S", 0.2)
    found = collect()
    assert (found["gpus"], found["gpus_reason"]) == ([], "NVML did not answer within 0.2 s")
