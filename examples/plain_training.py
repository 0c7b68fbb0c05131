"""A training script that knows nothing of xsp, to be profiled as it is.

    xsp run examples/plain_training.py --steps 100

The batches are random, so the loss says nothing.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

CLASSES = 10


def network() -> nn.Module:
    """Two convolutions and a classifier, for images of 32 by 32 pixels."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, CLASSES),
    )


def main() -> None:
    """Train for some steps and print the last loss."""
    parser = argparse.ArgumentParser(description="Train a small network on random images.")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    model = network().to(given.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    loss = torch.zeros(())
    for _ in range(given.steps):
        images = torch.randn(given.batch, 3, 32, 32, device=given.device)
        labels = torch.randint(CLASSES, (given.batch,), device=given.device)
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.3f} after {given.steps} steps")


if __name__ == "__main__":
    main()
