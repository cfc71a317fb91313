"""GoogLeNet and Inception-v3: blocks of parallel branches, whose outputs are stacked as channels.

      .-- 1x1 ------------------.
x ----+-- 1x1 -- 3x3 -----------+-- channels of all branches
      +-- 1x1 -- 3x3 -- ... ----+
      `-- pool -- 1x1 ----------'
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_Kernel = int | tuple[int, int]


class Branches(nn.Module):
    """Several ways from one input, stacked as channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, the branches' channels, H', W')."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class _WithHeads(nn.Module):
    """A trunk in parts; in training each auxiliary head sees what the part before it gave."""

    def __init__(self, parts: Iterable[nn.Module], heads: Iterable[nn.Module], classifier: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.heads = nn.ModuleList(heads)
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits (B, classes); in training, with heads, (logits, logits of each head)."""
        aux: list[Tensor] = []
        for number, part in enumerate(self.parts):
            x = part(x)
            if self.training and number < len(self.heads):
                aux.append(self.heads[number](x))
        logits: Tensor = self.classifier(x)
        return (logits, *aux) if aux else logits


class GoogLeNet(_WithHeads):
    """GoogLeNet with batch norm.  Its "5x5" is a 3x3, as in the weights and counts that everyone publishes."""

    def __init__(self, *, num_classes: int = 1000, aux_heads: bool = False) -> None:
        stem = [
            conv(3, 64, 7, stride=2, padding=3),
            _halve(),
            conv(64, 64, 1),
            conv(64, 192, 3, padding=1),
            _halve(),
        ]
        until_4a = [
            _google(192, 64, 96, 128, 16, 32, 32),
            _google(256, 128, 128, 192, 32, 96, 64),
            _halve(),
            _google(480, 192, 96, 208, 16, 48, 64),
        ]
        until_4d = [
            _google(512, 160, 112, 224, 24, 64, 64),
            _google(512, 128, 128, 256, 24, 64, 64),
            _google(512, 112, 144, 288, 32, 64, 64),
        ]
        rest = [
            _google(528, 256, 160, 320, 32, 128, 128),
            nn.MaxPool2d(2, stride=2, ceil_mode=True),
            _google(832, 256, 160, 320, 32, 128, 128),
            _google(832, 384, 192, 384, 48, 128, 128),
        ]
        super().__init__(
            [nn.Sequential(*stem, *until_4a), nn.Sequential(*until_4d), nn.Sequential(*rest)],
            [_google_head(channels, num_classes) for channels in (512, 528)] if aux_heads else [],
            _classifier(1024, num_classes, dropout=0.2),
        )
        _initialise(self)


class InceptionV3(_WithHeads):
    """Inception-v3, for images of 299x299."""

    def __init__(self, *, num_classes: int = 1000, aux_heads: bool = False) -> None:
        stem = [
            conv(3, 32, 3, stride=2),
            conv(32, 32, 3),
            conv(32, 64, 3, padding=1),
            nn.MaxPool2d(3, stride=2),
            conv(64, 80, 1),
            conv(80, 192, 3),
            nn.MaxPool2d(3, stride=2),
        ]
        until_17 = [_inception_a(192, 32), _inception_a(256, 64), _inception_a(288, 64), _inception_b()]
        at_17 = [_inception_c(128), _inception_c(160), _inception_c(160), _inception_c(192)]
        at_8 = [_inception_d(), _inception_e(1280), _inception_e(2048)]
        super().__init__(
            [nn.Sequential(*stem, *until_17, *at_17), nn.Sequential(*at_8)],
            [_v3_head(num_classes)] if aux_heads else [],
            _classifier(2048, num_classes, dropout=0.5),
        )
        _initialise(self)


def conv(channels: int, width: int, kernel: _Kernel, *, stride: int = 1, padding: _Kernel = 0) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    convolution = nn.Conv2d(channels, width, kernel, stride=stride, padding=padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width, eps=0.001), nn.ReLU(inplace=True))


def _halve() -> nn.Module:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


def _classifier(channels: int, num_classes: int, *, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, num_classes))


def _google(channels: int, one: int, before_3: int, three: int, before_5: int, five: int, pooled: int) -> Branches:
    return Branches(
        conv(channels, one, 1),
        nn.Sequential(conv(channels, before_3, 1), conv(before_3, three, 3, padding=1)),
        nn.Sequential(conv(channels, before_5, 1), conv(before_5, five, 3, padding=1)),
        nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), conv(channels, pooled, 1)),
    )


def _google_head(channels: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(4),
        conv(channels, 128, 1),
        nn.Flatten(),
        nn.Linear(128 * 4 * 4, 1024),
        nn.ReLU(inplace=True),
        nn.Dropout(0.7),
        nn.Linear(1024, num_classes),
    )


def _v3_head(num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.AvgPool2d(5, stride=3),
        conv(768, 128, 1),
        conv(128, 768, 5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(768, num_classes),
    )


def _pooled(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1), conv(channels, width, 1))


def _inception_a(channels: int, pooled: int) -> Branches:
    """35x35: 5x5, and two 3x3 behind each other."""
    return Branches(
        conv(channels, 64, 1),
        nn.Sequential(conv(channels, 48, 1), conv(48, 64, 5, padding=2)),
        nn.Sequential(conv(channels, 64, 1), conv(64, 96, 3, padding=1), conv(96, 96, 3, padding=1)),
        _pooled(channels, pooled),
    )


def _inception_b() -> Branches:
    """35x35 -> 17x17."""
    return Branches(
        conv(288, 384, 3, stride=2),
        nn.Sequential(conv(288, 64, 1), conv(64, 96, 3, padding=1), conv(96, 96, 3, stride=2)),
        nn.MaxPool2d(3, stride=2),
    )


def _inception_c(width: int) -> Branches:
    """17x17: 7x7 as 1x7 and 7x1, once and twice."""
    return Branches(
        conv(768, 192, 1),
        nn.Sequential(conv(768, width, 1), _wide(width, width, 7), _tall(width, 192, 7)),
        nn.Sequential(
            conv(768, width, 1),
            _tall(width, width, 7),
            _wide(width, width, 7),
            _tall(width, width, 7),
            _wide(width, 192, 7),
        ),
        _pooled(768, 192),
    )


def _inception_d() -> Branches:
    """17x17 -> 8x8."""
    return Branches(
        nn.Sequential(conv(768, 192, 1), conv(192, 320, 3, stride=2)),
        nn.Sequential(conv(768, 192, 1), _wide(192, 192, 7), _tall(192, 192, 7), conv(192, 192, 3, stride=2)),
        nn.MaxPool2d(3, stride=2),
    )


def _inception_e(channels: int) -> Branches:
    """8x8: 1x3 beside 3x1, twice."""
    return Branches(
        conv(channels, 320, 1),
        nn.Sequential(conv(channels, 384, 1), Branches(_wide(384, 384, 3), _tall(384, 384, 3))),
        nn.Sequential(
            conv(channels, 448, 1),
            conv(448, 384, 3, padding=1),
            Branches(_wide(384, 384, 3), _tall(384, 384, 3)),
        ),
        _pooled(channels, 192),
    )


def _wide(channels: int, width: int, length: int) -> nn.Sequential:
    return conv(channels, width, (1, length), padding=(0, length // 2))


def _tall(channels: int, width: int, length: int) -> nn.Sequential:
    return conv(channels, width, (length, 1), padding=(length // 2, 0))


def _initialise(model: nn.Module) -> None:
    """He's initialisation: the truncated normals of the papers with batch norm behind every convolution."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
