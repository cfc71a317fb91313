"""NFS counters on a mountstats file as a client shows it: two NFS mounts among others, one of them mounted over."""

from pathlib import Path

import pytest

from iobench.loaders.counters.choice import counters_of_mount
from iobench.loaders.counters.counter import Roots
from iobench.loaders.counters.mounts import Mount

MOUNTSTATS = """\
device proc mounted on /proc with fstype proc
device /dev/nvme0n1p2 mounted on / with fstype ext4
device tmpfs mounted on /run with fstype tmpfs
no device mounted on /sys/kernel/debug with fstype debugfs
device filer:/vol/home mounted on /home with fstype nfs4 statvers=1.1
\topts:\trw,vers=4.1,rsize=1048576,wsize=1048576,namlen=255,hard,proto=tcp,timeo=600,retrans=2,sec=sys
\tage:\t3542
\timpl_id:\tname='',domain='',date='0,0'
\tcaps:\tcaps=0x3ffbffff,wtmult=512,dtsize=1048576,bsize=0,namlen=255
\tevents:\t114 1579 5 3 132 20 3019 1 2 3 4 5 115 1 4 1 2 4 3 4 5 6 7 8 9 0 1
\tbytes:\t11 12 13 14 5000 16 17 18
\tRPC iostats version: 1.1  p/v: 100003/4 (nfs)
\txprt:\ttcp 909 0 1 0 2 294 294 0 294 0 2 0 0
\tper-op statistics
\t        NULL: 1 1 0 44 24 0 0 0 0
\t        READ: 2 2 0 400 5240 1 2 3 0
\t       WRITE: 7 7 0 524288 1400 3 100 130 0
device filer:/vol/train\\040set mounted on /mnt/train\\040set with fstype nfs statvers=1.1
\topts:\tro,vers=3,rsize=1048576,wsize=1048576,namlen=255,hard,proto=rdma,port=20049,timeo=600,retrans=2,sec=sys
\tage:\t99
\tcaps:\tcaps=0x3fc7,wtmult=4096,dtsize=4096,bsize=0,namlen=255
\tsec:\tflavor=1,pseudoflavor=1
\tevents:\t1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27
\tbytes:\t2097152 0 1048576 0 3145728 0 768 0
\tRPC iostats version: 1.1  p/v: 100003/3 (nfs)
\txprt:\trdma 0 0 1 0 11 10 10 0 10 0 3145728 0 0 0 0 0 0 0 0
\tper-op statistics
\t        NULL: 0 0 0 0 0 0 0 0 0
\t     GETATTR: 4 4 0 448 448 0 0 0 0
\t        READ: 3 3 0 360 3146112 4 210 220 0
\t   READ_PLUS: 1 1 0 120 100 1 1 1 0
"""


def nfs_mount(point: str, source: str, fstype: str) -> Mount:
    return Mount(71, "0:52", Path("/"), Path(point), fstype, source, ("rw", "relatime"))


@pytest.fixture
def roots(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountstats").write_text(MOUNTSTATS)
    return Roots(tmp_path / "proc", tmp_path / "sys")


def test_the_payload_that_the_server_sent_for_this_mount_decides(roots):
    mount = nfs_mount("/mnt/train set", "filer:/vol/train set", "nfs")
    deciding, beside = counters_of_mount(mount, mount.point, roots=roots)
    assert (deciding.counter_class, deciding.read_bytes()) == ("exact", 3145728)
    assert deciding.reason == "bytes that filer:/vol/train set sent for NFS reads (mountstats)"
    assert (beside.counter_class, beside.read_bytes()) == ("bounding", 3146112 + 100)


def test_another_mount_of_the_same_server_is_counted_apart(roots):
    mount = nfs_mount("/home", "filer:/vol/home", "nfs4")
    deciding, beside = counters_of_mount(mount, mount.point, roots=roots)
    assert (deciding.read_bytes(), beside.read_bytes()) == (5000, 5240)


def test_of_two_mounts_at_one_point_the_upper_one_is_counted(roots):
    over = "device other:/x mounted on /home with fstype nfs4 statvers=1.1\n\tbytes:\t0 0 0 0 77 0 0 0\n"
    (roots.proc / "self/mountstats").write_text(MOUNTSTATS + over)
    mount = nfs_mount("/home", "other:/x", "nfs4")
    assert counters_of_mount(mount, mount.point, roots=roots)[0].read_bytes() == 77


def test_a_mount_that_has_gone_has_no_figure(roots):
    mount = nfs_mount("/mnt/gone", "filer:/gone", "nfs4")
    assert [counter.read_bytes() for counter in counters_of_mount(mount, mount.point, roots=roots)] == [None, None]
