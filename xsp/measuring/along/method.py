"""Calls of a method as the steps of a loop: how an engine that serves requests is followed, whose
loop is its own, on a thread of its own.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any, Protocol

from xsp.errors import TargetError
from xsp.machine.torch_internals import Place
from xsp.measuring.along.step_watch import Label, StepWatch

Labelling = Callable[..., str]
"""Given what a step's call is given, what the user calls its kind."""


class FollowsMethod(Protocol):
    """What is told of the calls of a method."""

    def method_begins(self, label: Label | None) -> bool:
        """A call begins; whether it is a step."""

    def method_ends(self) -> None:
        """A call that is a step has ended."""


class FollowedMethod:
    """A bound method, replaced on its object until `put_back`.

    Raises TargetError where there is no object, or the method gives a coroutine or a generator:
    calling it does none of its work.
    """

    def __init__(
        self,
        method: Callable[..., Any],
        label: Labelling | None,
        watch: StepWatch,
        told: FollowsMethod,
    ) -> None:
        owner, self.name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if owner is None or inspect.isbuiltin(method) or getattr(owner, self.name, None) != method:
            raise TargetError(
                f"along={method!r} must be True, or a method of an object as the program calls it, "
                "such as engine.runner.execute_model"
            )
        if any(is_kind(method) for is_kind in _LATE):
            raise TargetError(
                f"along={self.name} gives a coroutine or a generator, which does its work after "
                "the call has returned: name the method that it calls for each step"
            )
        self._method, self._label, self._watch, self._told = method, label, watch, told
        self._place = Place(owner, self.name)
        self._undo: Callable[[], None] | None = None
        self._inside = threading.local()

    def replace(self) -> None:
        """From now on."""

        @functools.wraps(self._method)
        def stepped(*args: Any, **kwargs: Any) -> Any:
            return self._stepped(*args, **kwargs)

        self._undo = self._place.replace(stepped)

    def put_back(self) -> None:
        """The object is as it was found; can be called twice."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()

    def never_called(self) -> str:
        """Why there was no step."""
        owner = type(getattr(self._method, "__self__", None)).__name__
        return (
            f"{owner}.{self.name} was not called in the block through that very object: let the "
            "engine make steps in it, and name the method by which its loop calls it"
        )

    def _stepped(self, *args: Any, **kwargs: Any) -> Any:
        if getattr(self._inside, "now", False):
            return self._method(*args, **kwargs)
        label = None if self._label is None else Label(str(self._label(*args, **kwargs)))
        if not self._told.method_begins(label):
            return self._method(*args, **kwargs)
        self._inside.now = True
        try:
            return self._method(*args, **kwargs)
        except BaseException:
            self._watch.raised()
            raise
        finally:
            self._inside.now = False
            self._told.method_ends()


_LATE = (
    inspect.iscoroutinefunction,
    inspect.isgeneratorfunction,
    inspect.isasyncgenfunction,
)
