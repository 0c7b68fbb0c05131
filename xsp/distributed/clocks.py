"""The ranks' clocks, put on one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from xsp.distributed.parts import RankPart

_QUARTILES = (0.25, 0.75)

_ELSEWHERE = 0.2
"""Share of a collective's time in which a rank may be doing something else."""


def clocks(parts: Sequence[RankPart]) -> pd.DataFrame:
    """What is to be added to each rank's stamps to read the first rank's clock.

    Ranks of one boot of one machine share CLOCK_MONOTONIC: nothing is added, and the error is 0. A
    rank of another machine is aligned by the ends of collectives, which a rank cannot leave before
    the data of all has come: the offset is the median difference of their ends, and the error half
    the distance between the quartiles. A lasting difference, as where one machine's last hop is
    slower, cannot be seen in it. One that shares no collective with the first rank is aligned with
    one that is already, and the errors are added.

    Columns: rank, host, offset_ns, error_ns (NaN where no collective tells it), how.
    """
    known = {parts[0].rank: _Aligned(parts[0], 0.0, 0.0, _SAME, _ends(parts[0]))}
    before = 0
    while len(known) > before:
        before = len(known)
        aligned = list(known.values())
        for part in parts:
            found = None if part.rank in known else _aligned(part, aligned)
            if found is not None:
                known[part.rank] = found
    return pd.DataFrame([_row(part, known.get(part.rank)) for part in parts])


_SAME = "the same clock"


@dataclass(frozen=True, eq=False)
class _Aligned:
    """A rank whose clock is known, and the ends of its collectives on its own clock."""

    part: RankPart
    offset_ns: float
    error_ns: float
    how: str
    ends: pd.Series


def _aligned(part: RankPart, known: Iterable[_Aligned]) -> _Aligned | None:
    """By the first rank that tells it: the first of all, or one that was aligned before."""
    ends = _ends(part)
    for other in known:
        if part.boot == other.part.boot:
            how = _SAME if other.offset_ns == 0 else f"the clock of rank {other.part.rank}"
            return _Aligned(part, other.offset_ns, other.error_ns, how, ends)
        behind = (other.ends - ends).dropna()
        if behind.empty:
            continue
        low, high = behind.quantile(list(_QUARTILES))
        how = f"ends of {len(behind)} collectives"
        if other.how != _SAME:
            how = f"{how} with rank {other.part.rank}"
        offset, error = behind.median() + other.offset_ns, (high - low) / 2 + other.error_ns
        return _Aligned(part, offset, error, how, ends)
    return None


def _row(part: RankPart, found: _Aligned | None) -> dict[str, object]:
    row: dict[str, object] = {"rank": part.rank, "host": part.host}
    if found is None:
        return {**row, "offset_ns": np.nan, "error_ns": np.nan, "how": "no collective tells it"}
    return {**row, "offset_ns": found.offset_ns, "error_ns": found.error_ns, "how": found.how}


def _ends(part: RankPart) -> pd.Series:
    """Ends by round and number, as float: differences of clocks can be years. Where a rank did
    something else for long before it waited, the end is not that of the data.
    """
    table = part.collectives
    elsewhere = table["wait_ns"] - table["call_ns"]
    blocked = table[elsewhere <= _ELSEWHERE * (table["end_ns"] - table["start_ns"])]
    return blocked.set_index(["round", "group", "number"])["end_ns"].astype(np.float64)
