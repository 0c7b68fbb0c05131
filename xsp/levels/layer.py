"""LAYER level: when each leaf module, each functional call outside leaf modules and each backward node runs.

Timed runs write stamps and codes only; what a code stands for comes from the structure run (`structure.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from xsp.analysis.align import BACKWARD_BASE
from xsp.levels.autograd import ENGINE_CODE, backward_code, new_nodes, run_inside
from xsp.levels.calls import entry_point, step_in, step_in_by_hooks
from xsp.levels.compiled import Leave, around_compiled_code
from xsp.levels.functional import CompiledFunction, is_layer
from xsp.target import tensors_in
from xsp.types import LAYER_EVENTS, Columns, Level, empty

Stamp = tuple[int, int, int]
"""`(2 * code + is_end, time_ns, thread)`."""

IntArray = npt.NDArray[np.int64]

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

    def of_function(self, function: Callable[..., Any] | CompiledFunction) -> int | None:
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
        begin: Callable[[int, Callable[..., Any] | CompiledFunction, Any], None],
        end: Callable[[int, Callable[..., Any] | CompiledFunction, Any, Any], None],
    ) -> None:
        super().__init__()
        self._codes, self._begin, self._end = codes, begin, end
        self._local = _Local()
        self._muted: list[int] = []
        self._depth = -1
        self._undo: Callable[[], None] = lambda: None

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
            self._undo = around_compiled_code(self._compiled)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._undo()
        # A backward node that raised has left the mode on top; everything from our own place upwards goes.
        while _stack_depth() >= self._depth:
            _pop_mode()

    def _compiled(self, name: str, inputs: tuple[Any, ...]) -> Leave | None:
        """One layer; inside it the mode is off, wherever in the stack it lies: Dynamo guards on all modes."""
        thread = threading.get_ident()
        if _stack_depth() < self._depth or thread in self._muted:
            return None
        function = CompiledFunction(name)
        code = self._codes.of_function(function)
        if code is None:
            return None
        self._begin(code, function, inputs)
        self._muted.append(thread)
        above = [_pop_mode() for _ in range(_stack_depth() - self._depth)]
        _pop_mode()
        for mode in reversed(above):
            _push_mode(mode)

        def leave(result: Any) -> None:
            for _ in above:
                _pop_mode()
            _push_mode(self)
            for mode in reversed(above):
                _push_mode(mode)
            self._muted.remove(thread)
            self._end(code, function, inputs, result)

        return leave

    @contextmanager
    def back_on(self) -> Iterator[None]:
        """On during the block, whether or not it was before."""
        was_on = _stack_depth() >= self._depth
        if not was_on:
            _push_mode(self)
        try:
            yield
        finally:
            if not was_on:
                _pop_mode()

    def suspend(self) -> None:
        """Switch off on this thread until `resume`. Where a mode of the user's lies above, ours stays and lets pass."""
        on = _stack_depth() == self._depth and not (self._muted and threading.get_ident() in self._muted)
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
    """Stamps layers around module calls, in a torch function mode and through hooks on autograd nodes."""

    level = Level.LAYER
    name = "module calls, torch function mode, autograd hooks"

    def __init__(
        self, codes: Codes, log: list[Stamp] | None = None, names: Callable[[int], str | None] = lambda _code: None
    ) -> None:
        self._codes, self._names = codes, names
        self._log: list[Stamp] = [] if log is None else log
        self._steps: list[Callable[[], None]] = []
        self._node_hooks: list[RemovableHandle] = []
        self._mode: FunctionalMode | None = None
        self._token = object()
        self._calls = 0

    def start(self) -> None:
        """Step into the calls of the structure run's leaf modules and watch functional calls on this thread."""
        self._mode = FunctionalMode(self._codes, self._function_begins, self._function_ends)
        for module, code in self._codes.modules.items():
            self._steps.append(self._step_in(module, code, self._mode))
        self._steps.append(run_inside(self._engine))
        self.new_run()
        self._mode.__enter__()

    def new_run(self) -> None:
        """Count calls from zero again; called before every execution so that codes repeat from run to run."""
        self._token, self._calls = object(), 0
        _remove(self._node_hooks)

    def stop(self) -> None:
        """Take back every change to modules and nodes, and the mode."""
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
            self._mode = None
        while self._steps:
            self._steps.pop()()
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

    def _step_in(self, module: nn.Module, code: int, mode: FunctionalMode) -> Callable[[], None]:
        append, clock, thread = self._log.append, time.perf_counter_ns, threading.get_ident
        begin, end = 2 * code, 2 * code + 1

        def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
            def timed(*args: Any, **kwargs: Any) -> Any:
                mode.suspend()
                output = None
                append((begin, clock(), thread()))
                try:
                    output = call(*args, **kwargs)
                finally:
                    append((end, clock(), thread()))
                    # The mode stays off while the graph is read: reading a tensor's attributes is a torch function too.
                    self._adopt((*args, *kwargs.values()) if kwargs else args, output)
                    mode.resume()
                return output

            return timed

        attribute = entry_point(module)
        if attribute is not None:
            return step_in(module, attribute, wrap)

        def before(*_: Any) -> None:
            mode.suspend()
            append((begin, clock(), thread()))

        def after(_module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
            append((end, clock(), thread()))
            self._adopt((*args, *kwargs.values()), output)
            mode.resume()

        return step_in_by_hooks(module, before, after)

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
            self._node_hooks.append(self._watched(node, backward_code(call, index)))

    def _watched(self, node: Node, code: int) -> RemovableHandle:
        # One hook a node: a node's work ends where the next one's begins, since what autograd does in between (adding
        # up gradients, keeping them) is about the gradients that the node has just produced.
        append, clock, thread = self._log.append, time.perf_counter_ns, threading.get_ident
        event = 2 * code
        return node.register_prehook(lambda _gradients: append((event, clock(), thread())))

    @contextmanager
    def _engine(self) -> Iterator[None]:
        mode = self._mode
        self._log.append((2 * ENGINE_CODE, time.perf_counter_ns(), threading.get_ident()))
        try:
            with mode.back_on() if mode is not None else nullcontext():
                yield
        finally:
            self._log.append((2 * ENGINE_CODE + 1, time.perf_counter_ns(), threading.get_ident()))


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
    handles.clear()


def paired(log: list[Stamp]) -> Columns:
    """LAYER_EVENTS from stamps `(2 * code + is_end, time_ns, thread)` in the order they were written.

    On one thread calls nest, so the end that follows a begin at the same depth is its own. A begin without an end (the
    model raised) is left out. A backward node has a begin only: it lasts until the next node of its thread, the
    last one until its run of the engine ends.
    """
    if not log:
        return empty(LAYER_EVENTS)
    event, time_ns, thread = np.array(log, dtype=np.int64).T
    thread &= _THREAD_MASK
    is_node = event >= 2 * BACKWARD_BASE
    calls = _calls(event[~is_node], time_ns[~is_node], thread[~is_node])
    engine = calls["code"] == ENGINE_CODE
    nodes = _nodes(event[is_node], time_ns[is_node], thread[is_node], calls["end_ns"][engine])
    events = {name: np.concatenate([calls[name][~engine], nodes[name]]) for name in calls}
    order = np.lexsort((events["start_ns"], events["thread"]))
    return {name: column[order] for name, column in events.items()}


def _calls(event: IntArray, time_ns: IntArray, thread: IntArray) -> Columns:
    """Events with a begin and an end."""
    order = np.argsort(thread, kind="stable")
    event, time_ns, thread = event[order], time_ns[order], thread[order]
    is_end = event & 1
    depth = _depth_within_thread(is_end, thread)
    # A begin and its end share a depth; sorted by (thread, depth) with time kept, they alternate.
    nest = np.lexsort((np.arange(len(event)), depth, thread))
    first, second = nest[:-1], nest[1:]
    match = (is_end[first] == 0) & (is_end[second] == 1) & (event[first] + 1 == event[second])
    begins, ends = first[match], second[match]
    return {
        "thread": thread[begins].astype(np.uint32),
        "code": event[begins] >> 1,
        "start_ns": time_ns[begins],
        "end_ns": time_ns[ends],
    }


def _nodes(event: IntArray, time_ns: IntArray, thread: IntArray, engine_end: IntArray) -> Columns:
    """Backward nodes, which have a begin only."""
    order = np.lexsort((time_ns, thread))
    event, time_ns, thread = event[order], time_ns[order], thread[order]
    last = np.r_[thread[1:] != thread[:-1], True] if len(thread) else np.zeros(0, dtype=bool)
    following = np.where(last, np.iinfo(np.int64).max, np.roll(time_ns, -1))
    # Engine runs nest at most; the one that ends first after the node began is the one it belongs to.
    by_end = np.sort(engine_end)
    run = np.searchsorted(by_end, time_ns, side="right")
    ended = np.append(by_end, time_ns.max(initial=0))[run]
    end = np.maximum(np.minimum(following, ended), time_ns)
    return {"thread": thread.astype(np.uint32), "code": event >> 1, "start_ns": time_ns, "end_ns": end}


def _depth_within_thread(is_end: IntArray, thread: IntArray) -> IntArray:
    if not len(thread):
        return thread
    step = 1 - 2 * is_end
    running = np.cumsum(step)
    starts = np.r_[True, thread[1:] != thread[:-1]]
    base = (running - step)[starts]
    # An end leaves the depth its begin entered: both are given the depth outside the call.
    result: IntArray = running - base[np.cumsum(starts) - 1] - (1 - is_end)
    return result
