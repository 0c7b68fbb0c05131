"""The torch function mode that sees functional calls outside leaf modules, and the codes that stand
for layers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from xsp.levels.layer.compiled import Leave, around_compiled_code
from xsp.levels.layer.functional import CompiledFunction, is_layer
from xsp.machine.torch_internals import mode_depth, modes, pop_mode, push_mode

_FUNCTION_BASE = 1 << 20

Begin = Callable[[int, "Callable[..., Any] | CompiledFunction", Any, Mapping[str, Any]], None]
"""Called with a layer's code, the function, and what it is called with."""


class Codes:
    """Integers for modules, functions and NVTX ranges, the same in every run of a profile."""

    def __init__(self, *, ranges_are_layers: bool = False) -> None:
        self.ranges_are_layers = ranges_are_layers
        self.modules: dict[nn.Module, int] = {}
        self.roots: dict[int, tuple[int, ...]] = {}
        """Numbers of the graph nodes of a call's outputs, for calls whose others need no stamps
        (`backward.py`).
        """
        self._functions: dict[Hashable, int | None] = {}

    def of_module(self, module: nn.Module) -> int:
        """Code of a leaf module."""
        return self.modules.setdefault(module, len(self.modules))

    def of_function(self, function: Callable[..., Any] | CompiledFunction) -> int | None:
        """Code of a torch function, None where it is no layer."""
        try:
            return self._functions[function]
        except KeyError:
            code = _FUNCTION_BASE + len(self._functions) if is_layer(function) else None
            return self._functions.setdefault(function, code)

    def of_range(self, name: str, domain: str) -> int:
        """Code of an NVTX range."""
        key = ("NVTX range", domain, name)
        return self._functions.setdefault(key, _FUNCTION_BASE + len(self._functions)) or 0


class _Local(threading.local):
    def __init__(self) -> None:
        self.mode_was_on: list[bool] = []


class FunctionalMode(TorchFunctionMode):
    """Calls `begin` and `end` around functional layers; switched off inside leaf modules by
    `suspend` and `resume`.
    """

    def __init__(
        self,
        codes: Codes,
        begin: Begin,
        end: Callable[[int, Callable[..., Any] | CompiledFunction, Any, Any], None],
    ) -> None:
        super().__init__()
        self._codes, self._begin, self._end = codes, begin, end
        self._local = _Local()
        self._muted: list[int] = []
        self._depth = -1
        self._below: list[Any] = []
        self._undo: Callable[[], None] = lambda: None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        code = self._codes.of_function(func)
        if code is None or (self._muted and threading.get_ident() in self._muted):
            return func(*args, **kwargs)
        inputs = (*args, *kwargs.values()) if kwargs else args
        self._begin(code, func, args, kwargs)
        result = None
        try:
            result = func(*args, **kwargs)
            return result
        finally:
            self._end(code, func, inputs, result)

    def __enter__(self) -> FunctionalMode:
        self._below = modes()
        self._depth = len(self._below) + 1
        self._undo = around_compiled_code(self._compiled)
        push_mode(self)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._undo()
        # Whatever raised, and wherever: a backward node leaves the mode on top, a signal's handler
        # can leave it, and the program's own modes, switched off.
        while mode_depth():
            pop_mode()
        for mode in self._below:
            push_mode(mode)

    def _compiled(self, name: str, inputs: tuple[Any, ...]) -> Leave | None:
        """One layer; inside it the mode is off, wherever in the stack it lies: Dynamo guards on all
        modes.
        """
        thread = threading.get_ident()
        if mode_depth() < self._depth or thread in self._muted:
            return None
        function = CompiledFunction(name)
        code = self._codes.of_function(function)
        if code is None:
            return None
        self._begin(code, function, inputs, {})
        self._muted.append(thread)
        above = [pop_mode() for _ in range(mode_depth() - self._depth)]
        pop_mode()
        for mode in reversed(above):
            push_mode(mode)

        def leave(result: Any) -> None:
            for _ in above:
                pop_mode()
            push_mode(self)
            for mode in reversed(above):
                push_mode(mode)
            self._muted.remove(thread)
            self._end(code, function, inputs, result)

        return leave

    @contextmanager
    def back_on(self) -> Iterator[None]:
        """On during the block, whether or not it was before."""
        was_on = mode_depth() >= self._depth
        if not was_on:
            push_mode(self)
        try:
            yield
        finally:
            if not was_on:
                pop_mode()

    def suspend(self) -> None:
        """Switch off on this thread until `resume`. Where a mode of the user's lies above, ours
        stays and lets pass.
        """
        on = mode_depth() == self._depth and not (
            self._muted and threading.get_ident() in self._muted
        )
        self._local.mode_was_on.append(on)
        if on:
            pop_mode()
        else:
            self._muted.append(threading.get_ident())

    def resume(self) -> None:
        """Undo the last `suspend` of this thread."""
        if self._local.mode_was_on.pop():
            push_mode(self)
        else:
            self._muted.remove(threading.get_ident())
