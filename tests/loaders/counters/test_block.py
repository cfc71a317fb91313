"""Block devices drawn as folders, the way sysfs draws them."""

from iobench.loaders.counters.block import DeviceCounter, device_counter, leaves_of, merged
from iobench.loaders.counters.counter import Roots


def test_leaves_are_found_through_stacked_devices(tmp_path):
    """A volume on a mirror of two disks, and a partition: drawn as folders, the way sysfs draws them."""
    for name, number in {"volume": "253:0", "mirror": "9:0", "one": "8:1", "two": "8:17"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "dev").write_text(number + "\n")
    for name, parts in {"volume": ["mirror"], "mirror": ["one", "two"], "one": []}.items():
        (tmp_path / name / "slaves").mkdir()
        for part in parts:
            (tmp_path / name / "slaves" / part).symlink_to(tmp_path / part)
    assert leaves_of(tmp_path / "volume") == {"8:1", "8:17"}
    assert leaves_of(tmp_path / "two") == {"8:17"}


def disk(sys, number, sectors):
    node = sys / "dev/block" / number
    node.mkdir(parents=True)
    (node / "dev").write_text(number + "\n")
    (node / "stat").write_text(f"  6014  1  {sectors}  3300  0 0 0 0 0 10 20 0 0 0 0 0 0\n")


def test_sectors_of_all_devices_are_counted_each_once(tmp_path):
    disk(tmp_path, "8:1", 3)
    disk(tmp_path, "8:17", 4)
    roots = Roots(sys=tmp_path)
    one, both = device_counter(["8:1"], roots=roots), device_counter(["8:1", "8:17"], roots=roots)
    assert (one.read_bytes(), both.read_bytes()) == (3 * 512, 7 * 512)
    assert merged([one, both]).read_bytes() == 7 * 512


def test_what_is_no_block_device_has_no_counter(tmp_path):
    disk(tmp_path, "8:1", 3)
    assert device_counter(["8:1", "0:45"], roots=Roots(sys=tmp_path)) is None
    assert device_counter([], roots=Roots(sys=tmp_path)) is None


def test_a_disk_that_was_pulled_out_is_no_figure(tmp_path):
    disk(tmp_path, "8:1", 3)
    counter = device_counter(["8:1"], roots=Roots(sys=tmp_path))
    (tmp_path / "dev/block/8:1/stat").unlink()
    assert counter.read_bytes() is None


def test_one_doubtful_file_system_makes_the_whole_bounding(tmp_path):
    disk(tmp_path, "8:1", 3)
    disk(tmp_path, "8:17", 4)
    roots = Roots(sys=tmp_path)
    doubtful = device_counter(["8:17"], doubt="btrfs may hold the data compressed", roots=roots)
    assert doubtful.counter_class == "bounding"
    both = merged([device_counter(["8:1"], roots=roots), doubtful])
    assert isinstance(both, DeviceCounter)
    assert (both.counter_class, both.leaves) == ("bounding", ("8:1", "8:17"))
