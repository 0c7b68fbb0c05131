"""Parts of a step that no module or function stands for, such as waiting for data or the optimizer:
layers wherever a structure recorder or a tracer listens, and nothing where none does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

DOMAIN = "xsp: part of a step"
"""Keeps codes of parts apart from those of NVTX ranges (`Codes.of_range`)."""


@dataclass(frozen=True)
class Part:
    """What a part is called, and its type in the table."""

    name: str
    type: str


class Told(Protocol):
    """Who is told of parts; both calls come on the thread of the part."""

    def part_begins(self, part: Part) -> None:
        """A part begins."""

    def part_ends(self, part: Part) -> None:
        """It ends; of those that it was told of, the one that began last."""


class _Here(threading.local):
    def __init__(self) -> None:
        self.open: list[tuple[Part, tuple[_Listener, ...]]] = []


@dataclass(frozen=True, eq=False)
class _Listener:
    told: Told


_listeners: list[_Listener] = []
_here = _Here()


def listen(told: Told) -> Callable[[], None]:
    """Tell of every part that begins from now on, until what is returned is called."""
    listener = _Listener(told)
    _listeners.append(listener)

    def leave() -> None:
        if listener in _listeners:
            _listeners.remove(listener)

    return leave


def begin(part: Part) -> None:
    """A part begins on this thread."""
    listeners = tuple(_listeners)
    _here.open.append((part, listeners))
    for each in listeners:
        each.told.part_begins(part)


def end(part: Part) -> None:
    """A part ends on this thread, and with it all that began in it and that an exception cut short;
    nothing where it has ended.
    """
    for place in range(len(_here.open) - 1, -1, -1):
        if _here.open[place][0] == part:
            end_above(place)
            return


def depth() -> int:
    """How many parts have begun on this thread and not ended."""
    return len(_here.open)


def end_above(depth: int) -> None:
    """End parts of this thread until no more than `depth` are left."""
    while len(_here.open) > depth:
        part, listeners = _here.open.pop()
        for each in listeners:
            if each in _listeners:
                each.told.part_ends(part)
