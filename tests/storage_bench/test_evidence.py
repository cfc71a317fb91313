"""What is said of a measurement beside its figures, and how far "cold" can reach."""

import dataclasses

import pytest

from iobench.loaders.evidence import DeviceCounter, judge
from iobench.storage_bench.evidence import cold_scope_of, doubts, proof_of, read_path

NONE = DeviceCounter((), "none", "device 0:1 is anonymous")
EXACT = DeviceCounter(("8:0",), "exact", "sectors read by sda")


def evidence(counter, *, device=None, fraction=0.0, page_cache="cold"):
    return judge(
        counter,
        engine="buffered",
        page_cache=page_cache,
        cache_fraction=fraction,
        delivered_bytes=1000,
        payload_bytes=900,
        raw_device_bytes=device,
        background_bytes=0,
    )


@pytest.mark.parametrize(
    ("counter", "device", "fraction", "page_cache", "doubted"),
    [
        (NONE, None, 1.0, "cold", True),
        (NONE, None, 0.01, "cold", False),
        (NONE, None, None, "cold", False),
        (NONE, None, 1.0, "warm", False),
        (EXACT, 1000, 1.0, "cold", False),  # the counter saw every byte come from the device
    ],
)
def test_cold_reads_of_data_in_memory_are_doubted_where_no_counter_decides(
    counter, device, fraction, page_cache, doubted
):
    said = doubts(evidence(counter, device=device, fraction=fraction, page_cache=page_cache))
    assert bool(said) is doubted
    assert all("asked for cold reads" in text for text in said)


def test_reads_far_beyond_the_payload_are_told_with_their_ratio():
    (said,) = doubts(evidence(EXACT, device=1800))
    assert "2.00 bytes for each byte of payload" in said


def test_the_record_holds_all_of_the_evidence():
    seen = evidence(EXACT, device=1000)
    recorded = read_path(seen, cold_scope="client").model_dump()
    assert recorded.pop("cold_scope") == "client"
    assert recorded == dataclasses.asdict(seen)


def test_cold_reads_that_filled_the_page_cache_are_doubted_too():
    seen = dataclasses.replace(evidence(NONE), cache_fraction_after=0.6)
    (said,) = doubts(seen)
    assert "60% of the data was in memory when they ended" in said


def test_bytes_that_came_over_loopback_are_told_to_come_from_a_server_here():
    network = DeviceCounter((), "bounding", "bytes received by eth0, lo")
    seen = evidence(network, device=1040)
    assert doubts(seen) == []
    local = dataclasses.replace(seen, counters={"loopback_received_bytes": 1030, "network_received_bytes": 10})
    (said,) = doubts(local)
    assert "over this machine's own loopback: a server runs here" in said


def test_a_route_is_as_proven_as_the_least_proven_of_its_points():
    exact = read_path(evidence(EXACT, device=1000))
    bounded = read_path(evidence(DeviceCounter((), "bounding", "bytes received by eth0"), device=1040))
    unknown = read_path(evidence(NONE))
    assert proof_of([exact, exact]) == "Route proven by counters."
    assert proof_of([exact, bounded]) == "Route bounded by counters, not proven."
    assert proof_of([bounded, unknown]) == proof_of([exact, None]) == proof_of([]) == "Route not proven."


def test_behind_a_loop_device_cold_claims_no_scope(small_disk):
    assert cold_scope_of(small_disk) == "unknown"


@pytest.mark.parametrize(
    ("fstype", "source", "scope"),
    [
        ("ext4", "/dev/sda1", "end_to_end"),
        ("xfs", "/dev/mapper/data", "end_to_end"),
        ("ext4", "/dev/loop7", "unknown"),
        ("nfs4", "server:/export", "client"),
        ("lustre", "10.0.0.1@o2ib:/scratch", "client"),
        ("fuse.weka", "weka", "client"),
        ("fuse", "x", "client"),
        ("tmpfs", "tmpfs", "unknown"),
        ("overlay", "overlay", "unknown"),
    ],
)
def test_how_far_cold_reaches_depends_on_the_file_system(monkeypatch, tmp_path, fstype, source, scope):
    from iobench.results.mounts import Mount

    mount = Mount("/", fstype, source, (), "8:1")
    monkeypatch.setattr("iobench.storage_bench.evidence.mount_of", lambda path: mount)
    assert cold_scope_of(tmp_path) == scope
