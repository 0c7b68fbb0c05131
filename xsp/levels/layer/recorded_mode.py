"""The torch function mode of the structure run, which also records what functional calls call in C
(`bindings.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import GetSetDescriptorType
from typing import Any

from xsp.levels.layer import bindings, hotpath
from xsp.levels.layer.bindings import ITSELF, NO_ROW, RecordedCalls
from xsp.levels.layer.function_mode import Begin, Codes, End, FunctionalMode


class RecordedMode(FunctionalMode):
    """A mode that tells a recorder in C of each functional call; `row` gives the number of the row
    that `begin` has just made.
    """

    def __init__(self, codes: Codes, begin: Begin, end: End, row: Callable[[], int]) -> None:
        self._calls: Any = hotpath.c_recorder(lambda _function: None)
        super().__init__(codes, begin, end, switch=self._calls)
        self._row = row
        self._items: dict[int, int] = {}
        self._registered: set[Callable[..., Any]] = set()
        self._starting = 0

    def _seen(
        self, code: int | None, function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]
    ) -> Any:
        if code is None and _is_attribute(function):
            return function(*args, **kwargs)
        # What xsp itself calls is none of the program's.
        self.switch.mute()
        try:
            if code is None:
                return self._called(NO_ROW, function, args, kwargs)
            call = partial(self._layer_called, function)
            return self.stamped(code, function, args, kwargs, call)
        finally:
            self.switch.unmute()

    def _layer_called(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if function not in self._registered:
            bindings.register(function)
            self._registered.add(function)
        return self._called(self._row(), function, args, kwargs)

    def _called(
        self, row: int, function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]
    ) -> Any:
        inside = self._calls.row_begins(row)
        self.switch.unmute()
        # What raises gives nothing in which nodes are looked for.
        item = ITSELF
        try:
            result = function(*args, **kwargs)
            item = self._calls.item_of(result)
            return result
        finally:
            self.switch.mute()
            self._calls.row_ends(inside)
            if item != ITSELF and row != NO_ROW:
                self._items[row] = item

    def __enter__(self) -> RecordedMode:
        self._starting = threading.get_ident()
        self._exit.callback(self._calls.end_calls)
        self._exit.callback(bindings.open_bindings())
        self._calls.watch_calls(True)
        super().__enter__()
        return self

    def new_run(self) -> None:
        """Forget what was called before: it was not the program's."""
        self._calls.empty()

    @contextmanager
    def back_on(self) -> Iterator[None]:
        """Calls of bindings are seen, too, during the block."""
        before = self._calls.anew()
        try:
            with super().back_on():
                yield
        finally:
            self._calls.as_before(*before)

    def engine_ended(self, result: Any = None) -> None:
        """A run of autograd's engine ends on this thread."""
        self._calls.passed(bindings.ENGINE, result)

    def recorded(self) -> RecordedCalls:
        """What the calls were, once the mode is off."""
        return RecordedCalls(self._calls.stamps(), self._starting, self._items)


def _is_attribute(function: Callable[..., Any]) -> bool:
    """Whether it reads or writes an attribute that is kept in C: a mode sees that too."""
    return isinstance(getattr(function, "__self__", None), GetSetDescriptorType)
