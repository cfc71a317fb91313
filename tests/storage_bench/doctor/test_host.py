"""Limits of cgroups of both versions, and access control in PCI configuration space."""

import struct

from iobench.storage_bench.doctor.limits import cgroup_limits
from iobench.storage_bench.doctor.pci import acs_control


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_limits_of_version_2_hold_from_every_folder_on_the_way_up(tmp_path):
    write(
        tmp_path,
        {
            "cpu.max": "max 100000\n",
            "a/cpu.max": "150000 100000\n",
            "a/b/memory.max": "8000000000\n",
            "a/b/io.max": "254:0 rbps=104857600 wbps=max riops=max wiops=500\n",
            "a/b/cpu.max": "max 100000\n",
            "elsewhere/memory.max": "1\n",
        },
    )
    assert cgroup_limits(groups="0::/a/b\n", root=tmp_path) == [
        "8.0 GB of memory, page cache included",
        "device 254:0: rbps=104857600, wiops=500",
        "1.5 cores",
    ]


def test_limits_of_version_1_come_from_each_controllers_own_tree(tmp_path):
    write(
        tmp_path,
        {
            "cpu/c/cpu.cfs_quota_us": "50000\n",
            "cpu/c/cpu.cfs_period_us": "100000\n",
            "cpu/cpu.cfs_quota_us": "-1\n",
            "cpu/cpu.cfs_period_us": "100000\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/c/memory.limit_in_bytes": "2000000000\n",
            "blkio/c/blkio.throttle.read_bps_device": "254:0 209715200\n",
        },
    )
    groups = "4:memory:/c\n3:blkio:/c\n2:cpu,cpuacct:/c\n1:name=systemd:/c\n0::/\n"
    assert cgroup_limits(groups=groups, root=tmp_path) == [
        "2.0 GB of memory, page cache included",
        "device 254:0: read_bps=209715200",
        "0.5 cores",
    ]


def test_without_files_there_are_no_limits(tmp_path):
    assert cgroup_limits(groups="0::/x\n", root=tmp_path) == []


def config_space(*capabilities):
    """4 KiB of configuration with extended capabilities (id, control) chained from 0x100 on."""
    config = bytearray(4096)
    for place, (identity, control) in enumerate(capabilities):
        offset = 0x100 + 0x40 * place
        following = offset + 0x40 if place + 1 < len(capabilities) else 0
        struct.pack_into("<HH", config, offset, identity, following << 4 | 1)
        struct.pack_into("<H", config, offset + 6, control)
    return bytes(config)


def test_the_acs_control_register_is_found_behind_other_capabilities():
    assert acs_control(config_space((0x0001, 0xFFFF), (0x000D, 0x001D))) == 0x1D
    assert acs_control(config_space((0x000D, 0))) == 0


def test_a_bridge_without_acs_has_nothing_switched_on():
    assert acs_control(config_space((0x0001, 0xFFFF))) == 0
    assert acs_control(bytes(4096)) == 0


def test_a_chain_that_leads_back_ends():
    config = bytearray(config_space((0x0001, 0), (0x0003, 0)))
    struct.pack_into("<H", config, 0x142, 0x100 << 4)
    assert acs_control(bytes(config)) == 0


def test_what_only_root_may_see_is_not_known():
    assert acs_control(bytes(64)) is None
