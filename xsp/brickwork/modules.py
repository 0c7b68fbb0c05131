"""Bricks that are calls of a model's own modules, with the Python that these run around operators.

On a GPU at small batches the host takes most of a latency, and between its operators Python does:
a third of a call of BERT. Bricks of operators leave it out. Here a module whose call runs at most
`granularity` layers is a brick as it is, called with real arguments; what no such module does is
bricks of operators. Unlike those, such bricks need the model's code, so no package has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from xsp.brickwork.cutting import Brick, Decomposition, brick_of, decomposition_of, valid_in
from xsp.brickwork.model import Model, called_whole
from xsp.brickwork.network import described, fresh
from xsp.brickwork.occurrences import spread, waiting
from xsp.brickwork.parts import is_view
from xsp.brickwork.rounds import Runnable
from xsp.brickwork.splitting import find_model_subgraphs
from xsp.graphs.layer import Layer
from xsp.graphs.recording import module_calls
from xsp.graphs.tracing import ModuleCall

MODULE = "module"
"""The operator of layers that are calls of a module; otherwise they are as bricks are."""

Window = tuple[int, int, ModuleCall | None]


def cut_along_modules(model: Model, granularity: int) -> Decomposition:
    """The model's modules of at most `granularity` layers, the outermost of each, and bricks of
    operators for what is not in any.
    """
    windows = _windows(model, granularity)
    bricks = [_brick(model, begin, end, call) for begin, end, call in windows]
    return decomposition_of(model, granularity, bricks)


def _brick(model: Model, begin: int, end: int, call: ModuleCall | None) -> Brick:
    own = brick_of(model, begin, end)
    if call is None:
        return own
    return replace(own, layer=replace(own.layer, operator=MODULE), call=call)


def _windows(model: Model, granularity: int) -> list[Window]:
    found: list[Window] = []
    for begin, end, call in _chosen(model, granularity):
        found += _between(model, found[-1][1] if found else 0, begin, granularity)
        found.append((begin, end, call))
    return found + _between(model, found[-1][1] if found else 0, len(model.parts), granularity)


def _between(model: Model, begin: int, end: int, granularity: int) -> list[Window]:
    """Layers that no chosen module has, by the paper's algorithm."""
    valid = valid_in(model)
    cut = find_model_subgraphs(
        end - begin, granularity, lambda first, last: valid(begin + first, begin + last)
    )
    return [(begin + first, begin + last, None) for first, last in cut]


def _chosen(model: Model, granularity: int) -> list[tuple[int, int, ModuleCall]]:
    """Calls with their windows of layers, in order; none is inside another."""
    place_of = {node: place for place, part in enumerate(model.parts) for node in part.nodes}
    found: list[tuple[int, int, ModuleCall]] = []
    waiting_calls = list(reversed(model.traced.calls))
    while waiting_calls:
        call = waiting_calls.pop()
        window = _window(model, call, place_of)
        fits = window is not None and window[1] - window[0] <= granularity
        if fits and window is not None and window[0] >= (found[-1][1] if found else 0):
            found.append((*window, call))
        else:
            waiting_calls += reversed(call.children)
    return found


def _window(model: Model, call: ModuleCall, place_of: Mapping[Any, int]) -> tuple[int, int] | None:
    """The layers that a call runs; None where it runs none, or only a part of one."""
    inside = {node for node in call.nodes if node in place_of}
    places = sorted({place_of[node] for node in inside if not is_view(node)})
    if not places or places[-1] - places[0] + 1 != len(places):
        return None
    parts = model.parts[places[0] : places[-1] + 1]
    computing = [node for part in parts for node in part.nodes if not is_view(node)]
    return (places[0], places[-1] + 1) if inside.issuperset(computing) else None


# ---- real calls ----


@dataclass(eq=False)
class CallsOf:
    """One brick where it occurs: the calls that make it, and tensors among their arguments;
    `values` is what the numbers of the first are like.
    """

    layer: Layer
    calls: list[Callable[..., Any]] = field(default_factory=list)
    inputs: list[list[Tensor]] = field(default_factory=list)
    values: list[dict[str, float]] = field(default_factory=list)

    def runnable(self, device: str, *, trained: bool = False, clock: Callable[[], int]) -> Runnable:
        """What can be timed by a clock that gives ns; a training step is none."""
        if trained:
            raise ValueError("modules are bricks of models in evaluation mode only")
        return Runnable(self.calls, self.inputs, None, waiting(device), clock)


def calls_in(model: Model, bricks: Iterable[Brick]) -> dict[str, CallsOf]:
    """By digest, bricks that are modules, with copies of real arguments: the model is called once.
    Of one that occurs often, some are taken from places all over the model.
    """
    every: dict[str, list[Brick]] = {}
    for brick in bricks:
        if brick.call is not None:
            every.setdefault(brick.layer.digest, []).append(brick)
    wanted = {
        brick.call.place: brick.layer
        for same in every.values()
        for brick in spread(same)
        if brick.call is not None
    }
    found: dict[str, CallsOf] = {}

    def entered(place: int, module: nn.Module, args: Any, kwargs: Any) -> None:
        if place in wanted:
            own = found.setdefault(wanted[place].digest, CallsOf(wanted[place]))
            _add(own, module, args, kwargs)

    if wanted:
        with torch.no_grad(), module_calls(entered):
            called_whole(model)
    return found


def _add(own: CallsOf, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    tensors: list[Tensor] = []
    positional = [_made(each, tensors) for each in args]
    named = {name: _made(each, tensors) for name, each in kwargs.items()}
    is_plain = len(tensors) == len(args) and not kwargs
    own.calls.append(module if is_plain else _call(module, positional, named))
    own.inputs.append([fresh(each) for each in tensors])
    own.values = own.values or [described(each) for each in tensors]


Made = Callable[[Sequence[Tensor]], Any]
"""An argument again, from the tensors of a call."""


def _call(module: nn.Module, positional: Sequence[Made], named: Mapping[str, Made]) -> Any:
    def call(*tensors: Tensor) -> Any:
        args = [made(tensors) for made in positional]
        return module(*args, **{name: made(tensors) for name, made in named.items()})

    return call


def _made(value: Any, tensors: list[Tensor]) -> Made:
    if isinstance(value, Tensor):
        place = len(tensors)
        tensors.append(value)
        return lambda given: given[place]
    if type(value) in {list, tuple}:
        kind, parts = type(value), [_made(each, tensors) for each in value]
        return lambda given: kind([part(given) for part in parts])
    if type(value) is dict:
        named = {name: _made(each, tensors) for name, each in value.items()}
        return lambda given: {name: part(given) for name, part in named.items()}
    return lambda _: value
