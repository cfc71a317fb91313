"""kvikio's real code brings the right bytes into host memory, and where it cannot it says why instead of hanging."""

import errno
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from iobench.loaders.buffers import Buffer
from iobench.loaders.dataloader import DataLoader
from iobench.loaders.engines import kvikio_probe, kvikio_reader
from iobench.loaders.engines.kvikio_probe import kvikio_unavailable
from iobench.loaders.engines.kvikio_reader import POOL_THREADS, KvikioReader
from iobench.loaders.engines.readers import BufferedReader, ReadError
from iobench.loaders.page_cache import cache_fraction, evict
from iobench.loaders.shards import ShardSet

PAGE = 4096
SIZE_BYTES = 9 * (1 << 20) + 123  # more than two of kvikio's tasks
CONTENT = np.random.default_rng(0).integers(0, 256, SIZE_BYTES, dtype=np.uint8).tobytes()

under_stub = pytest.mark.stub_libcuda


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "some.bin"
    path.write_bytes(CONTENT)
    return path


@under_stub
def test_any_range_of_a_file_comes_byte_for_byte(file):
    random = np.random.default_rng(1)
    reader, delivered = KvikioReader(), 0
    for exponent in [*range(1, 24), *range(1, 24)]:
        length = int(random.integers(1, 1 << exponent))
        offset, skew = int(random.integers(0, SIZE_BYTES - length)), int(random.integers(0, 9))
        memory = Buffer(length + 2 * PAGE).memory
        assert reader.read(file, offset, memory[skew : skew + length]) == length
        assert bytes(memory[skew : skew + length]) == CONTENT[offset : offset + length]
        assert not any(memory[:skew])
        assert not any(memory[skew + length :])
        delivered += length
    assert reader.delivered_bytes == delivered


@under_stub
def test_one_read_fills_several_places(file):
    memory = Buffer(3 * PAGE).memory
    reader = KvikioReader()
    assert reader.scatter(file, 5, [memory[100:200], memory[:3], memory[PAGE : 2 * PAGE]]) == 103 + PAGE
    assert bytes(memory[100:200]) == CONTENT[5:105]
    assert bytes(memory[:3]) == CONTENT[105:108]
    assert bytes(memory[PAGE : 2 * PAGE]) == CONTENT[108 : 108 + PAGE]
    assert reader.delivered_bytes == 103 + PAGE


@under_stub
def test_the_superset_of_a_files_unaligned_end_is_enough(file):
    memory = Buffer(4 * PAGE).memory
    start = SIZE_BYTES - PAGE - 123
    assert KvikioReader().read(file, start, memory, need=PAGE + 123) == PAGE + 123
    assert bytes(memory[: PAGE + 123]) == CONTENT[start:]


@under_stub
@pytest.mark.parametrize("offset", [SIZE_BYTES - 10, SIZE_BYTES, SIZE_BYTES + 1, 5 * SIZE_BYTES])
def test_a_read_past_the_end_says_what_the_buffered_reader_says(file, offset):
    errors = []
    for reader in (KvikioReader(), BufferedReader()):
        with pytest.raises(ReadError, match="the file ends at byte") as caught:
            reader.read(file, offset, Buffer(PAGE).memory)
        errors.append((caught.value.errno, caught.value.strerror, caught.value.filename, caught.value.exit_status))
    assert errors[0] == errors[1]


@under_stub
def test_a_read_of_nothing_brings_nothing(file):
    reader = KvikioReader()
    assert reader.read(file, 7, memoryview(bytearray())) == 0
    assert reader.read(file, 2 * SIZE_BYTES, memoryview(bytearray(10)), need=0) == 0


@under_stub
def test_a_file_cut_while_it_is_open_is_noticed(file):
    reader = KvikioReader()
    reader.read(file, 0, Buffer(PAGE).memory)
    os.truncate(file, 5000)
    with pytest.raises(ReadError, match="ends at byte 5000, 3192 bytes before this read does"):
        reader.read(file, 0, Buffer(2 * PAGE).memory)


@under_stub
def test_a_file_cut_in_the_middle_of_a_read_is_noticed(file, monkeypatch):
    """The size is asked, the file is cut, and kvikio meets the end: that is the end of the file, not a broken disk."""
    sizes = [SIZE_BYTES]
    real = kvikio_reader.LocalFile.size_bytes
    monkeypatch.setattr(kvikio_reader.LocalFile, "size_bytes", lambda file: sizes.pop() if sizes else real(file))
    os.truncate(file, 5000)
    memory = Buffer(2 * PAGE).memory
    assert KvikioReader().read(file, 0, memory, need=5000) == 5000
    assert bytes(memory[:5000]) == CONTENT[:5000]


@under_stub
def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ReadError, match="cannot be opened: No such file or directory") as caught:
        KvikioReader().read(tmp_path / "none", 0, Buffer(PAGE).memory)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, str(tmp_path / "none"))


@under_stub
def test_a_failed_read_names_file_and_byte_and_not_kvikios_source(tmp_path):
    with pytest.raises(ReadError) as caught:
        KvikioReader().read(tmp_path, 0, memoryview(bytearray(10)), need=1)
    assert caught.value.strerror == "read of 10 bytes at byte 0 failed: POSIX error on pread: Is a directory"
    assert caught.value.filename == str(tmp_path)


@under_stub
def test_memory_that_must_not_change_is_refused(file):
    memory = bytes(100)
    with pytest.raises(TypeError, match="must be writable"):
        KvikioReader().read(file, 0, memoryview(memory))
    assert memory == bytes(100)


@under_stub
def test_no_more_than_a_bounded_number_of_files_stays_open(numbered_files, open_files, monkeypatch):
    monkeypatch.setattr(kvikio_reader, "_MAX_OPEN", 5)
    paths, memory = numbered_files(30), Buffer(PAGE).memory
    reader = KvikioReader()
    for number in [*range(30), *range(30)]:
        reader.read(paths[number], 0, memory)
        assert memory[17] == number
    assert [path for path in paths if open_files(path)] == paths[25:]
    assert all(open_files(path) <= 2 for path in paths)


@under_stub
def test_a_reader_leaves_no_file_open_when_it_is_closed_or_dropped(file, open_files):
    closed, dropped = KvikioReader(), KvikioReader()
    memory = Buffer(PAGE).memory
    closed.read(file, 0, memory)
    each = open_files(file)
    dropped.read(file, 0, memory)
    assert open_files(file) == 2 * each
    closed.close()
    assert open_files(file) == each
    del dropped
    assert open_files(file) == 0
    assert closed.read(file, 0, memory) == PAGE


@under_stub
def test_many_threads_may_share_a_reader(share_among_threads, open_files, monkeypatch):
    monkeypatch.setattr(kvikio_reader, "_MAX_OPEN", 3)
    reader = KvikioReader()
    paths = share_among_threads(reader)  # which looks at every page, and at how much was delivered
    assert len([path for path in paths if open_files(path)]) <= 3
    reader.close()
    assert not any(map(open_files, paths))


@under_stub
def test_a_pickled_reader_reads_and_keeps_its_ways(file):
    reader = KvikioReader(evict_behind=True)
    reader.read(file, 0, Buffer(PAGE).memory)
    again = pickle.loads(pickle.dumps(reader))
    memory = Buffer(PAGE).memory
    again.read(file, PAGE, memory)
    assert bytes(memory) == CONTENT[PAGE : 2 * PAGE]
    assert vars(again).keys() == vars(reader).keys()
    assert (again._evict_behind, again._host_only, again.reason) == (True, True, reader.reason)


@under_stub
def test_kvikio_counts_what_the_reader_delivered_and_by_which_way(file):
    reader = KvikioReader()
    assert reader.counters() == {}
    for offset in range(0, 100 * PAGE, PAGE):
        reader.read(file, offset, Buffer(PAGE).memory)
    counted = reader.counters()
    assert counted["kvikio_posix_bytes"] == reader.delivered_bytes == 100 * PAGE
    assert counted["kvikio_posix_ops"] == 100
    assert not any(value for name, value in counted.items() if not name.startswith("kvikio_posix"))
    reader.close()
    assert reader.counters() == counted


@under_stub
def test_reads_of_several_threads_are_under_way_at_once(file):
    import kvikio.defaults

    KvikioReader().read(file, 0, Buffer(PAGE).memory)
    assert kvikio.defaults.get("num_threads") == POOL_THREADS
    kvikio.defaults.set("num_threads", POOL_THREADS + 3)
    KvikioReader().read(file, 0, Buffer(PAGE).memory)
    assert kvikio.defaults.get("num_threads") == POOL_THREADS + 3
    kvikio.defaults.set("num_threads", POOL_THREADS)


@under_stub
def test_reads_that_evict_behind_leave_nothing_in_the_page_cache(file, read_at_random):
    evict([file])
    if cache_fraction([file]) != 0:
        pytest.skip("this file system does not evict, or does not tell")
    read_at_random(KvikioReader(evict_behind=True), file)
    assert cache_fraction([file]) == 0


@under_stub
def test_tfrecord_shards_come_byte_for_byte(any_set):
    reader = KvikioReader()
    for shard in any_set.shards:
        memory = memoryview(bytearray(shard.stat().st_size))
        for start in range(0, len(memory), 10_007):
            reader.read(shard, start, memory[start : start + 10_007])
        assert memory == shard.read_bytes()


@under_stub
def test_records_are_read_as_they_were_written(any_set):
    shards = ShardSet.open(any_set.folder, engine="kvikio")
    assert shards.reader.engine == "kvikio"
    assert shards.engine_reason.startswith("asked for; POSIX reads into host memory")
    order = np.random.default_rng(2).permutation(len(any_set)).tolist()
    for position, (image, label) in zip(order, shards.__getitems__(order), strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), any_set.images[position])
        assert label == any_set.labels[position]


@under_stub
def test_records_of_different_lengths_are_gathered(tmp_path, encode):
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (40, 9, 7, 3), dtype=np.uint8)
    for shard in range(2):
        records = [encode(images[i], i % 300, "x" * (i % 11)) for i in range(shard * 20, shard * 20 + 20)]
        (tmp_path / f"{shard}.tfrecord").write_bytes(b"".join(records))
    shards = ShardSet.open(tmp_path, engine="kvikio")
    assert shards.index.layout.stride_bytes is None
    order = random.permutation(40).tolist()
    for position, (image, label) in zip(order, shards.__getitems__(order), strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), images[position])
        assert label == position % 300


@under_stub
def test_tensor_shards_are_read_as_they_were_written(tmp_path):
    images = np.random.default_rng(4).integers(0, 256, (30, 9, 7, 3), dtype=np.uint8)
    (tmp_path / "a.tensors").write_bytes(images[:20].tobytes())
    (tmp_path / "b.tensors").write_bytes(images[20:].tobytes())
    shards = ShardSet.open(tmp_path, engine="kvikio", shape=(9, 7, 3), dtype="uint8")
    loader = DataLoader(shards, batch_size=8, num_workers=2)
    assert np.array_equal(np.concatenate([batch.permute(0, 2, 3, 1).numpy() for batch, _ in loader]), images)


@under_stub
@pytest.mark.parametrize("num_workers", [0, 3])
def test_batches_of_the_dataloader_hold_every_record_once(any_set, num_workers):
    shards = ShardSet.open(any_set.folder, engine=KvikioReader())
    seen = []
    for images, labels in DataLoader(shards, batch_size=7, shuffle=True, num_workers=num_workers):
        for image, label in zip(images.permute(0, 2, 3, 1).numpy(), labels.tolist(), strict=True):
            seen.append((image.tobytes(), label))
    known = [(image.tobytes(), int(label)) for image, label in zip(any_set.images, any_set.labels, strict=True)]
    assert sorted(seen) == sorted(known)


@under_stub
def test_workers_forked_after_a_read_get_an_error_and_do_not_hang(page_set):
    import torch.utils.data

    shards = ShardSet.open(page_set.folder, engine=KvikioReader())
    assert shards[0][1] == page_set.labels[0]
    loader = torch.utils.data.DataLoader(
        shards, batch_size=10, num_workers=1, multiprocessing_context="fork", timeout=20
    )
    with pytest.raises(ReadError, match=f"process {os.getpid()} read with kvikio before it forked this one"):
        next(iter(loader))


WORKERS = """
import sys

import numpy as np
import torch.utils.data

from iobench.loaders.engines.kvikio_reader import KvikioReader
from iobench.loaders.shards import ShardSet


def labels(shards, way):
    loader = torch.utils.data.DataLoader(shards, batch_size=40, num_workers=1, multiprocessing_context=way, timeout=30)
    return [label for _, batch in loader for label in batch.tolist()]


if __name__ == "__main__":
    shards = ShardSet.open(sys.argv[1], engine=KvikioReader())
    known = shards.index.labels.tolist()
    assert labels(shards, "fork") == known
    assert shards[0][1] == known[0]
    assert labels(shards, "spawn") == known
    print("workers of both kinds have read")
"""


@pytest.mark.slow
def test_workers_forked_before_the_first_read_and_spawned_ones_read(page_set, run_python, stub):
    done = run_python(WORKERS.replace("sys.argv[1]", repr(str(page_set.folder))), stub=stub)
    assert done.stdout == "workers of both kinds have read\n", done.stderr


MODES = """
import json, os, sys
from pathlib import Path

os.environ["KVIKIO_COMPAT_MODE"] = {mode!r}
os.environ["KVIKIO_NTHREADS"] = "2"
from iobench.loaders.engines.choice import open_reader

path = Path({path!r})
reader, reason = open_reader("kvikio", path)
memory = memoryview(bytearray(path.stat().st_size))
reader.read(path, 0, memory)
import kvikio.defaults

mode, threads = str(kvikio.defaults.get("compat_mode")), kvikio.defaults.get("num_threads")
print(json.dumps([reason, bytes(memory) == path.read_bytes(), mode, threads]))
"""


@pytest.mark.parametrize("mode", ["ON", "OFF", "AUTO"])
def test_without_a_gpu_the_compatibility_mode_is_on_whatever_was_asked_for(file, run_python, stub, mode):
    done = run_python(MODES.format(mode=mode, path=str(file)), stub=stub)
    assert done.returncode == 0, done.stderr
    reason, same, mode, threads = json.loads(done.stdout)
    assert reason == "asked for; POSIX reads into host memory, cuInit answers CUDA_ERROR_NOT_INITIALIZED"
    assert same
    assert mode.endswith(("ON", "1"))
    assert threads == 2


WITHOUT = """
import json, sys, time
from pathlib import Path

from iobench.loaders.engines.choice import open_reader

start = time.perf_counter()
try:
    open_reader("kvikio", Path(__file__))
except OSError as error:
    print(json.dumps([type(error).__name__, str(error), error.exit_status, time.perf_counter() - start]))
print(json.dumps("kvikio" in sys.modules))
"""


def test_without_a_driver_the_engine_is_refused_within_two_seconds(run_python):
    if kvikio_unavailable() is None:
        pytest.skip("there is a libcuda.so.1 on this machine")
    done = run_python(WITHOUT, stub=None)
    assert done.returncode == 0, done.stderr
    (name, text, status, seconds), imported = map(json.loads, done.stdout.splitlines())
    assert (name, status, imported) == ("KvikioUnavailableError", 4, False)
    assert "libcuda.so.1 cannot be loaded" in text or "kvikio is not installed" in text
    assert text.endswith("or use another engine")
    assert seconds < 2


SILENT = "WITHOUT_DRIVER(cuInit)", "int pause(void);\nEXPORT int cuInit(void) { for (;;) pause(); }"
NO_VERSION = "*version = 12000;\n    return CUDA_SUCCESS", "return CUDA_ERROR_NOT_INITIALIZED"
CRASH = "WITHOUT_DRIVER(cuInit)", "void abort(void);\nEXPORT int cuInit(void) { abort(); }"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (SILENT, "the CUDA driver did not answer within 1.5 s; see whether `nvidia-smi` answers"),
        (CRASH, "asking the CUDA driver failed (exit status -6)"),
        (NO_VERSION, "is not a driver's: cuDriverGetVersion answers CUDA_ERROR_NOT_INITIALIZED"),
    ],
    ids=["silent", "crash", "no version"],
)
def test_a_libcuda_that_does_not_answer_is_refused(run_python, stub, build_stub, change, expected):
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has a kernel driver, which is given more time")
    done = run_python(WITHOUT, stub=build_stub(*change))
    assert done.returncode == 0, done.stderr
    (name, text, status, _), imported = map(json.loads, done.stdout.splitlines())
    assert (name, status, imported) == ("KvikioUnavailableError", 4, False)
    assert expected in text


def test_a_machine_without_kvikio_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(kvikio_probe.importlib.util, "find_spec", lambda name: None)
    assert kvikio_unavailable() == (
        "kvikio is not installed; install iobench with its extra `gpu`, or use another engine"
    )
