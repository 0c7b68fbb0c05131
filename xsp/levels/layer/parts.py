"""Parts of a step that no module or function stands for, such as waiting for data or the optimizer:
layers wherever a structure recorder or a tracer listens, and nothing where none does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

DOMAIN = "xsp: part of a step"
"""Keeps codes of parts apart from those of NVTX ranges (`Codes.of_range`)."""


@dataclass(frozen=True)
class Part:
    """What a part is called, and its type in the table."""

    name: str
    type: str


_Told = Callable[[Part], None]

_listeners: list[tuple[_Told, _Told]] = []


def listen(begins: _Told, ends: _Told) -> Callable[[], None]:
    """Tell `begins` and `ends` of every part until what is returned is called."""
    listener = (begins, ends)
    _listeners.append(listener)

    def leave() -> None:
        if listener in _listeners:
            _listeners.remove(listener)

    return leave


def begin(part: Part) -> None:
    """A part begins on this thread."""
    for begins, _ in _listeners:
        begins(part)


def end(part: Part) -> None:
    """A part ends that began on this thread."""
    for _, ends in _listeners:
        ends(part)
