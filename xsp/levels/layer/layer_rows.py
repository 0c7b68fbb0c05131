"""The rows of a structure run's layers. What many of them say alike is kept once: a loop makes
hundreds of thousands of calls, few of which differ in more than their number.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from xsp.analysis.spans.shared_values import SharedValues

IntArray = npt.NDArray[np.int64]

_NO_SHAPE: list[int] = []
_NO_TYPES: list[str] = []
_NO_SHAPES: list[list[int]] = []
_NO_ARGUMENTS: dict[str, Any] = {}


@dataclass(frozen=True, eq=False)
class Described:
    """Shapes and types of tensors, as lists. What is described once is the same object."""

    shapes: list[list[int]]
    dtypes: list[str]


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
    input_shapes: list[list[int]] = field(default_factory=lambda: _NO_SHAPES)
    input_dtypes: list[str] = field(default_factory=lambda: _NO_TYPES)
    output_shapes: list[list[int]] = field(default_factory=lambda: _NO_SHAPES)
    output_dtypes: list[str] = field(default_factory=lambda: _NO_TYPES)
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


_ALIKE, _CODE, _NUMBER, _FORWARD, _START = range(5)
_WIDTH = 5


class LayerRows:
    """Rows in the order in which they are added, with the time of that.

    A row is a description, shared with the rows that are described alike, and what is its own: its
    code, the number behind its name (none for 0), and the row that it is the backward work of.
    """

    def __init__(self) -> None:
        self._descriptions: list[LayerRow] = []
        self._known: dict[Hashable, int] = {}
        self._ended: dict[tuple[int, Described], int] = {}
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
    ) -> None:
        """A row begins now. `describe` is called where none of this key, or None, is known."""
        alike = self._known.get(key)
        if alike is None:
            alike = self._kept(describe())
            if key is not None:
                keep(self._known, key, alike)
        # At once: several threads add rows.
        self._own.extend((alike, code, number, forward, time.perf_counter_ns()))

    def ended(self, row: int, given: Described) -> None:
        """The call of a row gave this."""
        place = row * _WIDTH
        key = self._own[place], given
        after = self._ended.get(key)
        if after is None:
            shapes, dtypes = given.shapes, given.dtypes
            changed = replace(self.described(row), output_shapes=shapes, output_dtypes=dtypes)
            after = keep(self._ended, key, self._kept(changed))
        self._own[place] = after

    def change(self, row: int, **values: Any) -> None:
        """Say something else of one row."""
        place = row * _WIDTH
        if "name" in values:
            self._own[place + _NUMBER] = 0
        self._own[place] = self._kept(replace(self.described(row), **values))

    def described(self, row: int) -> LayerRow:
        """What the row shares with others, its name without the number."""
        return self._descriptions[self._own[row * _WIDTH]]

    def alike(self, row: int) -> int:
        """A number that rows which are described alike share."""
        return self._own[row * _WIDTH]

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
        found._descriptions = self._descriptions
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
            key = self.alike(row), types[self.code(row)]
            if key not in known:
                known[key] = self._kept(replace(self.described(row), type=key[1]))
            self._own[row * _WIDTH] = known[key]

    def columns(self) -> dict[str, Any]:
        """The rows as columns, by the names of `LayerRow`, with `code` and `forward` (-1
        for forward calls).
        """
        own = self._columns()
        alike, described = np.unique(own[:, _ALIKE], return_inverse=True)
        shown = [self._descriptions[each] for each in alike.tolist()]
        place = described.astype(np.int32)
        found: dict[str, Any] = {
            each.name: SharedValues([getattr(row, each.name) for row in shown], place)
            for each in fields(LayerRow)
        }
        found["name"] = list(map(_numbered, found["name"], own[:, _NUMBER].tolist()))
        return found | {"code": own[:, _CODE].copy(), "forward": own[:, _FORWARD].copy()}

    def _kept(self, row: LayerRow) -> int:
        self._descriptions.append(row)
        return len(self._descriptions) - 1

    def _columns(self) -> IntArray:
        """A view, which must be gone before a row is added."""
        return np.frombuffer(self._own, dtype=np.int64).reshape(-1, _WIDTH)


def _numbered(name: str, number: int) -> str:
    return f"{name}_{number}" if number else name
