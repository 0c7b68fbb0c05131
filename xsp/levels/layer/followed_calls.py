"""Functional calls of timed runs without a torch function mode: told by the calls of bindings that
the structure run recorded (`bindings.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from xsp.levels.layer import bindings
from xsp.levels.layer.bindings import ExpectedCalls, name_of
from xsp.levels.layer.compiled import Leave, around_compiled_code
from xsp.levels.layer.function_mode import Begin, Codes, End, FunctionalCalls, FunctionalMode
from xsp.levels.layer.functional import CompiledFunction
from xsp.levels.layer.recorder import CallFollower

_STRAYED = "xsp: a call that the structure run has not"


@dataclass(frozen=True)
class Strayed:
    """Why a run's calls say no longer what they belong to, and how many layers did not begin."""

    reason: str
    not_begun: int


class FollowedCalls(FunctionalCalls):
    """In the place of a `FunctionalMode` in timed runs, with the same methods."""

    def __init__(
        self,
        codes: Codes,
        begin: Begin,
        end: End,
        recorder: CallFollower,
        site: Callable[[int], Any],
        expected: ExpectedCalls,
    ) -> None:
        super().__init__(codes, begin, end, recorder)
        self._calls = recorder
        self._thread = 0
        self._engines = 0
        self._exit = ExitStack()
        other = expected.other.steps(site) if expected.other else []
        recorder.expect(expected.starting.steps(site), other, codes.of_range("", _STRAYED))

    def __enter__(self) -> FollowedCalls:
        self._thread = threading.get_ident()
        self.switch.attach(None, -1)
        self._exit.callback(around_compiled_code(self._compiled))
        self._exit.callback(self._calls.end_calls)
        self._exit.callback(bindings.open_bindings())
        self._calls.watch_calls(False)
        return self

    def __exit__(self, *exception: Any) -> None:
        self.leave()

    def leave(self) -> None:
        """Watch no longer; a second time, this changes nothing."""
        self._exit.close()

    def is_on(self) -> bool:
        """Whether functional calls of this thread are seen: of the one that began, and of
        autograd's.
        """
        mine = threading.get_ident() == self._thread or self._engines > 0
        return mine and self._calls.sees()

    @contextmanager
    def back_on(self) -> Iterator[None]:
        """A run of autograd's engine, which takes this thread's place on threads of its own."""
        self._engines += 1
        before = self._calls.anew()
        try:
            yield
        finally:
            self._calls.as_before(*before)
            self._engines -= 1

    def engine_ended(self, result: Any = None) -> None:
        """A run of autograd's engine has ended on this thread: what called it may end with it."""
        self._calls.passed(bindings.ENGINE, result)

    def new_run(self) -> None:
        """The first of the calls comes next."""
        self._calls.begin_calls()

    def strayed(self) -> Strayed | None:
        """Where the last run called something else than the structure run."""
        found = self._calls.strayed()
        if found is None:
            return None
        place, called, not_begun = found
        other = f"{name_of(called)} was called" if called >= 0 else "the run ended"
        return Strayed(f"{other} at call {place} of torch's functions in C", not_begun)

    def _compiled(self, name: str, inputs: tuple[Any, ...]) -> Leave | None:
        if not self.is_on():
            return None
        function = CompiledFunction(name)
        code = self._codes.of_function(function)
        self.switch.mute()
        if code is not None:
            self._begin(code, function, inputs, {})

        def leave(result: Any) -> None:
            if code is not None:
                self._end(code, function, inputs, result)
            self.switch.unmute()

        return leave


Functions = FunctionalMode | FollowedCalls
"""What sees functional calls."""
