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


CLOSURE = "closure"
"""Type of a part in which the program's own code runs within another part, and has layers."""


@dataclass(frozen=True)
class Part:
    """What a part is called, and its type in the table. Of one that is a call of a function, what
    the program enters in it, it leaves in it; `gives_way` says that it ends where another begins.
    """

    name: str
    type: str
    is_call: bool = False
    gives_way: bool = False


class Told(Protocol):
    """Who is told of parts; both calls come on the thread of the part."""

    def part_begins(self, part: Part) -> None:
        """A part begins."""

    def part_ends(self, part: Part) -> None:
        """It ends; of those that it was told of, the one that began last."""


@dataclass(frozen=True, eq=False)
class _Listener:
    told: Told


_Open = tuple[Part, list[_Listener]]
"""A part, and who was told that it began."""


class _Here(threading.local):
    def __init__(self) -> None:
        self.open: list[_Open] = []


class _Listening:
    """Who is told of parts that begin now."""

    all: tuple[_Listener, ...] = ()


_listening = _Listening()
_here = _Here()


def listen(told: Told) -> Callable[[], None]:
    """Tell of every part that begins from now on, until what is returned is called."""
    if not _listening.all:
        # Of an earlier run that was interrupted, a part can have stayed open.
        _here.open.clear()
    listener = _Listener(told)
    _listening.all = (*_listening.all, listener)

    def leave() -> None:
        _listening.all = tuple(each for each in _listening.all if each is not listener)

    return leave


def begin(part: Part) -> None:
    """A part begins on this thread."""
    opened = _here.open
    if opened and opened[-1][0].gives_way:
        end_above(len(opened) - 1)
    told: list[_Listener] = []
    opened.append((part, told))
    for each in _listening.all:
        each.told.part_begins(part)
        # Not where an interrupt came between: its end would be that of another part.
        told.append(each)


def end(part: Part) -> None:
    """A part ends on this thread, and with it all that began in it and that an exception cut short;
    nothing where it has ended.
    """
    opened = _here.open
    for place in range(len(opened) - 1, -1, -1):
        if opened[place][0] is part:
            end_above(place)
            return


def depth() -> int:
    """How many parts have begun on this thread and not ended."""
    return len(_here.open)


def innermost() -> Part | None:
    """The part that began last on this thread and has not ended."""
    return _here.open[-1][0] if _here.open else None


def end_above(depth: int) -> None:
    """End parts of this thread until no more than `depth` are left."""
    while len(_here.open) > depth:
        part, told = _here.open.pop()
        for each in told:
            if each in _listening.all:
                each.told.part_ends(part)


class Announcer:
    """Tells whoever listens."""

    def part_begins(self, part: Part) -> None:
        """See `Told`."""
        begin(part)

    def part_ends(self, part: Part) -> None:
        """See `Told`."""
        end(part)
