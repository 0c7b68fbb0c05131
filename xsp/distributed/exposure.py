"""What a rank's GPU computes while a collective lasts: only what is left of the collective's time
is exposed, and holds the rank up.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.launches import launch_ns
from xsp.analysis.spans.rungs import runs_of
from xsp.distributed.nccl_kernels import types_of_kernels
from xsp.types import IntArray, Level, Tables

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

PAUSE_NS = 10_000
"""A kernel begins so long after what came before it, or after its launch, though it waits for
nothing: 1 to 2 µs in a queue, 3 to 10 µs after a launch.
"""

_COLUMNS = ("round", "start_ns", "end_ns", "launch_ns")


def computing(tables: Tables) -> pd.DataFrame:
    """When a rank's GPU ran anything but collectives, by round and in order: round, start_ns,
    end_ns and launch_ns (when what came first in it was launched). They do not overlap.
    """
    spans, runs = tables["spans"], runs_of(tables["runs"], Level.KERNEL)
    is_collective = types_of_kernels(tables["kernels"]).notna().to_numpy()
    if not is_collective.any():
        return pd.DataFrame({name: np.empty(0, dtype=np.int64) for name in _COLUMNS})
    wanted = (spans["level"] == Level.KERNEL) & spans["run"].isin(runs["run"])
    rows = spans[wanted]
    rows = rows[~is_collective[rows["detail"].to_numpy()]]
    rounds = runs.set_index("run")["round"]
    start = rows["start_ns"].to_numpy(np.int64)
    found = {
        "round": rows["run"].map(rounds).to_numpy(np.int64),
        "start_ns": start,
        "end_ns": start + rows["duration_ns"].to_numpy(np.int64),
        "launch_ns": launch_ns(tables["api_calls"], rows),
    }
    return _united(pd.DataFrame(found).sort_values(["round", "start_ns"], kind="stable"))


def _united(table: pd.DataFrame) -> pd.DataFrame:
    """Overlapping intervals of a round as one."""
    reached = table.groupby("round")["end_ns"].cummax()
    before = reached.groupby(table["round"]).shift(fill_value=-1)
    number = (table["start_ns"] > before).cumsum()
    return table.groupby(number).agg(
        {"round": "first", "start_ns": "first", "end_ns": "max", "launch_ns": "first"}
    )


def kept_busy(busy: pd.DataFrame) -> pd.DataFrame:
    """`computing`, each until the next one could have begun: what lies between two because the host
    had not launched the second one, and a kernel's own pause, are no wait. What is joined by that
    is one.
    """
    following = busy.groupby("round")[["start_ns", "launch_ns"]].shift(-1)
    could = np.maximum(busy["end_ns"], following["launch_ns"]) + PAUSE_NS
    until = np.fmin(could, following["start_ns"]).fillna(busy["end_ns"])
    return _united(busy.assign(end_ns=until.astype(np.int64)))


def idle_from(collectives: pd.DataFrame, busy: pd.DataFrame) -> Ints:
    """By collective, when the GPU had run all that was launched before its end: whatever comes
    later may have been held up by it. Its end where something else was to be run until then.
    """
    found = collectives["end_ns"].to_numpy(np.int64, copy=True)
    in_round = busy.groupby("round").indices
    for number, at in collectives.groupby("round").indices.items():
        mine = busy.iloc[in_round.get(number, [])]
        starts, launches = mine["start_ns"].to_numpy(), mine["launch_ns"].to_numpy()
        ends = np.append(mine["end_ns"].to_numpy(), np.iinfo(np.int64).min)
        end = found[at]
        following = np.searchsorted(starts, end)
        comes = np.append(launches, np.iinfo(np.int64).max)[following]
        found[at] = np.where(comes >= end, np.minimum(ends[following - 1], end), end)
    begin: Ints = collectives["start_ns"].to_numpy(np.int64)
    return found.clip(min=begin)


def exposed(events: pd.DataFrame, latest_ns: pd.Series, busy: pd.DataFrame) -> pd.DataFrame:
    """Of one rank's collectives exposed_waiting_ns and exposed_moving_ns: what of their waiting,
    until `latest_ns`, and moving its GPU had nothing else to do in. Where several last at once, an
    instant is of the one that began first.

    Collectives that are calls hold up the host: all that they last in is exposed. The same holds
    where nothing else ran.
    """
    if busy.empty:
        own = {f"exposed_{name}": events[name] for name in ("waiting_ns", "moving_ns")}
        return pd.DataFrame(own)
    begin = _begun(events)
    end, idle = (events[name].to_numpy(np.float64) for name in ("end_ns", "idle_ns"))
    until = np.clip(latest_ns.to_numpy(np.float64), begin, end)
    parts = {"exposed_waiting_ns": (begin, until), "exposed_moving_ns": (until, end)}
    rounds = events["round"].to_numpy()
    found = {
        name: high - low - busy_ns(rounds, low, np.minimum(high, idle), busy)
        for name, (low, high) in parts.items()
    }
    return pd.DataFrame(found, index=events.index)


def _begun(events: pd.DataFrame) -> Floats:
    """From when on each collective is the only one, of those that began before it."""
    ordered = events.sort_values(["round", "start_ns"], kind="stable")
    reached = ordered.groupby("round")["end_ns"].cummax()
    before = reached.groupby(ordered["round"]).shift().fillna(-np.inf)
    # A call in several groups is one event of each.
    same = before.groupby([ordered[name] for name in ("round", "start_ns", "end_ns")])
    begin = same.transform("first").clip(ordered["start_ns"], ordered["end_ns"])
    found: Floats = begin.reindex(events.index).to_numpy(np.float64)
    return found


def busy_ns(rounds: IntArray, begin: Floats, end: Floats, busy: pd.DataFrame) -> Floats:
    """How much of the time from begin to end in each round is in `busy`; not known where either is
    not.
    """
    found = np.zeros(len(begin))
    for number, mine in busy.groupby("round"):
        at = np.flatnonzero(rounds == number)
        starts, ends = (mine[name].to_numpy(np.float64) for name in ("start_ns", "end_ns"))
        upto = [_busy_before(starts, ends, each[at]) for each in (begin, end)]
        found[at] = np.maximum(upto[1] - upto[0], 0)
    return found


def _busy_before(starts: Floats, ends: Floats, instant: Floats) -> Floats:
    """How much of intervals that do not overlap lies before each instant."""
    lengths = np.concatenate([[0], np.cumsum(ends - starts)])
    place = np.searchsorted(starts, instant, side="right")
    last = np.maximum(place - 1, 0)
    beyond = np.where(place > 0, np.maximum(ends[last] - instant, 0.0), 0.0)
    return np.asarray(lengths[place] - beyond)


def within(busy: pd.DataFrame, collectives: pd.DataFrame) -> pd.DataFrame:
    """What of `busy` lies in any of the collectives."""
    ordered = collectives.sort_values(["round", "start_ns"], kind="stable")
    during = _united(ordered.assign(launch_ns=0))
    begin, end = (busy[name].to_numpy(np.float64) for name in ("start_ns", "end_ns"))
    return busy[busy_ns(busy["round"].to_numpy(), begin, end, during) > 0]
