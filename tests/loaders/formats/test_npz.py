"""npz files: found without unpacking, read as views of the right bytes; whatever is damaged or foreign is named."""

import io
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iobench.loaders import DataLoader, Fields, ShardSet
from iobench.loaders.discovery import find_shards
from iobench.loaders.formats.fields import DTYPES
from iobench.loaders.formats.npz import NpzError, NpzFormat, read_sample
from iobench.loaders.index import ShardFormatError, verify_shards

X = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
ARRAY_AT = 30 + 5 + 20 + 128  # local header, name, zip64 field, npy header


def saved(**arrays: Any) -> bytes:
    target = io.BytesIO()
    np.savez(target, **arrays)
    return target.getvalue()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def of_member(name: str, content: bytes, **options: Any) -> bytes:
    """A zip file with this one member."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), content, **options)
    return target.getvalue()


def npy(header: str, content: bytes = b"", *, version: int = 1) -> bytes:
    """An npy file with this text for its header."""
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode() + content


@pytest.fixture(scope="module")
def arrays() -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [
        random.integers(0, 256, (int(height), int(width), 1), np.uint8)
        for height, width in random.integers(1, 200, (13, 2))
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, arrays: list[np.ndarray]) -> Path:
    """As DLIO writes them, some of them first index first."""
    folder = tmp_path_factory.mktemp("npz")
    for number, array in enumerate(arrays):
        np.savez(folder / f"img_{number:02}_of_13.npz", x=np.asfortranarray(array) if number % 4 else array, y=[number])
    return folder


@pytest.mark.parametrize("batch_size", [1, 4, 13])
@pytest.mark.parametrize("shuffle", [False, True], ids=["in order", "shuffled"])
@pytest.mark.parametrize("engine", ["buffered", "direct", "mmap"])
def test_every_sample_is_the_array_that_was_saved(folder, arrays, engine, shuffle, batch_size, direct_io):
    shards = ShardSet.open(folder, engine=engine, shuffle_mode="records", seed=2)
    loader = DataLoader(shards, batch_size=batch_size, shuffle=shuffle, num_workers=2)
    seen = []
    for samples, labels in loader:
        assert isinstance(samples, list)
        for sample, label in zip(samples, labels.tolist(), strict=True):
            assert sample.shape == arrays[label].shape
            assert (sample.numpy() == arrays[label]).all()
            seen.append(label)
    assert sorted(seen) == list(range(13))
    assert (seen != list(range(13))) == shuffle
    assert loader.tally.copied_bytes == 0
    assert loader.tally.payload_bytes == sum(array.nbytes for array in arrays)


def test_a_sample_is_read_once_and_alone(folder, arrays):
    shards = ShardSet.open(folder, engine="buffered")
    sample, label = shards[5]
    assert (label, shards.reader.delivered_bytes) == (5, arrays[5].nbytes)
    assert (sample.numpy() == arrays[5]).all()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_array_that_numpy_saves_comes_back(tmp_path_factory, data):
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    shape = tuple(data.draw(st.lists(st.integers(1, 9), max_size=4)))
    content = data.draw(st.binary(min_size=8, max_size=8)) * int(np.prod(shape, dtype=np.int64))
    array = np.frombuffer(content, dtype)[: int(np.prod(shape, dtype=np.int64))].reshape(shape)
    array = np.asfortranarray(array) if data.draw(st.booleans()) else array
    folder = tmp_path_factory.mktemp("any")
    np.savez(folder / "a.npz", x=array, y=data.draw(st.integers(-(2**63), 2**63 - 1)))
    for engine in ("buffered", "mmap"):
        shards = ShardSet.open(folder, engine=engine)
        sample, label = shards[0]
        assert (str(sample.dtype), sample.shape) == (f"torch.{dtype.name}", array.shape)
        assert sample.numpy().tobytes() == array.tobytes()
        assert sample.data_ptr() % dtype.itemsize == 0
        assert label == int(np.load(folder / "a.npz")["y"])


def test_elements_of_several_bytes_lie_at_whole_addresses_past_the_page_cache_too(tmp_path, direct_io):
    folder = tmp_path / "floats"
    folder.mkdir()
    arrays = np.random.default_rng(3).random((5, 1000, 3))
    for number, array in enumerate(arrays):
        np.savez(folder / f"{number}.npz", x=array, y=number)
    shards = ShardSet.open(folder, engine="direct")
    loader = DataLoader(shards, batch_size=3)
    found = [sample for samples, _ in loader for sample in samples]
    assert all((sample.numpy() == array).all() for sample, array in zip(found, arrays, strict=True))
    assert all(sample.data_ptr() % 8 == 0 for sample in found)
    assert loader.tally.copied_bytes == arrays.nbytes  # an npy header does not end where a double may start in a file


def test_writing_to_a_batch_changes_no_file(folder, arrays, tmp_path):
    for engine in ("buffered", "mmap"):
        shards = ShardSet.open(folder, engine=engine)
        shards[1][0].zero_()
        assert (shards[1][0].numpy() == arrays[1]).all()


def test_a_batch_that_is_held_is_never_overwritten(folder, arrays):
    loader = DataLoader(ShardSet.open(folder), batch_size=2, num_workers=2)
    held = [
        (sample, label) for samples, labels in loader for sample, label in zip(samples, labels.tolist(), strict=True)
    ]
    for _ in range(3):
        for _ in loader:
            pass
    assert all((sample.numpy() == arrays[label]).all() for sample, label in held)


def test_single_samples_and_a_collate_function_come_as_in_torch(folder, arrays):
    shards = ShardSet.open(folder)
    sample, label = next(iter(DataLoader(shards, batch_size=None)))
    assert (label, tuple(sample.shape)) == (0, arrays[0].shape)
    loader = DataLoader(
        shards, batch_size=4, collate_fn=lambda pairs: [(image.numel(), label) for image, label in pairs]
    )
    assert next(iter(loader)) == [(arrays[number].size, number) for number in range(4)]


def test_the_index_is_kept_and_says_what_the_files_are(folder, arrays):
    built, again = ShardSet.open(folder).index, ShardSet.open(folder).index
    assert again.status == "cached"
    assert again.extents is not None
    assert built.extents is not None
    for name in ("offsets", "lengths", "shapes", "fortran"):
        assert (getattr(again.extents, name) == getattr(built.extents, name)).all()
    sizes = [array.nbytes for array in arrays]
    assert (
        again.layout_reason == f"one stored array of {min(sizes)} to {max(sizes)} bytes in each file, labels are theirs"
    )
    assert again.layout.ragged
    assert again.layout.payload_bytes == sum(sizes) // 13


def test_files_beyond_four_gigabytes_are_read_through_their_zip64_fields(tmp_path):
    path, size = tmp_path / "large.npz", 5 << 30
    header = npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size},), }}\n")
    with zipfile.ZipFile(path, "w") as archive, path.open("r+b") as file:  # written by hand: the array is a hole
        entry = zipfile.ZipInfo("x.npy")
        entry.header_offset, entry.CRC = 0, 0
        entry.file_size = entry.compress_size = len(header) + size
        local = entry.FileHeader(zip64=True)
        file.write(local + header)
        file.truncate(len(local) + len(header) + size)
        archive.filelist.append(entry)
        archive.start_dir, archive._didModify = path.stat().st_size, True  # type: ignore[attr-defined]
    with path.open("rb") as file:
        sample = read_sample(file.fileno(), NpzFormat(label=None), path=path)
    assert (sample.offset, sample.length, sample.shape) == (len(local) + len(header), size, (size,))
    assert path.stat().st_size > 0xFFFFFFFF


def test_a_zip_stream_whose_sizes_come_behind_the_members_is_read(tmp_path):
    class Unseekable(io.RawIOBase):
        def __init__(self) -> None:
            self.content = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.content += bytes(data)
            return len(data)

    target = Unseekable()
    with zipfile.ZipFile(target, "w") as archive:
        for name, array in (("x.npy", X), ("y.npy", np.array(7))):
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(name, content.getvalue())
    path = write(tmp_path / "a.npz", target.content)
    sample, label = ShardSet.open(path)[0]
    assert (sample.numpy() == X).all()
    assert label == 7
    assert verify_shards([path], ShardSet.open(path).index) == (128 + 6) + (128 + 8)


@pytest.mark.parametrize(
    ("arrays", "label"),
    [({}, -1), ({"y": [3]}, 3), ({"y": np.uint8(200)}, 200), ({"y": [1, 2]}, -1), ({"y": 0.5}, -1), ({"y": X}, -1)],
)
def test_a_label_is_one_whole_number_or_there_is_none(tmp_path, arrays, label):
    assert ShardSet.open(write(tmp_path / "a.npz", saved(x=X, **arrays)))[0][1] == label


def test_arrays_of_other_names_are_named(tmp_path):
    path = write(tmp_path / "a.npz", saved(volume=X, kind=[4], mask=X))
    with pytest.raises(NpzError, match=r"has no 'x.npy', only 'volume.npy', 'kind.npy', 'mask.npy'; .*fields=Fields"):
        ShardSet.open(path)
    sample, label = ShardSet.open(path, fields=Fields(image="volume", label="kind"))[0]
    assert (sample.numpy() == X).all()
    assert label == 4
    with pytest.raises(NpzError, match=r"has no 'nosuch.npy'"):
        ShardSet.open(path, fields=Fields(image="volume", label="nosuch"))
    with pytest.raises(NpzError, match=r"mask.npy is uint8 \(2, 3, 1\), not one whole number"):
        ShardSet.open(path, fields=Fields(image="volume", label="mask"))


def header_edited(where: int, value: bytes) -> bytes:
    content = bytearray(saved(x=X, y=[1]))
    content[where : where + len(value)] = value
    return bytes(content)


DAMAGED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "no whole .npz file .*: truncated or something else"),
    "text": (lambda: b"hello " * 30, "no whole .npz file"),
    "cut in the array": (lambda: saved(x=X, y=[1])[:185], "no whole .npz file"),
    "cut in the directory": (lambda: saved(x=X, y=[1])[:-30], "no whole .npz file"),
    "a hole in front": (lambda: saved(x=X, y=[1])[10:], "no whole .npz file|no local header"),
    "no local header": (lambda: header_edited(0, b"PK\1\2"), r"x\.npy has no local header at byte 0"),
    "another name": (lambda: header_edited(30, b"z"), r"local header at byte 0 says \('z\.npy'"),
    "another crc": (lambda: header_edited(14, b"\0\0\0\0"), "local header at byte 0 says .* the directory"),
    "another size": (lambda: header_edited(30 + 5 + 4, b"\1"), "local header at byte 0 says"),
    "longer name": (lambda: header_edited(26, b"\xff\xff"), "no zip64 field"),
    "no zip64 field": (lambda: header_edited(30 + 5, b"\2"), "no zip64 field"),
    "no npy": (lambda: of_member("x.npy", b"hello, this is no array at all"), "is no npy array of version 1, 2 or 3"),
    "npy version": (lambda: of_member("x.npy", npy("{}", version=9)), "is no npy array of version 1, 2 or 3"),
    "npy cut": (lambda: of_member("x.npy", b"\x93NUMPY\1\0"), "is no npy array"),
    "long header": (
        lambda: of_member("x.npy", b"\x93NUMPY\2\0" + b"\xff" * 4 + bytes(50)),
        "says that it takes 4294967295",
    ),
    "no header": (lambda: of_member("x.npy", npy("__import__('os').abort()")), "no description of an array"),
    "deep header": (lambda: of_member("x.npy", npy("[" * 9000)), "no description of an array"),
    "half a header": (lambda: of_member("x.npy", npy("{'descr': '|u1'}")), "no description of an array"),
    "negative shape": (
        lambda: of_member("x.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 6), }", b"123456")),
        "no description of an array",
    ),
    "huge shape": (
        lambda: of_member("x.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (10**15,), }", b"123456")),
        "no description of an array",
    ),
    "too large a shape": (
        lambda: of_member("x.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (999999999999,), }", b"1")),
        r"1 bytes are not the 999999999999 of uint8 \(999999999999,\)",
    ),
    "no element": (lambda: saved(x=np.zeros((0, 3), np.uint8)), r"its array \(0, 3\) is empty"),
    "objects": (lambda: saved(x=np.array([{}, 1], dtype=object)), "Python objects, which only unpickling could read"),
    "structured": (lambda: saved(x=np.zeros(3, [("a", "u1")])), "has dtype .*; the samples can be uint8"),
    "complex": (lambda: saved(x=np.zeros(3, np.complex64)), "has dtype '<c8'"),
    "text array": (lambda: saved(x=np.array(["a"])), "has dtype '<U1'"),
    "no such size": (
        lambda: of_member("x.npy", npy("{'descr': '<i3', 'fortran_order': False, 'shape': (2,), }", b"123456")),
        "has dtype '<i3'",
    ),
    "big-endian": (lambda: saved(x=np.zeros(3, ">u2")), "has big-endian uint16, which torch does not know"),
    "a third array": (lambda: saved(x=X, y=[1], z=X), r"holds 'z\.npy' beside 'x\.npy' and 'y\.npy', which would not"),
    "a text member": (lambda: of_member("readme", b"hello"), "has no 'x.npy', only 'readme'"),
    "nothing inside": (lambda: b"PK\5\6" + bytes(18), "has no 'x.npy', only nothing"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_damaged_or_cannot_be_read_in_place_is_named(tmp_path, name):
    make, rule = DAMAGED[name]
    path = write(tmp_path / "a.npz", make())
    with pytest.raises(NpzError, match=rule) as raised:
        ShardSet.open(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert raised.value.exit_status == 4


def test_compressed_files_are_refused_with_the_way_out(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=X, y=[1])
    with pytest.raises(NpzError, match=r"x\.npy is compressed \(zip method 8\).*np\.savez instead of np\.savez_compr"):
        ShardSet.open(tmp_path)


def test_a_member_that_comes_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            archive.writestr("x.npy", b"")
    with pytest.raises(NpzError, match=r"holds 'x\.npy' twice"):
        ShardSet.open(tmp_path)


@settings(deadline=None, max_examples=300)
@given(at=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.booleans())
def test_a_byte_changed_anywhere_is_an_error_or_leaves_array_and_label_as_they_were(tmp_path_factory, at, value, cut):
    content = bytearray(saved(x=X, y=[1]))
    at %= len(content)
    content = content[:at] if cut else content
    if not cut:
        content[at] = value
    path = write(tmp_path_factory.mktemp("flip") / "a.npz", bytes(content))
    with suppress(NpzError):
        shards = ShardSet.open(path)
        verify_shards([path], shards.index)
        assert (shards[0][0].numpy() == X).all()
        assert shards[0][1] == 1


def test_a_member_that_is_lost_from_the_directory_is_missed(tmp_path):
    content = bytearray(saved(x=X, y=[1]))
    content[content.index(b"PK\1\2") + 33] = 1  # the first entry's comment would be 256 bytes, the second entry in them
    path = write(tmp_path / "a.npz", bytes(content))
    with pytest.raises(NpzError, match="its directory lists 1 members, and says that they are 2"):
        ShardSet.open(path)


@pytest.mark.parametrize(
    ("was", "becomes"), [(b"<i8", b"<f8"), (b"(1,)", b"(2,)"), (b"\1" + bytes(7), b"\2" + bytes(7))]
)
def test_a_damaged_label_is_an_error_at_once_and_no_missing_or_other_label(tmp_path, was, becomes):
    content = saved(x=X, y=np.array([1], "<i8"))
    at = content.index(was, content.index(b"y.npy") + len("y.npy"))
    path = write(tmp_path / "a.npz", content[:at] + becomes + content[at + len(was) :])
    with pytest.raises(NpzError, match=r"the crc32 of y\.npy is wrong \(136 bytes at byte \d+\)"):
        ShardSet.open(path)


def test_verify_names_file_sample_and_member_of_a_flipped_byte(tmp_path):
    for number in range(3):
        np.savez(tmp_path / f"{number}.npz", x=X, y=[number])
    shards = ShardSet.open(tmp_path)
    assert verify_shards(shards.paths, shards.index) == 3 * (128 + 6 + 128 + 8)
    path = tmp_path / "1.npz"
    content = bytearray(path.read_bytes())
    assert content[ARRAY_AT : ARRAY_AT + 6] == X.tobytes()
    content[ARRAY_AT + 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        NpzError, match=re.escape(f"{path}: the crc32 of x.npy is wrong (sample 1, 134 bytes at byte {ARRAY_AT - 128})")
    ):
        verify_shards(shards.paths, shards.index)
    assert zlib.crc32(content[ARRAY_AT - 128 : ARRAY_AT + 6]) != zipfile.ZipFile(path).getinfo("x.npy").CRC


def test_a_set_has_one_dtype_and_number_of_dimensions(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=[1])
    np.savez(tmp_path / "b.npz", x=X.ravel(), y=[1])
    with pytest.raises(NpzError, match=r"b\.npz: its array is uint8 \(6,\), that of a\.npz uint8 \(2, 3, 1\)"):
        ShardSet.open(tmp_path)


def test_a_folder_has_one_format(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=[1])
    (tmp_path / "b.tfrecord").touch()
    with pytest.raises(ShardFormatError, match=r"a\.npz: an npz file, and b\.tfrecord is none; a set has one format"):
        find_shards(tmp_path)


def test_shape_and_dtype_are_said_by_the_files(tmp_path):
    path = write(tmp_path / "a.npz", saved(x=X))
    for option in ({"shape": (2, 3, 1)}, {"dtype": "uint8"}):
        with pytest.raises(ShardFormatError, match="an npz file says shape and dtype of its array itself"):
            ShardSet.open(path, **option)


def test_a_file_that_changed_is_indexed_again(tmp_path):
    path = write(tmp_path / "a.npz", saved(x=X, y=[1]))
    assert ShardSet.open(tmp_path).index.status == "built"
    write(path, saved(x=np.repeat(X, 2), y=[2]))
    shards = ShardSet.open(tmp_path)
    assert shards.index.status == "rebuilt: a.npz has changed since it was indexed"
    assert (len(shards[0][0]), shards[0][1]) == (12, 2)
