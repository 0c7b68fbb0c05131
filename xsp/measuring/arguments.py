"""The arguments of a target's calls: every re-run is given what the first call was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from xsp.errors import TargetError
from xsp.measuring.copies import Copier, UsedOnceError, same
from xsp.measuring.target import Call

Place = int | str
"""Of an argument: its position, or its keyword."""


def list_arguments(call: Call) -> dict[Place, Any]:
    """A call's arguments by place."""
    found: dict[Place, Any] = dict(enumerate(call.args))
    found.update(call.kwargs.items())
    return found


def copy_arguments(call: Call, copier: Copier, *, accept: bool = False) -> dict[Place, Any]:
    """Copies of a call's arguments. Raises TargetError for one that can only be used once; with
    `accept` that stays the user's own.
    """
    found = {}
    for place, value in list_arguments(call).items():
        try:
            found[place] = copier(value)
        except UsedOnceError as error:
            if not accept:
                raise TargetError(_used_up(place, str(error))) from None
            found[place] = value
    return found


def _used_up(place: Place, kind: str) -> str:
    where = f"argument {place}" if isinstance(place, int) else f"argument {place!r}"
    return (
        f"{where} has a {kind}, which can be iterated over only once and cannot be copied, so "
        "the call cannot be repeated; pass a list, or measure a function that makes a new one"
    )


class Arguments:
    """Fresh arguments for every run of a target.

    What the first run leaves alone is from then on the user's own; what it changes is copied for
    each run, from copies that were made before the call.
    """

    def __init__(self, calls: Sequence[Call], *, accept: bool = False) -> None:
        self._starts = [
            call.start if call.start is not None else copy_arguments(call, Copier(), accept=accept)
            for call in calls
        ]
        self._changing: list[set[Place]] | None = None
        self._used: list[dict[Place, Any]] = []

    def fresh(self, calls: Sequence[Call], copier: Copier) -> list[Call]:
        """The calls with arguments as they were before the calls were first made."""
        self._used = [self._values(index, call, copier) for index, call in enumerate(calls)]
        return [
            replace(
                call,
                args=tuple(values[place] for place in range(len(call.args))),
                kwargs={name: values[name] for name in call.kwargs},
            )
            for call, values in zip(calls, self._used, strict=True)
        ]

    def note_changes(self, calls: Sequence[Call]) -> None:
        """After the first run: find out which arguments it changed, or the block did."""
        self._changing = [
            {
                place
                for place, value in start.items()
                if not same(value, used[place]) or not same(value, list_arguments(call)[place])
            }
            for start, used, call in zip(self._starts, self._used, calls, strict=True)
        ]
        self._used = []

    def _values(self, index: int, call: Call, copier: Copier) -> dict[Place, Any]:
        own, start = list_arguments(call), self._starts[index]
        changing = None if self._changing is None else self._changing[index]
        return {
            place: _again(start[place], copier) if changing is None or place in changing else value
            for place, value in own.items()
        }


def _again(value: Any, copier: Copier) -> Any:
    try:
        return copier(value)
    except UsedOnceError:
        return value
