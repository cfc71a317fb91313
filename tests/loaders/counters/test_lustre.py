"""Lustre counters on stats files as clients show them; the figures of `read` are those that LUDOC-220 tells."""

from pathlib import Path

import pytest

from iobench.loaders.counters.choice import counters_of_mount
from iobench.loaders.counters.counter import Roots
from iobench.loaders.counters.mounts import Mount

LLITE = """\
snapshot_time             1441417734.605685 secs.usecs
read_bytes                1025 samples [bytes] 0 1048576 1073741824
write_bytes               575 samples [bytes] 4 4194304 1805014315
ioctl                     8143 samples [regs]
open                      8275 samples [regs]
close                     8272 samples [regs]
getattr                   20417 samples [regs]
inode_permission          249369 samples [regs]
"""
LLITE_WITH_OSC = LLITE.replace("ioctl", "osc_read                  1029 samples [bytes] 4096 1048576 1073762304\nioctl")
OSC = """\
snapshot_time             1677000000.123456789 secs.nsecs
start_time                1676990000.987654321 secs.nsecs
elapsed_time              9999.135802468 secs.nsecs
req_waittime              2046 samples [usecs] 58 595570 347900000 120942246579015
req_active                2046 samples [reqs] 1 16 5125 25000
read_bytes                1029 samples [bytes] 4096 1048576 {total} 112589999072870
ost_read                  1029 samples [usecs] 1391 595570 347839127 120942246579015
ost_connect               1 samples [usecs] 1107 1107 1107 1225449
ldlm_cancel               3 samples [usecs] 96 163 378 50066
"""
HASH = "ffff9c64a0b2c800"
MOUNT = Mount(80, "0:61", Path("/"), Path("/scratch"), "lustre", "10.0.0.1@o2ib:10.0.0.2@o2ib:/scratch/users", ("rw",))


@pytest.fixture
def roots(tmp_path):
    return Roots(tmp_path / "proc", tmp_path / "sys")


def show(base: Path, name: str, text: str) -> None:
    (base / name).mkdir(parents=True)
    (base / name / "stats").write_text(text)


def test_what_the_targets_sent_decides_and_what_programs_asked_for_stands_beside(roots):
    debug = roots.sys / "kernel/debug/lustre"
    show(debug, f"osc/scratch-OST0000-osc-{HASH}", OSC.format(total=1073762304))
    show(debug, f"osc/scratch-OST0001-osc-{HASH}", OSC.format(total=4096))
    show(debug, f"osc/scratch-OST0002-osc-{HASH}", OSC.format(total=1).replace("read_bytes", "write_bytes"))
    show(debug, f"osc/home-OST0000-osc-{HASH}", OSC.format(total=10**15))
    show(debug, f"mdc/scratch-MDT0000-mdc-{HASH}", OSC.format(total=64))  # data on a metadata target
    show(debug, f"llite/scratch-{HASH}", LLITE)
    deciding, beside, *_ = counters_of_mount(MOUNT, MOUNT.point, roots=roots)
    assert (deciding.counter_class, deciding.read_bytes()) == ("exact", 1073762304 + 4096 + 64)
    assert "4 targets of Lustre's scratch" in deciding.reason
    assert (beside.name, beside.read_bytes()) == ("lustre_llite_read_bytes", 1073741824)


def test_older_clients_show_the_same_sum_among_those_of_the_mount(roots):
    show(roots.proc / "fs/lustre", f"llite/scratch-{HASH}", LLITE_WITH_OSC)
    deciding, *_ = counters_of_mount(MOUNT, MOUNT.point, roots=roots)
    assert (deciding.counter_class, deciding.read_bytes()) == ("exact", 1073762304)


def test_what_programs_asked_for_alone_proves_nothing(roots):
    """Reads that the page cache answered are in it: it would prove cold reads that never left this machine."""
    show(roots.sys / "fs/lustre", f"llite/scratch-{HASH}", LLITE)
    deciding, beside = counters_of_mount(MOUNT, MOUNT.point, roots=roots)[:2]
    assert (deciding.counter_class, deciding.read_bytes()) == ("none", None)
    assert "only root may read them" in deciding.reason
    assert beside.read_bytes() == 1073741824


def test_stats_that_vanish_with_the_mount_are_no_figure(roots):
    debug = roots.sys / "kernel/debug/lustre"
    show(debug, f"osc/scratch-OST0000-osc-{HASH}", OSC.format(total=5))
    deciding, *_ = counters_of_mount(MOUNT, MOUNT.point, roots=roots)
    (debug / f"osc/scratch-OST0000-osc-{HASH}/stats").unlink()
    assert deciding.read_bytes() is None
