"""The network that answers: its weights, its pixels, and what is refused."""

import numpy as np
import pytest
import torch

from iobench.training_bench.infer.network import NetworkStep
from iobench.training_bench.infer.plan import InferError, InferUsageError, Network
from iobench.training_bench.infer.run import checkpoint_of
from iobench.training_bench.models import build_model

MEAN, DEVIATION = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])


def make_network(weights=None, **more):
    settings = {"precision": "fp32", "crop": 32, "channels_last": False, "threads": 1, "seed": 1, **more}
    return Network(model="resnet18", device="cpu", num_classes=10, weights=weights, **settings)


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(9)
    model = build_model("resnet18", num_classes=10)
    path = tmp_path / "step-00000007.pt"
    torch.save({"model": model.state_dict(), "step": 7}, path)
    return path, model.eval()


@pytest.mark.parametrize("channels_last", [False, True])
def test_answers_are_those_of_the_saved_weights_on_the_centre_of_each_image(checkpoint, channels_last):
    path, model = checkpoint
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 36, 3), dtype=np.uint8)
    step = NetworkStep(make_network(str(path), channels_last=channels_last), local_rank=0)
    pixels = (torch.from_numpy(images[:, 4:36, 2:34].copy()).float() - MEAN) / DEVIATION
    with torch.no_grad():
        expected = model(pixels.permute(0, 3, 1, 2)).argmax(1)
    assert step.answers(images, torch.float32).tolist() == expected.tolist()
    assert step.agreeing(images) == (3, 3)  # fp32 with itself


def test_weights_of_another_network_or_no_checkpoint_at_all_are_refused(tmp_path, checkpoint):
    path, _ = checkpoint
    other = make_network(str(path)).model_copy(update={"num_classes": 11})
    with pytest.raises(InferError, match=r"no fc\.weight of shape"):
        NetworkStep(other, local_rank=0)
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"not a checkpoint")
    with pytest.raises(InferError, match="not a checkpoint of iobench train"):
        NetworkStep(make_network(str(broken)), local_rank=0)


def test_a_folder_of_checkpoints_stands_for_its_last_one(tmp_path, checkpoint):
    path, _ = checkpoint
    (tmp_path / "step-00000003.pt").write_bytes(b"")
    assert checkpoint_of(tmp_path) == path
    assert checkpoint_of(path) == path
    with pytest.raises(InferUsageError, match="there is no checkpoint"):
        checkpoint_of(tmp_path / "nothing")
