"""LAYER level: when each leaf module, each functional call outside leaf modules and each backward
node runs.

Timed runs write stamps and codes only; what a code stands for comes from the structure run
(`structure_run.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from xsp.levels.layer.autograd import (
    ENGINE_CODE,
    UNKNOWN_NODE,
    backward_code,
    new_nodes,
    new_roots,
    run_inside,
)
from xsp.levels.layer.entry_points import entry_point, step_in, step_in_by_hooks
from xsp.levels.layer.function_mode import Codes, FunctionalMode
from xsp.levels.layer.ranges import RangeRecorder
from xsp.levels.layer.stamps import Stamp, paired
from xsp.levels.layer.tensors import tensors_in
from xsp.types import Columns, Level


class LayerTracer:
    """Stamps layers around module calls, in a torch function mode and through hooks on autograd
    nodes.
    """

    level = Level.LAYER
    name = "module calls, torch function mode, autograd hooks"

    def __init__(
        self,
        codes: Codes,
        log: list[Stamp] | None = None,
        names: Callable[[int], str | None] = lambda _code: None,
    ) -> None:
        self._codes, self._names = codes, names
        self._log: list[Stamp] = [] if log is None else log
        self._steps: list[Callable[[], None]] = []
        self._node_hooks: list[RemovableHandle] = []
        self._mode: FunctionalMode | None = None
        self._token = object()
        self._calls = 0
        told = (
            (self._range_begins, self._range_ends, self._range_abandoned)
            if codes.ranges_are_layers
            else ()
        )
        self._ranges = RangeRecorder(*told)

    def start(self) -> None:
        """Step into the calls of the structure run's leaf modules and watch functional calls on
        this thread.
        """
        self._mode = FunctionalMode(self._codes, self._function_begins, self._function_ends)
        for module, code in self._codes.modules.items():
            self._steps.append(self._step_in(module, code, self._mode))
        self._steps.append(run_inside(self._engine))
        self.new_run()
        self._steps.append(partial(self._mode.__enter__().__exit__, None, None, None))
        self._steps.append(self._ranges.watch())

    def new_run(self) -> None:
        """Count calls from zero again; called before every execution so that codes repeat from run
        to run.
        """
        self._ranges.new_run()
        self._token, self._calls = object(), 0
        _remove(self._node_hooks)

    def stop(self) -> None:
        """Take back every change to modules and nodes, and the mode."""
        while self._steps:
            self._steps.pop()()
        self._mode = None
        _remove(self._node_hooks)

    def collect(self) -> dict[str, Columns]:
        """Tables `layer_events` (LAYER_EVENTS) and `ranges` (RANGES, the user's own); without what
        never ended.
        """
        # The hooks hold on to the list itself, so it is emptied, never replaced.
        log = self._log.copy()
        self._log.clear()
        return {"layer_events": paired(log), "ranges": self._ranges.collect()}

    def last_layer(self) -> str | None:
        """Name of the layer that began or ended last; where an exception passed through, the one it
        came from.
        """
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
                    # The mode stays off while the graph is read: reading a tensor's attributes is a
                    # torch function too.
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

    def _function_begins(self, code: int, _function: Any, _args: Any, _kwargs: Any) -> None:
        self._log.append((2 * code, time.perf_counter_ns(), threading.get_ident()))

    def _function_ends(self, code: int, _function: Any, args: Any, result: Any) -> None:
        self._log.append((2 * code + 1, time.perf_counter_ns(), threading.get_ident()))
        self._adopt(args, result)

    def _range_begins(self, name: str, domain: str) -> None:
        if self._mode is not None:
            self._mode.suspend()
        self._log.append(
            (2 * self._codes.of_range(name, domain), time.perf_counter_ns(), threading.get_ident())
        )

    def _range_ends(self, name: str, domain: str) -> None:
        self._log.append(
            (
                2 * self._codes.of_range(name, domain) + 1,
                time.perf_counter_ns(),
                threading.get_ident(),
            )
        )
        self._adopt((), None)
        self._range_abandoned()

    def _range_abandoned(self) -> None:
        if self._mode is not None:
            self._mode.resume()

    def _adopt(self, inputs: Any, outputs: Any) -> None:
        call, self._calls = self._calls, self._calls + 1
        if not torch.is_grad_enabled():
            return
        numbers = self._codes.roots.get(call)
        nodes: Iterable[tuple[int, Node]]
        if numbers is None:
            nodes = enumerate(new_nodes(tensors_in(inputs), tensors_in(outputs), self._token))
        else:
            roots = new_roots(tensors_in(outputs), self._token)
            # Other outputs than in the structure run: whose they are is not known, and counted as
            # such.
            nodes = zip(
                numbers if len(numbers) == len(roots) else repeat(UNKNOWN_NODE), roots, strict=False
            )
        for number, node in nodes:
            self._node_hooks.append(self._watched(node, backward_code(call, number)))

    def _watched(self, node: Node, code: int) -> RemovableHandle:
        # One hook a node: a node's work ends where the next one's begins, since what autograd does
        # in between (adding up gradients, keeping them) is about the gradients that the node has
        # just produced.
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
