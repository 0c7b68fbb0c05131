"""The user's own ranges, seen where Python code opens and closes them: torch.cuda.nvtx, the nvtx
package, and torch.profiler's `record_function`.

Ranges that libraries open in C are not seen, nor those that torch opens in its own Python code.
Nothing is patched for longer than a traced run, and recording a range costs less than tracing a
layer does.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Any

import numpy as np
from torch.profiler import record_function

from xsp.levels.layer.mode_switch import ModeSwitch, Switch
from xsp.machine.torch_internals import NVTX
from xsp.types import RANGES, Columns, empty

DEFAULT_DOMAIN = "NVTX"
"""How the nvtx package calls the domain without a name; torch.cuda.nvtx has no other."""

NO_DOMAIN = ""
"""What `record_function` has instead of a domain."""

_NOT_THE_PROGRAMS = ("torch.", "xsp.")
"""Modules that open ranges of their own: optimizers their steps, xsp the layers whose memory it
records.
"""

_DECORATORS = frozenset({"torch.utils._contextlib", "contextlib"})
"""Modules that open a range around a decorated function, for who calls it."""

_THREAD_MASK = 0xFFFFFFFF
_OWN_IDS = 1 << 62


class RangeRecorder:
    """Keeps name, domain, thread, start and end of every range that was opened and closed while it
    watched.

    `began` and `ended` are called with name and domain for ranges that nest on a thread, inside
    their stamps; `abandoned` for each that was still open when its run was over. `switch` takes a
    mode off where torch opens and closes a range, by operators that take 4 us longer with one.
    """

    def __init__(
        self,
        began: Callable[[str, str], None] = lambda _name, _domain: None,
        ended: Callable[[str, str], None] = lambda _name, _domain: None,
        abandoned: Callable[[], None] = lambda: None,
        switch: Switch | None = None,
    ) -> None:
        self._began, self._ended, self._abandoned = began, ended, abandoned
        self.switch = ModeSwitch() if switch is None else switch
        self._done: list[tuple[str, str, int, int, int]] = []
        self._open: dict[tuple[int, str], list[tuple[str, int]]] = {}
        self._started: dict[int, tuple[str, str, int, int]] = {}

    def watch(self) -> Callable[[], None]:
        """Watch from now on; returns what ends it."""
        with ExitStack() as undo:
            undo.callback(self.new_run)
            undo.callback(NVTX.replace(_TorchNvtx(NVTX.value, self)))
            _watch_record_function(undo, self)
            module = sys.modules.get("nvtx.nvtx")
            if module is not None and module.enabled():
                _watch_package(undo, module, self)
            return undo.pop_all().close

    def new_run(self) -> None:
        """Forget ranges that are still open: what an earlier execution left open never ends."""
        for (thread, _), stack in self._open.items():
            if thread == threading.get_ident():
                for _ in stack:
                    self._abandoned()
        self._open.clear()
        self._started.clear()

    def push(self, name: str, domain: str) -> None:
        """A range begins on this thread."""
        thread = threading.get_ident()
        stack = self._open.setdefault((thread, domain), [])
        stack.append((name, time.perf_counter_ns()))
        self._began(name, domain)

    def pop(self, domain: str) -> None:
        """The innermost range of this thread and domain ends. One that began before recording did
        is left out.
        """
        thread = threading.get_ident()
        stack = self._open.get((thread, domain))
        if stack:
            name, start = stack.pop()
            self._ended(name, domain)
            self._done.append((name, domain, thread, start, time.perf_counter_ns()))

    def start(self, known: int, name: str, domain: str) -> int:
        """A range begins that may end on another thread. Returns its id; without a tool NVTX has
        one for all.
        """
        identity = (
            known if known not in self._started and known > 0 else _OWN_IDS + len(self._started)
        )
        self._started[identity] = (name, domain, threading.get_ident(), time.perf_counter_ns())
        return identity

    def end(self, identity: int) -> None:
        """The range of this id ends."""
        if identity in self._started:
            self._done.append((*self._started.pop(identity), time.perf_counter_ns()))

    def collect(self) -> Columns:
        """The ranges since the last `collect` (RANGES), in the order in which they ended."""
        done, self._done = self._done, []
        if not done:
            return empty(RANGES)
        kept = [name for name in RANGES if name != "source"]
        columns: dict[str, Any] = dict(zip(kept, zip(*done, strict=True), strict=True))
        columns["thread"] = [thread & _THREAD_MASK for thread in columns["thread"]]
        columns["source"] = [_source(domain) for domain in columns["domain"]]
        return {name: np.array(columns[name], dtype=kind) for name, kind in RANGES.items()}


def _source(domain: str) -> str:
    return "record_function" if domain == NO_DOMAIN else "nvtx"


class _TorchNvtx:
    """Stands in for the module that torch.cuda.nvtx calls. NVTX itself is called outside the
    stamps.
    """

    def __init__(self, inner: Any, recorder: RangeRecorder) -> None:
        self._inner, self._recorder = inner, recorder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def rangePushA(self, message: str) -> Any:  # noqa: N802 - torch's name
        depth = self._inner.rangePushA(message)
        self._recorder.push(message, DEFAULT_DOMAIN)
        return depth

    def rangePop(self) -> Any:  # noqa: N802 - torch's name
        self._recorder.pop(DEFAULT_DOMAIN)
        return self._inner.rangePop()

    def rangeStartA(self, message: str) -> Any:  # noqa: N802 - torch's name
        return self._recorder.start(int(self._inner.rangeStartA(message)), message, DEFAULT_DOMAIN)

    def rangeEnd(self, identity: int) -> Any:  # noqa: N802 - torch's name
        self._recorder.end(identity)
        return self._inner.rangeEnd(identity)


def _watch_record_function(undo: ExitStack, recorder: RangeRecorder) -> None:
    ranges: Any = record_function
    enter, leave = ranges.__enter__, ranges.__exit__
    opened: set[int] = set()

    def entered(self: Any) -> Any:
        result = _without_mode(recorder.switch, enter, self)
        if not _is_not_the_programs(sys._getframe(1)):
            opened.add(id(self))
            recorder.push(self.name, NO_DOMAIN)
        return result

    def left(self: Any, *exception: Any) -> Any:
        if id(self) in opened:
            opened.discard(id(self))
            recorder.pop(NO_DOMAIN)
        return _without_mode(recorder.switch, leave, self, *exception)

    _replace(undo, record_function, "__enter__", entered)
    _replace(undo, record_function, "__exit__", left)


def _without_mode(switch: Switch, call: Callable[..., Any], *args: Any) -> Any:
    switch.suspend()
    try:
        return call(*args)
    finally:
        switch.resume()


def _is_not_the_programs(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_globals.get("__name__") in _DECORATORS:
        frame = frame.f_back
    name = "" if frame is None else str(frame.f_globals.get("__name__", ""))
    return name.startswith(_NOT_THE_PROGRAMS)


def _watch_package(undo: ExitStack, module: Any, recorder: RangeRecorder) -> None:
    """Watch the nvtx package: its calls into C, and what it leaves out while no tool is
    attached.
    """
    push, pop = module.libnvtx_push_range, module.libnvtx_pop_range

    def pushed(attributes: Any, handle: Any) -> None:
        push(attributes, handle)
        recorder.push(str(attributes.message.string), _domain_of(handle))

    def popped(handle: Any) -> None:
        recorder.pop(_domain_of(handle))
        pop(handle)

    _replace(undo, module, "libnvtx_push_range", pushed)
    _replace(undo, module, "libnvtx_pop_range", popped)
    dummy = getattr(module, "dummy_domain", None)
    if dummy is not None:
        _watch_without_tool(undo, module, recorder, dummy)


def _watch_without_tool(undo: ExitStack, module: Any, recorder: RangeRecorder, dummy: Any) -> None:
    annotate, push_range, pop_range = module.annotate, module.push_range, module.pop_range
    enter, leave = annotate.__enter__, annotate.__exit__

    def entered(self: Any) -> Any:
        result = enter(self)
        if self.domain is dummy:
            recorder.push(self.init_args[0] or "", self.init_args[2] or DEFAULT_DOMAIN)
        return result

    def left(self: Any, *exception: Any) -> Any:
        if self.domain is dummy:
            recorder.pop(self.init_args[2] or DEFAULT_DOMAIN)
        return leave(self, *exception)

    def pushed(
        message: str | None = None,
        color: Any = "blue",
        domain: str | None = None,
        *rest: Any,
        **more: Any,
    ) -> None:
        push_range(message, color, domain, *rest, **more)
        if module.get_domain(domain) is dummy:
            recorder.push(message or "", domain or DEFAULT_DOMAIN)

    def popped(domain: str | None = None) -> None:
        if module.get_domain(domain) is dummy:
            recorder.pop(domain or DEFAULT_DOMAIN)
        pop_range(domain)

    _replace(undo, annotate, "__enter__", entered)
    _replace(undo, annotate, "__exit__", left)
    for place in (module, sys.modules["nvtx"]):
        _replace(undo, place, "push_range", pushed)
        _replace(undo, place, "pop_range", popped)


def _domain_of(handle: Any) -> str:
    return str(getattr(handle, "name", "")) or DEFAULT_DOMAIN


def _replace(undo: ExitStack, place: Any, name: str, value: Any) -> None:
    undo.callback(setattr, place, name, getattr(place, name))
    setattr(place, name, value)
