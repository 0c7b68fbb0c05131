"""Traces of torch.profiler for tests of imports, and what profiles of them hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import xsp
import xsp.analysis


class Net(nn.Module):
    """A block of two layers and a functional call, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.block(x) + x)
        return output


def recorded(path: Path, work: Callable[[], object], **options: Any) -> xsp.Profile:
    """What torch.profiler records of `work` on the CPU, imported."""
    with profile(activities=[ProfilerActivity.CPU], **options) as prof:
        work()
    prof.export_chrome_trace(str(path))
    return xsp.from_kineto(path)


def layers(prof: xsp.Profile) -> pd.DataFrame:
    """Layers of the tree by name and phase."""
    tree = prof.tree()
    return tree[tree["level"] == "LAYER"].set_index(["name", "phase"])


def nodes(prof: xsp.Profile) -> pd.DataFrame:
    """The tree with a row per layer, without the rows for own time."""
    tree = prof.tree(pooled=True)
    return tree[tree["level"] != "OWN"]
