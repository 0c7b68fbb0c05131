"""Two small networks for scikit-learn's handwritten digits, and the digits that they are tested on.

The manifests of evaluate.py name the functions of this file.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

TRAINING = 1200
"""Digits to train on; the other 597 are tested."""


def cnn() -> nn.Module:
    """Two convolutions and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


def mlp() -> nn.Module:
    """Two linear layers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def test_digits() -> dict[str, np.ndarray]:
    """Images of height, width and one channel, 0 to 16, and what they show."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images[TRAINING:].astype(np.uint8)[..., None]
    return {"image": images, "label": digits.target[TRAINING:].astype(np.int64)}


def trained(model: nn.Module, epochs: int) -> nn.Module:
    """The model after some passes over the digits to train on."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.tensor(digits.images[:TRAINING], dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(digits.target[:TRAINING])
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(TRAINING).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(pixels[rows]), labels[rows]).backward()
            optimizer.step()
    return model.eval()
