"""Transforms take raw pixels as well: by the same definitions and with the same numbers as encoded images."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from iobench.loaders import DataLoader, ShardSet, transforms
from iobench.loaders.images.augment import CROP_NUMBERS, random_resized_crop, uniforms
from iobench.loaders.transforms import TransformError
from iobench.storage_bench.generate import Generate, generate

SIZE = 24


def by_pillow(image, numbers):
    """A training sample of uint8, with Pillow for the pixels."""
    source = Image.fromarray(image)
    piece = random_resized_crop(source.height, source.width, numbers, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    box = (piece.left, piece.top, piece.left + piece.width, piece.top + piece.height)
    cut = source.crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(ImageOps.mirror(cut) if numbers[-1] < 0.5 else cut).astype(int)


def samples(loader):
    return [image for images, _ in loader for image in images]


@pytest.mark.parametrize("engine", ["buffered", "direct", "mmap"])
@pytest.mark.parametrize("threads", [0, 2])
def test_a_raw_set_gives_the_samples_that_pillow_makes(any_set, engine, threads, direct_io):
    transform = transforms.ImageNetTrain(SIZE, dtype=torch.uint8)
    shards = ShardSet.open(any_set.folder, transform=transform, seed=5, engine=engine)
    loader = DataLoader(shards, batch_size=16, shuffle=True, num_workers=threads)
    drawn, seen = uniforms(5, 0, np.arange(len(any_set)), CROP_NUMBERS + 1).tolist(), set()
    order = [int(record) for batch in loader._index_sampler for record in batch]
    loader.set_epoch(0)
    for image, record in zip(samples(loader), order, strict=True):
        got = image.permute(1, 2, 0).numpy().astype(int)
        assert np.abs(got - by_pillow(any_set.images[record], drawn[record])).max() <= 1
        seen.add(record)
    assert len(seen) == len(any_set)
    shards.close()


def test_raw_samples_are_normalised_and_laid_out_as_encoded_ones(page_set):
    shards = ShardSet.open(page_set.folder, transform=transforms.ImageNetValidation(32, resize=35))
    images, labels = next(iter(DataLoader(shards, batch_size=10)))
    assert images.shape == (10, 3, 32, 32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.tolist() == page_set.labels[:10].tolist()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    wanted = (page_set.images[:10, 2:34, 2:34] / 255 - mean) / std  # 35 is not resized; round(1.5) is 2
    assert np.abs(images.permute(0, 2, 3, 1).double().numpy() - wanted).max() < 1e-5


def test_a_sample_is_the_same_whatever_batches_threads_and_engines(odd_set):
    def labelled(**options):
        engine = options.pop("engine", "buffered")
        shards = ShardSet.open(odd_set.folder, transform=transforms.ImageNetTrain(16), seed=1, engine=engine)
        loader = DataLoader(shards, shuffle=True, **options)
        return {image.numpy().tobytes() for image in samples(loader)}

    wanted = labelled(batch_size=7, num_workers=2)
    assert len(wanted) == len(odd_set)
    assert labelled(batch_size=33) == wanted
    assert labelled(batch_size=10, num_workers=3, engine="mmap") == wanted


def test_tensor_shards_are_taken_too(tmp_path):
    generate(tmp_path / "set", Generate(num_images=8, size=20, images_per_shard=4, format="tensors"))
    plain = ShardSet.open(tmp_path / "set")
    cut = ShardSet.open(tmp_path / "set", transform=transforms.ImageNetValidation(20, resize=20, dtype=torch.uint8))
    for (image, label), (sample, same) in zip(plain, cut, strict=True):
        assert torch.equal(image, sample)
        assert label == same


def test_arrays_of_unequal_size_are_taken_too(tmp_path):
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (30 + number, 40, 3), dtype=np.uint8) for number in range(4)]
    for number, image in enumerate(images):
        np.savez(tmp_path / f"{number}.npz", x=image, y=np.array([number]))
    shards = ShardSet.open(tmp_path, transform=transforms.ImageNetValidation(24, resize=30, dtype=torch.uint8))
    batch, _ = next(iter(DataLoader(shards, batch_size=4, num_workers=1)))
    for image, source in zip(batch, images, strict=True):
        height, width = source.shape[:2]
        resized = Image.fromarray(source).resize((int(30 * width / height), 30), Image.Resampling.BILINEAR)
        left, top = round((resized.width - 24) / 2), round((resized.height - 24) / 2)
        wanted = np.asarray(resized)[top : top + 24, left : left + 24].astype(int)
        assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(("shape", "dtype"), [((8, 9, 1), "uint8"), ((8, 9, 3), "float32")])
def test_samples_that_are_no_rgb_pixels_are_refused(tmp_path, shape, dtype):
    array = np.zeros((4, *shape), dtype)
    (tmp_path / "a.tensors").write_bytes(array.tobytes())
    with pytest.raises(TransformError, match=r"takes encoded images or pixels of uint8 \(H, W, 3\), and a.tensors"):
        ShardSet.open(tmp_path, shape=shape, dtype=dtype, transform=transforms.ImageNetTrain(8))
