"""The roads of the check give the data's own bytes, on the device, for ever."""

import itertools
from contextlib import closing

import numpy as np
import pytest
import torch

from iobench.gpu_check.bare import BareLoop
from iobench.gpu_check.device import Device
from iobench.gpu_check.roads import DaliRoad, OurRoad, TorchRoad

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_gpu])]


@pytest.fixture(params=DEVICES)
def device(request):
    return Device(request.param)


def first_images(road, count):
    """The first `count` batches as (n, H, W, C), wherever they lie."""
    found = []
    with closing(road):
        for batch in itertools.islice(road.batches(), count):
            images = batch if batch.shape[-1] == 3 else batch.permute(0, 2, 3, 1)
            found.append(images.cpu().numpy().copy())
    return np.concatenate(found)


def test_our_road_goes_on_behind_the_last_image_without_a_seam(page_set, device):
    road = OurRoad(page_set.folder, device, batch_size=50, threads=2, shuffle_mode="off")
    found = first_images(road, 6)
    np.testing.assert_array_equal(found, np.concatenate([page_set.images] * 3)[:300])


def test_torchs_road_gives_the_same_images(page_set, device):
    found = first_images(TorchRoad(page_set.folder, device, batch_size=26, workers=0), 5)
    np.testing.assert_array_equal(found, page_set.images)


def test_dalis_road_gives_the_same_images(page_set, device):
    pytest.importorskip("nvidia.dali", reason="DALI is not installed (`make setup-test` installs it)")
    found = first_images(DaliRoad(page_set.folder, device, batch_size=26, threads=1), 5)
    np.testing.assert_array_equal(found, page_set.images)


def test_the_bare_loop_brings_the_files_own_bytes_to_the_device(page_set, device):
    loop = BareLoop(page_set.shards[:1], device, span_bytes=page_set.shards[0].stat().st_size, threads=1)
    loop.run(0.0)
    device.synchronize()
    assert loop._hands[0]._targets[0].cpu().numpy().tobytes() == page_set.shards[0].read_bytes()
    loop.close()
