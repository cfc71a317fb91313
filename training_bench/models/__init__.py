"""The convolutional networks that are trained, and what is published of each.

    resnet.py      ResNet-18, -34, -50, -101, -152          (He et al. 2015; v1.5: the stride is in the 3x3)
    classic.py     AlexNet (Krizhevsky 2014), VGG-16 (Simonyan and Zisserman 2014)
    inception.py   GoogLeNet (Szegedy et al. 2014, with batch norm), Inception-v3 (Szegedy et al. 2015)

In training a network with auxiliary heads returns (logits, auxiliary logits ...), each head with its own weight in the
loss; everything else returns logits (B, classes) of images (B, 3, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from torch import nn

ModelName = Literal[
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "alexnet",
    "vgg16",
    "googlenet",
    "inception_v3",
]


class ModelError(ValueError):
    """A network that is not built here, or not for images of this size."""

    exit_status: ClassVar[int] = 2


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A network as published: parameters for 1,000 classes without auxiliary heads, and the side of its images.

    `min_size` is the least side that its layers leave something of; `aux_parameters` counts the heads as well, and
    `aux_weight` is what each head's loss is multiplied by.
    """

    name: ModelName
    title: str
    parameters: int
    size: int
    min_size: int
    aux_parameters: int | None = None
    aux_weight: float = 0.0
    aux_min_size: int = 0


MODELS: dict[str, ModelInfo] = {
    info.name: info
    for info in (
        ModelInfo("resnet18", "ResNet-18", 11_689_512, 224, 32),
        ModelInfo("resnet34", "ResNet-34", 21_797_672, 224, 32),
        ModelInfo("resnet50", "ResNet-50", 25_557_032, 224, 32),
        ModelInfo("resnet101", "ResNet-101", 44_549_160, 224, 32),
        ModelInfo("resnet152", "ResNet-152", 60_192_808, 224, 32),
        ModelInfo("alexnet", "AlexNet", 61_100_840, 224, 63),
        ModelInfo("vgg16", "VGG-16", 138_357_544, 224, 32),
        ModelInfo("googlenet", "GoogLeNet", 6_624_904, 224, 32, 13_004_888, 0.3, 32),
        ModelInfo("inception_v3", "Inception-v3", 23_834_568, 299, 75, 27_161_264, 0.4, 299),
    )
}


def model_info(name: str) -> ModelInfo:
    """What is published of a network; ModelError for a name that is none."""
    if name not in MODELS:
        raise ModelError(f"model {name!r}: choose {', '.join(MODELS)}")
    return MODELS[name]


def check_size(name: str, height: int, width: int, *, aux_heads: bool = False) -> None:
    """Refuse images that a network's layers would leave nothing of."""
    info = model_info(name)
    if aux_heads and info.aux_parameters is None:
        with_heads = ", ".join(other.name for other in MODELS.values() if other.aux_parameters is not None)
        raise ModelError(f"model {name} has no auxiliary heads; leave aux_heads out, or choose {with_heads}")
    least = info.aux_min_size if aux_heads else info.min_size
    if min(height, width) < least:
        raise ModelError(
            f"{info.title}{' with auxiliary heads' if aux_heads else ''} needs images of at least {least}x{least}, not "
            f"{height}x{width}; take larger ones, or another --model"
        )


def build_model(name: str, *, num_classes: int = 1000, aux_heads: bool = False) -> nn.Module:
    """The network with fresh weights from torch's generator; imports torch."""
    from . import classic, inception, resnet

    info = model_info(name)
    if aux_heads and info.aux_parameters is None:
        check_size(name, info.size, info.size, aux_heads=True)
    if name in resnet.LAYERS:
        return resnet.ResNet(name, num_classes=num_classes)
    if name == "alexnet":
        return classic.alexnet(num_classes=num_classes)
    if name == "vgg16":
        return classic.vgg16(num_classes=num_classes)
    if name == "googlenet":
        return inception.GoogLeNet(num_classes=num_classes, aux_heads=aux_heads)
    return inception.InceptionV3(num_classes=num_classes, aux_heads=aux_heads)
