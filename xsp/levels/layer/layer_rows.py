"""The rows of a structure run's layers. What many of them say alike is kept once: a loop makes
hundreds of thousands of calls, few of which differ in more than their number.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from xsp.analysis.spans.shared_values import SharedValues

IntArray = npt.NDArray[np.int64]

_NO_SHAPE: list[int] = []
_NO_ARGUMENTS: dict[str, Any] = {}


@dataclass(frozen=True, eq=False)
class Described:
    """Shapes and types of tensors, as lists. What is described once is the same object."""

    shapes: list[list[int]]
    dtypes: list[str]


NOTHING = Described([], [])
"""No tensors."""


@dataclass(slots=True)
class LayerRow:
    """What layer calls share. `name` is without the number behind it, `module` the qualified name
    of the innermost module around, `arguments` what `Called` tells of the call, `source` the line
    of the program (`path:line`) that makes it.
    Lists and dictionaries are shared between rows that say the same, and are not to be changed.
    """

    name: str
    type: str
    kind: str
    module: str
    phase: str
    inputs: Described = NOTHING
    parameter_bytes: int = 0
    weight_shape: list[int] = field(default_factory=lambda: _NO_SHAPE)
    arguments: dict[str, Any] = field(default_factory=lambda: _NO_ARGUMENTS)
    source: str = ""


MOST_KEPT = 4096
"""Descriptions that are found again; a program whose calls all differ must not have them all kept.
"""

_Value = TypeVar("_Value")


def keep(kept: dict[Any, _Value], key: Hashable, value: _Value) -> _Value:
    """Keep a value under its key, for as long as there are not too many."""
    if len(kept) >= MOST_KEPT:
        kept.clear()
    kept[key] = value
    return value


_ALIKE, _CODE, _NUMBER, _FORWARD, _START, _GIVEN = range(6)
_WIDTH = 6


class LayerRows:
    """Rows in the order in which they are added, with the time of that.

    A row is a description, shared with the rows that are described alike, and what is its own: its
    code, the number behind its name (none for 0), and the row that it is the backward work of.
    """

    def __init__(self) -> None:
        self._descriptions: list[LayerRow] = []
        self._known: dict[Hashable, int] = {}
        self._given = [NOTHING]
        """What calls gave, and by each its place here."""
        self._places = {NOTHING: 0}
        self._own = array("q")
        """The columns above of each row, one row after the other."""

    def __len__(self) -> int:
        return len(self._own) // _WIDTH

    def add(
        self,
        code: int,
        key: Hashable,
        describe: Callable[[], LayerRow],
        number: int = 0,
        forward: int = -1,
        given: Described = NOTHING,
    ) -> None:
        """A row begins now. `describe` is called where none of this key, or None, is known; `given`
        is what the call gives, where that is known.
        """
        alike = self._known.get(key)
        if alike is None:
            alike = self._kept(describe())
            if key is not None:
                keep(self._known, key, alike)
        # At once: several threads add rows.
        place = self._place_of(given)
        self._own.extend((alike, code, number, forward, time.perf_counter_ns(), place))

    def ended(self, row: int, given: Described) -> None:
        """The call of a row gave this."""
        self._own[row * _WIDTH + _GIVEN] = self._place_of(given)

    def change(self, row: int, **values: Any) -> None:
        """Say something else of one row."""
        place = row * _WIDTH
        if "name" in values:
            self._own[place + _NUMBER] = 0
        self._own[place] = self._kept(replace(self.described(row), **values))

    def described(self, row: int) -> LayerRow:
        """What the row shares with others, its name without the number."""
        return self._descriptions[self._own[row * _WIDTH]]

    def given(self, row: int) -> Described:
        """What the call of the row gave."""
        return self._given[self._own[row * _WIDTH + _GIVEN]]

    def alike(self, row: int) -> tuple[int, int]:
        """What rows share that are described alike and gave the same."""
        place = row * _WIDTH
        return self._own[place], self._own[place + _GIVEN]

    def code(self, row: int) -> int:
        """The code of a row."""
        return self._own[row * _WIDTH + _CODE]

    def number(self, row: int) -> int:
        """The number behind the name of a row."""
        return self._own[row * _WIDTH + _NUMBER]

    def name(self, row: int) -> str:
        """The name of a row."""
        return _numbered(self.described(row).name, self.number(row))

    def codes(self) -> IntArray:
        """The codes of all rows."""
        return self._columns()[:, _CODE].copy()

    def starts_ns(self) -> IntArray:
        """When each was added."""
        return self._columns()[:, _START].copy()

    def of_kind(self, kind: str) -> npt.NDArray[np.bool_]:
        """Which rows are of this kind."""
        known = np.array([each.kind == kind for each in self._descriptions], dtype=bool)
        return known[self._columns()[:, _ALIKE]] if len(self) else np.zeros(0, dtype=bool)

    def kept(self, rows: IntArray, types: Mapping[int, str]) -> LayerRows:
        """These rows alone, numbered anew. `types` are other types, by code."""
        found = LayerRows()
        found._descriptions, found._given = self._descriptions, self._given
        own = self._columns()[rows]
        place = np.full(len(self) + 1, -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        own[:, _FORWARD] = place[own[:, _FORWARD]]
        found._own = array("q", own.tobytes())
        found._retype(types)
        return found

    def _retype(self, types: Mapping[int, str]) -> None:
        other = np.isin(self.codes(), np.array(list(types), dtype=np.int64))
        known: dict[tuple[int, str], int] = {}
        for row in np.flatnonzero(other).tolist():
            key = self._own[row * _WIDTH], types[self.code(row)]
            if key not in known:
                known[key] = self._kept(replace(self.described(row), type=key[1]))
            self._own[row * _WIDTH] = known[key]

    def columns(self) -> dict[str, Any]:
        """The rows as columns, by the names of `LayerRow`, with shapes and types of what went in
        and out, `code` and `forward` (-1 for forward calls).
        """
        own = self._columns()
        described = _shared(self._descriptions, own[:, _ALIKE])
        names = [each.name for each in fields(LayerRow) if each.name != "inputs"]
        found = {name: described.mapped(attrgetter(name)) for name in names}
        given = _shared(self._given, own[:, _GIVEN])
        return {
            **found,
            "name": list(map(_numbered, found["name"], own[:, _NUMBER].tolist())),
            "input_shapes": described.mapped(attrgetter("inputs.shapes")),
            "input_dtypes": described.mapped(attrgetter("inputs.dtypes")),
            "output_shapes": given.mapped(attrgetter("shapes")),
            "output_dtypes": given.mapped(attrgetter("dtypes")),
            "code": own[:, _CODE].copy(),
            "forward": own[:, _FORWARD].copy(),
        }

    def _place_of(self, given: Described) -> int:
        place = self._places.get(given)
        if place is None:
            place = self._places[given] = len(self._given)
            self._given.append(given)
        return place

    def _kept(self, row: LayerRow) -> int:
        self._descriptions.append(row)
        return len(self._descriptions) - 1

    def _columns(self) -> IntArray:
        """A view, which must be gone before a row is added."""
        return np.frombuffer(self._own, dtype=np.int64).reshape(-1, _WIDTH)


def _shared(values: Sequence[Any], place: IntArray) -> SharedValues:
    """A column of these, without those that do not occur."""
    occurring, places = np.unique(place, return_inverse=True)
    return SharedValues([values[each] for each in occurring.tolist()], places.astype(np.int32))


def _numbered(name: str, number: int) -> str:
    return f"{name}_{number}" if number else name
