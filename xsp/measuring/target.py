"""What is measured: a list of calls, each with the ambient modes it was made under."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from xsp.doubts import Doubt
from xsp.errors import TargetError
from xsp.levels.layer.discovery import LayerCall
from xsp.levels.layer.tensors import tensors_in
from xsp.machine import devices
from xsp.machine.ambient import Ambient
from xsp.measuring.collected import Collected
from xsp.measuring.driving import drive


@dataclass(frozen=True)
class Call:
    """One call that can be made again. Arguments are held by reference; `start` has copies from
    before the call by position or keyword, None for a call that was not made yet.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    ambient: Ambient
    start: Mapping[int | str, Any] | None = None

    def __call__(self) -> Any:
        """Make the call, and drive to its end what it leaves to be done."""
        return drive(self.function(*self.args, **self.kwargs))


@dataclass(frozen=True)
class Target:
    """The calls that one run executes, in order, and the model whose state re-runs must not change.

    `model` is None for a plain callable (a training step): it is called again and changes what it
    changes.
    """

    name: str
    calls: tuple[Call, ...]
    model: nn.Module | None = None
    doubts: tuple[Doubt, ...] = field(default=())
    start: Mapping[nn.Module, dict[str, Any]] | None = None
    """Copies of what the model's modules keep in Python from before the first call, None for calls
    that were not made yet."""
    made: Sequence[LayerCall] = field(default=())
    """The module calls that the calls made in the block, with the shapes of their inputs."""
    collected: Collected | None = None
    """What the model's hooks had collected before the first call, None for calls that were not made
    yet."""

    def device(self) -> int | None:
        """The GPU that has the most of its parameters, buffers and inputs (`devices.most_used`)."""
        given = tensors_in([(call.args, dict(call.kwargs)) for call in self.calls])
        own = () if self.model is None else (*self.model.parameters(), *self.model.buffers())
        return devices.most_used((*own, *given))


def target_of(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Target:
    """A target that makes one call under the modes in force now.

    Raises TargetError if `function` cannot be called.
    """
    if not callable(function):
        raise TargetError(
            f"cannot profile {textwrap.shorten(repr(function), 120)} of type "
            f"{type(function).__name__}: "
            "a torch.nn.Module or a callable is needed; for a saved model, load it first"
        )
    model = function if isinstance(function, nn.Module) else None
    name = type(function).__name__ if model is not None else _name(function)
    return Target(name, (Call(function, args, dict(kwargs), Ambient.current()),), model)


def _name(function: Any) -> str:
    """A callable's own, without the function that it was defined in; of a partial the wrapped
    one's.
    """
    while isinstance(function, functools.partial):
        function = function.func
    qualified: str = getattr(function, "__qualname__", type(function).__name__)
    return qualified.rpartition(".<locals>.")[2]
