"""A training step in mixed precision, and what runs within its parts: by torch.profiler, and in a
profile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, AdamW, Optimizer
from torch.profiler import record_function

import xsp
from xsp.analysis.spans.ancestors import nearest
from xsp.types import Level

Event = dict[str, Any]
Step = Callable[[], None]
MakeOptimizer = Callable[[Any], Optimizer]

OPTIMIZERS: dict[str, MakeOptimizer] = {
    "fused": lambda given: AdamW(given, fused=True),
    "foreach": lambda given: AdamW(given, foreach=True),
    "single tensor": lambda given: SGD(given, lr=0.1, momentum=0.9, foreach=False),
}

SCALING = ["GradScaler.scale", "GradScaler.unscale_", "GradScaler.step", "GradScaler.update"]

_RANGE_OF_TORCH = ("Optimizer.step#", "Optimizer.zero_grad#")
"""How ranges that torch itself opens begin; the rest is what xsp calls the part."""


def mixed_precision(make: MakeOptimizer, device: str) -> Step:
    """A step under autocast, with its loss scaled and its gradients clipped; `record_function`
    ranges are around what torch opens none for.
    """
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 8 * 8, 10),
    ).to(device)
    # Larger, and steps are left out until it has shrunk.
    scaler = torch.amp.GradScaler(device, init_scale=16.0)
    optimizer = make(model.parameters())
    x, labels = torch.randn(8, 3, 8, 8), torch.randint(10, (8,), device=device)
    half = torch.float16 if device == "cuda" else torch.bfloat16

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        with torch.autocast(device, half):
            loss = nn.functional.cross_entropy(model(x.to(device)), labels)
        with record_function("GradScaler.scale"):
            scaled = scaler.scale(loss)
        scaled.backward()
        with record_function("GradScaler.unscale_"):
            scaler.unscale_(optimizer)
        with record_function("clip_grad_norm_"):
            clip_grad_norm_(model.parameters(), 1.0)
        with record_function("GradScaler.step"):
            scaler.step(optimizer)
        with record_function("GradScaler.update"):
            scaler.update()

    return step


def counted_by_torch(events: Collection[Event], begun: Iterable[Event]) -> Counter[str]:
    """How many of those that began on the host lie in which part, by the innermost range around
    them on their thread; "" for none.
    """
    ranges = [event for event in events if event.get("cat") == "user_annotation"]
    return Counter(_part_around(each, ranges) for each in begun)


def _part_around(event: Event, ranges: Iterable[Event]) -> str:
    around = [
        each
        for each in ranges
        if each["tid"] == event["tid"] and 0 <= event["ts"] - each["ts"] <= each["dur"]
    ]
    if not around:
        return ""
    name = str(max(around, key=lambda each: float(each["ts"]))["name"])
    return name.rpartition("#")[2] if name.startswith(_RANGE_OF_TORCH) else name


def counted_by_xsp(prof: xsp.Profile, level: Level) -> list[Counter[str]]:
    """How many spans of a level lie in which part, of each run that traced it; those in backward
    work and in layers count as in none.
    """
    raw, layers = prof.table("raw_spans"), prof.table("layers")
    levels, parent = raw["level"].to_numpy(), raw["parent"].to_numpy()
    is_part = (layers["kind"] == "range") & (layers["phase"] == "forward")
    part = layers["name"].astype(str).where(is_part, "").to_numpy(dtype=str)
    rows = np.flatnonzero(levels == level)
    above = nearest(parent, levels <= Level.LAYER, parent[rows])
    in_layer = levels[above] == Level.LAYER
    names = np.where(in_layer, part[np.where(in_layer, raw["detail"].to_numpy()[above], 0)], "")
    runs = raw["run"].to_numpy()[rows]
    return [Counter(names[runs == run].tolist()) for run in np.unique(runs)]
