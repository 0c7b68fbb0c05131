"""Switching the torch function mode off and on again, on one thread at a time."""

from __future__ import annotations

import threading
from typing import Any, Protocol

from xsp.levels.layer.parts import CLOSURE, Part
from xsp.machine.torch_internals import mode_depth, pop_mode, push_mode


class Switch(Protocol):
    """What switches a mode off inside leaf modules; each method is about the calling thread."""

    def attach(self, mode: Any, depth: int) -> None:
        """The mode that is meant, and its depth in the stack of modes."""

    def suspend(self) -> None:
        """Switch off until `resume`."""

    def resume(self) -> None:
        """Undo the last `suspend`."""

    def mute(self) -> None:
        """Let functional calls pass, wherever the mode lies."""

    def unmute(self) -> None:
        """Undo a `mute`."""

    def muted(self) -> bool:
        """Whether functional calls pass."""


class _Local(threading.local):
    def __init__(self) -> None:
        self.was_on: list[bool] = []
        self.muted = 0


class ModeSwitch:
    """Takes the mode off where it lies on top; where a mode of the user's lies above, it stays and
    lets pass.
    """

    def __init__(self) -> None:
        self._mode: Any = None
        self._depth = -1
        self._here = _Local()

    def attach(self, mode: Any, depth: int) -> None:
        """The mode that is meant, and its depth in the stack of modes."""
        self._mode, self._depth = mode, depth
        # A signal's handler that raised can have left a thread switched off.
        self._here = _Local()

    def suspend(self) -> None:
        """Switch off until `resume`."""
        on = not self._here.muted and mode_depth() == self._depth and self._taken_off()
        self._here.was_on.append(on)
        if not on:
            self._here.muted += 1

    def resume(self) -> None:
        """Undo the last `suspend`."""
        if self._here.was_on.pop():
            push_mode(self._mode)
        else:
            self._here.muted -= 1

    def mute(self) -> None:
        """Let functional calls pass, wherever the mode lies."""
        self._here.muted += 1

    def unmute(self) -> None:
        """Undo a `mute`."""
        self._here.muted -= 1

    def muted(self) -> bool:
        """Whether functional calls pass."""
        return self._here.muted > 0

    def _taken_off(self) -> bool:
        # On a thread with modes of its own another mode can lie at our depth.
        top = pop_mode()
        if top is not self._mode:
            push_mode(top)
        return top is self._mode


class _Open(threading.local):
    def __init__(self) -> None:
        self.parts: list[Part] = []


class OffInParts:
    """Has a mode off within parts, and on within closures in them."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._open = _Open()

    def begins(self, part: Part) -> None:
        """The innermost part of this thread begins."""
        if part.type == CLOSURE:
            for each in reversed(self._around()):
                self._on(each)
        else:
            self._off(part)
        self._open.parts.append(part)

    def ends(self) -> None:
        """It ends."""
        part = self._open.parts.pop()
        if part.type != CLOSURE:
            self._on(part)
            return
        for each in self._around():
            self._off(each)

    def _around(self) -> list[Part]:
        """Parts within which the mode is off here, outermost first."""
        found: list[Part] = []
        for part in reversed(self._open.parts):
            if part.type == CLOSURE:
                break
            found.append(part)
        return found[::-1]

    def _off(self, part: Part) -> None:
        # Between begin and end of a part that is no call, the program can enter modes of its own.
        if part.is_call:
            self._switch.suspend()
        else:
            self._switch.mute()

    def _on(self, part: Part) -> None:
        if part.is_call:
            self._switch.resume()
        else:
            self._switch.unmute()
