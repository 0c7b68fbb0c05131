"""The largest rows of a table, without those whose interval is wider than they are."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.summary.values import Cost, Ranking


def ranked(table: pd.DataFrame, top: int) -> Ranking:
    """The `top` largest rows by `ms` of those that are known.

    `table` has the columns name, kind, backward, calls, ms, half_width_ms, busy_ms, waiting_ms and
    share; a half width that is not known (one round) leaves a row in.
    """
    spent = table["ms"].to_numpy(dtype=float)
    half = table["half_width_ms"].to_numpy(dtype=float)
    known = ~(np.nan_to_num(half) >= np.abs(spent)) | (spent == 0)
    certain = table[known & (spent > 0)]
    largest = certain.nlargest(top, "ms")
    costs = tuple(_cost(row) for row in largest.to_dict("records"))
    return Ranking(costs, len(table), int((~known).sum()))


def certain_shares(tree: pd.DataFrame) -> npt.NDArray[np.float64]:
    """The `share` of each row of `Profile.tree`; NaN where the interval of its cost is wider than
    the cost, so that nothing is ordered or folded by it.
    """
    cost = tree["latency_ms"].to_numpy(dtype=float)
    half = tree["latency_ci_ms"].to_numpy(dtype=float)
    doubtful = (cost > 0) & (np.nan_to_num(half) >= cost)
    return np.where(doubtful, np.nan, tree["share"].to_numpy(dtype=float))


def _cost(row: dict[Hashable, Any]) -> Cost:
    return Cost(
        str(row["name"]),
        str(row["kind"]),
        bool(row["backward"]),
        int(row["calls"]),
        float(row["ms"]),
        float(row["half_width_ms"]),
        float(row["busy_ms"]),
        float(row["waiting_ms"]),
        float(row["share"]),
    )
