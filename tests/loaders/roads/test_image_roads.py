"""The roads over encoded images give the same samples: ours, torch's loader with Pillow, and DALI's pipeline."""

import io

import numpy as np
import pytest
from PIL import Image

from iobench.loaders.formats.example import encode_example
from iobench.loaders.formats.tfrecord import frame
from iobench.loaders.images.opening import open_decoder
from iobench.loaders.roads.baselines import candidates, missing, open_road
from iobench.loaders.roads.road import RoadError, RoadOptions, TimedRoad

NUM, BATCH, SIZE = 12, 4, 56
STD = np.array([0.229, 0.224, 0.225])


def smooth(height, width, seed):
    """Slow waves: what roads may do differently by half a pixel shows little."""
    rows, columns = np.mgrid[:height, :width].astype(float)
    waves = [np.sin(rows / 31 + columns / 43 + seed + channel) for channel in range(3)]
    return Image.fromarray((128 + 100 * np.stack(waves, axis=-1)).astype(np.uint8))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jpegs")
    records = []
    for number in range(NUM):
        target = io.BytesIO()
        smooth(*[(150, 200), (200, 150), (160, 160)][number % 3], number).save(target, "JPEG", quality=95)
        features = {"image/encoded": target.getvalue(), "image/class/label": number, "image/format": b"JPEG"}
        records.append(frame(encode_example(features, padded_varints=False)))
    for shard in range(2):
        (folder / f"part-{shard}.tfrecord").write_bytes(b"".join(records[shard * 6 : shard * 6 + 6]))
    return sorted(folder.glob("*.tfrecord"))


def first_epoch(name, shards, options):
    """The samples of an epoch in the order they came, (n, H, W, C), and their labels."""
    if reason := missing(name):
        pytest.skip(reason)
    road = open_road(name, shards, options)
    batches, images, labels = road.batches(), [], []
    try:
        while len(labels) < NUM:
            some, numbers = next(batches)
            assert some.dtype == np.float32
            images.extend((some if some.shape[-1] == 3 else some.transpose(0, 2, 3, 1)).copy())
            labels.extend(numbers.tolist())
    finally:
        batches.close()
        road.close()
    return np.stack(images), labels


@pytest.mark.parametrize("name", ["torch", "dali"])
def test_validation_samples_of_other_roads_are_ours(name, shards):
    options = RoadOptions(batch_size=BATCH, transform="validation", image_size=SIZE)
    ours, labels = first_epoch("iobench", shards, options)
    theirs, others = first_epoch(name, shards, options)
    assert labels == others == list(range(NUM))
    assert ours.shape == theirs.shape == (NUM, SIZE, SIZE, 3)
    levels = np.abs(ours - theirs) * 255 * STD
    if name == "torch":
        assert levels.max() < 1.01
    assert levels[2::3].mean() < 1.5  # of the square ones
    assert levels.mean() < 6  # where sides are odd, DALI begins its piece at half a pixel


@pytest.mark.parametrize("name", ["iobench", "torch", "dali"])
@pytest.mark.parametrize("shuffle", ["off", "records"])
def test_training_samples_are_of_one_size_and_come_once_an_epoch(name, shuffle, shards):
    options = RoadOptions(batch_size=BATCH, transform="train", image_size=SIZE, shuffle=shuffle)
    images, labels = first_epoch(name, shards, options)
    assert images.shape == (NUM, SIZE, SIZE, 3)
    assert sorted(labels) == list(range(NUM))
    assert -2.2 < images.min() < images.max() < 2.7  # of 0 and 255, normalised
    assert images.std() > 0.5


@pytest.mark.parametrize("name", ["torch", "dali"])
def test_every_way_to_take_a_road_gives_every_image(name, shards):
    options = RoadOptions(batch_size=BATCH, transform="validation", image_size=24, threads=1)
    for way in candidates(name, options):
        assert first_epoch(name, shards, way)[1] == list(range(NUM))


def test_our_road_tells_what_its_threads_do(shards):
    road = open_road("iobench", shards, RoadOptions(batch_size=BATCH, transform="train", image_size=SIZE))
    assert isinstance(road, TimedRoad)
    batches = road.batches()
    for _ in range(3):
        next(batches)
    spent = road.hop_seconds()
    found, reason = open_decoder("auto")
    assert spent.keys() == {"read", "decode", "augment", "read_queue", "decode_queue", "ready"}
    assert min(spent[hop] for hop in ("read", "decode", "augment")) > 0
    assert road.decoder() == (found.name, reason)
    batches.close()
    road.close()


def test_what_does_not_go_together_is_refused(shards, page_set):
    wanted = RoadOptions(transform="train")
    with pytest.raises(RoadError, match="road preadv: it decodes no images; compare with torch or dali"):
        open_road("preadv", shards, wanted)
    with pytest.raises(RoadError, match="samples are no encoded images"):
        open_road("torch", page_set.shards, wanted)
    with pytest.raises(RoadError, match="samples of unequal size are not compared"):
        open_road("torch", shards, RoadOptions())
