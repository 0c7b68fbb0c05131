"""Where bricks occur in models, and what they read there: real inputs, the model's own weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from xsp.brickwork.cutting import Brick
from xsp.brickwork.model import Model
from xsp.brickwork.network import built, call_with, described, fresh
from xsp.brickwork.rounds import Runnable
from xsp.graphs.layer import Layer

MOST = 4
"""Occurrences of one brick whose weights are rotated. More would need more memory, and four already
keep the last one's weights out of the nearest caches."""


@dataclass(eq=False)
class Occurrences:
    """One brick where it occurs: `inputs` and `weights` by occurrence, `values` what the numbers of
    the first are like (`network.described`).
    """

    layer: Layer
    inputs: list[list[Tensor]] = field(default_factory=list)
    weights: list[list[Tensor]] = field(default_factory=list)
    values: list[dict[str, float]] = field(default_factory=list)

    @property
    def facts(self) -> dict[str, Any]:
        """The description that `network.built` takes."""
        found: dict[str, Any] = json.loads(self.layer.key)
        return found

    def runnable(self, device: str, *, trained: bool = False, clock: Callable[[], int]) -> Runnable:
        """Networks that can be timed by a clock that gives ns, one for each occurrence.

        Raises whatever a network raises that cannot be built.
        """
        network = built(self.facts, self.weights[0], device)
        calls = [call_with(network, each) for each in self.weights]
        weights = self.weights if trained else None
        return Runnable(calls, self.inputs, weights, waiting(device), clock)


def waiting(device: str) -> Callable[[], None] | None:
    """What waits for a device; None where a call and its work are one."""
    return torch.cuda.synchronize if device == "cuda" else None


def occurrences_in(model: Model, bricks: Iterable[Brick]) -> dict[str, Occurrences]:
    """By digest, the bricks with real inputs: the model is run once, layer by layer. A brick that
    occurs more than `MOST` times is taken from places all over the model.
    """
    every: dict[str, list[Brick]] = {}
    for brick in bricks:
        every.setdefault(brick.layer.digest, []).append(brick)
    wanted: dict[int, list[Brick]] = {}
    for same in every.values():
        for brick in spread(same):
            wanted.setdefault(brick.begin, []).append(brick)
    found: dict[str, Occurrences] = {}
    with torch.no_grad():
        for place, values in model.run():
            for brick in wanted.get(place, []):
                own = found.setdefault(brick.layer.digest, Occurrences(brick.layer))
                _add(own, brick, values, copied=model.work.grad)
    return found


def spread(bricks: Sequence[Brick]) -> list[Brick]:
    """`MOST` of them at most, from places all over the model."""
    step = max(len(bricks) / MOST, 1.0)
    return [bricks[int(number * step)] for number in range(min(len(bricks), MOST))]


def _add(own: Occurrences, brick: Brick, values: Mapping[Any, Any], *, copied: bool) -> None:
    inputs = [fresh(values[node]) for node in brick.inputs]
    weights = [_weight(values[node], copied=copied) for node in brick.weights]
    if not own.inputs:
        own.values = [described(each) for each in (*inputs, *weights)]
    own.inputs.append(inputs)
    own.weights.append(weights)


def _weight(tensor: Tensor, *, copied: bool) -> Tensor:
    """Parameters as they are; a buffer that training writes to as a copy."""
    return fresh(tensor) if copied and not isinstance(tensor, nn.Parameter) else tensor
