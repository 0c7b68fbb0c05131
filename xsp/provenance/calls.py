"""When compiled graphs run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from xsp.machine import compiler_internals as compiler

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
    """The calls of compiled graphs while it watches, in the order of their ends."""

    calls: list[GraphCall] = field(default_factory=list)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note calls during the block. Raises MovedError where torch has no such place."""
        place = compiler.graph_called()
        method, clock = place.value, time.perf_counter_ns

        def called(handle: Any, *arguments: Any, **keywords: Any) -> Any:
            start = clock()
            try:
                return method(handle, *arguments, **keywords)
            finally:
                thread = threading.get_ident() & _THREAD
                self.calls.append(GraphCall(handle, thread, start, clock()))

        with ExitStack() as undo:
            undo.callback(place.replace(called))
            yield
