"""ResNet-50 v1.5 inference in plain PyTorch.

Run it (`python examples/resnet50.py`), or hand it to the command line
(`xsp profile examples/resnet50.py`), which calls `target()`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import xsp

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.float16 if DEVICE == "cuda" else torch.float32
BATCH = 32 if DEVICE == "cuda" else 1
IMAGE = 224


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut; v1.5 puts the stride on the 3x3."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(channels, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out_channels, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, 4 * width, H / stride, W / stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out)) + identity
        return self.relu(out)  # type: ignore[no-any-return]


class ResNet50(nn.Module):
    """Deep Residual Learning (He et al., 2016), table 1, 50 layers."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = self._stage(64, width=64, blocks=3, stride=1)
        self.layer2 = self._stage(256, width=128, blocks=4, stride=2)
        self.layer3 = self._stage(512, width=256, blocks=6, stride=2)
        self.layer4 = self._stage(1024, width=512, blocks=3, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2048, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
        first = Bottleneck(channels, width, stride)
        rest = (
            Bottleneck(width * Bottleneck.expansion, width, stride=1) for _ in range(blocks - 1)
        )
        return nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to class scores (N, classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))  # type: ignore[no-any-return]


def target(
    batch: int = BATCH, dtype: torch.dtype = DTYPE, device: str = DEVICE, image: int = IMAGE
) -> tuple[nn.Module, tuple[Tensor]]:
    """The model, ready for inference, and its inputs: images of shape (batch, 3, image, image)."""
    model = ResNet50().eval().requires_grad_(False).to(device, dtype)
    return model, (torch.randn(batch, 3, image, image, device=device, dtype=dtype),)


def main() -> None:
    """Profile the model, print the profile and save it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument(
        "--image", type=int, default=IMAGE, help="height and width of the images, in pixels"
    )
    parser.add_argument(
        "--dtype", default=str(DTYPE).removeprefix("torch."), help="float16, bfloat16 or float32"
    )
    parser.add_argument("--device", default=DEVICE)
    parser.add_argument(
        "--budget-s", type=float, default=30.0, help="seconds for the rounds of runs"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("resnet50.xsp"), help="where to save the capture"
    )
    arguments = parser.parse_args()

    dtype = getattr(torch, arguments.dtype)
    model, inputs = target(arguments.batch, dtype, arguments.device, arguments.image)
    with xsp.profile(model, budget_s=arguments.budget_s) as prof:
        model(*inputs)
    print(prof)
    prof.save(arguments.output)


if __name__ == "__main__":
    main()
