"""What a training step calls that is neither a module nor one torch function: the steps of
optimizers and schedulers, `zero_grad`, the clipping of gradients and the scaling of losses. Each
is a part of the step (`parts.py`) while a structure recorder or a tracer watches.

Nothing of it is in place while compiled code runs: Dynamo guards on what it finds there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from functools import update_wrapper
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from xsp.levels.layer import parts
from xsp.levels.layer.compiled import aside_in_compiled_code
from xsp.levels.layer.every_optimizer import EveryOptimizer
from xsp.levels.layer.parts import Part
from xsp.levels.layer.scheduler_parts import StandIn, kinds_below, schedulers_of_nobody
from xsp.machine.torch_internals import Place, kept_by_decorator

CLIPPING = ("clip_grad_norm_", "clip_grad_value_", "get_total_norm", "clip_grads_with_norm_")
"""Functions of torch.nn.utils. The first calls the last two (from torch 2.6 on), as one part."""

SCALING = ("scale", "unscale_", "step", "update")
"""Methods of GradScaler."""

_OF_MODULE = "module's zero_grad"
"""A type of its own: for programs that do not call it, all classes of modules stay untouched."""


class TrainingParts:
    """Announces parts on every thread; those of the given `types` alone, all where none are given.
    Each optimizer is called by its class, and by a number where a run has several of it.
    """

    def __init__(self, types: Collection[str] | None = None) -> None:
        self._types = types
        self._optimizers = EveryOptimizer()
        self._stand_ins: list[StandIn] = []
        self._placed: list[Callable[[], None]] = []

    def watch(self) -> Callable[[], None]:
        """Announce until what is returned is called."""
        if self._types is not None and not self._types:
            return lambda: None
        self._stand_ins = list(self._found())
        with ExitStack() as undo:
            undo.callback(self.new_run)
            # Compiled code of another thread can end later, and put in what is left.
            undo.callback(self._stand_ins.clear)
            undo.callback(self._restore)
            if self._has("optimizer"):
                undo.callback(self._optimizers.watch())
            self._put_in()
            undo.callback(aside_in_compiled_code(self._take_out, self._put_in))
            return undo.pop_all().close

    def new_run(self) -> None:
        """Number optimizers from zero, so that they are called the same in every run."""
        self._optimizers.new_run()

    def _has(self, kind: str) -> bool:
        return self._types is None or kind in self._types

    def _found(self) -> Iterator[StandIn]:
        if self._has("zero_grad"):
            place = Place(Optimizer, "zero_grad")
            yield place, _as_part(place.value, self._optimizers.zero_grad)
        if self._has(_OF_MODULE):
            place = Place(nn.Module, "zero_grad")
            yield place, _as_part(place.value, _zero_grad_of_module)
        if self._has("clipping"):
            yield from _clipping()
        if self._has("scaling"):
            yield from _scaling()
        if self._has("scheduler"):
            yield from schedulers_of_nobody()

    def _put_in(self) -> None:
        # One by one: what is in is taken out also where an interrupt comes between.
        for place, stand_in in self._stand_ins:
            self._placed.append(place.replace(stand_in))
        self._optimizers.put_in()

    def _take_out(self) -> None:
        self._optimizers.take_out()
        self._restore()

    def _restore(self) -> None:
        while self._placed:
            self._placed[-1]()
            self._placed.pop()


def _zero_grad_of_module(module: nn.Module) -> Part:
    return Part(f"{type(module).__name__}.zero_grad", _OF_MODULE, is_call=True)


def _clipping() -> Iterator[StandIn]:
    for name in CLIPPING:
        decorated = getattr(torch.nn.utils, name, None)
        place = None if decorated is None else kept_by_decorator(decorated)
        if place is not None:
            yield place, _as_part(place.value, _clipping_part(name))


def _clipping_part(name: str) -> Callable[[Any], Part | None]:
    part = Part(name, "clipping", is_call=True)

    def unless_within(_first: Any) -> Part | None:
        around = parts.innermost()
        return None if around is not None and around.type == part.type else part

    return unless_within


def _scaling() -> Iterator[StandIn]:
    for kind in kinds_below(torch.amp.GradScaler):
        for name in SCALING:
            if name in vars(kind):
                place = Place(kind, name)
                yield place, _as_part(place.value, _scaling_part(name))


def _scaling_part(method: str) -> Callable[[Any], Part | None]:
    known: dict[type, Part] = {}

    def part(scaler: Any) -> Part | None:
        kind = type(scaler)
        if not scaler.is_enabled():
            return None
        if kind not in known:
            known[kind] = Part(f"{kind.__name__}.{method}", "scaling", is_call=True)
        return known[kind]

    return part


def _as_part(real: Callable[..., Any], part_of: Callable[[Any], Part | None]) -> Callable[..., Any]:
    """What to call instead, to announce the part that its first argument stands for."""

    def called(*args: Any, **kwargs: Any) -> Any:
        part = part_of(args[0] if args else None)
        # A subclass calls the method of its base.
        if part is None or part == parts.innermost():
            return real(*args, **kwargs)
        try:
            parts.begin(part)
            return real(*args, **kwargs)
        finally:
            parts.end(part)

    update_wrapper(called, real)
    return called
