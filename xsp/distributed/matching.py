"""The same collective on every rank, and what each rank did in it: waiting, then moving data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from xsp.distributed.parts import RankPart
from xsp.errors import CaptureError

_KEY = ["round", "number"]


def matched(parts: Sequence[RankPart], clock: pd.DataFrame) -> pd.DataFrame:
    """A row for each collective of each round on each rank.

    The k-th collective of a round is the same on every rank: collectives of one group are called in
    one order, or the program hangs. From when a rank comes to when the last one does it waits; from
    then to its own end data moves. Where a rank leaves before the last one comes, as it may from a
    call that does not block, all of its time is waiting.

    Columns: round, number, name, type, bytes, rank, start_ns and end_ns (on the first rank's
    clock), waiting_ns, moving_ns, last (whether this rank came last).

    Raises CaptureError: ranks made different collectives, with the first that differs.
    """
    _check_same(parts)
    offset = dict(zip(clock["rank"], clock["offset_ns"], strict=True))
    table = pd.concat([_on_one_clock(part, offset[part.rank]) for part in parts], ignore_index=True)
    latest = table.groupby(_KEY)["start_ns"].transform("max")
    spent = table["end_ns"] - table["start_ns"]
    waiting = (latest - table["start_ns"]).clip(lower=0).clip(upper=spent)
    first_of_latest = table[table["start_ns"] == latest].drop_duplicates(_KEY).index
    return table.assign(
        waiting_ns=waiting,
        moving_ns=spent - waiting,
        last=table.index.isin(first_of_latest),
    )


def _on_one_clock(part: RankPart, offset_ns: float) -> pd.DataFrame:
    table = part.collectives.assign(rank=part.rank)
    if offset_ns == 0:
        return table
    return table.assign(start_ns=table["start_ns"] + offset_ns, end_ns=table["end_ns"] + offset_ns)


def _check_same(parts: Sequence[RankPart]) -> None:
    first = parts[0].collectives[[*_KEY, "type"]]
    for part in parts[1:]:
        own = part.collectives[[*_KEY, "type"]]
        if len(own) == len(first) and np.array_equal(own.to_numpy(), first.to_numpy()):
            continue
        raise CaptureError(
            f"rank {part.rank} and rank {parts[0].rank} made different collectives: "
            f"{_first_difference(own, first, part.rank, parts[0].rank)}. Only collectives of all "
            "ranks are matched; where some ranks form a group of their own, give the captures of "
            "that group's ranks"
        )


def _first_difference(own: pd.DataFrame, first: pd.DataFrame, rank: int, other: int) -> str:
    shorter = min(len(own), len(first))
    differs = (own.to_numpy()[:shorter] != first.to_numpy()[:shorter]).any(axis=1)
    at = int(np.argmax(differs)) if differs.any() else shorter
    return f"rank {rank} {_said(own, at)} where rank {other} {_said(first, at)}"


def _said(table: pd.DataFrame, at: int) -> str:
    if at >= len(table):
        return "has none"
    row = table.iloc[at]
    return f"has {row['type']} as number {row['number']} of round {row['round']}"
