"""The command, in a process of its own: what it writes and how it ends when the storage fails, hangs or cheats."""

import ctypes
import json
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from iobench.loaders.evidence import counter_for

SHORT = ("--seconds", "0.05", "--blocks", "2", "--threads", "1", "--queue-depth", "1")
MLOCK_LIMIT = 4 << 20


def storage(*words, environment=None, limit_s=60):
    """Exit status, document, what was said."""
    done = subprocess.run(
        [sys.executable, "-m", "iobench", "storage", *map(str, words), "--json"],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def write(path: Path, num_bytes: int) -> Path:
    path.write_bytes(np.random.default_rng(0).bytes(num_bytes))
    return path


def by_block(record, block_bytes):
    return next(point for point in record["points"] if point["params"]["block_size_bytes"] == block_bytes)


# --- faults ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["buffered", "mmap"])
def test_a_block_that_cannot_be_read_is_its_points_error_and_the_other_points_are_kept(faults, tmp_path, engine):
    # reads of 1 MiB leave the last 4 KiB out, reads of 4 KiB come to them
    write(faults.backing / "data.bin", (1 << 20) + 4096)
    faults.set(f"eio data.bin {1 << 20} 4096")
    status, record, said = storage(
        *(faults.mount / "data.bin", "--engine", engine, "--block-size", "1M,4K", *SHORT, "--seconds", "0.3"),
        *("--out", tmp_path / "run"),
    )
    assert status == 4
    assert json.loads((tmp_path / "run" / "record.json").read_text()) == record
    good, bad = by_block(record, 1 << 20), by_block(record, 4096)
    assert good["metrics"]["read_gbps"]["value"] > 0
    assert "failed" not in good["flags"]
    assert bad["flags"] == ["failed"]
    for metric in bad["metrics"].values():
        assert metric["value"] is None
        assert "data.bin" in metric["reason"]
        assert f"byte {1 << 20}" in metric["reason"]
    assert any("4 KiB" in text and "failed" in text and "data.bin" in text for text in record["warnings"])
    assert record["metrics"] == good["metrics"]
    assert "data.bin" in said


def test_a_storage_that_hangs_is_its_points_error_with_file_and_byte(faults, tmp_path):
    write(faults.backing / "data.bin", 4 << 20)
    faults.set("hang 0.25 2000000")
    status, record, _ = storage(
        *(faults.mount / "data.bin", "--engine", "buffered", "--block-size", "64K", *SHORT, "--blocks", "4"),
        *("--set", "patience_s=0.05", "--out", tmp_path / "run"),
    )
    assert status == 4
    (point,) = record["points"]
    assert point["flags"] == ["failed"]
    reason = point["metrics"]["read_gbps"]["reason"]
    assert "data.bin: byte " in reason
    assert "have not come back within 0.05 s" in reason


# --- what only looks cold ----------------------------------------------------------------------------------------


def test_data_that_somebody_keeps_in_memory_are_not_cold_and_it_says_how_much_was_resident(tmp_path):
    path = write(tmp_path / "data.bin", MLOCK_LIMIT)
    if counter_for([path]).counter_class != "exact":
        pytest.skip(counter_for([path]).reason)
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
        address = np.frombuffer(pages, dtype=np.uint8).ctypes.data
        if libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(MLOCK_LIMIT)) != 0:
            pytest.skip(f"memory cannot be locked here: {os.strerror(ctypes.get_errno())}")
        status, record, _ = storage(
            path, "--engine", "buffered", "--block-size", "64K", *SHORT, "--out", tmp_path / "r"
        )
    if record["read_path"]["observed_route"] == "unknown":
        pytest.skip(record["read_path"]["route_evidence"])
    assert status == 3
    assert record["read_path"]["cache_fraction"] == 1
    assert any("100.0% was resident before" in text for text in record["warnings"])


def test_data_on_a_file_system_in_memory_prove_nothing(memory_folder, tmp_path):
    path = write(memory_folder / "data.bin", 1 << 20)
    status, record, _ = storage(path, "--engine", "buffered", "--block-size", "64K", *SHORT, "--out", tmp_path / "run")
    assert status == 0
    assert record["read_path"]["observed_route"] == "unknown"
    assert "not proven" in record["read_path"]["route_evidence"]
    assert any("asked for cold reads" in text for text in record["warnings"])


# --- kvikio, on a machine without a GPU --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stub(tmp_path_factory) -> Path:
    """The folder of the stand-in libcuda.so.1; skips where it or kvikio cannot be had."""
    pytest.importorskip("kvikio")
    source = Path(__file__).parents[2] / "stub_libcuda" / "stub_libcuda.c"
    folder = tmp_path_factory.mktemp("stub")
    words = ["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", folder / "libcuda.so.1", source]
    try:
        subprocess.run(words, check=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("no C compiler (cc) to build the stub libcuda with")
    return folder


def test_kvikio_reads_into_host_memory_and_its_own_count_is_in_the_record(stub, tmp_path):
    path = write(tmp_path / "data.bin", 4 << 20)
    environment = {"LD_LIBRARY_PATH": str(stub), "KVIKIO_COMPAT_MODE": "ON"}
    words = (path, "--engine", "kvikio", "--block-size", "64K", *SHORT, "--threads", "3", "--out", tmp_path / "run")
    status, record, _ = storage(*words, environment=environment)
    assert status == 0
    (point,) = record["points"]
    assert point["params"]["destination"] == "host"
    assert point["read_path"]["counters"]["kvikio_posix_bytes"] == point["read_path"]["delivered_bytes"]
    assert point["metrics"]["read_gbps"]["value"] > 0


def test_without_a_gpu_reading_into_one_is_refused_at_once_with_what_is_missing(stub, tmp_path):
    path = write(tmp_path / "data.bin", 1 << 20)
    words = (path, "--engine", "kvikio", "--destination", "gpu", *SHORT, "--out", tmp_path / "run")
    environment = {"LD_LIBRARY_PATH": str(stub)}
    status, document, _ = storage(*words, environment=environment)
    assert status == 4
    assert "cuInit answers CUDA_ERROR_NOT_INITIALIZED" in document["error"]["message"]
    assert not (tmp_path / "run").exists()


INTO_A_PLAYED_GPU = """
import importlib.util, json, sys
from pathlib import Path

from iobench.storage_bench.sweep.recorded import storage_point
from iobench.storage_bench.sweep.run import sweep
from iobench.storage_bench.workload import StorageConfig

file, fake_gpu = Path(sys.argv[1]), sys.argv[2]
spec = importlib.util.spec_from_file_location("fake_gpu", fake_gpu)
played = importlib.util.module_from_spec(spec)
spec.loader.exec_module(played)
device = played.FakeDevice()
settings = {"engine": "kvikio,buffered", "destination": "gpu,host", "page_cache": "warm", "block_size": "64K"}
config = StorageConfig.model_validate({**settings, "threads": 2, "queue_depth": 1, "seconds": 0.05, "blocks": 2})
results = sweep(file, config, device=device)
points = [storage_point(result, file).model_dump(mode="json") for result in results]
device.settle()
print(json.dumps({"points": points, "copied": sum(device.copies)}))
"""


@pytest.mark.slow
def test_kvikio_and_copies_from_the_host_are_held_against_each_other_at_one_point(stub, tmp_path):
    """The GPU is played: kvikio's real code fills its memory by POSIX reads, which is what it then counts."""
    path = write(tmp_path / "data.bin", 4 << 20)
    program = tmp_path / "program.py"
    program.write_text(INTO_A_PLAYED_GPU)
    done = subprocess.run(
        [sys.executable, program, path, Path(__file__).parents[2] / "fake_gpu.py"],
        env={**os.environ, "LD_LIBRARY_PATH": str(stub), "KVIKIO_COMPAT_MODE": "ON"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    points = {(point["params"]["engine"], point["params"]["destination"]): point for point in found["points"]}
    assert set(points) == {(engine, to) for engine in ("kvikio", "buffered") for to in ("gpu", "host")}
    assert all(point["metrics"]["read_gbps"]["value"] > 0 for point in points.values())
    assert found["copied"] == points["buffered", "gpu"]["read_path"]["delivered_bytes"]
    kvikio = points["kvikio", "gpu"]["read_path"]
    assert (kvikio["observed_route"], kvikio["requested_route"]) == ("bounce", "gds")
    assert kvikio["counters"]["kvikio_posix_bytes"] == kvikio["delivered_bytes"]
    assert kvikio["counters"]["cufile_registered_bytes"] == 0  # compatibility mode
    assert kvikio["counters"]["cufile_unregistered_bytes"] == 2 * 2 * (64 << 10)  # blocks, threads


def test_without_a_driver_kvikio_is_refused_and_nothing_hangs(tmp_path):
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("there is a driver here")
    path = write(tmp_path / "data.bin", 1 << 20)
    begin = time.monotonic()
    status, document, _ = storage(path, "--engine", "kvikio", *SHORT, "--out", tmp_path / "run", limit_s=20)
    assert status == 4
    assert "kvikio" in document["error"]["message"]
    assert time.monotonic() - begin < 15  # it would never end


# --- writes ------------------------------------------------------------------------------------------------------


def test_writes_leave_the_data_and_their_folder_as_they_were(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    path = write(data / "mine.bin", 1 << 20)
    before = path.read_bytes(), path.stat().st_mtime_ns
    status, record, _ = storage(
        *(data, "--operation", "read,write", "--engine", "buffered", "--block-size", "64K", *SHORT),
        *("--set", "write_bytes=1M", "--out", tmp_path / "run"),
    )
    assert status == 0
    assert [path.name for path in data.iterdir()] == ["mine.bin"]
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    read, written = record["points"]
    assert (read["params"]["operation"], written["params"]["operation"]) == ("read", "write")
    assert written["metrics"]["write_gbps"]["value"] > 0
    assert written["metrics"]["write_iops"]["unit"] == "writes/s"
    assert written["params"]["page_cache"] is None
    assert record["metrics"] == read["metrics"]


def test_the_knee_is_a_flagged_point_and_in_the_workload(tmp_path):
    path = write(tmp_path / "data.bin", 4 << 20)
    words = (path, "--engine", "buffered", "--block-size", "64K", "--adaptive", "--seconds", "0.05", "--blocks", "3")
    status, record, _ = storage(*words, "--threads", "2", "--queue-depth", "2", "--out", tmp_path / "run")
    assert status in (0, 3)  # on so few blocks one read may find in memory what another brought there
    (knee,) = record["workload"]["knee"]
    (flagged,) = [point for point in record["points"] if "knee" in point["flags"]]
    assert flagged["params"]["threads"] * flagged["params"]["queue_depth"] == knee["load"]
    assert [point["params"]["threads"] * point["params"]["queue_depth"] for point in record["points"]] == knee[
        "loads_tried"
    ]
    assert record["metrics"] == flagged["metrics"]
    assert sum(point["metrics"]["read_gbps"]["n"] for point in record["points"]) == knee["blocks"]
