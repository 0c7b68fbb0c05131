"""Custom `autograd.Function`s as layers of their own: flash attention, Triton's and Liger's kernels
come as such.

torch does not show them to a torch function mode, only what their `forward` and `backward` call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from xsp.levels.layer.autograd import run_inside
from xsp.levels.layer.followed_calls import Functions
from xsp.levels.layer.function_mode import Codes
from xsp.machine.torch_internals import (
    FUNCTION_APPLY,
    FUNCTION_BACKWARDS,
    apply_function,
    function_of,
)


def functions_as_layers(mode: Functions, codes: Codes) -> Callable[[], None]:
    """Calls of custom Functions are layers, and what these call is not a layer, until what is
    returned is called.

    In one of `codes.transparent` layers stay layers: they are inside it.
    """

    def applied(function: type, *args: Any, **kwargs: Any) -> Any:
        code = codes.of_function(function) if mode.is_on() else None
        if code is None:
            return apply_function(function, args, kwargs)
        with _inside(mode, function, codes):
            call = partial(_apply, function)
            return mode.stamped(code, function, args, kwargs, call)

    def around(real: Callable[..., Any], node: Any, *gradients: Any) -> Any:
        with _inside(mode, function_of(node), codes):
            return real(node, *gradients)

    return _replaced(applied, around)


def _apply(function: type, *args: Any, **kwargs: Any) -> Any:
    return apply_function(function, args, kwargs)


@contextmanager
def _inside(mode: Functions, function: type, codes: Codes) -> Iterator[None]:
    if function in codes.transparent:
        yield
        return
    mode.switch.suspend()
    try:
        yield
    finally:
        mode.switch.resume()


def _replaced(applied: Callable[..., Any], around: Callable[..., Any]) -> Callable[[], None]:
    undo = ExitStack()
    undo.callback(FUNCTION_APPLY.replace(classmethod(applied)))
    for place in FUNCTION_BACKWARDS:
        if place.exists:
            real = place.value

            def backward(node: Any, *gradients: Any, real: Any = real) -> Any:
                return around(real, node, *gradients)

            undo.callback(place.replace(backward))
    return undo.close


class Containers:
    """Finds the Functions in which modules are called or autograd is run, such as that of a
    reentrant checkpoint: they hold layers, and are not made one.
    """

    def __init__(self) -> None:
        self.found: set[type] = set()
        self._open: dict[int, list[type]] = {}

    def watch(self) -> Callable[[], None]:
        """Watch until what is returned is called."""

        def applied(function: type, *args: Any, **kwargs: Any) -> Any:
            with self._entered(function):
                return apply_function(function, args, kwargs)

        def around(real: Callable[..., Any], node: Any, *gradients: Any) -> Any:
            with self._entered(function_of(node)):
                return real(node, *gradients)

        undo = ExitStack()
        undo.callback(_replaced(applied, around))
        undo.callback(run_inside(self._engine))
        return undo.close

    def layer_inside(self) -> None:
        """A module is called on this thread."""
        self.found.update(self._open.get(threading.get_ident(), ()))

    @contextmanager
    def _engine(self, _roots: Iterable[Any]) -> Iterator[None]:
        self.layer_inside()
        yield

    @contextmanager
    def _entered(self, function: type) -> Iterator[None]:
        mine = self._open.setdefault(threading.get_ident(), [])
        mine.append(function)
        try:
            yield
        finally:
            mine.pop()
