"""What a timed run does at every module call, functional call and backward node, in Python.

`_hotpath_c/` says the same in C, with the same methods, and is used where it was built
(`hotpath.py`); the tests are run on both. Recorders that do more at an event than write a stamp are
subclasses of this one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from xsp.levels.layer.autograd import UNKNOWN_CODE, made_by, node_of
from xsp.levels.layer.mode_switch import ModeSwitch, Switch
from xsp.levels.layer.tensors import StepKind, locate_tensors, tensors_in
from xsp.levels.layer.ways import UNSTAMPED, Plan, Way

Stamp = tuple[int, int, int]
"""`(2 * code + is_end, time_ns, thread)`."""

Function = Callable[..., Any]


class Recorder(Switch, Protocol):
    """What the tracer needs of either twin."""

    follows: bool
    """Whether it is a `CallFollower`."""

    def site(self, code: int, plans: Sequence[Plan | None]) -> Any:
        """A place of the program from its code and the plans of its calls, in the order in which
        these end. It counts them: `new_run()` of it begins again.
        """

    def layer(self, call: Function, site: Any) -> Function:
        """What to call instead of a module's entry point."""

    def handler(self, mode: Any) -> Function:
        """What to give `mode` as its `__torch_function__`."""

    def hook(self, event: int) -> Function:
        """A hook before a node that stamps this event."""

    def watch(self, node: Node, hook: Function) -> None:
        """Put a hook before a node until `forget_nodes`."""

    def forget_nodes(self) -> None:
        """Take all hooks off their nodes."""

    def stamp(self, event: int) -> None:
        """Write an event with the time and the thread."""

    def adopt(self, site: Any, output: Any) -> None:
        """Count a call that has ended and watch its backward nodes; `output` is None where it
        raised.
        """

    def empty(self) -> None:
        """Forget all stamps."""

    def stamps(self) -> npt.NDArray[np.int64]:
        """`(n, 3)`: event, time in ns, thread. In the order of writing for each thread."""

    def last(self) -> int | None:
        """The last event, None before the first."""

    def lost(self) -> int:
        """Stamps for which there was no room."""


class CallFollower(Recorder, Protocol):
    """A recorder that can follow calls of bindings: the twin in C."""

    def expect(
        self, starting: Sequence[tuple[Any, ...]], other: Sequence[tuple[Any, ...]], code: int
    ) -> None:
        """The calls that runs make on the thread that calls `watch_calls`, and on another one, as
        `bindings.Step`. `code` is stamped where a run makes another call.
        """

    def watch_calls(self, is_recording: bool) -> None:
        """From now on compare calls of bindings with these, or record them."""

    def end_calls(self) -> None:
        """Undo `watch_calls`."""

    def begin_calls(self) -> None:
        """The first call comes next."""

    def sees(self) -> bool:
        """Whether functional calls of this thread are seen."""

    def anew(self) -> tuple[int, ...]:
        """They are from now on, whatever is under way, but where the thread is muted; returns what
        `as_before` is given.
        """

    def as_before(self, *before: int) -> None:
        """Undo `anew`."""

    def passed(self, binding: int, result: Any) -> None:
        """A call, which gave this, of what has a number like a binding."""

    def strayed(self) -> tuple[int, int, int] | None:
        """None where all calls were as expected, else how many were, the binding called instead (-1
        for none), and how many layers did not begin.
        """


class Site:
    """A place of the program that calls of one code come from."""

    __slots__ = ("code", "plans", "seen")

    def __init__(self, code: int, plans: Sequence[Plan | None]) -> None:
        self.code, self.plans, self.seen = code, plans, 0

    def new_run(self) -> None:
        """Count calls from zero again."""
        self.seen = 0


class PythonRecorder(ModeSwitch):
    """Stamps in one list; `log` can be another one that does more than keep them."""

    follows = False

    def __init__(
        self, site_of: Callable[[Any], Site | None], log: list[Stamp] | None = None
    ) -> None:
        super().__init__()
        self._site_of = site_of
        self._sites: dict[Any, Site | None] = {}
        self._log: list[Stamp] = [] if log is None else log
        self._handles: list[RemovableHandle] = []

    def site(self, code: int, plans: Sequence[Plan | None]) -> Site:
        """See `Recorder`."""
        return Site(code, plans)

    def layer(self, call: Function, site: Site) -> Function:
        """See `Recorder`."""
        append, clock, thread = self._log.append, time.perf_counter_ns, threading.get_ident
        begin, end = 2 * site.code, 2 * site.code + 1

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.suspend()
            output = None
            append((begin, clock(), thread()))
            try:
                output = call(*args, **kwargs)
            finally:
                append((end, clock(), thread()))
                # The mode stays off while the graph is read: reading a tensor's attributes is a
                # torch function too.
                self.adopt(site, output)
                self.resume()
            return output

        return timed

    def handler(self, mode: Any) -> Function:
        """See `Recorder`."""
        return _Handler(self, mode)

    def call(self, function: Function, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """Call a torch function, with stamps where it is a layer."""
        try:
            site = self._sites[function]
        except KeyError:
            site = self._sites.setdefault(function, self._site_of(function))
        if site is None or self.muted():
            return function(*args, **kwargs)
        self.stamp(2 * site.code)
        result = None
        try:
            result = function(*args, **kwargs)
            return result
        finally:
            self.stamp(2 * site.code + 1)
            self.adopt(site, result)

    def hook(self, event: int) -> Function:
        """See `Recorder`."""
        append, clock, thread = self._log.append, time.perf_counter_ns, threading.get_ident
        return lambda _gradients: append((event, clock(), thread()))

    def watch(self, node: Node, hook: Function) -> None:
        """See `Recorder`."""
        self._handles.append(node.register_prehook(hook))

    def forget_nodes(self) -> None:
        """See `Recorder`."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def stamp(self, event: int) -> None:
        """See `Recorder`."""
        self._log.append((event, time.perf_counter_ns(), threading.get_ident()))

    def adopt(self, site: Site, output: Any) -> None:
        """See `Recorder`."""
        call, site.seen = site.seen, site.seen + 1
        known = call < len(site.plans)
        plan = site.plans[call] if known else None
        if output is None or (known and plan is None):
            return
        if plan is not None:
            self._follow(plan, output)
        elif torch.is_grad_enabled():
            watch_unknown(self, output)

    def _follow(self, plan: Plan, output: Any) -> None:
        nodes: list[Node | None] = []
        for way in plan:
            node = _node_at(way, nodes, output)
            nodes.append(node)
            if node is not None and way.event != UNSTAMPED:
                self.watch(node, self.hook(way.event))

    def empty(self) -> None:
        """See `Recorder`."""
        # Hooks and layers hold on to the list itself, so it is emptied, never replaced.
        self._log.clear()

    def stamps(self) -> npt.NDArray[np.int64]:
        """See `Recorder`."""
        return np.array(self._log, dtype=np.int64).reshape(-1, 3)

    def last(self) -> int | None:
        """See `Recorder`."""
        return self._log[-1][0] if self._log else None

    def lost(self) -> int:
        """Python lists drop nothing."""
        return 0


class _Handler:
    """torch takes a callable as a mode's `__torch_function__` if its `__self__` is the mode."""

    def __init__(self, recorder: PythonRecorder, mode: Any) -> None:
        self._recorder, self.__self__ = recorder, mode

    def __call__(
        self,
        func: Function,
        types: Any,  # noqa: ARG002 - torch passes it
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self._recorder.call(func, args, kwargs or {})


def watch_unknown(recorder: Recorder, output: Any) -> None:
    """Watch the nodes that made a call's outputs, of a call that the structure run did not have:
    whose they are is not known, and counted as such.
    """
    for node in dict.fromkeys(made_by(each.tensor for each in locate_tensors(output))):
        recorder.watch(node, recorder.hook(2 * UNKNOWN_CODE))


def _node_at(way: Way, nodes: Sequence[Node | None], output: Any) -> Node | None:
    """None where a run gives other outputs than the structure run did."""
    if way.base >= 0:
        base = nodes[way.base]
        following = () if base is None else base.next_functions
        return following[way.edge][0] if way.edge < len(following) else None
    try:
        for kind, key in way.steps:
            output = step_along(output, kind, key)
        return node_of(output)
    except (AttributeError, LookupError, TypeError):
        return None


def step_along(value: Any, kind: int, key: Any) -> Any:
    """One step of a way."""
    if kind == StepKind.ITEM:
        return value[key]
    if kind == StepKind.ATTRIBUTE:
        return getattr(value, key)
    return leaf_of(value, key)


def leaf_of(value: Any, place: int) -> torch.Tensor:
    """The tensor that a `StepKind.LEAF` step leads to."""
    return tensors_in(value)[place]
