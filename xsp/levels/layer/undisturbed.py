"""Answers that a program gets as if nobody watched it.

Some code asks whether tensors have a torch function override, to choose between a fast path and one
that overrides can follow (`nn.TransformerEncoderLayer`, `nn.MultiheadAttention`). The tracer's mode
is such an override: asked about it, torch would have the watched program do other work.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from xsp.levels.layer.mode_switch import Switch
from xsp.machine.torch_internals import HAS_TORCH_FUNCTION, OVERRIDE_DISPATCHERS


class Answers:
    """`torch.overrides.has_torch_function` without the tracer's mode, until `close`."""

    def __init__(self, is_on: Callable[[], bool], switch: Switch) -> None:
        self._is_on, self._switch = is_on, switch
        self._real: Callable[[Iterable[Any]], bool] = HAS_TORCH_FUNCTION.value
        self._lock = threading.Lock()
        self._paused = 0
        self._undo: Callable[[], None] | None = HAS_TORCH_FUNCTION.replace(self._asked)

    def pause(self) -> None:
        """Give torch its own function back: Dynamo guards on it."""
        with self._lock:
            self._paused += 1
            self._put_back()

    def go_on(self) -> None:
        """Undo a `pause`."""
        with self._lock:
            self._paused -= 1
            if not self._paused and self._undo is None:
                self._undo = HAS_TORCH_FUNCTION.replace(self._asked)

    def close(self) -> None:
        """Give torch its own function back for good."""
        with self._lock:
            self._paused += 1
            self._put_back()

    def _put_back(self) -> None:
        if self._undo is not None:
            self._undo()
            self._undo = None

    def _asked(self, relevant_args: Iterable[Any]) -> bool:
        relevant_args = tuple(relevant_args)
        if not self._real(relevant_args):
            return False
        asking = sys._getframe(1).f_globals.get("__name__")
        if asking in OVERRIDE_DISPATCHERS or not self._is_on():
            return True
        self._switch.suspend()
        try:
            return self._real(relevant_args)
        finally:
            self._switch.resume()
