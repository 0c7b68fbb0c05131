"""From spans up to the layer or the model call that they lie in."""

from __future__ import annotations

import numpy as np
import pandas as pd

from xsp.types import IntArray, Level


def layer_spans(spans: pd.DataFrame, rows: IntArray) -> IntArray:
    """Row of the innermost LAYER span above each of these spans, which must lie below one."""
    return _above(spans, rows, Level.LAYER)


def model_spans(spans: pd.DataFrame, rows: IntArray) -> IntArray:
    """Row of the MODEL span above each of these spans."""
    return _above(spans, rows, Level.MODEL)


def _above(spans: pd.DataFrame, rows: IntArray, wanted: Level) -> IntArray:
    parent, level = spans["parent"].to_numpy(), spans["level"].to_numpy()
    current = parent[rows]
    while (level[current] > wanted).any():
        current = np.where(level[current] > wanted, parent[current], current)
    return current
