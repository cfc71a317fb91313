"""What tests of the parts read beside raw images."""

import pytest
import torch

from iobench.storage_bench.generate import GenerateJpeg, generate


@pytest.fixture(scope="session")
def jpeg_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jpeg")
    generate(folder, GenerateJpeg(num_images=8, images_per_shard=4, seed=5))
    return folder


@pytest.fixture
def one_thread():
    """As in a part's own process: with tensors this small threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
