"""The statistics of nvidia-fs in the three forms that its releases show."""

import pytest

from iobench.loaders.counters.counter import Roots
from iobench.loaders.counters.nvidia_fs import nvidia_fs_counter

COUNTING = """\
GDS Version: 1.16.0.1
NVFS statistics(ver: 4.0)
NVFS Driver(version: 2.24.2)
Mellanox PeerDirect Supported: True
IO stats: Enabled, peer IO stats: Enabled
Logging level: info

Active Shadow-Buffer (MiB): 0
Active Process: 1
Batches                         : n=0 ok=0 err=0 Avg-Submit-Latency(usec)=0
Reads                           : n=1048576 ok=1048576 err=0 readMiB=1048577 io_state_err=0
Reads                           : Bandwidth(MiB/s)=13224 Avg-Latency(usec)=594
Sparse Reads                    : n=230 io=0 holes=0 pages=0
Writes                          : n=0 ok=0 err=0 writeMiB=0 io_state_err=0 pg-cache=0 pg-cache-fail=0 pg-cache-eio=0
GPU 0000:be:00.0  uuid:87e5c586-88ed-583b-df45-fcee0f1e7917 : Registered_MiB=0 Cache_MiB=0 max_pinned_MiB=8
"""
DISABLED = """\
GDS Version: 1.14.0.31
NVFS statistics(ver: 4.0)
NVFS Driver(version: 2.25.7)
Mellanox PeerDirect Supported: True
IO stats: Disabled, peer IO stats: Disabled
Logging level: info

Active Shadow-Buffer (MiB): 0
Active Process: 0
Reads                           : err=0 io_state_err=0
Sparse Reads                    : n=0 io=0 holes=0 pages=0
Writes                          : err=0 io_state_err=0 pg-cache=0 pg-cache-fail=0 pg-cache-eio=0
"""
OLD = """\
GDS Version: 0.9.0.743
NVFS statistics(ver: 2.0)
NVFS Driver(version: 2:3:1)
Active Shadow-Buffer (MiB): 128
Active Process: 1
Reads : n=424436862 ok=424436734 err=0 readMiB=21518771 io_state_err=0
Reads : Bandwidth(MiB/s)=13081 Avg-Latency(usec)=9773
Sparse Reads : n=19783000 io=0 holes=0 pages=0
"""


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (COUNTING, 1048577 << 20),
        (OLD, 21518771 << 20),
        (DISABLED, None),
        (COUNTING.replace("Enabled", "Disabled"), None),  # figures that stand still
        (None, None),
    ],
)
def test_what_it_read_is_a_figure_only_while_it_counts(tmp_path, text, count):
    if text is not None:
        (tmp_path / "driver/nvidia-fs").mkdir(parents=True)
        (tmp_path / "driver/nvidia-fs/stats").write_text(text)
    assert nvidia_fs_counter(roots=Roots(proc=tmp_path)).read_bytes() == count
