"""The ranks' clocks, put on one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from xsp.distributed.parts import RankPart

_QUARTILES = (0.25, 0.75)


def clocks(parts: Sequence[RankPart]) -> pd.DataFrame:
    """What is to be added to each rank's stamps to read the first rank's clock.

    Ranks of one boot of one machine share CLOCK_MONOTONIC: nothing is added, and the error is 0. A
    rank of another machine is aligned by the ends of collectives, which a rank cannot leave before
    the data of all has come: the offset is the median difference of their ends, and the error half
    the distance between the quartiles. A lasting difference, as where one machine's last hop is
    slower, cannot be seen in it.

    Columns: rank, host, offset_ns, error_ns (NaN where no collective tells it), how.
    """
    first = parts[0]
    ends = _ends(first)
    return pd.DataFrame([_row(part, first, ends) for part in parts])


def _row(part: RankPart, first: RankPart, ends: pd.Series) -> dict[str, object]:
    row: dict[str, object] = {"rank": part.rank, "host": part.host}
    if part.boot == first.boot:
        return {**row, "offset_ns": 0.0, "error_ns": 0.0, "how": "the same clock"}
    behind = (ends - _ends(part)).dropna()
    if behind.empty:
        return {**row, "offset_ns": np.nan, "error_ns": np.nan, "how": "no collective tells it"}
    low, high = behind.quantile(list(_QUARTILES))
    how = f"ends of {len(behind)} collectives"
    return {**row, "offset_ns": behind.median(), "error_ns": (high - low) / 2, "how": how}


def _ends(part: RankPart) -> pd.Series:
    """Ends by round and number, as float: differences of clocks can be years."""
    table = part.collectives.set_index(["round", "group", "number"])
    return table["end_ns"].astype(np.float64)
