"""AlexNet and VGG-16: convolutions, then three large linear layers that hold most of the parameters."""

from __future__ import annotations

from torch import nn

# Width of each 3x3 convolution of VGG's configuration D; None is a 2x2 max pool.
_VGG16 = (64, 64, None, 128, 128, None, 256, 256, 256, None, 512, 512, 512, None, 512, 512, 512, None)


def alexnet(*, num_classes: int = 1000) -> nn.Sequential:
    """AlexNet in one column (Krizhevsky 2014, "One weird trick"): five convolutions."""
    features = [
        *_conv(3, 64, 11, stride=4, padding=2),
        nn.MaxPool2d(3, stride=2),
        *_conv(64, 192, 5, padding=2),
        nn.MaxPool2d(3, stride=2),
        *_conv(192, 384, 3, padding=1),
        *_conv(384, 256, 3, padding=1),
        *_conv(256, 256, 3, padding=1),
        nn.MaxPool2d(3, stride=2),
    ]
    head = [
        nn.Dropout(),
        nn.Linear(256 * 6 * 6, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Linear(4096, num_classes),
    ]
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(6), nn.Flatten(), *head)


def vgg16(*, num_classes: int = 1000) -> nn.Sequential:
    """VGG-16 (configuration D), without batch norm: thirteen 3x3 convolutions."""
    features: list[nn.Module] = []
    channels = 3
    for width in _VGG16:
        if width is None:
            features.append(nn.MaxPool2d(2))
        else:
            features += _conv(channels, width, 3, padding=1)
            channels = width
    head = [
        nn.Linear(512 * 7 * 7, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, num_classes),
    ]
    model = nn.Sequential(*features, nn.AdaptiveAvgPool2d(7), nn.Flatten(), *head)
    for module in model:
        if isinstance(module, nn.Conv2d):  # thirteen layers without batch norm do not start from torch's default
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    return model


def _conv(channels: int, width: int, kernel: int, *, stride: int = 1, padding: int = 0) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, kernel, stride=stride, padding=padding), nn.ReLU(inplace=True)]
