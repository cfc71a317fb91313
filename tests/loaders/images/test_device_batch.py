"""Images that the device decodes: the batches of the CPU's road, brought there by the libraries' CPU backends."""

import importlib.util
import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from iobench.loaders import DataLoader, ShardSet, transforms
from iobench.loaders.engines.readers import direct_refused
from iobench.loaders.formats.example import encode_example
from iobench.loaders.formats.tfrecord import frame
from iobench.loaders.images.decoders import DecoderError
from iobench.loaders.images.decoding import ImageError
from iobench.loaders.probe import suggest

SIZES = ((90, 120), (120, 120), (64, 200))
ODD = {5: "CMYK", 9: "PNG", 14: "Exif", 20: "filled"}  # by record; behind the last one's end stand zeros


def installed(name):
    return importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec(f"nvidia.{name}") is not None


@pytest.fixture(params=["nvimgcodec", "dali"])
def decoder(request):
    if not installed(request.param):
        pytest.skip(f"{request.param} is not installed (`make setup-test` installs it)")
    return request.param


def photograph(number):
    """A smooth picture with some detail."""
    height, width = SIZES[number % len(SIZES)]
    random = np.random.default_rng(number)
    small = Image.fromarray(random.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def encoded(number, kind):
    image, file, exif = photograph(number), io.BytesIO(), Image.Exif()
    if kind == "Exif":
        exif[0x0112] = 6  # to be turned by a quarter
    image = image.convert("CMYK") if kind == "CMYK" else image
    image.save(file, "PNG" if kind == "PNG" else "JPEG", exif=exif)
    return file.getvalue() + bytes(2 if kind == "filled" else 0)


def write(folder, images):
    examples = [
        {"image/encoded": data, "image/class/label": label, "image/format": b"JPEG"}
        for label, data in enumerate(images)
    ]
    (folder / "a.tfrecord").write_bytes(b"".join(frame(encode_example(example)) for example in examples))
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write(tmp_path_factory.mktemp("plain"), [encoded(number, "JPEG") for number in range(30)])


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Some that no device decodes, and number 7 cut in its middle."""
    images = [encoded(number, ODD.get(number, "JPEG")) for number in range(30)]
    images[7] = images[7][: len(images[7]) // 2]
    return write(tmp_path_factory.mktemp("odd"), images)


def train(**options):
    return transforms.ImageNetTrain(32, scaled_decoding=False, **options)


def both(folder, device, decoder, transform, *, epochs=1, **options):
    """(there, here): loaders over the same set, and batches of some epochs, the device's once it has done all."""
    loaders, found = [], []
    for to, name in ((device, decoder), ("cpu", "auto")):
        shards = ShardSet.open(folder, device=to, decoder=name, transform=transform, seed=3, **options)
        loaders.append(DataLoader(shards, batch_size=8, shuffle=True, num_workers=2))
        found.append([batch for _ in range(epochs) for batch in loaders[-1]])
    device.settle()
    return loaders, zip(*found, strict=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_batches_are_those_of_the_cpus_road_in_every_epoch(plain, new_device, decoder, dtype):
    device = new_device(copy_delay_s=0.002)
    transform = train(dtype=dtype, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.4))
    (there, _), pairs = both(plain, device, decoder, transform, epochs=2)
    level = 1.0 if dtype == torch.uint8 else 1 / 255 / 0.2 + (0.02 if dtype == torch.bfloat16 else 0)
    for (images, labels), (right, numbers) in pairs:
        assert torch.equal(labels, numbers)
        assert images.dtype == dtype
        assert images.stride() == right.stride()
        away = (images.double() - right.double()).abs()
        assert away.max() <= 2.05 * level
        assert away.mean() <= 0.3 * level
    assert not device.sanitizer.races
    assert there.tally.num_by_host == 0
    assert there.tally.decode_s > 0
    assert len(device.copies) == 8  # the labels of each batch: no pixels are copied


@pytest.mark.parametrize("engine", ["buffered", "direct", "mmap"])
def test_every_engine_reads_for_the_device(plain, device, decoder, engine):
    if engine == "direct" and (reason := direct_refused(plain / "a.tfrecord")):
        pytest.skip(reason)
    _, pairs = both(plain, device, decoder, train(dtype=torch.uint8), engine=engine)
    for (images, _), (right, _) in pairs:
        assert (images.int() - right.int()).abs().max() <= 2


def test_validation_cuts_the_same_middle(plain, device, decoder):
    transform = transforms.ImageNetValidation(32, resize=40, dtype=torch.uint8, scaled_decoding=False)
    _, pairs = both(plain, device, decoder, transform)
    for (images, _), (right, _) in pairs:
        assert (images.int() - right.int()).abs().max() <= 2


def test_what_the_device_cannot_decode_the_cpu_does_and_broken_ones_are_left_out(odd, device, decoder):
    (there, here), pairs = both(odd, device, decoder, train(dtype=torch.uint8), on_error="skip")
    for (images, labels), (right, numbers) in pairs:
        assert torch.equal(labels, numbers)
        assert 7 not in labels
        assert (images.int() - right.int()).abs().max() <= 2
    assert there.tally.num_by_host == len(ODD)
    assert there.tally.skipped == here.tally.skipped
    assert [skipped.record for skipped in there.tally.skipped] == [7]
    assert there.tally.num_skipped == 1


def test_a_broken_image_is_an_error_with_its_place(odd, device, decoder):
    loader = DataLoader(ShardSet.open(odd, device=device, decoder=decoder, transform=train()), batch_size=8)
    with pytest.raises(ImageError, match=r"a\.tfrecord: record 7 \(byte \d+\): its image cannot be decoded"):
        list(loader)


def test_an_image_that_the_library_alone_gives_back_is_decoded_by_the_cpu(plain, device, decoder, monkeypatch):
    """As of those kinds of JPEG that a release of it does not know."""
    shards = ShardSet.open(plain, device=device, decoder=decoder, transform=train(dtype=torch.uint8))
    own = shards.decoding.there
    decode = own.decode
    monkeypatch.setattr(own, "decode", lambda samples, *, device: [None, *decode(samples, device=device)[1:]])
    loader = DataLoader(shards, batch_size=10)
    here = DataLoader(ShardSet.open(plain, device="cpu", transform=train(dtype=torch.uint8)), batch_size=10)
    found = list(loader)
    device.settle()
    assert loader.tally.num_by_host == 3
    for (images, _), (right, _) in zip(found, here, strict=True):
        assert (images.int() - right.int()).abs().max() <= 2


def test_pixels_of_another_size_than_the_header_says_are_not_taken(plain, device, decoder, monkeypatch):
    shards = ShardSet.open(plain, device=device, decoder=decoder, transform=train(dtype=torch.uint8))
    own = shards.decoding.there
    decode = own.decode
    monkeypatch.setattr(own, "decode", lambda samples, *, device: [each[1:] for each in decode(samples, device=device)])
    loader = DataLoader(shards, batch_size=10)
    here = DataLoader(ShardSet.open(plain, device="cpu", transform=train(dtype=torch.uint8)), batch_size=10)
    found = list(loader)
    device.settle()
    assert loader.tally.num_by_host == 30
    assert all((one.int() - two.int()).abs().max() <= 2 for (one, _), (two, _) in zip(found, here, strict=True))


def test_bytes_are_read_into_page_locked_memory_that_waits_for_the_decoder(plain, device, decoder, fake_gpu):
    """The reader tells the sanitizer what it writes, and fails where that is not page-locked."""
    shards = ShardSet.open(
        plain, engine=fake_gpu.WatchedReader(device), device=device, decoder=decoder, transform=train()
    )
    loader = DataLoader(shards, batch_size=4, num_workers=2)
    assert len(list(loader)) == 8
    device.settle()
    assert not device.sanitizer.races


@pytest.mark.parametrize("forgets", ["copy", "compute"])
def test_without_a_wait_torchs_sanitizer_would_say_so(plain, new_device, decoder, forgets):
    device = new_device(copy_delay_s=0.002, compute_delay_s=0.004, forgets=forgets)
    shards = ShardSet.open(plain, device=device, decoder=decoder, transform=train())
    for images, _ in DataLoader(shards, batch_size=2, num_workers=2):
        device.run([images], lambda batch: batch.sum())
        del images
    device.settle()
    assert device.sanitizer.races


def test_work_on_batches_sees_them_whole_however_far_the_device_is_behind(plain, new_device, decoder):
    device = new_device(copy_delay_s=0.001, compute_delay_s=0.004)
    there = ShardSet.open(plain, device=device, decoder=decoder, transform=train(dtype=torch.uint8))
    here = DataLoader(ShardSet.open(plain, device="cpu", transform=train(dtype=torch.uint8)), batch_size=2)
    loader, seen = DataLoader(there, batch_size=2, num_workers=2), []
    for images, _ in loader:
        device.run([images], lambda batch: seen.append(batch.clone()))
        del images
    device.settle()
    assert all((one.int() - two.int()).abs().max() <= 2 for one, (two, _) in zip(seen, here, strict=True))
    assert not device.sanitizer.races
    assert loader._road.destination.pool.num_allocated <= 2 * 2 + 3


def test_an_epoch_that_is_left_gives_its_buffers_back(plain, device, decoder):
    shards = ShardSet.open(plain, device=device, decoder=decoder, transform=train())
    loader = DataLoader(shards, batch_size=2, num_workers=2)
    for _ in range(4):
        next(iter(loader))
    assert len(list(loader)) == 15
    device.settle()
    assert loader._road.pool.num_allocated <= 2 * 2 + 3
    assert not device.sanitizer.races


def test_a_copy_of_the_set_opens_its_own_decoder(plain, device, decoder):
    shards = ShardSet.open(plain, device=device, decoder=decoder, transform=train())
    list(DataLoader(shards, batch_size=16))
    device.settle()
    assert shards.decoding.name.startswith(f"{decoder} ")
    copied = pickle.loads(pickle.dumps(shards.decoding))
    assert copied.name == decoder
    assert copied.reason == shards.decoding.reason


def test_what_makes_the_samples_is_told_with_the_decoder(plain, device, decoder):
    shards = ShardSet.open(plain, device=device, decoder=decoder, transform=train())
    why = "Triton's kernels are for GPUs"
    assert shards.decoding.reason == f"asked for; samples made by torch's operators, image by image ({why})"


def test_threads_are_chosen_by_trials_whose_images_the_device_decodes(plain, device, decoder):
    shards = ShardSet.open(plain, device=device, decoder=decoder, transform=train())
    chosen = suggest(shards, batch_size=8)
    device.settle()
    assert chosen.num_workers >= 1
    assert shards.decoding.name.startswith(f"{decoder} ")  # it was opened
    assert not device.sanitizer.races


def test_single_samples_stay_on_the_host(plain, device, decoder):
    shards = ShardSet.open(plain, device=device, decoder=decoder, transform=transforms.ImageNetValidation(32))
    here = ShardSet.open(plain, device="cpu", transform=transforms.ImageNetValidation(32))
    assert torch.equal(shards[3][0], here[3][0])


class Grey(transforms.ImageNetTrain):
    """Its samples are made in a way of its own."""

    def write(self, pixels, cut, target, scratch):
        raise AssertionError("never asked for")


def test_what_does_not_fit_is_refused_by_name(plain, page_set, device, decoder):
    for options, said in (
        ({"transform": None}, "give transform=ImageNetTrain"),
        ({"transform": Grey()}, "give transform=ImageNetTrain"),
    ):
        with pytest.raises(DecoderError, match=f"decoder '{decoder}' .*{said}"):
            ShardSet.open(plain, **{"device": device, "decoder": decoder, "transform": train(), **options})
    with pytest.raises(DecoderError, match="the set holds no encoded images; leave decoder out"):
        ShardSet.open(page_set.folder, device=device, decoder=decoder)


def test_without_a_gpu_it_works_on_the_cpu_and_says_so(plain, decoder):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    shards = ShardSet.open(plain, decoder=decoder, transform=train())
    assert (shards.device, shards.decoding.reason) == ("auto", "asked for; on the CPU, where batches stay")
    assert len(shards[3][0]) == 3
    assert shards.decoding.name.endswith("(CPU)")


@pytest.mark.twin(
    "test_batches_are_those_of_the_cpus_road_in_every_epoch",
    "test_what_the_device_cannot_decode_the_cpu_does_and_broken_ones_are_left_out",
)
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_gpu_gives_the_batches_of_the_cpus_road(odd, decoder):
    found = []
    for to, name in (("cuda", decoder), ("cpu", "auto")):
        shards = ShardSet.open(odd, device=to, decoder=name, transform=train(dtype=torch.uint8), on_error="skip")
        loader = DataLoader(shards, batch_size=8, shuffle=True, num_workers=2)
        found.append([(images.cpu(), labels.cpu()) for _ in range(2) for images, labels in loader])
    for (images, labels), (right, numbers) in zip(*found, strict=True):
        assert torch.equal(labels, numbers)
        away = (images.int() - right.int()).abs()
        assert away.max() <= 24  # decoders round differently, and upsample colours so
        assert away.float().mean() < 1.0
