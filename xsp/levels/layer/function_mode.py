"""The torch function mode that sees functional calls outside leaf modules, and the codes that stand
for layers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from xsp.levels.layer.bindings import ExpectedCalls
from xsp.levels.layer.compiled import Leave, around_compiled_code
from xsp.levels.layer.functional import CompiledFunction, is_layer
from xsp.levels.layer.mode_switch import ModeSwitch, Switch
from xsp.levels.layer.undisturbed import Answers
from xsp.levels.layer.ways import Plan
from xsp.machine.torch_internals import mode_depth, modes, pop_mode, push_mode

_FUNCTION_BASE = 1 << 20

Begin = Callable[[int, "Callable[..., Any] | CompiledFunction", Any, Mapping[str, Any]], None]
"""Called with a layer's code, the function, and what it is called with."""

End = Callable[[int, "Callable[..., Any] | CompiledFunction", Any, Any], None]
"""Called with a layer's code, the function, its inputs, and what it gave; None where it raised."""


class Codes:
    """Integers for modules, functions and NVTX ranges, the same in every run of a profile."""

    def __init__(self, *, ranges_are_layers: bool = False) -> None:
        self.ranges_are_layers = ranges_are_layers
        self.modules: dict[nn.Module, int] = {}
        self.roots: dict[int, tuple[int, ...]] = {}
        """Numbers of the graph nodes of a call's outputs, for calls whose others need no stamps
        (`backward.py`).
        """
        self.plans: dict[int, list[Plan | None]] = {}
        """By code, for each of its calls in the order of their ends, the ways to the graph nodes
        that need a stamp; None where there are none.
        """
        self.transparent: set[type] = set()
        """Custom Functions that hold layers (`custom_functions.py`)."""
        self.bucketed: list[nn.Parameter] = []
        """Parameters of which DistributedDataParallel reduces the gradients (`distributed.py`)."""
        self.parts: set[str] = set()
        """Types of the parts of a step that the structure run had (`parts.py`)."""
        self.calls: ExpectedCalls | str = "no structure run was made"
        """The calls of torch's bindings by which timed runs tell functional calls, or why they need
        a torch function mode for that (`bindings.py`).
        """
        self._functions: dict[Hashable, int | None] = {}

    def of_module(self, module: nn.Module) -> int:
        """Code of a leaf module."""
        return self.modules.setdefault(module, len(self.modules))

    def of_function(self, function: Callable[..., Any] | CompiledFunction) -> int | None:
        """Code of a torch function, None where it is not a layer."""
        try:
            return self._functions[function]
        except KeyError:
            code = _FUNCTION_BASE + len(self._functions) if is_layer(function) else None
            return self._functions.setdefault(function, code)

    def of_range(self, name: str, domain: str) -> int:
        """Code of an NVTX range."""
        key = ("NVTX range", domain, name)
        return self._functions.setdefault(key, _FUNCTION_BASE + len(self._functions)) or 0


class FunctionalCalls:
    """What every way to see functional calls has: `begin` and `end` are called around functional
    layers, which `switch` lets pass inside leaf modules.
    """

    def __init__(self, codes: Codes, begin: Begin, end: End, switch: Switch) -> None:
        self._codes, self._begin, self._end = codes, begin, end
        self.switch = switch

    def stamped(
        self,
        code: int,
        function: Callable[..., Any] | CompiledFunction,
        args: Any,
        kwargs: Mapping[str, Any],
        call: Callable[..., Any] | None = None,
    ) -> Any:
        """Call as one layer. `call` is what to call where that is not `function` itself."""
        inputs = (*args, *kwargs.values()) if kwargs else args
        self._begin(code, function, args, kwargs)
        result = None
        try:
            result = (call or function)(*args, **kwargs)  # type: ignore[operator] # one can be called
            return result
        finally:
            self._end(code, function, inputs, result)

    def new_run(self) -> None:
        """A run begins; nothing to do for most."""

    def engine_ended(self, result: Any = None) -> None:
        """A run of autograd's engine, which gave this, has ended on this thread; as `new_run`."""


class FunctionalMode(FunctionalCalls, TorchFunctionMode):
    """Calls `begin` and `end` around functional layers; `switch` takes it off inside leaf modules.

    A recorder's handler takes the place of its `__torch_function__` in timed runs.
    """

    def __init__(
        self,
        codes: Codes,
        begin: Begin,
        end: End,
        switch: Switch | None = None,
    ) -> None:
        TorchFunctionMode.__init__(self)
        super().__init__(codes, begin, end, ModeSwitch() if switch is None else switch)
        self._depth = -1
        self._below: list[Any] = []
        self._thread = 0
        self.has_ended = False
        self._exit = ExitStack()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self.has_ended or self.switch.muted():
            return func(*args, **kwargs)
        return self._seen(self._codes.of_function(func), func, args, kwargs)

    def _seen(
        self, code: int | None, function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]
    ) -> Any:
        """Call it, as a layer where it has a code."""
        if code is None:
            return function(*args, **kwargs)
        return self.stamped(code, function, args, kwargs)

    def __enter__(self) -> FunctionalMode:
        self._below = modes()
        self._thread = threading.get_ident()
        self._depth = len(self._below) + 1
        self.switch.attach(self, self._depth)
        self._exit.callback(around_compiled_code(self._compiled))
        self._answers = Answers(self.is_on, self.switch)
        self._exit.callback(self._answers.close)
        push_mode(self)
        return self

    def __exit__(self, *exception: Any) -> None:
        self.leave()

    def leave(self) -> None:
        """Switch the mode off; before it was on, and once it is off, this changes nothing."""
        if self._depth < 0:
            return
        self._exit.close()
        if threading.get_ident() != self._thread:
            # Only that thread can take it off its stack (`drop_ended_modes`).
            self.has_ended = True
            return
        # Whatever raised, and wherever: a backward node leaves the mode on top, a signal's handler
        # can leave it, and the program's own modes, switched off.
        while mode_depth():
            pop_mode()
        for mode in self._below:
            push_mode(mode)

    def is_on(self) -> bool:
        """Whether functional calls of this thread are seen."""
        return mode_depth() >= self._depth and not self.switch.muted()

    def _compiled(self, name: str, inputs: tuple[Any, ...]) -> Leave | None:
        """One layer; inside it the mode is off, wherever in the stack it lies: Dynamo guards on all
        modes.
        """
        if not self._lies_here():
            return self._compiled_where_off()
        function = CompiledFunction(name)
        # Where it lets calls pass, as in a part of a step, it is no layer.
        code = None if self.switch.muted() else self._codes.of_function(function)
        self.switch.mute()
        if code is not None:
            self._begin(code, function, inputs, {})
        self._answers.pause()
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
            self._answers.go_on()
            if code is not None:
                self._end(code, function, inputs, result)
            self.switch.unmute()

        return leave

    def _compiled_where_off(self) -> Leave | None:
        """In a leaf module or a part of a step, or on another thread."""
        if threading.get_ident() != self._thread:
            return None
        self._answers.pause()
        return lambda _result: self._answers.go_on()

    def _lies_here(self) -> bool:
        stack = modes()
        return len(stack) >= self._depth and stack[self._depth - 1] is self

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


def drop_ended_modes() -> None:
    """Take off this thread's stack what was switched off from another one."""
    stack = modes()
    kept = [each for each in stack if not (isinstance(each, FunctionalMode) and each.has_ended)]
    if len(kept) == len(stack):
        return
    for _ in stack:
        pop_mode()
    for mode in kept:
        push_mode(mode)
