"""Calls of a model's modules with real arguments, whole or with their own modules left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from xsp.brickwork.cutting import Brick
from xsp.brickwork.model import Model, called_whole
from xsp.brickwork.modules import SHELL
from xsp.brickwork.network import described, fresh
from xsp.brickwork.occurrences import spread, waiting
from xsp.brickwork.rounds import Runnable, Staged
from xsp.graphs.layer import Layer
from xsp.graphs.recording import module_calls
from xsp.machine.torch_internals import children_of


@dataclass(eq=False)
class CallsOf:
    """One brick where it occurs: the calls that make it, and tensors among their arguments and
    among what modules that are left out give; `values` is what the numbers of the first are like.
    """

    layer: Layer
    calls: list[Callable[..., Any]] = field(default_factory=list)
    inputs: list[list[Tensor]] = field(default_factory=list)
    values: list[dict[str, float]] = field(default_factory=list)

    def runnable(self, device: str, *, trained: bool = False, clock: Callable[[], int]) -> Runnable:
        """What can be timed by a clock that gives ns.

        Raises ValueError for a training step.
        """
        if trained:
            raise ValueError("modules are bricks of models in evaluation mode only")
        return Runnable(self.calls, self.inputs, None, waiting(device), clock)


def calls_in(model: Model, bricks: Iterable[Brick]) -> dict[str, CallsOf]:
    """By digest, bricks that are calls, with copies of real tensors: the model is called once. Of
    one that occurs often, some are taken from places all over the model.
    """
    every: dict[str, list[Brick]] = {}
    for brick in bricks:
        if brick.call is not None:
            every.setdefault(brick.layer.digest, []).append(brick)
    wanted: dict[int, list[Layer]] = {}
    for same in every.values():
        for brick in spread(same):
            if brick.call is not None:
                wanted.setdefault(brick.call.place, []).append(brick.layer)
    found: dict[str, CallsOf] = {}
    if wanted:
        watch = _Watch(wanted, found)
        with torch.no_grad(), module_calls(watch.enter, watch.leave):
            called_whole(model)
    return found


Made = Callable[[Sequence[Tensor]], Any]
"""A value again, from the tensors of a call."""


@dataclass(eq=False)
class _Open:
    """A call that has not returned yet, as one brick. `given` are what the modules that it calls
    gave, in order; None where the brick is no shell.
    """

    module: nn.Module
    layer: Layer
    args: list[Made] = field(default_factory=list)
    kwargs: dict[str, Made] = field(default_factory=dict)
    tensors: list[Tensor] = field(default_factory=list)
    given: list[tuple[nn.Module, Made]] | None = None


class _Watch:
    """Copies tensors at the moment at which they are given: later they may be written to."""

    def __init__(self, wanted: Mapping[int, Sequence[Layer]], found: dict[str, CallsOf]) -> None:
        self._wanted, self._found = wanted, found
        self._open: list[tuple[nn.Module, list[_Open]]] = []

    def enter(self, place: int, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A module is called."""
        calls = [_Open(module, layer) for layer in self._wanted.get(place, ())]
        self._open.append((module, calls))
        for call in calls:
            call.args = [_made(each, call.tensors) for each in args]
            call.kwargs = {name: _made(each, call.tensors) for name, each in kwargs.items()}
            call.given = [] if call.layer.operator == SHELL else None

    def leave(self, result: Any) -> None:
        """It returns."""
        module, calls = self._open.pop()
        for around in self._open[-1][1] if self._open else ():
            if around.given is not None:
                around.given.append((module, _made(result, around.tensors)))
        for call in calls:
            own = self._found.setdefault(call.layer.digest, CallsOf(call.layer))
            own.calls.append(_call(call))
            own.inputs.append(call.tensors)
            own.values = own.values or [described(each) for each in call.tensors]


def _call(call: _Open) -> Callable[..., Any]:
    """What makes the call again, from its tensors."""
    if call.given:
        return _Shell(call)
    if len(call.tensors) == len(call.args) and not call.kwargs:
        return call.module
    return _Arranged(call)


class _Arranged(Staged):
    """A call of a module whose arguments are more than tensors in order."""

    def __init__(self, call: _Open) -> None:
        self._module, self._args, self._kwargs = call.module, call.args, call.kwargs

    def ready(self, tensors: Sequence[Tensor]) -> Callable[[], Any]:
        args = [made(tensors) for made in self._args]
        kwargs = {name: made(tensors) for name, made in self._kwargs.items()}
        return partial(self._module, *args, **kwargs)


class _Shell(_Arranged):
    """A call of a module in which its own modules give at once what they gave in the model."""

    def __init__(self, call: _Open) -> None:
        super().__init__(call)
        self._given = [(each, made) for each, made in call.given or []]
        left_out = {id(each): _LeftOut(each) for each, _ in self._given}
        self._order = [(left_out[id(each)], made) for each, made in self._given]
        self._places = [
            (children, name, each, left_out[id(each)])
            for owner in call.module.modules()
            for children in [children_of(owner)]
            for name, each in children.items()
            if each is not None and id(each) in left_out
        ]
        missing = {*left_out} - {id(each) for _, _, each, _ in self._places}
        self._whole = not missing

    def ready(self, tensors: Sequence[Tensor]) -> Callable[[], Any]:
        if not self._whole:
            raise ValueError(
                f"{type(self._module).__qualname__} calls a module that is none of its own, so it "
                "cannot be called without; register that module in it"
            )
        for stub in {id(stub): stub for stub, _ in self._order}.values():
            stub.results = []
        for stub, made in reversed(self._order):
            stub.results.append(made(tensors))
        call = super().ready(tensors)
        for children, name, _, stub in self._places:
            children[name] = stub
        return call

    def put_away(self) -> None:
        for children, name, each, _ in self._places:
            children[name] = each


class _LeftOut(nn.Module):
    """Stands in a module's place: gives its results, and else what the module has."""

    stands_for: Any
    results: list[Any]

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        vars(self).update(vars(module))
        vars(self).update(stands_for=module, results=[])

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        return self.results.pop()

    def __getattr__(self, name: str) -> Any:
        """What the module's class gives it; what it holds itself is here, too."""
        return getattr(vars(self)["stands_for"], name)

    def __iter__(self) -> Iterator[Any]:
        found: Iterator[Any] = iter(self.stands_for)
        return found

    def __len__(self) -> int:
        return len(self.stands_for)

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, key: Any) -> Any:
        return self.stands_for[key]


def _made(value: Any, tensors: list[Tensor]) -> Made:
    if isinstance(value, Tensor):
        place = len(tensors)
        tensors.append(fresh(value))
        return lambda given: given[place]
    if type(value) in {list, tuple}:
        kind, parts = type(value), [_made(each, tensors) for each in value]
        return lambda given: kind([part(given) for part in parts])
    if isinstance(value, dict):
        return _made_mapping(value, tensors)
    return lambda _: value


def _made_mapping(value: dict[Any, Any], tensors: list[Tensor]) -> Made:
    """A dictionary, or a class of them that a library returns, such as transformers' outputs."""
    named = {name: _made(each, tensors) for name, each in value.items()}
    if type(value) is dict:
        return lambda given: {name: part(given) for name, part in named.items()}
    kind: Any = type(value)
    return lambda given: kind(**{name: part(given) for name, part in named.items()})
