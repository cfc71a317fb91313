"""Image folders are read as torchvision's ImageFolder has them: classes, order, what is an image, what is refused."""

import io
import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch.utils.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from iobench.loaders import DataLoader, Fields, ShardSet, transforms
from iobench.loaders.discovery import ShardSetError, find_shards
from iobench.loaders.engines.choice import EngineError
from iobench.loaders.engines.readers import MAX_OPEN_FILES, ReadError
from iobench.loaders.formats.image_files import ImageFiles, ImageFolderError, ImageFolderUsageError
from iobench.loaders.images.decoding import ImageError
from iobench.loaders.index import INDEX_NAME, ShardFormatError, verify_shards
from iobench.loaders.opening import open_index

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's IMG_EXTENSIONS


def picture(seed: int, kind: str = "JPEG") -> bytes:
    target = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (20 + seed % 7, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(target, kind)
    return target.getvalue()


def tree(root: Path, names: dict[str, bytes]) -> Path:
    for name, content in names.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def as_torchvision_says(root: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """`classes` and `samples` by the rule of torchvision.datasets.folder: sorted os.walk, sorted names."""
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    return classes, [
        (os.path.join(folder, name), number)
        for number, one in enumerate(classes)
        for folder, _, names in sorted(os.walk(os.path.join(root, one), followlinks=True))
        for name in sorted(names)
        if name.lower().endswith(EXTENSIONS)
    ]


def held(shards: ShardSet) -> tuple[list[str], list[tuple[str, int]]]:
    labels = shards.index.labels.tolist()
    return list(shards.classes), [(str(path), label) for path, label in zip(shards.paths, labels, strict=True)]


@pytest.fixture
def animals(tmp_path) -> Path:
    names = {f"{one}/{i}.jpg": picture(10 * k + i) for k, one in enumerate(("ant", "bee", "cow")) for i in range(6)}
    return tree(tmp_path / "animals", names)


def test_classes_and_samples_are_those_of_torchvision(tmp_path):
    names = [
        "dog/b.JPG",
        "dog/a.png",
        "Cat/1.jpeg",
        "Cat/10.jpeg",
        "Cat/9.jpeg",
        ".hidden/x.jpg",
        "10/.h.jpg",
        "9/z.webp",
    ]
    names += [
        "dog/sub/a.jpg",
        "dog/sub-x/a.jpg",
        "dog/sub/deep/a.jpg",
        "dog/sub.y/a.tiff",
        "émile/日.bmp",
        "dog/empty/n.txt",
    ]
    root = tree(tmp_path / "tree", dict.fromkeys([*names, "dog/notes.txt", "dog/c.jpg.bak", "labels.txt"], b"x"))
    (root / "linked").symlink_to(root / "dog" / "sub")
    (root / "dog" / "jpg.jpg").mkdir()
    for status in ("built", "cached"):
        shards = ShardSet.open(root)
        assert shards.index.status == status
        assert held(shards) == as_torchvision_says(root)
    assert len(shards) == 15


KINDS = {"jpg": "JPEG", "JPEG": "JPEG", "png": "PNG", "ppm": "PPM", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP"}


@pytest.mark.parametrize("first", KINDS)
def test_every_kind_of_image_comes_out_as_pillow_has_it(tmp_path, first):
    files = {
        f"c/{'a' if extension == first else 'b'}.{extension}": picture(3, kind) for extension, kind in KINDS.items()
    }
    grey = io.BytesIO()
    Image.new("L", (9, 8), 77).save(grey, "PPM")
    shards = ShardSet.open(tree(tmp_path / "t", {**files, "c/c.pgm": grey.getvalue()}))
    assert shards.paths[0].name == f"a.{first}"
    for number, path in enumerate(shards.paths):
        with Image.open(path) as image:
            assert np.array_equal(shards[number][0].permute(1, 2, 0).numpy(), np.asarray(image.convert("RGB"))), path


def test_names_need_not_be_utf_8(tmp_path):
    root = os.fsencode(tree(tmp_path / "t", {"a/1.jpg": picture(1), "b/1.jpg": picture(2)}))
    os.rename(root + b"/b", root + b"/caf\xe9")
    os.rename(root + b"/caf\xe9/1.jpg", root + b"/caf\xe9/\xff.jpg")
    for status in ("built", "cached"):
        shards = ShardSet.open(tmp_path / "t")
        assert shards.index.status == status
        assert [os.fsencode(path) for path in shards.paths] == [root + b"/a/1.jpg", root + b"/caf\xe9/\xff.jpg"]
        assert DataLoader(shards, batch_size=2).state_dict()["settings"]["data"].startswith("2 records")
        assert shards[1][1] == 1


PARTS = st.sampled_from(["a", "B", "a b", "a-b", "a.b", ".h", "10", "9", "é", "日"])


@settings(max_examples=20, deadline=None)
@given(
    names=st.lists(
        st.tuples(
            st.lists(PARTS, min_size=1, max_size=3),
            st.sampled_from(["1.jpg", "10.JPG", "2.png", "n.txt", ".x.jpeg", "jpg"]),
        ),
        min_size=1,
        max_size=15,
    )
)
def test_any_tree_has_the_order_of_torchvision(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("any") / "tree"
    tree(root, {"/".join([*folders, name]): b"x" for folders, name in names})
    for one in {folders[0] for folders, _ in names}:
        tree(root, {f"{one}/sure.jpg": b"x"})
    if not any(not entry.name.startswith(".") for entry in root.iterdir()):
        tree(root, {"seen/1.jpg": b"x"})
    assert held(ShardSet.open(root)) == as_torchvision_says(root)


@pytest.mark.parametrize("engine", ["buffered", "direct"])
@pytest.mark.parametrize("mode", ["off", "shards", "blocks", "records"])
def test_images_are_those_of_their_files(animals, engine, mode):
    shards = ShardSet.open(animals, engine=engine, shuffle_mode=mode)
    loader = DataLoader(shards, batch_size=4, shuffle=mode != "off", num_workers=3)
    seen: dict[bytes, int] = {}
    for images, labels in loader:
        seen |= {
            image.permute(1, 2, 0).numpy().tobytes(): label
            for image, label in zip(images, labels.tolist(), strict=True)
        }
    expected = {}
    for path, label in as_torchvision_says(animals)[1]:
        with Image.open(path) as image:
            expected[np.asarray(image.convert("RGB")).tobytes()] = label
    assert seen == expected
    assert loader.tally.num_reads == 18
    assert loader.tally.payload_bytes == sum(path.stat().st_size for path in animals.rglob("*.jpg"))
    shards.close()


def test_shards_are_folders_and_are_permuted_whole(animals):
    shards = ShardSet.open(animals, shuffle_mode="shards", seed=3)
    assert shards.index.shard_sizes == (6, 6, 6)
    labels = [label for _, some in DataLoader(shards, batch_size=6, shuffle=True) for label in some.tolist()]
    assert [set(labels[start : start + 6]) for start in (0, 6, 12)] in [
        [{a}, {b}, {c}] for a in range(3) for b in range(3) for c in range(3) if {a, b, c} == {0, 1, 2}
    ]


def test_an_epoch_goes_on_where_it_was_left_and_not_over_another_tree(animals, tmp_path):
    def loader(root: Path) -> DataLoader:
        shards = ShardSet.open(root, transform=transforms.ImageNetTrain(size=16), seed=5)
        return DataLoader(shards, batch_size=4, shuffle=True, num_workers=2)

    whole = [(images.clone(), labels) for images, labels in loader(animals)]
    left, again = loader(animals), loader(animals)
    stopped = iter(left)
    next(stopped), next(stopped)
    again.load_state_dict(left.state_dict())
    for (images, labels), (expected, theirs) in zip(again, whole[2:], strict=True):
        assert labels.tolist() == theirs.tolist()
        assert torch.equal(images, expected)
    other = tree(tmp_path / "other", {f"{one}/1.jpg": picture(1) for one in ("ant", "bee", "cow")})
    with pytest.raises(ValueError, match="data="):
        loader(other).load_state_dict(left.state_dict())


def test_every_rank_has_its_own_part(animals):
    labels: list[int] = []
    for rank in range(2):
        shards = ShardSet.open(animals, rank=rank, world_size=2)
        labels += [label for _, some in DataLoader(shards, batch_size=4, shuffle=True) for label in some.tolist()]
    assert sorted(labels) == sorted([0, 1, 2] * 6)


def test_torchs_own_loader_reads_it_with_workers(animals):
    shards = ShardSet.open(animals)
    loader = torch.utils.data.DataLoader(shards, batch_size=None, sampler=[17, 0], num_workers=1)
    assert [int(label) for _, label in loader] == [2, 0]
    copy = pickle.loads(pickle.dumps(shards))
    assert [copy[7][1], str(copy.paths[-1])] == [1, str(animals / "cow" / "5.jpg")]


def test_more_files_than_may_be_open_are_read(tmp_path):
    count = MAX_OPEN_FILES + 50
    root = tree(tmp_path / "t", {f"c/{i:04d}.jpg": b"%d" % i for i in range(count)})
    shards = ShardSet.open(root, fields=Fields(opaque=True))
    before = len(os.listdir("/proc/self/fd"))
    found = [int(bytes(sample.numpy())) for some, _ in DataLoader(shards, batch_size=64) for sample in some]
    assert found == list(range(count))
    assert len(os.listdir("/proc/self/fd")) - before <= MAX_OPEN_FILES
    shards.close()
    assert len(os.listdir("/proc/self/fd")) <= before


CHANGES = {
    "added": (lambda root: tree(root, {"ant/new.jpg": picture(1)}), "ant has changed since it was indexed"),
    "gone": (lambda root: (root / "bee/1.jpg").unlink(), "bee has changed since it was indexed"),
    "renamed": (lambda root: (root / "cow/1.jpg").rename(root / "cow/x.jpg"), "cow has changed since it was indexed"),
    "written anew": (lambda root: (root / "cow/1.jpg").write_bytes(b"y"), "1.jpg has changed since it was indexed"),
    "class": (lambda root: tree(root, {"new/1.jpg": b"x"}), "the classes have changed since they were indexed"),
    "below": (lambda root: tree(root, {"ant/sub/1.jpg": b"x"}), "ant has changed since it was indexed"),
    "damaged": (lambda root: (root / INDEX_NAME).write_bytes(b"x"), r"\.iobench-index is no index of this program"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_kept_index_is_used_until_the_tree_changes(animals, kind):
    assert ShardSet.open(animals).index.status == "built"
    assert ShardSet.open(animals).index.status == "cached"
    change, reason = CHANGES[kind]
    change(animals)
    shards = ShardSet.open(animals)
    assert shards.index.status == f"rebuilt: {reason}".replace("\\", "")
    assert held(shards) == as_torchvision_says(animals)


def test_a_folder_that_was_empty_is_looked_at_too(animals):
    (animals / "ant" / "later").mkdir()
    assert len(ShardSet.open(animals)) == 18
    tree(animals, {"ant/later/1.jpg": picture(1)})
    assert len(ShardSet.open(animals)) == 19


def test_an_index_made_anew_sees_files_that_were_written_in_place(tmp_path):
    root = tree(tmp_path / "t", {f"c/{i:04d}.jpg": b"xx" for i in range(600)})
    ShardSet.open(root)
    (root / "c/0001.jpg").write_bytes(b"yyy")  # not one of those whose size is looked at
    assert open_index(root)[1].status == "cached"
    index = open_index(root, anew=True)[1]
    assert (index.status, index.extents.lengths[1]) == ("built", 3)


def test_a_file_that_was_cut_in_place_is_named(tmp_path):
    root = tree(tmp_path / "t", {f"c/{i:04d}.jpg": picture(1) for i in range(600)})
    shards = ShardSet.open(root)
    (root / "c/0001.jpg").write_bytes(b"y")
    with pytest.raises(ReadError, match=r"shorter than when it was indexed: .* `iobench index`") as raised:
        shards[1]
    assert raised.value.filename == str(root / "c/0001.jpg")


def test_a_broken_image_is_named_or_left_out(animals):
    (animals / "bee/2.jpg").write_bytes(b"\xff\xd8\xff no image")
    with pytest.raises(ImageError, match=r"bee/2\.jpg: record 8, a file of its own \(byte 0\): its image cannot be"):
        list(DataLoader(ShardSet.open(animals), batch_size=6))
    loader = DataLoader(ShardSet.open(animals, on_error="skip"), batch_size=6)
    assert [len(labels) for _, labels in loader] == [6, 5, 6]
    assert loader.tally.skipped[0].record == 8


def test_evidence_is_of_the_files(animals):
    loader = DataLoader(ShardSet.open(animals), batch_size=6, num_workers=2)
    list(loader)
    evidence = loader.evidence()
    assert evidence.delivered_bytes == sum(path.stat().st_size for path in animals.rglob("*.jpg"))
    assert evidence.counters["cache_sampled_shards"] == 18


def test_paths_are_made_when_they_are_asked_for(animals):
    files = find_shards(animals)
    assert isinstance(files, ImageFiles)
    assert (files[0], files[-1]) == (animals / "ant/0.jpg", animals / "cow/5.jpg")
    assert files[5:8] == [animals / "ant/5.jpg", animals / "bee/0.jpg", animals / "bee/1.jpg"]
    assert files.spread(4) == files[::5]
    with pytest.raises(IndexError, match="image 18 is not one of 18"):
        files[18]


def test_folders_that_are_no_image_folders_are_refused_by_name(animals, tmp_path):
    tree(animals, {"README": b"as torchvision does, this is left out"})
    assert len(ShardSet.open(animals)) == 18
    tree(animals, {"stray.png": b"x"})
    with pytest.raises(ShardSetError, match=r"stray\.png: an image beside folders of images, so that it has no class"):
        ShardSet.open(animals)
    (animals / "README").unlink()
    (animals / "stray.png").rename(animals / "ant.tfrecord")
    with pytest.raises(ShardFormatError, match=r"ant: a folder that is no shard"):
        ShardSet.open(animals)
    flat = tree(tmp_path / "flat", {"1.jpg": b"x"})
    for source in (flat, [flat / "1.jpg"], str(flat / "*.jpg")):
        with pytest.raises(ShardFormatError, match=r"1\.jpg: an image, which is no shard; .* a folder for each class"):
            ShardSet.open(source)


BAD = {
    "no image": (lambda root: (root / "dodo").mkdir(), r"dodo: no image in this class \(\.jpg, \.jpeg"),
    "empty file": (lambda root: tree(root, {"ant/e.jpg": b""}), r"ant/e\.jpg: an empty file with an image's name"),
    "pipe": (lambda root: os.mkfifo(root / "ant/p.jpg"), r"ant/p\.jpg: a pipe, socket or device"),
    "dangling": (lambda root: (root / "ant/l.jpg").symlink_to("gone"), r"ant/l\.jpg: cannot be looked up"),
    "loop": (lambda root: (root / "ant/up").symlink_to(root / "ant"), r"ant/up: a link to a folder that it lies in"),
}


@pytest.mark.parametrize("kind", BAD)
def test_trees_that_cannot_be_read_whole_are_refused_by_name(animals, kind):
    change, message = BAD[kind]
    change(animals)
    with pytest.raises(ImageFolderError, match=message) as raised:
        ShardSet.open(animals)
    assert raised.value.exit_status == 4


def test_what_does_not_fit_is_refused(animals):
    with pytest.raises(
        EngineError, match=r"engine mmap wants large ones; use buffered or direct, or .* `iobench convert"
    ):
        ShardSet.open(animals, engine="mmap")
    with pytest.raises(EngineError, match=r"encoded images \(jpeg\), .* `iobench convert SRC DST --format tensors`"):
        ShardSet.open(animals, engine="kvikio")
    for asked in ({"fields": Fields(label=None)}, {"shape": (2, 2, 3)}, {"dtype": "uint8"}):
        with pytest.raises(ImageFolderUsageError, match="leave fields, shape and dtype out"):
            ShardSet.open(animals, **asked)
    paths, index = open_index(animals)
    with pytest.raises(ShardFormatError, match="there is nothing to verify against"):
        verify_shards(paths, index)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user for a moment")
def test_a_folder_that_may_not_be_read_is_named_and_no_file_in_it():
    with tempfile.TemporaryDirectory(prefix="iobench-test-") as place:
        os.chmod(place, 0o755)
        data = Path(place) / "data"
        data.mkdir(mode=0o700)
        os.seteuid(65534)
        try:
            with pytest.raises(PermissionError) as raised:
                find_shards(data)
        finally:
            os.seteuid(0)
        assert raised.value.filename == str(data)
