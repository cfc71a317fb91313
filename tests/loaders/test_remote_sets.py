"""Sets on a server, by address, give the batches that the same files give; their index knows them by etag."""

import gzip
import os
import shutil
import stat
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from iobench.loaders.dataloader import DataLoader
from iobench.loaders.discovery import ShardSetError, find_shards
from iobench.loaders.engines.choice import EngineError, open_reader
from iobench.loaders.engines.kvikio_probe import probe_kvikio
from iobench.loaders.formats.fields import Fields
from iobench.loaders.formats.tensors import TensorShardError
from iobench.loaders.formats.tfrecord import TFRecordError
from iobench.loaders.index import ShardFormatError, verify_shards
from iobench.loaders.opening import open_index
from iobench.loaders.remote import ObjectError, RemoteListError, RemotePath, RemotePathError
from iobench.loaders.route import RouteError
from iobench.loaders.shards import ShardSet
from iobench.storage_bench.generate import Generate, generate

pytest.importorskip("obstore", reason="obstore is not installed (`make setup-test` installs it)")

under_stub = pytest.mark.stub_libcuda


def put(address: str, content: bytes) -> None:
    headers = {"Content-Type": "application/octet-stream", "x-amz-acl": "public-read"}
    urllib.request.urlopen(urllib.request.Request(address, content, headers, method="PUT"), timeout=20).close()


def upload(s3: str, folder: Path, prefix: str = "set") -> list[str]:
    """Every file of a folder, dotfiles left out; the addresses of the shards."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    for name in names:
        put(f"{s3}/bucket/{quote(prefix)}/{quote(name)}", (folder / name).read_bytes())
    return [f"s3://bucket/{prefix}/{name}" for name in names if name != "dataset.json"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tensors(tmp_path) -> Path:
    generate(tmp_path / "tensors", Generate(num_images=50, size=20, images_per_shard=20, format="tensors"))
    return tmp_path / "tensors"


def batches(shards: ShardSet, *, shuffle: bool, num_workers: int = 2) -> list[tuple[bytes, list[int]]]:
    loader = DataLoader(shards, batch_size=16, shuffle=shuffle, num_workers=num_workers)
    return [(images.permute(0, 2, 3, 1).numpy().tobytes(), labels.tolist()) for images, labels in loader]


@pytest.mark.parametrize("mode", ["off", "shards", "blocks", "records"])
def test_the_batches_of_a_prefix_are_those_of_the_folder(s3, any_set, mode):
    upload(s3, any_set.folder)
    files = ShardSet.open(any_set.folder, shuffle_mode=mode, seed=3)
    shards = ShardSet.open("s3://bucket/set", shuffle_mode=mode, seed=3, engine="remote")
    assert shards.reader.engine == "remote"
    assert batches(shards, shuffle=mode != "off") == batches(files, shuffle=mode != "off")
    assert batches(shards, shuffle=False, num_workers=0) == batches(files, shuffle=False)


def test_one_object_a_list_and_a_public_web_address_are_sets_too(s3, page_set):
    addresses = upload(s3, page_set.folder, "a folder")
    web = [f"{s3}/bucket/a%20folder/{path.name}" for path in page_set.shards]
    first, last = page_set.shards[0], page_set.shards[-1]
    for source, files in (
        (addresses[0], [first]),
        (RemotePath(addresses[0]), [first]),
        ([addresses[-1], RemotePath(addresses[0])], [last, first]),
        (web[0], [first]),
        (web[::-1], page_set.shards[::-1]),
    ):
        shards = ShardSet.open(source, engine="remote")
        assert batches(shards, shuffle=False) == batches(ShardSet.open(files), shuffle=False)
        assert [path.name for path in shards.paths] == [path.name for path in files]


def test_samples_of_every_kind_of_shard_come_from_a_server(s3, tmp_path, tensors):
    headerless, npz = tmp_path / "headerless", tmp_path / "npz"
    for folder in (headerless, npz):
        folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 1000, (6, 5, 4, 3), dtype=np.uint16)
    (headerless / "a.tensors").write_bytes(pixels.tobytes())
    for number in range(3):
        np.savez(npz / f"{number}.npz", x=pixels[number], y=number)
    for folder, options in ((tensors, {}), (headerless, {"shape": (5, 4, 3), "dtype": "uint16"}), (npz, {})):
        upload(s3, folder, folder.name)
        files = ShardSet.open(folder, **options)
        shards = ShardSet.open(f"s3://bucket/{folder.name}/", engine="remote", **options)
        assert len(shards) == len(files)
        for (image, label), (known, known_label) in zip(shards, files, strict=False):
            assert (image.numpy() == known.numpy()).all()
            assert label == known_label
        assert shards.index.layout == files.index.layout
        if folder != headerless:
            assert verify_shards(shards.paths, shards.index) == verify_shards(files.paths, files.index) > 0


def test_of_several_that_open_a_new_set_at_once_one_fetches_it_and_the_others_wait_for_its_index(s3, page_set, cache):
    upload(s3, page_set.folder)
    begin = threading.Barrier(4)

    def status(_number: int) -> str:
        begin.wait()
        return open_index("s3://bucket/set")[1].status

    with ThreadPoolExecutor(4) as threads:
        statuses = sorted(threads.map(status, range(4)))
    assert statuses == ["built (kept in the cache)", "cached", "cached", "cached"]
    assert [path.name for path in cache.rglob("*.lock")] == []


def test_an_index_is_kept_for_the_user_alone_and_as_long_as_etags_stay_the_same(s3, page_set, cache, monkeypatch):
    addresses = upload(s3, page_set.folder)
    statuses = [open_index("s3://bucket/set")[1].status for _ in range(2)]
    assert statuses == ["built (kept in the cache)", "cached"]
    put(addresses[0].replace("s3://", f"{s3}/"), page_set.shards[0].read_bytes())  # the same bytes: the same etag
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    changed = bytearray(page_set.shards[0].read_bytes())
    put(addresses[0].replace("s3://", f"{s3}/"), bytes(changed))
    kept = [path for path in cache.rglob("*") if path.is_file()]
    assert [stat.S_IMODE(path.stat().st_mode) for path in kept] == [0o600]
    assert not any(word in path.read_bytes() for path in kept for word in (b"hidden", b"testing", b"127.0.0.1"))
    changed[2000] ^= 1  # a pixel: the size stays, the etag does not
    put(addresses[0].replace("s3://", f"{s3}/"), bytes(changed))
    name = page_set.shards[0].name
    assert (
        open_index("s3://bucket/set")[1].status
        == f"rebuilt: {name} has changed since it was indexed (kept in the cache)"
    )


def test_an_index_of_presigned_addresses_holds_no_signature(s3, page_set, cache):
    upload(s3, page_set.folder)
    signed = [f"{s3}/bucket/set/{path.name}?X-Amz-Signature=hidden" for path in page_set.shards]
    assert open_index(signed)[1].status == "built (kept in the cache)"
    assert open_index([address.replace("hidden", "renewed") for address in signed])[1].status == "cached"
    assert not any(b"hidden" in path.read_bytes() for path in cache.rglob("*") if path.is_file())


def test_the_route_of_objects_is_remote_by_the_clients_own_count(s3, page_set):
    upload(s3, page_set.folder)
    shards = ShardSet.open("s3://bucket/set", engine="remote", require_route="remote")
    loader = DataLoader(shards, batch_size=16, num_workers=2)
    for _ in loader:
        pass
    evidence = loader.evidence()
    assert (evidence.requested_route, evidence.observed_route) == ("remote", "remote")
    assert (evidence.counter_class, evidence.device_bytes) == ("client-own", None)
    assert evidence.counters["obstore_remote_bytes"] == evidence.delivered_bytes >= evidence.payload_bytes
    assert evidence.cache_fraction is None
    local = ShardSet.open("s3://bucket/set", engine="remote", require_route="host")
    with pytest.raises(RouteError, match=r"s3://bucket/set/.*: require_route='host', but the way .* was remote"):
        for _ in DataLoader(local, batch_size=16, num_workers=2):
            pass


@pytest.mark.parametrize("engine", ["buffered", "direct", "mmap"])
def test_engines_that_read_files_are_refused_for_objects(s3, page_set, engine):
    upload(s3, page_set.folder)
    with pytest.raises(EngineError, match=f"s3://bucket/set/.*: engine {engine} reads files, .* use auto, remote or"):
        ShardSet.open("s3://bucket/set", engine=engine)
    with pytest.raises(
        EngineError, match=r"engine remote reads objects on servers, and .* is a file; use --engine auto"
    ):
        ShardSet.open(page_set.folder, engine="remote")


def test_auto_takes_kvikio_only_where_a_driver_is(s3, page_set):
    reader, reason = open_reader("auto", RemotePath("s3://bucket/a.tfrecord"))
    found = probe_kvikio()
    if found.missing is None and found.cuda_error is None:
        assert (reader.engine, reason) == ("kvikio", "auto: kvikio, because it and a CUDA driver are here")
    else:
        assert reader.engine == "remote"
        assert reason == f"auto: remote, because kvikio is not to be used here ({found.missing or found.cuda_error})"


@under_stub
def test_kvikio_reads_sets_by_address_and_auto_leaves_them_to_remote_without_a_gpu(s3, any_set):
    upload(s3, any_set.folder)
    shards = ShardSet.open("s3://bucket/set", engine="kvikio", seed=1)
    assert batches(shards, shuffle=True) == batches(ShardSet.open(any_set.folder, seed=1), shuffle=True)
    loader = DataLoader(shards, batch_size=16, num_workers=2)
    for _ in loader:
        pass
    evidence = loader.evidence()
    assert (evidence.observed_route, evidence.counter_class) == ("remote", "exact")
    automatic = ShardSet.open("s3://bucket/set")
    assert automatic.reader.engine == "remote"
    assert "cuInit answers CUDA_ERROR_NOT_INITIALIZED" in automatic.engine_reason


def test_without_a_driver_kvikio_is_refused_for_an_address_within_two_seconds(run_python):
    """The address is of a server that is not there: the engine is asked for first."""
    program = (
        "import sys, time\n"
        "from iobench.loaders.engines.choice import open_reader\n"
        "from iobench.loaders.engines.kvikio_reader import KvikioUnavailableError\n"
        "from iobench.loaders.remote import RemotePath\n"
        "begin = time.monotonic()\n"
        "try:\n"
        "    open_reader('kvikio', RemotePath('s3://bucket/a.tfrecord'))\n"
        "except KvikioUnavailableError as error:\n"
        "    print(error)\n"
        "assert time.monotonic() - begin < 2\n"
    )
    if probe_kvikio().missing is None:
        pytest.skip("kvikio can be used on this machine")
    done = run_python(program, stub=None)
    assert done.returncode == 0, done.stderr
    assert "libcuda.so.1 cannot be loaded" in done.stdout or "kvikio is not installed" in done.stdout


def test_the_description_under_a_prefix_must_agree_with_what_is_there(s3, tensors):
    addresses = upload(s3, tensors)
    assert len(ShardSet.open("s3://bucket/set", engine="remote")) == 50
    assert len(ShardSet.open(addresses[:2], engine="remote")) == 40
    put(f"{s3}/bucket/set/{Path(addresses[0]).name}", (tensors / Path(addresses[0]).name).read_bytes()[:-4096])
    with pytest.raises(ShardFormatError, match=f"{addresses[0]}: .* bytes, but dataset.json says"):
        ShardSet.open("s3://bucket/set", engine="remote")
    put(f"{s3}/bucket/set/dataset.json", b"[]")
    with pytest.raises(ShardFormatError, match=r"s3://bucket/set/dataset.json: not a data set's description"):
        ShardSet.open("s3://bucket/set", engine="remote")
    with pytest.raises(TensorShardError, match=r"s3://bucket/set/dataset.json: not a data set's description"):
        ShardSet.open(addresses[1], engine="remote")


def test_a_tensor_shard_without_a_description_says_what_to_give(s3, tensors):
    os.remove(tensors / "dataset.json")
    addresses = upload(s3, tensors)
    with pytest.raises(TensorShardError, match=f"{addresses[0]}: a tensor shard without a dataset.json .* give shape="):
        ShardSet.open("s3://bucket/set")


def test_damage_is_told_with_the_objects_address(s3, page_set, tmp_path):
    content = bytearray(page_set.shards[0].read_bytes())
    content[3] ^= 1
    put(f"{s3}/bucket/a.tfrecord", bytes(content))
    with pytest.raises(TFRecordError, match=r"s3://bucket/a.tfrecord: length crc is wrong at byte 8"):
        ShardSet.open("s3://bucket/a.tfrecord")
    content[3] ^= 1
    content[2000] ^= 1
    put(f"{s3}/bucket/a.tfrecord", bytes(content))
    paths, index = open_index("s3://bucket/a.tfrecord")
    with pytest.raises(TFRecordError, match=r"s3://bucket/a.tfrecord: payload crc is wrong \(record 0"):
        verify_shards(paths, index)
    put(f"{s3}/bucket/b.tfrecord.gz", gzip.compress(bytes(content)))
    with pytest.raises(TFRecordError, match=r"s3://bucket/b.tfrecord.gz: .*this is gzip data; decompress it"):
        ShardSet.open("s3://bucket/b.tfrecord.gz")


def test_fields_that_are_missing_are_told_with_those_that_are_there(s3, odd_set):
    upload(s3, odd_set.folder)
    with pytest.raises(
        ValueError, match=r"s3://bucket/set/.*: record 0: has no feature 'img'; it has .*'image/encoded'"
    ):
        ShardSet.open("s3://bucket/set", fields=Fields(image="img"))


@pytest.mark.parametrize(
    ("source", "error", "rule"),
    [
        ("s3://bucket/none", RemoteListError, "no shards right under this prefix"),
        ("s3://bucket/none.tfrecord", ObjectError, "the server has no such object"),
        (["s3://bucket/none"], ObjectError, "the server has no such object"),
        (["s3://bucket/a.tfrecord", "s3://bucket/b.npz"], ShardFormatError, "a set has one format"),
        ("ftp://user:hidden@host/a.tfrecord", RemotePathError, "ftp://host/a.tfrecord: not a remote address"),
        ("s3://key:hidden@bucket/a", RemotePathError, "an s3 address has no user"),
        ("https://user:hidden@host", RemotePathError, "https://host.*: names no object"),
    ],
)
def test_what_is_no_set_is_told(s3, source, error, rule):
    with pytest.raises(error, match=rule) as caught:
        ShardSet.open(source)
    assert "hidden" not in str(caught.value)


def test_files_and_objects_do_not_go_together(page_set):
    with pytest.raises(ShardSetError, match=r"a file, and s3://bucket/a.tfrecord is on a server"):
        find_shards([page_set.shards[0], "s3://bucket/a.tfrecord"])


def test_without_a_key_the_error_names_the_variables(s3, monkeypatch):
    put_private = urllib.request.Request(f"{s3}/bucket/a.tfrecord", b"x", method="PUT")
    urllib.request.urlopen(put_private, timeout=20).close()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for source in ("s3://bucket/a.tfrecord", "s3://bucket"):
        with pytest.raises(ObjectError, match="set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION"):
            ShardSet.open(source)


def test_a_path_that_looks_like_an_address_is_a_path_where_it_is_one(tmp_path, monkeypatch, page_set):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(page_set.folder, tmp_path / "odd:" / "name")
    assert len(ShardSet.open("odd://name")) == len(page_set)
