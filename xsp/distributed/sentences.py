"""What the tables of a job say, in sentences."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from xsp.distributed.parts import RankPart
from xsp.distributed.process_groups import ALL
from xsp.words.numbers import quantity

_PLACES = 5
"""Places named in which the slowest rank takes longer."""

_TOLD = 0.05
"""What is computed while waiting is told from this part of the wait on."""

_ALIGNED = 0.1
"""Clocks are doubtful if they are off by more than this part of the mean wait."""


def sentences(
    parts: Sequence[RankPart],
    missing: Sequence[int],
    clocks: pd.DataFrame,
    ranks: pd.DataFrame,
    slow: pd.DataFrame,
) -> list[str]:
    """One idea each: the job, who waits for whom, where that rank loses its time, what is not
    known. `missing` are the ranks without a capture.
    """
    return [
        _job(parts),
        *_missing(missing),
        *_waiting(parts, ranks),
        *(_places(ranks, slow) if _has_collectives(parts) else []),
        *_doubts(clocks, ranks),
    ]


def transferred(transfers: pd.DataFrame) -> list[str]:
    """How many sends there are between two ranks."""
    if transfers.empty:
        return []
    return [f"{quantity(len(transfers), 'send')} between two ranks a step, each with its receive"]


def left_out(rounds: Sequence[int]) -> list[str]:
    """Which rounds count nowhere."""
    if not rounds:
        return []
    listed = ", ".join(map(str, rounds))
    return [
        f"{quantity(len(rounds), 'round')} ({listed}) {'is' if len(rounds) == 1 else 'are'} left "
        "out: not every rank kept them, as where a GPU was throttled"
    ]


def _has_collectives(parts: Sequence[RankPart]) -> bool:
    return any(len(part.collectives) for part in parts)


def _job(parts: Sequence[RankPart]) -> str:
    first = parts[0]
    hosts = len({part.host for part in parts})
    return (
        f"{first.name}: {len(parts)} of {first.size} ranks on {quantity(hosts, 'host')}, "
        f"{_collectives(parts)} a step, {quantity(len(first.latency_ns), 'round')}"
    )


def _collectives(parts: Sequence[RankPart]) -> str:
    """How many a rank makes in a step, and in how many groups all of them together."""
    each = sorted({_in_a_step(part) for part in parts})
    groups = {group for part in parts for group in part.collectives["group"].unique()}
    whose = " of all ranks" if groups <= {ALL} else f" in {quantity(len(groups), 'group')}"
    made = quantity(each[-1], "collective")
    return f"{made}{whose}" if len(each) == 1 else f"{each[0]:.3g} to {made}{whose}"


def _in_a_step(part: RankPart) -> float:
    steps = max(len(part.rounds), 1)
    each = len(part.collectives) / steps
    return int(each) if each == int(each) else each


def _missing(gone: Sequence[int]) -> list[str]:
    if not gone:
        return []
    listed = ", ".join(map(str, gone))
    one = len(gone) == 1
    return [
        f"there is no capture of {'rank' if one else 'ranks'} {listed}: a wait for "
        f"{'it' if one else 'one of them'} is shown as moving data"
    ]


def _waiting(parts: Sequence[RankPart], ranks: pd.DataFrame) -> list[str]:
    if not _has_collectives(parts):
        return ["no collective of all ranks was recorded, so nothing is said of waiting"]
    last = ranks.iloc[int(ranks["held_up_ms"].argmax())]
    others = ranks[ranks["rank"] != last["rank"]]
    if others.empty:
        return []
    waits = others.iloc[int(others["exposed_waiting_ms"].argmax())]
    share = waits["exposed_waiting_ms"] / waits["latency_ms"]
    waited = f"{waits['exposed_waiting_ms']:.3g} ± {waits['exposed_waiting_ci_ms']:.2g} ms"
    return [
        f"rank {last['rank']} holds the others up for {last['held_up_ms']:.3g} ms a step and comes "
        f"last to {last['last_share']:.0%} of the collectives",
        f"rank {waits['rank']} waits most: {waited} a step, {share:.0%} of its unprofiled latency "
        f"of {waits['latency_ms']:.3g} ms{_hidden(waits)}",
    ]


def _hidden(waits: pd.Series) -> str:
    """What it computes while it waits."""
    hidden = waits["waiting_ms"] - waits["exposed_waiting_ms"]
    if hidden < _TOLD * waits["waiting_ms"]:
        return ""
    return (
        f"; for {hidden:.3g} ms more it waits while it computes, which waiting kernels, that hold "
        "multiprocessors, can slow down"
    )


def _places(ranks: pd.DataFrame, slow: pd.DataFrame) -> list[str]:
    last = ranks["rank"].to_numpy(int)[int(ranks["held_up_ms"].argmax())]
    mine = slow[slow["rank"] == last].head(_PLACES)
    if mine.empty:
        return []
    places = ", ".join(_place(row) for row in mine.to_dict("records"))
    return [f"rank {last} takes longer than the others in: {places}"]


def _place(row: Mapping[Hashable, Any]) -> str:
    where = ", ".join(part for part in (row["where"], row["phase"]) if part)
    return f"{row['name']} ({where}) {row['excess_ms']:.3g} ± {row['excess_ci_ms']:.2g} ms"


def _doubts(clocks: pd.DataFrame, ranks: pd.DataFrame) -> list[str]:
    unknown = clocks["error_ns"].isna()
    worst_ms = clocks["error_ns"].max() / 1e6
    said = []
    if unknown.any():
        listed = ", ".join(map(str, clocks.loc[unknown, "rank"]))
        said.append(f"the clocks of ranks {listed} could not be aligned: their waits are unknown")
    if worst_ms > _ALIGNED * ranks["waiting_ms"].mean():
        said.append(
            f"clocks of different machines are aligned to ± {worst_ms:.2g} ms only, by the ends of "
            "collectives; shorter waits tell nothing"
        )
    return said
