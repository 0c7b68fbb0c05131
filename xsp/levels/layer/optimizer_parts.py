"""Optimizers and schedulers as parts of a step: an optimizer's step with each of its parameter
groups, and a scheduler's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from xsp.levels.layer.parts import Part, Told
from xsp.machine.torch_internals import Place


class GroupsInTurn(list[dict[str, Any]]):
    """An optimizer's parameter groups; while they are iterated over, each is a part."""

    def __init__(self, groups: list[dict[str, Any]], name: str, told: Told) -> None:
        super().__init__(groups)
        names = [_name_of(number, group) for number, group in enumerate(groups)]
        self._parts = [Part(f"{name}.{each}", "parameters") for each in names]
        self._told = told

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for place, group in enumerate(list.__iter__(self)):
            if place >= len(self._parts):
                yield group
                continue
            self._told.part_begins(self._parts[place])
            try:
                yield group
            finally:
                self._told.part_ends(self._parts[place])


def _name_of(number: int, group: dict[str, Any]) -> str:
    return str(group.get("name", f"group_{number}"))


class OptimizerWatch:
    """Tells of the steps of one optimizer."""

    def __init__(self, optimizer: Optimizer, part: Part, told: Told) -> None:
        self._optimizer, self.part, self._told = optimizer, part, told
        self._own: list[dict[str, Any]] | None = None
        self._given: GroupsInTurn | None = None
        self._depth = 0

    def watch(self) -> Callable[[], None]:
        """Watch until what is returned is called."""
        undo = ExitStack()
        undo.callback(self.put_back)
        undo.callback(self._optimizer.register_step_pre_hook(self._begins).remove)
        undo.callback(self._optimizer.register_step_post_hook(self._ends).remove)
        return undo.close

    def put_back(self) -> None:
        """Give the optimizer its own list of groups again, with what was added meanwhile; also
        where its step raised.
        """
        own, given = self._own, self._given
        if own is not None and given is not None and self._optimizer.param_groups is given:
            own[:] = list.__iter__(given)
            self._optimizer.param_groups = own
        self._own = self._given = None
        self._depth = 0

    def _begins(self, *_: Any) -> None:
        self._depth += 1
        if self._depth > 1:
            # A subclass called the step of its base: torch runs the hooks of both.
            return
        self._told.part_begins(self.part)
        if len(self._optimizer.param_groups) > 1:
            self._own = self._optimizer.param_groups
            self._given = GroupsInTurn(self._own, self.part.name, self._told)
            self._optimizer.param_groups = self._given

    def _ends(self, *_: Any) -> None:
        self._depth -= 1
        if self._depth > 0:
            return
        self.put_back()
        self._told.part_ends(self.part)


def scheduler_steps(optimizers: Sequence[Optimizer], told: Told) -> Callable[[], None]:
    """Tell of the steps of schedulers of these optimizers, of all where none is given, until what
    is returned is called. Schedulers that call others are one part.
    """
    thread = threading.get_ident()
    depth = 0

    def around(real: Callable[..., Any], scheduler: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal depth
        mine = not optimizers or _is_of(getattr(scheduler, "optimizer", None), optimizers)
        if threading.get_ident() != thread or depth or not mine:
            return real(scheduler, *args, **kwargs)
        part = Part(f"{type(scheduler).__name__}.step", "scheduler")
        depth += 1
        told.part_begins(part)
        try:
            return real(scheduler, *args, **kwargs)
        finally:
            told.part_ends(part)
            depth -= 1

    undo = ExitStack()
    for kind in _kinds(LRScheduler, ReduceLROnPlateau):
        if "step" in vars(kind):
            place = Place(kind, "step")
            undo.callback(place.replace(_method(partial(around, place.value), place.value)))
    return undo.close


def _is_of(optimizer: Any, given: Sequence[Optimizer]) -> bool:
    """Whether it is one of these, or a library's wrapper around one."""
    inner = getattr(optimizer, "optimizer", None)
    return any(each is optimizer or each is inner for each in given)


def _method(call: Callable[..., Any], real: Callable[..., Any]) -> Callable[..., Any]:
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        return call(self, *args, **kwargs)

    step.__doc__ = real.__doc__
    return step


def _kinds(*roots: type) -> list[type]:
    """These classes and all below them."""
    found: dict[type, None] = {}
    pending = list(roots)
    while pending:
        kind = pending.pop()
        if kind not in found:
            found[kind] = None
            pending.extend(kind.__subclasses__())
    return list(found)
