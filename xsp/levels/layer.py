"""LAYER level: when each leaf module, each functional call outside leaf modules and each backward node runs.

Timed runs write stamps and codes only; what a code stands for comes from the structure run (`structure.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from xsp.levels.autograd import backward_code, new_nodes, watch
from xsp.levels.functional import is_layer
from xsp.target import tensors_in
from xsp.types import LAYER_EVENTS, Columns, Level, empty

Stamp = tuple[int, int, int]
"""`(2 * code + is_end, time_ns, thread)`."""

_FUNCTION_BASE = 1 << 20
_THREAD_MASK = 0xFFFFFFFF
_stack_depth = torch._C._len_torch_function_stack
_push_mode: Callable[[Any], None] = torch.overrides._push_mode
_pop_mode: Callable[[], Any] = torch.overrides._pop_mode


class Codes:
    """Integers for modules and functions, the same in every run of a profile."""

    def __init__(self) -> None:
        self.modules: dict[nn.Module, int] = {}
        self._functions: dict[Hashable, int | None] = {}

    def of_module(self, module: nn.Module) -> int:
        """Code of a leaf module."""
        return self.modules.setdefault(module, len(self.modules))

    def of_function(self, function: Callable[..., Any]) -> int | None:
        """Code of a torch function, None where it is no layer."""
        try:
            return self._functions[function]
        except KeyError:
            code = _FUNCTION_BASE + len(self._functions) if is_layer(function) else None
            return self._functions.setdefault(function, code)


class _Local(threading.local):
    def __init__(self) -> None:
        self.mode_was_on: list[bool] = []


class FunctionalMode(TorchFunctionMode):
    """Calls `begin` and `end` around functional layers; switched off inside leaf modules by `suspend` and `resume`."""

    def __init__(
        self,
        codes: Codes,
        begin: Callable[[int, Callable[..., Any], Any], None],
        end: Callable[[int, Callable[..., Any], Any, Any], None],
    ) -> None:
        super().__init__()
        self._codes, self._begin, self._end = codes, begin, end
        self._local = _Local()
        self._muted: list[int] = []
        self._depth = -1

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        code = self._codes.of_function(func)
        if code is None or (self._muted and threading.get_ident() in self._muted):
            return func(*args, **kwargs)
        inputs = (*args, *kwargs.values()) if kwargs else args
        self._begin(code, func, inputs)
        result = None
        try:
            result = func(*args, **kwargs)
            return result
        finally:
            self._end(code, func, inputs, result)

    def __enter__(self) -> FunctionalMode:
        _push_mode(self)
        if self._depth < 0:
            self._depth = _stack_depth()
        return self

    def __exit__(self, *exception: Any) -> None:
        # A backward node that raised has left the mode on top; everything from our own place upwards goes.
        while _stack_depth() >= self._depth:
            _pop_mode()

    def suspend(self) -> None:
        """Switch off on this thread until `resume`. Where a mode of the user's lies above, ours stays and lets pass."""
        on = _stack_depth() == self._depth
        self._local.mode_was_on.append(on)
        if on:
            _pop_mode()
        else:
            self._muted.append(threading.get_ident())

    def resume(self) -> None:
        """Undo the last `suspend` of this thread."""
        if self._local.mode_was_on.pop():
            _push_mode(self)
        else:
            self._muted.remove(threading.get_ident())


class LayerTracer:
    """Stamps layers through forward hooks, a torch function mode and hooks on autograd nodes."""

    level = Level.LAYER
    name = "module hooks, torch function mode, autograd hooks"

    def __init__(
        self, codes: Codes, log: list[Stamp] | None = None, names: Callable[[int], str | None] = lambda _code: None
    ) -> None:
        self._codes, self._names = codes, names
        self._log: list[Stamp] = [] if log is None else log
        self._hooks: list[RemovableHandle] = []
        self._node_hooks: list[RemovableHandle] = []
        self._mode: FunctionalMode | None = None
        self._token = object()
        self._calls = 0

    def start(self) -> None:
        """Hook the leaf modules known from the structure run and watch functional calls on this thread."""
        self._mode = FunctionalMode(self._codes, self._function_begins, self._function_ends)
        for module, code in self._codes.modules.items():
            self._hooks.extend(self._hook(module, code, self._mode))
        self.new_run()
        self._mode.__enter__()

    def new_run(self) -> None:
        """Count calls from zero again; called before every execution so that codes repeat from run to run."""
        self._token, self._calls = object(), 0
        _remove(self._node_hooks)

    def stop(self) -> None:
        """Remove every hook and the mode."""
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
            self._mode = None
        _remove(self._hooks)
        _remove(self._node_hooks)

    def collect(self) -> dict[str, Columns]:
        """One table, `layer_events`, with the schema LAYER_EVENTS; calls that never ended are left out."""
        # The hooks hold on to the list itself, so it is emptied, never replaced.
        log = self._log.copy()
        self._log.clear()
        return {"layer_events": paired(log)}

    def last_layer(self) -> str | None:
        """Name of the layer that began or ended last; where an exception passed through, the one it came from."""
        return self._names(self._log[-1][0] >> 1) if self._log else None

    def lost(self) -> int:
        """Python lists drop nothing."""
        return 0

    def _hook(self, module: nn.Module, code: int, mode: FunctionalMode) -> Iterable[RemovableHandle]:
        append, clock, thread = self._log.append, time.perf_counter_ns, threading.get_ident

        def before(_module: nn.Module, _args: Any) -> None:
            mode.suspend()
            append((2 * code, clock(), thread()))

        def after(_module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
            append((2 * code + 1, clock(), thread()))
            # The mode stays off while the graph is read: reading a tensor's attributes is a torch function too.
            self._adopt((*args, *kwargs.values()) if kwargs else args, output)
            mode.resume()

        # Called on the class: TorchScript modules have hooks, but refuse to be asked for them.
        return (
            nn.Module.register_forward_pre_hook(module, before),
            nn.Module.register_forward_hook(module, after, with_kwargs=True, always_call=True),
        )

    def _function_begins(self, code: int, _function: Any, _args: Any) -> None:
        self._log.append((2 * code, time.perf_counter_ns(), threading.get_ident()))

    def _function_ends(self, code: int, _function: Any, args: Any, result: Any) -> None:
        self._log.append((2 * code + 1, time.perf_counter_ns(), threading.get_ident()))
        self._adopt(args, result)

    def _adopt(self, inputs: Any, outputs: Any) -> None:
        call, self._calls = self._calls, self._calls + 1
        if not torch.is_grad_enabled():
            return
        for index, node in enumerate(new_nodes(tensors_in(inputs), tensors_in(outputs), self._token)):
            self._node_hooks.extend(self._watched(node, backward_code(call, index)))

    def _watched(self, node: Node, code: int) -> Iterable[RemovableHandle]:
        mode, append, clock, thread = self._mode, self._log.append, time.perf_counter_ns, threading.get_ident

        def begin() -> None:
            # Forward calls that the node makes (recomputation) are seen only with the mode on, and autograd
            # entered it with the mode off.
            _push_mode(mode)
            append((2 * code, clock(), thread()))

        def end() -> None:
            append((2 * code + 1, clock(), thread()))
            _pop_mode()

        return watch(node, begin, end)


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
    handles.clear()


def paired(log: list[Stamp]) -> Columns:
    """LAYER_EVENTS from stamps `(2 * code + is_end, time_ns, thread)` in the order they were written.

    On one thread calls nest, so the end that follows a begin at the same depth is its own. A begin without
    an end (the model raised) is left out.
    """
    if not log:
        return empty(LAYER_EVENTS)
    event, time_ns, thread = np.array(log, dtype=np.int64).T
    thread &= _THREAD_MASK
    order = np.argsort(thread, kind="stable")
    event, time_ns, thread = event[order], time_ns[order], thread[order]
    is_end = event & 1
    depth = _depth_within_thread(is_end, thread)
    # A begin and its end share a depth; sorted by (thread, depth) with time kept, they alternate.
    nest = np.lexsort((np.arange(len(event)), depth, thread))
    first, second = nest[:-1], nest[1:]
    match = (is_end[first] == 0) & (is_end[second] == 1) & (event[first] + 1 == event[second])
    begins, ends = first[match], second[match]
    by_start = np.lexsort((time_ns[begins], thread[begins]))
    begins, ends = begins[by_start], ends[by_start]
    return {
        "thread": thread[begins].astype(np.uint32),
        "code": event[begins] >> 1,
        "start_ns": time_ns[begins],
        "end_ns": time_ns[ends],
    }


def _depth_within_thread(is_end: np.ndarray[Any, Any], thread: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    step = 1 - 2 * is_end
    running = np.cumsum(step)
    starts = np.r_[True, thread[1:] != thread[:-1]]
    base = (running - step)[starts]
    # An end leaves the depth its begin entered: both are given the depth outside the call.
    result: np.ndarray[Any, Any] = running - base[np.cumsum(starts) - 1] - (1 - is_end)
    return result
