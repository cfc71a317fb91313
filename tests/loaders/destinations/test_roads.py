"""Images, samples of unequal size, floats, and kvikio's real code: every kind of batch has its way to a device."""

import numpy as np
import pytest
import simplejpeg
import torch

from iobench.loaders import DataLoader, ShardSet, transforms
from iobench.loaders.destinations.device import DestinationError, DestinationUsageError
from iobench.loaders.destinations.torch_cuda import CudaMemory, CudaWindow, _gathered
from iobench.loaders.destinations.views import strided
from iobench.loaders.engines.readers import BufferedReader
from iobench.loaders.formats.example import encode_example
from iobench.loaders.formats.tfrecord import frame
from iobench.loaders.placement import Move
from iobench.loaders.route import RouteError

under_stub = pytest.mark.stub_libcuda


def batches(loader):
    """Batches of an epoch, all of them kept, once the device has done everything."""
    found = list(loader)
    loader._road.destination.device.settle()
    return found


def assert_same(there, here):
    """The same batches, as the device has them and as the host has."""
    for (images, labels), (right, numbers) in zip(there, here, strict=True):
        assert torch.equal(labels, numbers)
        if isinstance(images, list):
            assert [image.dtype for image in images] == [image.dtype for image in right]
            assert [image.stride() for image in images] == [image.stride() for image in right]
            assert all(torch.equal(one, two) for one, two in zip(images, right, strict=True))
        else:
            assert images.dtype == right.dtype
            assert torch.equal(images, right)


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    """30 JPEGs of two sizes, number 7 cut in its middle."""
    folder = tmp_path_factory.mktemp("jpeg")
    random = np.random.default_rng(0)
    records = []
    for number in range(30):
        pixels = random.integers(0, 256, (90 + number % 2 * 30, 120, 3), dtype=np.uint8)
        data = simplejpeg.encode_jpeg(pixels)
        data = data[: len(data) // 2] if number == 7 else data
        example = {"image/encoded": data, "image/class/label": number, "image/format": b"JPEG"}
        records.append(frame(encode_example(example)))
    (folder / "a.tfrecord").write_bytes(b"".join(records))
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_images_are_decoded_into_page_locked_memory_and_copied(jpegs, device, dtype):
    def open_set(to):
        transform = transforms.ImageNetTrain(32, dtype=dtype)
        return ShardSet.open(jpegs, device=to, transform=transform, on_error="skip", seed=3)

    there = DataLoader(open_set(device), batch_size=8, num_workers=2)
    here = DataLoader(open_set("cpu"), batch_size=8, num_workers=2)
    found = batches(there)
    assert_same(found, list(here))
    assert [len(labels) for _, labels in found] == [7, 8, 8, 6]  # without the broken one
    assert 7 not in found[0][1]
    assert not device.sanitizer.races


def test_raw_pixels_are_transformed_on_their_way(page_set, device):
    """By reader threads: the way right into device memory is not for them, since they pass through the host's."""

    def batches_on(to):
        shards = ShardSet.open(page_set.folder, device=to, transform=transforms.ImageNetTrain(32), seed=2)
        loader = DataLoader(shards, batch_size=8, shuffle=True, num_workers=2)
        return list(loader) if to == "cpu" else batches(loader)

    assert_same(batches_on(device), batches_on("cpu"))


def test_images_without_one_size_are_refused_or_stay_on_the_host(jpegs, device):
    with pytest.raises(DestinationUsageError, match=r"give a transform of iobench\.loaders\.transforms"):
        next(iter(DataLoader(ShardSet.open(jpegs, device=device, on_error="skip"), batch_size=4)))


@pytest.mark.parametrize("direct", [False, True])
def test_samples_of_unequal_size_are_views_of_one_copy(tmp_path, device, fake_gpu, direct):
    random = np.random.default_rng(1)
    for number in range(9):
        array = random.random((3 + number, 5, 2), dtype=np.float32)
        np.savez(tmp_path / f"{number}.npz", x=np.asfortranarray(array) if number % 2 else array, y=[number])
    engine = fake_gpu.IntoDevice() if direct else "auto"
    there = DataLoader(ShardSet.open(tmp_path, engine=engine, device=device), batch_size=4, num_workers=1)
    here = DataLoader(ShardSet.open(tmp_path, device="cpu"), batch_size=4)
    assert_same(batches(there), list(here))


def test_floats_arrive_as_floats(tmp_path, device):
    values = np.random.default_rng(0).random((9, 5, 7, 2), dtype=np.float32)
    (tmp_path / "a.tensors").write_bytes(values.tobytes())
    shards = ShardSet.open(tmp_path, shape=(5, 7, 2), dtype="float32", device=device)
    (images, _), *_ = batches(DataLoader(shards, batch_size=9))
    assert torch.equal(images, torch.from_numpy(values).permute(0, 3, 1, 2))


@pytest.mark.parametrize(("offset", "stride"), [(2, 40), (4, 42)])
def test_elements_at_odd_places_are_refused(offset, stride):
    """A GPU faults where it loads a float that does not begin at a multiple of its size."""
    with pytest.raises(DestinationError, match="a GPU loads them at multiples of 4 only"):
        strided(
            torch.zeros(200, dtype=torch.uint8),
            shape=(3, 10),
            strides=(stride, 4),
            offset=offset,
            dtype=torch.float32,
        )


def test_a_transform_of_batches_works_on_what_is_on_the_device(page_set, device):
    places = []

    def halve(images):
        places.append(device.piece_of(images))
        return images

    shards = ShardSet.open(page_set.folder, device=device, transform=halve)
    assert len(batches(DataLoader(shards, batch_size=8))) == len(places) > 1


def test_the_route_of_images_that_are_decoded_and_copied_may_be_required_to_be_bounce(encoded_set, device):
    class Counting(BufferedReader):
        def counters(self):
            return {"kvikio_posix_bytes": self.delivered_bytes}

    options = {"device": device, "transform": transforms.ImageNetTrain(24)}
    shards = ShardSet.open(encoded_set.folder, engine=Counting(), require_route="bounce", **options)
    loader = DataLoader(shards, 50, num_workers=2)
    assert [len(labels) for _, labels in batches(loader)] == [50, 50, 30]
    assert (loader.evidence().requested_route, loader.evidence().observed_route) == ("bounce", "bounce")
    for route in ("gds", "p2pdma"):
        with pytest.raises(RouteError, match=f"require_route='{route}' is not possible"):
            ShardSet.open(encoded_set.folder, require_route=route, **options)


def test_the_route_of_copied_batches_is_bounce_by_the_counters(page_set, device):
    shards = ShardSet.open(page_set.folder, device=device)
    loader = DataLoader(shards, batch_size=8)
    batches(loader)
    found = loader.evidence()
    assert found.requested_route == "bounce"
    assert found.observed_route in ("bounce", "unknown")  # unknown where nothing counts what is read here
    if found.observed_route == "bounce":
        assert "copied to the device" in found.route_evidence


def test_what_was_required_and_was_not_is_an_error(page_set, device):
    shards = ShardSet.open(page_set.folder, engine="buffered", device=device)
    shards.require_route = "gds"
    with pytest.raises(RouteError, match=r"require_route='gds', but the way of \d+ bytes through buffered"):
        list(DataLoader(shards, batch_size=8))


def test_gathering_by_one_kernel_is_what_single_moves_do():
    """The kernel runs on the CPU as well; targets in any order, sources anywhere."""
    random = np.random.default_rng(0)
    before = torch.from_numpy(random.integers(0, 256, 4000, dtype=np.uint8))
    moves = [Move(int(random.integers(2000, 3900)), 100 + 70 * slot, 64) for slot in (3, 0, 4, 1, 2)]
    gathered, moved = before.clone(), before.clone()
    assert _gathered(gathered, moves, 64)
    for move in moves:
        moved[move.target : move.target + move.length] = before[move.source : move.source + move.length]
    assert torch.equal(gathered, moved)
    assert not _gathered(gathered, [*moves, Move(0, 1000, 64)], 64)  # not at one distance


def test_a_window_is_what_the_array_interface_says():
    memory = CudaMemory(torch.arange(9000, dtype=torch.int32).view(torch.uint8), 8192, None)
    assert memory.address % 4096 == 0
    part = CudaWindow(memory, 0, 8192)[4096:][100:300]
    assert len(part) == 200
    interface = part.__cuda_array_interface__
    assert interface["data"] == (memory.address + 4196, False)
    assert (interface["shape"], interface["typestr"], interface["strides"]) == ((200,), "|u1", None)
    assert len(CudaWindow(memory, 0, 8192)[8000:9000]) == 192


@pytest.mark.slow
@under_stub
@pytest.mark.parametrize("name", ["page_set", "sector_set", "odd_set"])
def test_kvikios_real_code_fills_device_memory(request, device, name):
    """Its addresses, offsets and lengths are those that a GPU's memory would be given."""
    known = request.getfixturevalue(name)
    shards = ShardSet.open(known.folder, engine="kvikio", device=device, shuffle_mode="records", seed=5)
    assert shards.reader.alignment_bytes == 4096
    assert "reads into the device's memory" in shards.engine_reason
    loader = DataLoader(shards, batch_size=8, shuffle=True, num_workers=2)
    records = list(loader._plan)
    for batch, (images, labels) in zip(records, batches(loader), strict=True):
        assert torch.equal(images, torch.from_numpy(known.images[batch]).permute(0, 3, 1, 2))
        assert torch.equal(labels, torch.from_numpy(known.labels[batch]))
    assert sorted(device.copies) == sorted(8 * len(batch) for batch in records)
    found = loader.evidence()
    assert found.observed_route == "bounce"  # what kvikio counted is POSIX
    assert "bytes by posix" in found.route_evidence


@under_stub
def test_kvikios_whole_runs_come_at_whole_pages(sector_set, device):
    shards = ShardSet.open(sector_set.folder, engine="kvikio", device=device)
    loader = DataLoader(shards, batch_size=7, num_workers=2)
    for (images, _), first in zip(batches(loader), range(0, len(shards), 7), strict=True):
        right = torch.from_numpy(sector_set.images[first : first + 7]).permute(0, 3, 1, 2)
        assert torch.equal(images, right)


def test_samples_for_the_host_come_of_a_reader_for_the_device_too(sector_set, device, fake_gpu):
    shards = ShardSet.open(sector_set.folder, engine=fake_gpu.IntoDevice(), device=device)
    plain = ShardSet.open(sector_set.folder, engine=BufferedReader(), device="cpu")
    assert torch.equal(shards[5][0], plain[5][0])
