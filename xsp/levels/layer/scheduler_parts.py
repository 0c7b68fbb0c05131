"""Steps of learning rate schedulers as parts of a step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from xsp.levels.layer.optimizer_parts import added
from xsp.levels.layer.parts import Announcer, Part, Told
from xsp.machine.torch_internals import Place

StandIn = tuple[Place, Callable[..., Any]]
"""A place, and what to put there."""

_FOLLOWED: list[Sequence[Optimizer]] = []
"""Optimizers of whose schedulers a loop tells itself; of all schedulers, where there are none."""


def scheduler_steps(optimizers: Sequence[Optimizer], told: Told) -> Callable[[], None]:
    """Tell of the steps of schedulers of these optimizers, of all where none is given, until what
    is returned is called. Schedulers that call others are one part.
    """
    undo = ExitStack()
    undo.callback(added(_FOLLOWED, optimizers))
    for place, stand_in in _stand_ins(lambda each: _is_of(each, optimizers), told):
        undo.callback(place.replace(stand_in))
    return undo.close


def schedulers_of_nobody() -> list[StandIn]:
    """What tells of the steps of schedulers of which no loop tells itself."""

    def is_mine(scheduler: Any) -> bool:
        return not any(_is_of(scheduler, given) for given in _FOLLOWED)

    return _stand_ins(is_mine, Announcer())


def _stand_ins(is_mine: Callable[[Any], bool], told: Told) -> list[StandIn]:
    """What to put in the place of `step` of each class of schedulers, to tell of those on this
    thread that are mine.
    """
    thread = threading.get_ident()
    depth = 0

    def around(real: Callable[..., Any], scheduler: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal depth
        if threading.get_ident() != thread or depth or not is_mine(scheduler):
            return real(scheduler, *args, **kwargs)
        part = Part(f"{type(scheduler).__name__}.step", "scheduler", is_call=True)
        depth += 1
        told.part_begins(part)
        try:
            return real(scheduler, *args, **kwargs)
        finally:
            told.part_ends(part)
            depth -= 1

    places = [Place(kind, "step") for kind in kinds_below(LRScheduler, ReduceLROnPlateau)]
    own = [place for place in places if "step" in vars(place.owner)]
    return [(place, _method(partial(around, place.value), place.value)) for place in own]


def _is_of(scheduler: Any, given: Sequence[Optimizer]) -> bool:
    """Whether it is of one of these optimizers, or of a library's wrapper around one; any is where
    none is given.
    """
    optimizer = getattr(scheduler, "optimizer", None)
    inner = getattr(optimizer, "optimizer", None)
    return not given or any(each is optimizer or each is inner for each in given)


def _method(call: Callable[..., Any], real: Callable[..., Any]) -> Callable[..., Any]:
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        return call(self, *args, **kwargs)

    step.__doc__ = real.__doc__
    return step


def kinds_below(*roots: type) -> list[type]:
    """These classes and all below them."""
    found: dict[type, None] = {}
    pending = list(roots)
    while pending:
        kind = pending.pop()
        if kind not in found:
            found[kind] = None
            pending.extend(kind.__subclasses__())
    return list(found)
