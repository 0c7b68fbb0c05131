"""Which operators operators lie in: each row of the table `operators` is one way down from a layer,
by names, and the row above is the way to the operator around.

So the row of an operator's span says all that is needed to tell its node, without climbing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from xsp.types import Columns, Level


class OperatorPaths:
    """The ways that the spans seen so far took, in the order in which they first came."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, int], int] = {}

    def lead_to(self, spans: Columns) -> None:
        """Let `detail` of the operators in one run's spans, which is their name's index, be the row
        of their way instead. A parent lies before its children.
        """
        level, parent, detail = spans["level"], spans["parent"], spans["detail"]
        is_operator = level == Level.OP
        pending = np.flatnonzero(is_operator)
        names = detail.copy()
        inside = is_operator[parent[pending]]
        above = np.full(len(level), -1, dtype=np.int64)
        reached = np.zeros(len(level), dtype=bool)
        while len(pending):
            ready = ~inside | reached[parent[pending]]
            now = pending[ready]
            above[now] = np.where(inside[ready], detail[parent[now]], -1)
            detail[now] = self._interned(above[now], names[now])
            reached[now] = True
            pending, inside = pending[~ready], inside[~ready]

    def _interned(self, above: np.ndarray, name: np.ndarray) -> np.ndarray:
        pairs = pd.MultiIndex.from_arrays([above, name])
        place, distinct = pd.factorize(pairs)
        rows = [
            self._rows.setdefault((int(one), int(other)), len(self._rows))
            for one, other in distinct
        ]
        return np.array(rows, dtype=np.int64)[place]

    def table(self, names: Sequence[str]) -> pd.DataFrame:
        """The table `operators`."""
        return pd.DataFrame(
            {
                "name": pd.Series([names[name] for _, name in self._rows], dtype=object),
                "above": pd.Series([above for above, _ in self._rows], dtype=np.int64),
            }
        )
