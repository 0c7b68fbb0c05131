"""A column in which many rows have the same value, each value kept once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pandas as pd


@dataclass(frozen=True, eq=False)
class SharedValues(Sequence[Any]):
    """Row `i` is `values[place[i]]`."""

    values: Sequence[Any]
    place: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.place)

    @overload
    def __getitem__(self, row: int) -> Any: ...
    @overload
    def __getitem__(self, row: slice) -> SharedValues: ...
    def __getitem__(self, row: int | slice) -> Any:
        if isinstance(row, slice):
            return SharedValues(self.values, self.place[row])
        return self.values[self.place[row]]

    def __iter__(self) -> Iterator[Any]:
        return map(self.values.__getitem__, self.place.tolist())

    def mapped(self, change: Callable[[Any], Any]) -> SharedValues:
        """With each value changed."""
        return SharedValues([change(each) for each in self.values], self.place)


def followed_by(values: Sequence[Any], more: Sequence[Any]) -> Sequence[Any]:
    """The column with more rows."""
    if isinstance(values, pd.Series):
        return pd.concat([values, as_series(more)], ignore_index=True)
    if not isinstance(values, SharedValues):
        return [*values, *more]
    place = np.arange(len(more), dtype=np.int32) + np.int32(len(values.values))
    return SharedValues([*values.values, *more], np.concatenate([values.place, place]))


def as_series(values: Sequence[Any], written: Callable[[Any], Any] | None = None) -> pd.Series[Any]:
    """The column, with `written` in place of each value where it is given."""
    if isinstance(values, SharedValues):
        distinct = as_series(values.values, written)
        return distinct.take(values.place).reset_index(drop=True)
    if written is None:
        return pd.Series(values)
    # Many values are one and the same.
    texts = {number: written(each) for number, each in {id(each): each for each in values}.items()}
    return pd.Series([texts[id(each)] for each in values])
