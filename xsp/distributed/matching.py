"""The same collective on every rank, and what each rank did in it: waiting, then moving data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from xsp.distributed.exposure import exposed
from xsp.distributed.parts import RankPart
from xsp.distributed.process_groups import ranks_of
from xsp.distributed.synchronising import TIMES
from xsp.errors import CaptureError

KEY = ["round", "group", "number"]


def matched(parts: Sequence[RankPart], clock: pd.DataFrame) -> pd.DataFrame:
    """A row for each collective of each round on each rank.

    The k-th collective of a group in a round is the same on each of its ranks: they are called in
    one order, or the program hangs. While a rank is held up, in the call and in the wait for it, it
    waits until the last rank has come; from then on data moves. What it does between a call that
    does not block and the wait is overlapped. Where a rank leaves before the last one comes, as it
    may from a call that nobody waits for, all of its time is waiting.

    Columns: round, group, number, name, type, bytes, dtype, start_ns, call_ns, wait_ns and end_ns
    (see `synchronising.collectives`, on the first rank's clock), rank, waiting_ns, moving_ns,
    overlapped_ns, last (whether this rank came last), exposed_waiting_ns and exposed_moving_ns (see
    `exposure.exposed`).

    Raises CaptureError: ranks made different collectives, with the first that differs.
    """
    _check_same(parts)
    offset = dict(zip(clock["rank"], clock["offset_ns"], strict=True))
    table = pd.concat([_on_one_clock(part, offset[part.rank]) for part in parts], ignore_index=True)
    latest = table.groupby(KEY)["start_ns"].transform("max")
    overlapped = table["wait_ns"] - table["call_ns"]
    in_call = _before(latest, table["start_ns"], table["call_ns"])
    waiting = in_call + _before(latest, table["wait_ns"], table["end_ns"])
    first_of_latest = table[table["start_ns"] == latest].drop_duplicates(KEY).index
    table = table.assign(
        waiting_ns=waiting,
        moving_ns=table["end_ns"] - table["start_ns"] - overlapped - waiting,
        overlapped_ns=overlapped,
        last=table.index.isin(first_of_latest),
    )
    return table.join(_exposed(parts, offset, table, latest))


def _exposed(
    parts: Sequence[RankPart],
    offset: Mapping[int, float],
    table: pd.DataFrame,
    latest: pd.Series,
) -> pd.DataFrame:
    found = []
    for part in parts:
        mine = table[table["rank"] == part.rank]
        busy = _moved(part.busy, ("start_ns", "end_ns"), offset[part.rank])
        found.append(exposed(mine, latest[mine.index], busy))
    return pd.concat(found)


def _before(instant: pd.Series, begin: pd.Series, end: pd.Series) -> pd.Series:
    """How much of the time from begin to end lies before an instant."""
    earlier = end.where(end < instant, instant)
    return (earlier - begin).clip(lower=0)


def _on_one_clock(part: RankPart, offset_ns: float) -> pd.DataFrame:
    return _moved(part.collectives.assign(rank=part.rank), (*TIMES, "idle_ns"), offset_ns)


def _moved(table: pd.DataFrame, names: Sequence[str], offset_ns: float) -> pd.DataFrame:
    """With stamps on the first rank's clock."""
    if offset_ns == 0:
        return table
    return table.assign(**{name: table[name] + offset_ns for name in names})


def _check_same(parts: Sequence[RankPart]) -> None:
    every = [part.rank for part in parts]
    groups = {group for part in parts for group in part.collectives["group"].unique()}
    for group in sorted(groups):
        ranks = ranks_of(group, every)
        members = [part for part in parts if part.rank in ranks]
        _check_same_in(group, members)


def _check_same_in(group: str, parts: Sequence[RankPart]) -> None:
    tables = [part.collectives for part in parts]
    made = [table.loc[table["group"] == group, ["round", "number", "type"]] for table in tables]
    for part, own in zip(parts[1:], made[1:], strict=True):
        if len(own) == len(made[0]) and np.array_equal(own.to_numpy(), made[0].to_numpy()):
            continue
        difference = _first_difference(own, made[0], part.rank, parts[0].rank)
        raise CaptureError(
            f"rank {part.rank} and rank {parts[0].rank} made different collectives"
            f"{f' of the group {group}' if group else ''}: {difference}. Of NCCL's kernels the "
            "group is not always known, and such count as collectives of all ranks: if some ranks "
            "form a group of their own, give the captures of that group's ranks"
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
