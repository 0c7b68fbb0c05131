"""Tables over ranks: by collective, by rank, and where the slow ones lose their time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from xsp.analysis.spans.statistics import plain_mean, trimmed_known
from xsp.analysis.work.collectives import ALL_GATHER, ALL_REDUCE, ALL_TO_ALL, REDUCE_SCATTER
from xsp.distributed.matching import KEY
from xsp.distributed.parts import RankPart
from xsp.distributed.process_groups import sizes_of

MS = 1e6

_SUMMED = ["waiting_ns", "moving_ns", "exposed_waiting_ns", "exposed_moving_ns"]


def bus_factor(kind: str, ranks: int) -> float:
    """Bytes that cross each link for each byte of the collective's size, as nccl-tests has them
    (doc/PERFORMANCE.md): 2 (n - 1) / n for an all-reduce, (n - 1) / n for an all-gather, a
    reduce-scatter and an all-to-all. NaN for what moves no data of a known size.
    """
    share = (ranks - 1) / ranks
    factors = {ALL_REDUCE: 2 * share, ALL_GATHER: share, REDUCE_SCATTER: share, ALL_TO_ALL: share}
    return factors.get(kind, np.nan)


def by_collective(matched: pd.DataFrame, ranks: int) -> pd.DataFrame:
    """A row for each collective of a step: group (its ranks, empty for all), number, name, type,
    bytes, dtype, waiting_ms (all ranks together), waiting_ci_ms (half the 95 % interval over
    rounds), exposed_waiting_ms (what of it a rank had nothing else to do in), moving_ms (the rank
    that takes least: data has moved when the last has come) and moving_ci_ms, overlapped_ms (the
    rank that has least: what it did between a call that does not block and the wait),
    bus_gb_per_s, last_rank (which comes last most often), last_share (in what part of the rounds).

    Where time is overlapped it is not seen when data had moved: it counts as moving then for the
    bandwidth, which is so much at least.
    """
    matched = matched.assign(moved_ns=_moved(matched))
    one = ["group", "number"]
    rounds = matched.groupby([*one, "round"])
    waiting = (rounds["waiting_ns"].sum() / MS).unstack()
    exposed = (rounds["exposed_waiting_ns"].sum() / MS).unstack()
    moving = (rounds["moving_ns"].min() / MS).unstack()
    first = matched.drop_duplicates(one).set_index(one).sort_index()
    table = first[["name", "type", "bytes", "dtype"]].copy()
    table["waiting_ms"], table["waiting_ci_ms"] = trimmed_known(waiting.to_numpy(np.float64).T)
    table["exposed_waiting_ms"], _ = trimmed_known(exposed.to_numpy(np.float64).T)
    table["moving_ms"], table["moving_ci_ms"] = trimmed_known(moving.to_numpy(np.float64).T)
    overlapped = (rounds["overlapped_ns"].min() / MS).unstack()
    table["overlapped_ms"], _ = trimmed_known(overlapped.to_numpy(np.float64).T)
    sizes = sizes_of(table.index.get_level_values("group").to_series(), ranks)
    factor = [
        bus_factor(kind, size) for kind, size in zip(table["type"], sizes.tolist(), strict=True)
    ]
    moved, _ = trimmed_known((rounds["moved_ns"].min() / MS).unstack().to_numpy(np.float64).T)
    seconds = pd.Series(moved, table.index).where(moved > 0) / 1e3
    table["bus_gb_per_s"] = table["bytes"] * factor / seconds / 1e9
    last = matched[matched["last"]].groupby(one)["rank"]
    table["last_rank"] = last.agg(lambda each: each.value_counts().index[0])
    table["last_share"] = last.agg(lambda each: each.value_counts(normalize=True).iloc[0])
    return table.reset_index()


def _moved(matched: pd.DataFrame) -> pd.Series:
    """From when all have come to a rank's own end, whatever it did meanwhile."""
    latest = matched.groupby(KEY)["start_ns"].transform("max")
    return (matched["end_ns"] - latest).clip(lower=0)


def by_rank(parts: Sequence[RankPart], matched: pd.DataFrame) -> pd.DataFrame:
    """A row for each rank: rank, host, latency_ms and latency_ci_ms (unprofiled), waiting_ms and
    waiting_ci_ms (in all collectives of a step), moving_ms, exposed_waiting_ms with its
    exposed_waiting_ci_ms and exposed_moving_ms (what of these it had nothing else to do in),
    last_share (of the collectives, where it comes last), held_up_ms (how long the others waited
    on average, with nothing else to do, in those where it came last, a step). A call in several
    groups waits for all of them at once, and counts once.
    """
    held_up = _held_up(matched)
    calls = matched.sort_values("waiting_ns", ascending=False)
    calls = calls.drop_duplicates(["rank", "round", "start_ns", "end_ns", "name"])
    steps = calls.groupby(["rank", "round"])[_SUMMED].sum() / MS
    rows = []
    for part in parts:
        latency, latency_half = plain_mean(part.latency_ns.to_numpy(np.float64) / MS)
        mine = steps.loc[[part.rank]] if part.rank in steps.index else steps.iloc[:0]
        waiting, waiting_half = plain_mean(mine["waiting_ns"].to_numpy(np.float64))
        exposed, exposed_half = plain_mean(mine["exposed_waiting_ns"].to_numpy(np.float64))
        rows.append(
            {
                "rank": part.rank,
                "host": part.host,
                "latency_ms": float(latency),
                "latency_ci_ms": float(latency_half),
                "waiting_ms": float(waiting),
                "waiting_ci_ms": float(waiting_half),
                "moving_ms": float(mine["moving_ns"].mean()),
                "exposed_waiting_ms": float(exposed),
                "exposed_waiting_ci_ms": float(exposed_half),
                "exposed_moving_ms": float(mine["exposed_moving_ns"].mean()),
                "last_share": float(matched.loc[matched["rank"] == part.rank, "last"].mean()),
                "held_up_ms": float(held_up.get(part.rank, 0.0)),
            }
        )
    return pd.DataFrame(rows)


def _held_up(matched: pd.DataFrame) -> pd.Series:
    """By rank, ms a step that each other rank waited for this one with nothing else to do."""
    waiting = matched.groupby(KEY)["exposed_waiting_ns"].sum() / MS
    others = (matched.groupby(KEY)["rank"].nunique() - 1).clip(lower=1)
    last = matched[matched["last"]].set_index(KEY)["rank"]
    steps = max(matched["round"].nunique(), 1)
    return (waiting / others).groupby(last).sum() / steps


def stragglers(parts: Sequence[RankPart]) -> pd.DataFrame:
    """Where a rank takes longer than the median of all ranks, by more than its interval: rank,
    where (`host`, `device`), name, phase, excess_ms and excess_ci_ms a step (half the 95 % interval
    over rounds), largest first. Two ranks have no median worth the name: the faster one is taken.
    """
    keys = ["round", "where", "name", "phase"]
    by_part = pd.concat({part.rank: part.work.set_index(keys)["ns"] for part in parts}, axis=1)
    times = by_part.fillna(0.0) / MS
    usual = times.min(axis=1) if len(parts) < 3 else times.median(axis=1)
    excess = times.sub(usual, axis=0)
    found = [_of_rank(part.rank, excess[part.rank]) for part in parts]
    table = pd.concat(found, ignore_index=True)
    shown = table[table["excess_ms"] > table["excess_ci_ms"]]
    return shown.sort_values("excess_ms", ascending=False, ignore_index=True)


def _of_rank(rank: int, excess: pd.Series) -> pd.DataFrame:
    """Means over rounds of one rank's excess, by what was done."""
    by_round = excess.unstack("round")
    mean, half = plain_mean(by_round.to_numpy(np.float64).T)
    table = by_round.index.to_frame(index=False)
    table.insert(0, "rank", rank)
    return table.assign(excess_ms=mean, excess_ci_ms=half)
