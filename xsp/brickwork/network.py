"""A brick as a network that runs: from its description in plain JSON to a module of torch.

A description has the types of inputs and weights and the operators, and nothing of a model: no
names, no weights. This module needs torch only, so that an exported package can carry it along.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from math import prod
from types import MethodType
from typing import Any

import torch
from torch import Tensor, fx, nn

GETITEM = "getitem"
"""The operator that takes one of several results of another."""
DEVICE = {"device": 0}
"""Stands for whatever device the network runs on; another one has its name in place of the 0."""

Facts = Mapping[str, Any]
"""Keys: inputs and weights, each a list of [shape, data type]; parameters, which has `nodes`
(operator, arguments, keyword arguments), `outputs` (places of nodes or inputs) and `strides` (of
inputs, then of weights).
"""


def built(facts: Facts, weights: Sequence[Tensor], device: str = "cpu") -> fx.GraphModule:
    """The network as a module with these weights; `forward` takes the inputs in order and returns
    a tuple of what later parts of a model read.

    Raises ValueError for an operator that this torch does not have.
    """
    root = nn.Module()
    for place, weight in enumerate(weights):
        _hold(root, f"w{place}", weight)
    graph = fx.Graph()
    inputs = [graph.placeholder(f"i{place}") for place in range(len(facts["inputs"]))]
    held = [graph.get_attr(f"w{place}") for place in range(len(weights))]
    nodes: list[fx.Node] = []
    values = {"i": inputs, "w": held, "n": nodes}
    for target, args, kwargs in facts["parameters"]["nodes"]:
        given = tuple(_argument(each, values, device) for each in args)
        named = {key: _argument(each, values, device) for key, each in kwargs.items()}
        nodes.append(graph.call_function(_function(target), given, named))
    outputs = facts["parameters"]["outputs"]
    graph.output(tuple(_argument(each, values, device) for each in outputs))
    return fx.GraphModule(root, graph)


def call_with(network: fx.GraphModule, weights: Sequence[Tensor]) -> Callable[..., Any]:
    """What calls the network with other weights: its code is generated once, which takes longer
    than most calls.
    """
    root = nn.Module()
    for place, weight in enumerate(weights):
        _hold(root, f"w{place}", weight)
    return MethodType(type(network).forward, root)


def _hold(root: nn.Module, name: str, weight: Tensor) -> None:
    if isinstance(weight, nn.Parameter):
        root.register_parameter(name, weight)
    else:
        root.register_buffer(name, weight)


def _argument(value: Any, values: Mapping[str, Sequence[fx.Node]], device: str) -> Any:
    if isinstance(value, list):
        return [_argument(each, values, device) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "value":
        return values[content[0]][int(content[1:])]
    if kind == "device":
        return torch.device(content or device)
    return getattr(torch, content)


def _function(target: str) -> Any:
    if target == GETITEM:
        return operator.getitem
    space, name, overload = target.split(".")
    try:
        return getattr(getattr(getattr(torch.ops, space), name), overload)
    except AttributeError as error:
        raise ValueError(
            f"torch {torch.__version__} has no operator {target}; run this brick with the torch "
            "that it was made with, or import the library that defines the operator"
        ) from error


# ---- synthetic inputs and weights ----


def synthetic(
    facts: Facts, values: Sequence[Facts | None], device: str, seed: int = 0
) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and weights of the described shapes, data types and strides.

    `values` says for each, inputs first, what its numbers are like (`described`), None where
    nothing is known: numbers are then normally distributed, integers 0.
    """
    generator = torch.Generator().manual_seed(seed)
    kinds = [*facts["inputs"], *facts["weights"]]
    strides = facts["parameters"]["strides"]
    known = [*values, *[None] * (len(kinds) - len(values))]
    made = [
        _synthetic(shape, getattr(torch, dtype), stride, about, generator).to(device)
        for (shape, dtype), stride, about in zip(kinds, strides, known, strict=True)
    ]
    count = len(facts["inputs"])
    return made[:count], made[count:]


def described(tensor: Tensor) -> dict[str, float]:
    """What its numbers are like, as `synthetic` needs it: `low`, `high`, and of floating-point
    numbers `mean`, `deviation` and the share of `zeros`. Which number is where is not in it.
    """
    if tensor.is_complex() or not tensor.numel():
        return {}
    numbers = tensor.detach().float()
    low, high = (float(each) for each in torch.aminmax(numbers))
    if not tensor.is_floating_point():
        # The mean tells how many of a mask's values are set.
        return {"low": low, "high": high, "mean": float(numbers.mean())}
    return {
        "low": low,
        "high": high,
        "mean": float(numbers.mean()),
        "deviation": float(numbers.std(correction=0)),
        "zeros": float((numbers == 0).float().mean()),
    }


def _synthetic(
    shape: Sequence[int],
    dtype: torch.dtype,
    stride: Sequence[int],
    about: Facts | None,
    generator: torch.Generator,
) -> Tensor:
    numbers = _numbers(prod(shape), dtype, about or {}, generator).reshape(tuple(shape)).to(dtype)
    return with_strides(numbers, stride)


def _numbers(count: int, dtype: torch.dtype, about: Facts, generator: torch.Generator) -> Tensor:
    if dtype == torch.bool:
        share = torch.full((count,), float(about.get("mean", 0.5)))
        return torch.rand(count, generator=generator).less(share)
    if not dtype.is_floating_point and not dtype.is_complex:
        low, high = int(about.get("low", 0)), int(about.get("high", 0))
        return torch.randint(low, max(high, low) + 1, (count,), generator=generator)
    made = torch.randn(count, generator=generator)
    if not about:
        return made
    made = made.mul_(about["deviation"]).add_(about["mean"])
    made = made.clamp_(about["low"], about["high"])
    zeros = torch.rand(count, generator=generator).less(about["zeros"])
    return made.masked_fill_(zeros, 0.0)


def with_strides(tensor: Tensor, stride: Sequence[int]) -> Tensor:
    """A copy of the tensor that lies in memory with these strides. Dimensions that share memory
    (stride 0) keep their first number only; where others overlap, as those of `unfold` do, numbers
    are of the tensor, but not each at its place.
    """
    once = tuple(
        slice(0, 1) if step == 0 and size > 1 else slice(None)
        for size, step in zip(tensor.shape, stride, strict=True)
    )
    first = tensor[once]
    if _overlaps(first.shape, stride):
        return _repeated(first, _span(first.shape, stride)).as_strided(tensor.shape, tuple(stride))
    made = torch.empty_strided(first.shape, tuple(stride), dtype=tensor.dtype, device=tensor.device)
    made.copy_(first)
    return made.expand(tensor.shape)


def _overlaps(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether two places of the tensor are one in memory."""
    reached = 0
    for step, size in sorted((step, size) for size, step in zip(shape, stride, strict=True)):
        if size > 1 and step <= reached:
            return True
        reached += (size - 1) * step
    return False


def _span(shape: Sequence[int], stride: Sequence[int]) -> int:
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def _repeated(tensor: Tensor, count: int) -> Tensor:
    """The first `count` numbers of a tensor, over and over where it has fewer."""
    flat = tensor.reshape(-1)
    return flat.repeat(-(-count // flat.numel()))[:count].clone()


def fresh(tensor: Tensor) -> Tensor:
    """A copy that lies in memory as the tensor does."""
    return with_strides(tensor.detach(), tensor.stride())
