"""The sweep of ways into the GPU: every cell and its limit, and kvikio's real code on the stand-in for a driver."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from iobench.gpu_check.carry import ReadHands, SendHands, SentHands, WayHands, opened, rate_of, shut, spans_of
from iobench.gpu_check.device import Device
from iobench.gpu_check.part import Bench, PartSkippedError
from iobench.gpu_check.parts.sweep import Cell, Found, run
from iobench.storage_bench.generate import Generate, generate

KIB = 1 << 10
CPU = Device("cpu")
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_gpu])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Raw images in two files of 4 and of 1 MiB, nearly."""
    found = tmp_path_factory.mktemp("raw")
    generate(found, Generate(num_images=400, size=64, images_per_shard=320, seed=1))
    return found


@pytest.fixture
def files(folder):
    found = opened(sorted(folder.glob("*.tfrecord")))
    yield found
    shut(found)


def test_spans_are_whole_ones_of_every_file(files):
    spans = spans_of(files, 256 * KIB)
    assert len(spans) == sum(path.stat().st_size // (256 * KIB) for _, path in files)
    assert {span.length for span in spans} == {256 * KIB}
    assert all(span.offset % (256 * KIB) == 0 for span in spans)
    assert spans_of(files, 64 << 20) == []


class Slow(WayHands):
    """A way of which each read gives a byte too few."""

    def __init__(self):
        class Way:
            do = staticmethod(lambda file, target, offset: len(target) - 1)

            def targets(self):
                return bytearray

        super().__init__(Way())


def test_a_read_that_comes_up_short_is_an_error_and_no_rate(files):
    with pytest.raises(OSError, match="a read of 65536 bytes at byte 0 gave 65535"):
        rate_of([Slow()], spans_of(files, 64 * KIB), 0.0, CPU)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make", [ReadHands, SentHands])
def test_what_is_carried_are_the_files_bytes_in_turns_over_few_buffers(make, files, device):
    hands, spans = make(Device(device), 64 * KIB), spans_of(files[:1], 64 * KIB)
    assert [hands.carry(span) for span in spans] == [64 * KIB] * len(spans)
    hands.finish()
    read = files[0][1].read_bytes()
    wanted = [read[span.offset : span.offset + span.length] for span in spans[-2:]]
    memory = [hands._pinned] if make is ReadHands else hands._targets
    found = [each.cpu().numpy().tobytes() for each in memory]
    assert found == wanted[-1:] if make is ReadHands else sorted(found) == sorted(wanted)


def test_sending_alone_reads_nothing(files):
    hands = SendHands(CPU, 64 * KIB)
    shut_file = spans_of(files, 64 * KIB)[0]._replace(file=-1)
    assert hands.carry(shut_file) == 64 * KIB


def test_a_limit_is_the_least_of_what_a_way_goes_through():
    found = Found({Cell("host", 1, 2): [4e9, 6e9], Cell("bus", 1, 2): [20e9], Cell("direct", 1, 2): [1e9]})
    assert found.limit(Cell("bounce", 1, 2)) == 5e9
    assert found.limit(Cell("kvikio direct", 1, 2)) == 1e9
    assert found.limit(Cell("bounce", 1, 4)) is None  # nothing was measured of so many threads
    assert found.limit(Cell("host", 1, 2)) is None


def test_the_table_has_each_way_each_size_and_each_number_of_threads(folder, tmp_path):
    last = list(run(Bench("cpu", folder, folder, tmp_path, 0.5, 2)))[-1]
    cells = {(point.params["way"], point.params["block_bytes"], point.params["threads"]) for point in last.points}
    ways = {way for way, _, _ in cells}
    assert ways >= {"host", "bus", "bounce"}
    assert cells == {(way, size, threads) for way in ways for size in (64 * KIB, 256 * KIB) for threads in (1, 2)}
    table = last.workload["table"]
    assert [row[:2] for row in table["rows"]] == [
        [size, threads] for size in ("64 KiB", "256 KiB") for threads in ("1", "2")
    ]
    bounces = [point for point in last.points if point.params["way"] == "bounce"]
    by_cell = {tuple(point.params[name] for name in ("way", "block_bytes", "threads")): point for point in last.points}
    for bounce in bounces:
        size, threads = bounce.params["block_bytes"], bounce.params["threads"]
        limit = min(by_cell[way, size, threads].metrics["read_gbps"].value for way in ("host", "bus"))
        share = bounce.metrics["read_gbps"].value / limit
        assert bounce.metrics["of_limit"].value == pytest.approx(share)


def test_files_that_hold_no_read_at_all_are_no_reason_to_fail(tmp_path):
    generate(tmp_path, Generate(num_images=2, size=32, images_per_shard=1, seed=1))
    with pytest.raises(PartSkippedError, match=r"the largest file has \d+ bytes, and the smallest read 64 KiB"):
        next(run(Bench("cpu", tmp_path, tmp_path, tmp_path, 0.5, 2)))


WITH_STUB = """
import json, sys
from pathlib import Path
from iobench.gpu_check.part import Bench, PartSkippedError
from iobench.gpu_check.parts.sweep import run

folder = Path(sys.argv[1])
last = list(run(Bench("cpu", folder, folder, folder, 0.5, 2)))[-1]
rates = {point.params["way"]: point.metrics["read_gbps"].value for point in last.points}
print(json.dumps({"rates": rates, "routes": last.workload["routes"], "warnings": last.warnings}))
"""


@pytest.mark.slow
def test_kvikios_own_code_reads_in_every_way_that_is_open_and_tells_its_route(folder, tmp_path):
    pytest.importorskip("kvikio")
    source = Path(__file__).parents[1] / "stub_libcuda" / "stub_libcuda.c"
    words = ["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", tmp_path / "libcuda.so.1", source]
    try:
        subprocess.run(words, check=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("no C compiler (cc) to build the stub libcuda with")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "KVIKIO_COMPAT_MODE": "ON"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", WITH_STUB, folder],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["rates"]["kvikio host"] > 0
    assert told["rates"]["kvikio compat"] > 0
    assert told["routes"] == {"kvikio host": "host", "kvikio compat": "bounce"}
    assert any("kvikio direct is left out: the twin has no GPU" in warning for warning in told["warnings"])
