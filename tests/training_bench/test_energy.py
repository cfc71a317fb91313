"""Energy counters in a tree of files as the kernel lays them out, and the figures of blocks, by hand."""

import sys

import pytest

from iobench.training_bench.energy import (
    BlockEnergy,
    EnergyMeter,
    block_energy,
    energy_counters,
    energy_metrics,
    idle_watts,
)


@pytest.fixture
def powercap(tmp_path):
    """Two packages, a core zone and memory in the first, the whole platform, and the other driver's view of it."""
    zones = {
        "intel-rapl:0": ("package-0", 262_143_328_850, 1_000_000),
        "intel-rapl:0:0": ("core", 262_143_328_850, 77),
        "intel-rapl:0:1": ("dram", 65_712_999_613, 2_000_000),
        "intel-rapl:1": ("package-1", 262_143_328_850, 262_143_000_000),
        "intel-rapl:2": ("psys", 262_143_328_850, 9),
        "intel-rapl-mmio:0": ("package-0", 262_143_328_850, 5),
    }
    for folder, (name, most, energy) in zones.items():
        (tmp_path / folder).mkdir()
        for file, text in (("name", name), ("max_energy_range_uj", most), ("energy_uj", energy)):
            (tmp_path / folder / file).write_text(f"{text}\n")
    return tmp_path


def test_packages_and_their_memory_are_counted_once_each(powercap):
    counters = energy_counters(root=powercap)
    assert [counter.name for counter in counters.counters] == ["rapl:0 package-0", "rapl:0:1 dram", "rapl:1 package-1"]
    assert counters.read() == pytest.approx((1.0, 2.0, 262_143.0))


def test_a_counter_that_started_again_from_0_has_counted_on(powercap):
    meter = EnergyMeter(energy_counters(root=powercap))
    meter.start()
    (powercap / "intel-rapl:0" / "energy_uj").write_text("4000000")
    (powercap / "intel-rapl:1" / "energy_uj").write_text("671150")  # 0.32885 J to the end, then 0.67115 J
    told = meter.stop()
    assert told["joules"] == pytest.approx({"rapl:0 package-0": 3, "rapl:0:1 dram": 0, "rapl:1 package-1": 1}, abs=1e-6)
    assert told["reason"] is None


def test_a_block_so_long_that_a_counter_may_have_wrapped_twice_has_no_figure(powercap):
    counters = energy_counters(root=powercap)
    before = counters.read()
    assert counters.since(before, 65.0) is not None  # memory wraps at 65.7 kJ
    assert counters.since(before, 66.0) is None


def test_a_host_without_counters_says_so(tmp_path):
    counters = energy_counters(root=tmp_path)
    meter = EnergyMeter(counters)
    meter.start()
    told = meter.stop()
    assert told["joules"] is None
    assert "intel-rapl" in told["reason"]
    assert idle_watts(counters) is None


def test_counters_that_only_root_may_read_say_so(powercap):
    (powercap / "intel-rapl:0" / "energy_uj").unlink()
    counters = energy_counters(root=powercap)
    assert counters.counters == ()
    assert "root" in counters.reason


def test_a_rank_that_does_not_read_tells_nothing():
    meter = EnergyMeter(None)
    meter.start()
    assert meter.stop() is None


def test_a_worked_example_of_two_blocks():
    # 100 J over 200 images in 2 s and 150 J over 200 images in 3 s; a host takes 20 W when idle
    blocks = [BlockEnergy(100.0, 2.0, 200), BlockEnergy(150.0, 3.0, 200)]
    found = energy_metrics(blocks, idle_w=20.0, reason=None)
    assert found["joules_per_image"].samples == pytest.approx([0.5, 0.75])
    assert found["power_w"].samples == pytest.approx([50.0, 50.0])
    assert found["images_per_joule"].samples == pytest.approx([2.0, 4 / 3])
    assert found["idle_joules_per_image"].samples == pytest.approx([0.2, 0.3])


def test_one_block_that_was_not_counted_leaves_all_without_a_figure():
    blocks = [BlockEnergy(100.0, 2.0, 200), BlockEnergy(None, 3.0, 200)]
    found = energy_metrics(blocks, idle_w=20.0, reason="no counter")
    assert all((metric.value, metric.reason) == (None, "no counter") for metric in found.values())


def test_what_counts_stands_though_something_else_does_not_count_and_says_so(powercap):
    counters = energy_counters(root=powercap, gpus=("ffff:ff:1f.0",))  # where no machine has one
    assert "GPU ffff:ff:1f.0" in counters.reason
    meter = EnergyMeter(counters)
    meter.start()
    (powercap / "intel-rapl:0" / "energy_uj").write_text("4000000")
    taken, reason = block_energy([meter.stop(), None], images=10)
    assert taken.joules == pytest.approx(3, abs=1e-6)
    found = energy_metrics([taken], idle_w=None, reason=reason)
    assert found["joules_per_image"].value == pytest.approx(0.3)
    assert "without what is not counted: GPU ffff:ff:1f.0" in found["joules_per_image"].reason


PLAYED_NVML = """
class NVMLError(Exception): pass
def nvmlInit(): pass
def nvmlDeviceGetHandleByPciBusId(address):
    if address not in (b"0000:3b:00.0", b"0000:86:00.0"):
        raise NVMLError("Not Found")
    return address
def nvmlDeviceGetTotalEnergyConsumption(handle): return {b"0000:3b:00.0": 1000, b"0000:86:00.0": 7000}[handle]
"""


def test_a_gpus_energy_is_that_of_its_place_on_the_bus(powercap, tmp_path, monkeypatch):
    """Whatever numbers NVML, CUDA and CUDA_VISIBLE_DEVICES give it."""
    (tmp_path / "pynvml.py").write_text(PLAYED_NVML)
    monkeypatch.setitem(sys.modules, "pynvml", None)  # so that what is imported is gone again after the test
    del sys.modules["pynvml"]
    monkeypatch.syspath_prepend(tmp_path)
    found = energy_counters(packages=False, gpus=("0000:86:00.0",), root=powercap)
    assert [(counter.name, counter.read_joules()) for counter in found.counters] == [("gpu 0000:86:00.0", 7.0)]
    missing = energy_counters(packages=False, gpus=("0000:00:00.0",), root=powercap)
    assert missing.counters == ()
    assert "GPU 0000:00:00.0: NVML does not count its energy (Not Found)" in missing.reason


def test_one_rank_that_counted_nothing_leaves_the_block_without_a_figure():
    told = [
        {"seconds": 1.0, "joules": {"package": 3.0}, "reason": None},
        {"seconds": 1.0, "joules": None, "reason": "no RAPL"},
    ]
    assert block_energy(told, images=10) == (BlockEnergy(None, 1.0, 10), "no RAPL")
