"""How long a model takes, from its parts alone: cut three models into bricks, run each unique brick
once, and compare.

    python examples/shared_bricks.py

Takes half a minute on a CPU.
"""

from __future__ import annotations

import torch
from torch import nn

import xsp


def residual_network(blocks: int) -> tuple[nn.Module, torch.Tensor]:
    """Convolutions with shortcuts; networks of other depths share almost every brick."""
    return Residual(blocks).eval(), torch.randn(1, 3, 64, 64)


class Residual(nn.Module):
    """A stem, equal residual blocks and a head."""

    def __init__(self, blocks: int, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.BatchNorm2d(width),
            )
            for _ in range(blocks)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N, 10) of images (N, 3, H, W)."""
        y = self.stem(x)
        for block in self.blocks:
            y = torch.relu(y + block(y))
        output: torch.Tensor = self.head(y.mean((2, 3)))
        return output


if __name__ == "__main__":
    found = xsp.bricks(
        *(residual_network(blocks) for blocks in (2, 4, 8)),
        names=["2 blocks", "4 blocks", "8 blocks"],
        granularity=(1, 3),
        budget_s=20,
        threads=1,
        database="bricks.sqlite",
    )
    columns = ["model", "granularity", "rule", "measured_ms", "constructed_ms", "normalised"]
    print(found.models[columns].to_string(index=False))
    print(found.pools.to_string(index=False))
    print(found.leave_one_out().to_string(index=False))
    print(f"figures: {found.to_html('bricks.html')}")
