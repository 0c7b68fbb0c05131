"""Three small networks in the manner of AlexNet, ResNet and MobileNet, for evaluation_table.py."""

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
