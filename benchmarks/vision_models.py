"""Three small networks in the manner of AlexNet, ResNet and MobileNet, and MobileNet v1 itself, for
evaluation_table.py.
"""

from __future__ import annotations

import torch
from torch import nn

CLASSES = 10


def alexnet_like() -> nn.Module:
    """Few wide convolutions, then most of the weights in dense layers."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 7, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(64 * 16, 512),
        nn.ReLU(),
        nn.Linear(512, CLASSES),
    )


class Residual(nn.Module):
    """Two convolutions with normalisation beside an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Their sum."""
        return torch.relu(x + self.body(x))


def resnet_like() -> nn.Module:
    """A stem and four residual blocks."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        *(Residual(32) for _ in range(4)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )


def mobilenet_like() -> nn.Module:
    """Depthwise convolutions, each followed by a pointwise one."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU6()]
    for width in (32, 64, 128):
        layers += [
            nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(),
            nn.Conv2d(width, 2 * width, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU6(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, CLASSES))


WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
"""Channels after each pair of convolutions of MobileNet v1."""
HALVING = (1, 3, 5, 11)
"""Pairs that halve the image's sides."""


def mobilenet_v1(multiplier: float) -> nn.Module:
    """MobileNet v1 with `multiplier` times the channels (A. Howard et al., MobileNets, 2017, table
    1), for images of any size.
    """
    channels = int(32 * multiplier)
    layers = [*_normalised(nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False))]
    for place, wide in enumerate(WIDTHS):
        stride = 2 if place in HALVING else 1
        depthwise = nn.Conv2d(
            channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False
        )
        pointwise = nn.Conv2d(channels, int(wide * multiplier), 1, bias=False)
        layers += [*_normalised(depthwise), *_normalised(pointwise)]
        channels = int(wide * multiplier)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


def _normalised(convolution: nn.Conv2d) -> tuple[nn.Module, ...]:
    return convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU6()
