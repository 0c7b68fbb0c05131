"""Climbing: from spans, or nodes of any hierarchy, to what lies above them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.types import IntArray, Level


def nearest(
    parent: IntArray, wanted: npt.NDArray[np.bool_], start: IntArray | None = None
) -> npt.NDArray[np.int64]:
    """For each `start`, all rows by default, itself if it is wanted, else its nearest ancestor that
    is; -1 where there is none.

    `parent` has each row's parent or -1, and `start` may have -1 too. As many steps as the
    hierarchy is deep, each on all rows.
    """
    at = np.arange(len(parent)) if start is None else np.array(start)
    found: npt.NDArray[np.int64] = at.astype(np.int64)
    while (climbing := (found >= 0) & ~wanted[found]).any():
        found[climbing] = parent[found[climbing]]
    return found


def nearest_above(parent: IntArray, wanted: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """For each row its nearest ancestor among the wanted ones, never itself; -1 for none."""
    return nearest(parent, wanted, parent)


def layer_spans(spans: pd.DataFrame, rows: IntArray) -> npt.NDArray[np.int64]:
    """Row of the innermost LAYER span above each of these spans, which must lie below one."""
    return _above(spans, rows, Level.LAYER)


def model_spans(spans: pd.DataFrame, rows: IntArray) -> npt.NDArray[np.int64]:
    """Row of the MODEL span above each of these spans."""
    return _above(spans, rows, Level.MODEL)


def _above(spans: pd.DataFrame, rows: IntArray, wanted: Level) -> npt.NDArray[np.int64]:
    parent, level = spans["parent"].to_numpy(), spans["level"].to_numpy()
    return nearest(parent, level <= wanted, parent[rows])
