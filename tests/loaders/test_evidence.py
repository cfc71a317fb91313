"""Counters against an independent count, and the rules that turn them into evidence."""

import os
from pathlib import Path

import pytest

from iobench.loaders.buffers import Buffer
from iobench.loaders.counters.counter import NoCounter
from iobench.loaders.counters.network import NetworkCounter
from iobench.loaders.engines.readers import BufferedReader, DirectReader, direct_refused
from iobench.loaders.evidence import DeviceCounter, background_rate, counter_for, judge
from iobench.loaders.page_cache import cache_fraction, evict, warm

MIB = 1 << 20
SIZE_BYTES = 32 * MIB
EXACT = DeviceCounter(("8:0",), "exact", "sectors read by sda")
NO_COUNTER = NoCounter("device 0:50 is anonymous, and nothing counts what zfs reads")


def own_reads() -> int:
    """Bytes that this process alone made the storage deliver, as the kernel accounts them."""
    rows = dict(row.split(": ") for row in Path("/proc/self/io").read_text().splitlines())
    return int(rows["read_bytes"])


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("evidence") / "some.bin"
    path.write_bytes(os.urandom(SIZE_BYTES))
    evict([path])
    if counter_for([path]).counter_class != "exact":
        pytest.skip(counter_for([path]).reason)
    return path


def read_all(reader, path: Path) -> int:
    memory = Buffer(4 * MIB).memory
    return sum(reader.read(path, offset, memory) for offset in range(0, SIZE_BYTES, 4 * MIB))


def watched(path: Path, work) -> tuple[int, int, int]:
    """What `work` returns, and the bytes read meanwhile by the device for everybody and for this process alone."""
    counter = counter_for([path])
    device, own = counter.read_bytes(), own_reads()
    delivered = work()
    return delivered, counter.read_bytes() - device, own_reads() - own


@pytest.mark.parametrize("engine", ["buffered", "direct"])
def test_a_cold_reads_bytes_all_come_from_the_device(file, engine):
    if engine == "direct" and (reason := direct_refused(file)):
        pytest.skip(reason)
    ratios = []
    for _ in range(10):
        evict([file])
        assert cache_fraction([file]) in (0, None)
        reader = DirectReader() if engine == "direct" else BufferedReader()
        delivered, device, own = watched(file, lambda: read_all(reader, file))  # noqa: B023
        assert delivered == SIZE_BYTES
        assert own >= 0.98 * delivered
        assert device >= own
        ratios.append(device / delivered)
        if ratios[-1] <= 1.05:
            return  # others may read from the same device at the same time; one quiet moment is enough
    pytest.skip(f"the device was busy all the time: {min(ratios):.2f} bytes read per byte delivered")


def test_a_warm_reads_bytes_do_not_come_from_the_device(file):
    warm([file])
    ratios = []
    for _ in range(10):
        delivered, device, own = watched(file, lambda: read_all(BufferedReader(), file))
        assert (delivered, own) == (SIZE_BYTES, 0)
        ratios.append(device / delivered)
        if ratios[-1] <= 0.02:
            return
    pytest.skip(f"the device was busy all the time: {min(ratios):.2f} bytes read per byte delivered")


def test_a_direct_read_does_not_use_or_fill_the_page_cache(file):
    if reason := direct_refused(file):
        pytest.skip(reason)
    evict([file])
    before = own_reads()
    for _ in range(2):
        read_all(DirectReader(), file)
    assert own_reads() - before == 2 * SIZE_BYTES
    assert cache_fraction([file]) in (0, None)


def test_the_counter_is_the_devices_that_the_file_lies_on(file):
    counter = counter_for([file, file.parent])
    assert counter.leaves
    for leaf in counter.leaves:
        assert (Path("/sys/dev/block") / leaf / "stat").exists()
    assert counter.reason.startswith("sectors read by ")


def test_a_file_system_without_a_device_has_no_counter():
    counter = counter_for([Path("/proc/version")])
    assert counter.counter_class == "none"
    assert counter.reason == "proc is a file system in memory: no device is read"
    assert counter.read_bytes() is None
    assert background_rate(counter, seconds=0) is None


def evidence(**changed):
    given = {
        "engine": "buffered",
        "page_cache": "cold",
        "cache_fraction": 0.0,
        "delivered_bytes": 1000,
        "payload_bytes": 800,
        "raw_device_bytes": 1000,
        "background_bytes": 0.0,
    }
    return judge(changed.pop("counter", EXACT), **{**given, **changed})


@pytest.mark.parametrize(
    ("engine", "page_cache", "device_bytes", "valid"),
    [
        ("buffered", "cold", 980, True),
        ("buffered", "cold", 979, False),
        ("buffered", "cold", 5000, True),
        ("direct", "cold", 979, False),
        ("direct", None, 979, False),
        ("direct", "cold", 1000, True),
        ("buffered", "warm", 20, True),
        ("buffered", "warm", 21, False),
        ("buffered", None, 0, True),
    ],
)
def test_an_exact_counter_decides_what_counts(engine, page_cache, device_bytes, valid):
    found = evidence(engine=engine, page_cache=page_cache, raw_device_bytes=device_bytes)
    assert (found.invalid_reason() is None) is valid
    assert found.observed_route == "host"


def test_what_is_invalid_says_by_how_much_and_what_was_resident():
    reason = evidence(raw_device_bytes=500, cache_fraction=0.47).invalid_reason()
    assert "only 50.0% of the bytes delivered" in reason
    assert "47.0% was resident before" in reason
    assert "residency unknown" in evidence(raw_device_bytes=500, cache_fraction=None).invalid_reason()


def test_without_a_counter_nothing_is_proven_and_nothing_is_invalid():
    found = evidence(counter=NO_COUNTER, raw_device_bytes=None)
    assert (found.observed_route, found.device_bytes, found.read_amplification) == ("unknown", None, None)
    assert found.route_evidence.startswith("route not proven: device 0:50 is anonymous")
    assert found.invalid_reason() is None


def test_the_background_is_subtracted_and_recorded():
    found = evidence(raw_device_bytes=1300, background_bytes=300.4)
    assert found.device_bytes == 1000
    assert found.counters == {"device_bytes_raw": 1300, "process_bytes": None, "background_bytes": 300}
    assert found.read_amplification == 1000 / 800


def test_what_the_process_itself_made_the_device_read_needs_no_subtraction():
    found = evidence(raw_device_bytes=5000, process_bytes=1000, background_bytes=300.0)
    assert found.device_bytes == 1000
    assert found.observed_route == "host"
    assert found.invalid_reason() is None


def test_others_reads_prove_nothing_about_ones_own():
    found = evidence(raw_device_bytes=5000, process_bytes=10, background_bytes=4000.0)
    assert "the device gave only 1.0%" in found.invalid_reason()


@pytest.mark.parametrize("page_cache", ["cold", "warm"])
def test_a_busy_device_leaves_the_route_open_where_its_counter_does_not_agree(page_cache):
    found = evidence(page_cache=page_cache, raw_device_bytes=700, background_bytes=200.0)
    assert found.observed_route == "unknown"
    assert "others read 20% as much as it did from this device" in found.route_evidence
    assert found.invalid_reason() is None


def test_reading_more_than_was_asked_for_is_a_warning_with_its_ratio():
    assert evidence(raw_device_bytes=920).warning() is None
    assert "2.50 bytes for each byte of payload" in evidence(raw_device_bytes=2000).warning()
    assert evidence(raw_device_bytes=2000).invalid_reason() is None


# --- bounding counters

NETWORK = NetworkCounter((Path("/sys/class/net/eth0"),))
OWN_WORD = DeviceCounter((), "client-own", "bytes that the client says it read")


@pytest.mark.parametrize("counter", [NETWORK, OWN_WORD])
@pytest.mark.parametrize(
    ("engine", "page_cache", "resident", "received", "bounded"),
    [
        ("buffered", "cold", 0.0, 999, False),
        ("buffered", "cold", 0.0, 1000, True),
        ("direct", "cold", None, 1150, True),
        ("direct", "cold", 0.0, 1151, False),
        ("direct", None, 0.0, 1100, True),
        ("buffered", None, None, 500, False),
        ("buffered", "warm", 1.0, 20, True),
        ("buffered", "warm", 1.0, 21, False),
        ("buffered", "warm", 0.5, 0, False),  # nothing over the network, but from where is not known
        ("buffered", "warm", None, 0, False),
    ],
)
def test_a_bounding_counter_bounds_or_says_nothing(counter, engine, page_cache, resident, received, bounded):
    found = evidence(
        counter=counter, engine=engine, page_cache=page_cache, cache_fraction=resident, raw_device_bytes=received
    )
    assert found.observed_route == ("host" if bounded else "unknown")
    assert found.route_evidence.startswith("bounded, not proven: " if bounded else "route not proven: ")
    assert found.device_bytes == (received if bounded else None)
    assert found.counters["device_bytes_raw"] == received
    assert found.invalid_reason() is None
    assert found.warning() is None


def test_a_bound_says_what_came_in_for_each_byte_delivered():
    found = evidence(counter=NETWORK, raw_device_bytes=1060, background_bytes=10.0)
    assert found.route_evidence == "bounded, not proven: bytes received by eth0 were 1.05 of the bytes delivered"
    far = evidence(counter=NETWORK, raw_device_bytes=30)
    assert far.route_evidence == (
        "route not proven: bytes received by eth0 were 0.03 of the bytes delivered, not 1 to 1.15"
    )


def test_others_traffic_as_wide_as_the_bound_leaves_nothing_bounded():
    found = evidence(counter=NETWORK, raw_device_bytes=1251, background_bytes=200.0)
    assert found.observed_route == "unknown"
    assert "others moved 20% as much" in found.route_evidence


def test_what_a_process_made_devices_read_says_nothing_of_a_network():
    """FUSE, NFS and others are read on behalf of a process without its account showing it."""
    found = evidence(counter=NETWORK, raw_device_bytes=1010, process_bytes=0)
    assert (found.observed_route, found.device_bytes) == ("host", 1010)


def test_an_exact_counter_that_is_gone_proves_and_condemns_nothing():
    found = evidence(raw_device_bytes=None)
    assert found.observed_route == "unknown"
    assert found.route_evidence == "route not proven: no answer from: sectors read by sda"
    assert found.invalid_reason() is None


def test_counters_that_do_not_decide_are_kept_beside_the_one_that_does():
    found = evidence(beside={"network_received_bytes": 7}, cache_fraction_after=0.25)
    assert found.counters["network_received_bytes"] == 7
    assert found.cache_fraction_after == 0.25
