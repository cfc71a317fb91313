"""Networks: parameters as published, shapes, the least images, and that each learns one batch."""

import pytest
import torch

from iobench.training_bench.models import MODELS, ModelError, build_model, check_size

# Published with the weights of each network (1,000 classes); the second with both or the one auxiliary head.
PUBLISHED = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "alexnet": 61_100_840,
    "vgg16": 138_357_544,
    "googlenet": 6_624_904,
    "inception_v3": 23_834_568,
}
PUBLISHED_WITH_HEADS = {"googlenet": 13_004_888, "inception_v3": 27_161_264}


def built(name, **options):
    with torch.device("meta"):  # counts and shapes need no memory
        return build_model(name, **options)


def num_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_network_has_as_many_parameters_as_published(name):
    assert num_parameters(built(name)) == PUBLISHED[name] == MODELS[name].parameters


@pytest.mark.parametrize("name", PUBLISHED_WITH_HEADS)
def test_auxiliary_heads_have_the_published_parameters_too(name):
    assert num_parameters(built(name, aux_heads=True)) == PUBLISHED_WITH_HEADS[name] == MODELS[name].aux_parameters


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_network_gives_one_row_of_logits_per_image_at_its_own_and_at_its_least_size(name):
    model = built(name, num_classes=7).eval()
    for size in (MODELS[name].size, MODELS[name].min_size):
        assert model(torch.empty(2, 3, size, size, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("name", PUBLISHED_WITH_HEADS)
def test_heads_speak_in_training_only(name):
    model = built(name, num_classes=7, aux_heads=True)
    size = MODELS[name].aux_min_size
    images = torch.empty(2, 3, size, size, device="meta")
    answers = model(images)
    assert len(answers) == 1 + len(model.heads)
    assert all(logits.shape == (2, 7) for logits in answers)
    assert model.eval()(images).shape == (2, 7)


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "inception_v3"])
def test_an_image_below_the_least_size_leaves_nothing_for_some_layer(name):
    size = MODELS[name].min_size - 1
    with pytest.raises(RuntimeError):
        built(name).eval()(torch.empty(1, 3, size, size, device="meta"))
    with pytest.raises(ModelError, match=f"at least {size + 1}x{size + 1}, not {size}x300"):
        check_size(name, size, 300)


def test_heads_are_refused_where_there_are_none():
    with pytest.raises(ModelError, match=r"resnet50 has no auxiliary heads.* googlenet, inception_v3"):
        build_model("resnet50", aux_heads=True)


def test_an_unknown_network_is_refused_with_those_that_there_are():
    with pytest.raises(ModelError, match=r"'resnet51': choose resnet18, .* inception_v3"):
        build_model("resnet51")


# Counts of parameters do not see strides; multiply-adds do.  ResNets of v1.5: 4.09e9 for ResNet-50, where He's own,
# with the stride in the 1x1, has 3.8e9.
@pytest.mark.parametrize(
    ("name", "giga"),
    [
        ("resnet18", 1.81),
        ("resnet34", 3.66),
        ("resnet50", 4.09),
        ("resnet101", 7.80),
        ("resnet152", 11.51),
        ("alexnet", 0.71),
        ("vgg16", 15.47),
        ("googlenet", 1.50),
        ("inception_v3", 5.71),
    ],
)
def test_a_network_multiplies_and_adds_as_often_as_published(name, giga):
    from torch.utils.flop_counter import FlopCounterMode

    size = MODELS[name].size
    with FlopCounterMode(display=False) as counter:
        built(name).eval()(torch.empty(1, 3, size, size, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga, abs=0.011)
