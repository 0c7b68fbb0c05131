"""When compiled graphs run, and under which modes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from xsp.machine import compiler_internals as compiler
from xsp.machine.ambient import Ambient

_THREAD = 0xFFFFFFFF


@dataclass(frozen=True)
class GraphCall:
    """One run of a compiled graph: what ran, on which thread (as `xsp.types` says), from when to
    when on the host.
    """

    handle: Any
    thread: int
    start_ns: int
    end_ns: int


@dataclass
class GraphCalls:
    """The calls of compiled graphs while it watches, in the order of their ends; and of those that
    are replayed from CUDA graphs, when their inputs were copied: `handle` is the CUDA graph's.
    """

    calls: list[GraphCall] = field(default_factory=list)
    copying: list[GraphCall] = field(default_factory=list)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note calls during the block. Raises MovedError where torch has no such place."""
        with ExitStack() as undo:
            called = compiler.graph_called()
            undo.callback(called.replace(_noting(called.value, self.calls)))
            copied = compiler.inputs_copied()
            if copied is not None:
                undo.callback(copied.replace(_noting(copied.value, self.copying)))
            yield


def _noting(method: Callable[..., Any], calls: list[GraphCall]) -> Callable[..., Any]:
    clock = time.perf_counter_ns

    def called(handle: Any, *arguments: Any, **keywords: Any) -> Any:
        start = clock()
        try:
            return method(handle, *arguments, **keywords)
        finally:
            thread = threading.get_ident() & _THREAD
            calls.append(GraphCall(handle, thread, start, clock()))

    return called


@dataclass
class CompiledCode:
    """Whether code that Inductor wrote ran while it watches."""

    ran: bool = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look out during the block, at whose end `ran` is known."""
        if not compiler.has_compiled():
            yield
            return
        calls = GraphCalls()
        with ExitStack() as undo:
            try:
                undo.enter_context(calls.watched())
            except compiler.MovedError:
                # It may have run: whoever then looks into it says what has moved.
                self.ran = True
            yield
        self.ran = self.ran or bool(calls.calls)


@dataclass
class Entries:
    """The calls of what Dynamo compiled while it watches, in the order of their ends, and the modes
    in which it was called: by the identity of the module that Dynamo traced, which is `handle` of a
    call. Dynamo compiles a program once for each, so they are those in which it was compiled.
    """

    calls: list[GraphCall] = field(default_factory=list)
    modes: dict[int, Ambient] = field(default_factory=dict)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note calls and modes during the block, which costs some microseconds a call."""
        with ExitStack() as undo:
            for graph in compiler.dynamo_graphs():
                noting = self._noting_entry(id(graph.module), graph.entry.value)
                undo.callback(graph.entry.replace(noting))
            yield

    def _noting_entry(self, module: int, entry: Callable[..., Any]) -> Callable[..., Any]:
        clock = time.perf_counter_ns

        def noted(*arguments: Any, **keywords: Any) -> Any:
            self.modes[module] = Ambient.current()
            start = clock()
            try:
                return entry(*arguments, **keywords)
            finally:
                thread = threading.get_ident() & _THREAD
                self.calls.append(GraphCall(module, thread, start, clock()))

        return compiler.not_compiled(noted)
