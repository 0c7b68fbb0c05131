"""The same collective on every rank, and what each rank did in it: waiting, then moving data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from xsp.distributed.communications import ALL
from xsp.distributed.parts import RankPart
from xsp.errors import CaptureError

KEY = ["round", "group", "number"]


def matched(parts: Sequence[RankPart], clock: pd.DataFrame) -> pd.DataFrame:
    """A row for each collective of each round on each rank.

    The k-th collective of a group in a round is the same on each of its ranks: they are called in
    one order, or the program hangs. From when a rank comes to when the last one does it waits; from
    then to its own end data moves. Where a rank leaves before the last one comes, as it may from a
    call that does not block, all of its time is waiting.

    Columns: round, group, number, name, type, bytes, dtype, rank, start_ns and end_ns (on the first
    rank's clock), waiting_ns, moving_ns, last (whether this rank came last).

    Raises CaptureError: ranks made different collectives, with the first that differs.
    """
    _check_same(parts)
    offset = dict(zip(clock["rank"], clock["offset_ns"], strict=True))
    table = pd.concat([_on_one_clock(part, offset[part.rank]) for part in parts], ignore_index=True)
    latest = table.groupby(KEY)["start_ns"].transform("max")
    spent = table["end_ns"] - table["start_ns"]
    waiting = (latest - table["start_ns"]).clip(lower=0).clip(upper=spent)
    first_of_latest = table[table["start_ns"] == latest].drop_duplicates(KEY).index
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
    groups = {group for part in parts for group in part.collectives["group"].unique()}
    for group in sorted(groups):
        members = [part for part in parts if part.rank in ranks_of(group, parts)]
        _check_same_in(group, members)


def ranks_of(group: str, parts: Sequence[RankPart]) -> list[int]:
    """The ranks of a group, of which there may be no capture."""
    return (
        [part.rank for part in parts] if group == ALL else [int(each) for each in group.split(",")]
    )


def _check_same_in(group: str, parts: Sequence[RankPart]) -> None:
    tables = [part.collectives for part in parts]
    made = [table.loc[table["group"] == group, ["round", "number", "type"]] for table in tables]
    for part, own in zip(parts[1:], made[1:], strict=True):
        if len(own) == len(made[0]) and np.array_equal(own.to_numpy(), made[0].to_numpy()):
            continue
        difference = _first_difference(own, made[0], part.rank, parts[0].rank)
        raise CaptureError(
            f"rank {part.rank} and rank {parts[0].rank} made different collectives"
            f"{f' of the group {group}' if group else ''}: {difference}. Where NCCL's kernels were "
            "recorded only collectives of all ranks are matched: if some ranks form a group of "
            "their own, give the captures of that group's ranks"
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
