"""Several clients: their blocks put together by hand, and two that really run."""

import dataclasses
import json

import numpy as np
import pytest

from iobench.storage_bench.latency import LatencyHistogram
from iobench.storage_bench.launching.launch import horovod_available
from iobench.storage_bench.sweep.client import _block
from iobench.storage_bench.sweep.clients import sum_of, sweep_by_clients, together
from iobench.storage_bench.sweep.points import BlockResult, Client, PointResult, SlowRead, SweepPoint, Tail
from iobench.storage_bench.sweep.recorded import storage_point
from iobench.storage_bench.workload import StorageConfig

POINT = SweepPoint("direct", "sequential", 65536, 1, 1, "cold")
CLIENTS = (Client("a", 1, 0), Client("a", 2, 1), Client("b", 3, 0))


def block(**changes):
    latencies = LatencyHistogram()
    latencies.add(np.array([1000, 50_000]))
    settings = {
        "gbps": 1.0,
        "iops": 10.0,
        "latencies": latencies,
        "delivered_bytes": 100,
        "payload_bytes": 90,
        "device_bytes": 300,
        "process_bytes": 100,
        "seconds": 1.0,
        "cache_fraction": 0.0,
        "beside": {"nfs": 5, "kvikio_posix_bytes": 7},
        "tail": Tail(0.1, 0.2, 0.3, 0.4),
        "slow": (SlowRead(6.0, "x", 4096),),
        "lock_waits": 0.5,
    }
    return BlockResult(**{**settings, **changes})


def told(*blocks, error=None, consequence=False):
    """As a client's answer comes through a file."""
    answer = {
        "error": error,
        "consequence": consequence,
        "ceiling_gbps": 4.0,
        "blocks": [_block(each) for each in blocks],
    }
    return json.loads(json.dumps(answer))


def test_a_block_of_all_clients_is_the_sum_of_theirs_with_devices_counted_once_on_each_host():
    blocks = [
        block(gbps=1.0, seconds=1.5, tail=Tail(0.1, 0.2, 0.3, 0.4)),
        block(gbps=2.0, device_bytes=None, cache_fraction=None, tail=Tail(0.05, 0.9, 0.2, 0.3)),
        block(gbps=4.0, device_bytes=50, cache_fraction=0.5),
    ]
    found = sum_of([told(each)["blocks"][0] for each in blocks], first_of_host=[True, False, True])
    assert (found.gbps, found.iops) == (7.0, 30.0)
    assert (found.delivered_bytes, found.payload_bytes, found.process_bytes) == (300, 270, 300)
    assert found.device_bytes == 350
    assert found.cache_fraction == 0.25
    assert found.seconds == 1.5
    assert found.beside == {"nfs": 10, "kvikio_posix_bytes": 21}
    assert found.tail == Tail(0.05, 0.9, 0.2, 0.4)
    assert found.rank_gbps == (1.0, 2.0, 4.0)
    assert found.latencies.total == 6
    assert found.latencies.max_ns == 50_000
    assert len(found.slow) == 3


def test_a_point_that_failed_on_one_client_has_its_error_and_not_the_others_consequence():
    result = PointResult(POINT, "asked for", clients=CLIENTS)
    answers = [
        told(block(), error="another client failed", consequence=True),
        told(error="x: byte 4096 cannot be read"),
        told(block(), error="another client failed", consequence=True),
    ]
    assert together(result, answers).error == "x: byte 4096 cannot be read"
    assert result.blocks == []


def test_each_client_is_in_the_record_and_their_sum_is_the_points():
    result = together(PointResult(POINT, "asked for", clients=CLIENTS), [told(block(), block())] * 3)
    point = storage_point(result, ".")
    assert point.params["clients"] == 3
    assert result.ceiling_gbps == 12.0
    assert [(report.rank, report.pid, report.host) for report in point.ranks] == [(0, 1, "a"), (1, 2, "a"), (2, 3, "b")]
    assert sum(report.metrics["read_gbps"].value for report in point.ranks) == point.metrics["read_gbps"].value == 3.0


@pytest.mark.horovod
def test_two_clients_read_the_data_at_once(tmp_path):
    if reason := horovod_available():
        pytest.skip(reason)
    path = tmp_path / "data.bin"
    path.write_bytes(np.random.default_rng(0).bytes(8 << 20))
    config = StorageConfig(
        engine="buffered", block_size="64K", threads=1, queue_depth=1, clients=2, seconds=0.1, blocks=2
    )
    shown = []
    (result,) = sweep_by_clients(path, config, show=lambda part, share, text: shown.append((share, text)))
    assert len({client.pid for client in result.clients}) == 2
    assert len(result.blocks) == 2
    for each in result.blocks:
        assert len(each.rank_gbps) == 2
        assert min(each.rank_gbps) > 0
        assert each.gbps == pytest.approx(sum(each.rank_gbps))
        assert each.cache_fraction is not None or dataclasses.asdict(each)["device_bytes"] is None
    assert result.evidence.delivered_bytes == sum(each.delivered_bytes for each in result.blocks)
    assert shown[-1][0] == 1.0
