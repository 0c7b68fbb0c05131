"""What tracing adds: the paper's Figure 2 as a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from xsp.analysis.spans.graph_layers import run_by_graphs
from xsp.analysis.spans.node_sums import exclusive_ns
from xsp.analysis.spans.outside import NO_LAYER_KIND
from xsp.analysis.spans.rungs import spec_of
from xsp.analysis.spans.statistics import trimmed
from xsp.types import IntArray, Level, Tables

_COLUMNS = [
    "rung",
    "level",
    "added_ms",
    "added_ci_ms",
    "added_share",
    "events",
    "added_us_per_event",
]


def overhead(tables: Tables) -> pd.DataFrame:
    """What each rung adds to each level above the one that it adds (XSP, section III-C: the
    overhead of level n+1).

    One row per rung and level: `added_ms` is the trimmed mean over rounds of the level's total host
    time in this rung minus that in the rung before, within the same round, and `added_ci_ms` half
    its 95 % interval; for MODEL it is the call to device finished. `added_share` is relative to the
    unprofiled model latency, `events` what the added level records in a run, `added_us_per_event`
    the one over the other. A difference is what was added to the program's latency, not what the
    tracer cost: on a GPU-bound model the cost hides behind the queue.

    On a separate ladder the rung before is M; for the annotated rung it is, by level, the one that
    traced this level alone, so what is added there is due to all the other levels together.
    """
    runs = tables["runs"]
    rungs = [str(rung) for rung in runs["rung"].unique()]
    rungs.sort(key=lambda rung: (len(spec_of(rung).levels), spec_of(rung).levels))
    if len(rungs) < 2:
        return pd.DataFrame(columns=_COLUMNS)
    totals = _totals(tables)
    unprofiled = float(trimmed(totals[Level.MODEL]["M"].dropna())[0])
    rows = []
    for rung in rungs[1:]:
        for level in spec_of(rung).levels:
            before = _rung_before(rung, level, rungs)
            if before is None or level is Level.KERNEL:
                continue
            added_levels = set(spec_of(rung).levels) - set(spec_of(before).levels)
            events = sum(_events(tables, rung, added) for added in added_levels)
            difference = (totals[level][rung] - totals[level][before]).dropna()
            mean, half = (float(value) for value in trimmed(difference))
            per_event = mean / events / 1e3 if events else np.nan
            rows.append(
                (rung, level.name, mean / 1e6, half / 1e6, mean / unprofiled, events, per_event)
            )
    return pd.DataFrame(rows, columns=_COLUMNS)


def _totals(tables: Tables) -> dict[Level, pd.DataFrame]:
    """Total host time of every level in ns, by round (rows) and rung (columns)."""
    runs = tables["runs"]
    below = [level for level in Level if level is not Level.MODEL]
    by_run = {level.name: _total(tables, level) for level in below}
    told = runs.assign(**by_run, **{Level.MODEL.name: runs["latency_ns"]})
    names = [level.name for level in Level]
    # One table for all: making one takes as long as all else that is done for a level.
    wide = told.groupby(["round", "rung"])[names].mean().unstack("rung")
    known = set(wide.columns.get_level_values(0))
    return {level: pd.DataFrame(wide[level.name]) for level in Level if level.name in known}


def _total(tables: Tables, level: Level) -> pd.Series[float]:
    """Total host time of a level in ns of each run; NaN where it was not traced."""
    spans = tables["spans"]
    here = spans["level"] == level
    if level is Level.LAYER:
        # What stands for the work outside layers, or for what a graph ran, is not an event, and a
        # layer inside a layer counts once.
        layers = tables["layers"]
        is_event = (layers["kind"] != NO_LAYER_KIND).to_numpy() & ~run_by_graphs(layers)
        here &= is_event[np.where(here, spans["detail"], 0)]
    ns = pd.Series(exclusive_ns(spans, level), index=spans.index)[here]
    total = ns.groupby(spans["run"][here]).sum()
    alone = _traced_alone(tables, level)
    total = total.add(alone.groupby("run")["duration_ns"].sum(), fill_value=0)
    # A run that traced the level and had no event of it took no time there: a target can be
    # nothing but the replay of a graph.
    runs = tables["runs"]
    traced = runs["rung"].map(lambda rung: level in spec_of(str(rung)).levels).astype(bool)
    of_run = runs["run"].map(total)
    return of_run.where(~traced, of_run.fillna(0))


def _rung_before(rung: str, level: Level, rungs: Sequence[str]) -> str | None:
    """The rung of most levels, this one among them, to which `rung` adds some; of several such the
    shallowest of all. None if there is none.
    """
    levels = {one: set(spec_of(one).levels) for one in rungs}
    shallower = [one for one in rungs if level in levels[one] and levels[one] < levels[rung]]
    if not shallower:
        return None
    most = max(len(levels[one]) for one in shallower)
    nearest = [one for one in shallower if len(levels[one]) == most]
    return nearest[0] if len(nearest) == 1 else shallower[0]


def _traced_alone(tables: Tables, level: Level) -> pd.DataFrame:
    """Rows of `repeats` of a level."""
    alone = tables.get("repeats")
    if alone is None:
        return pd.DataFrame({"run": [], "duration_ns": []}, dtype=np.int64)
    return alone[alone["level"] == level]


def _events(tables: Tables, rung: str, level: Level) -> int:
    """Records of a level in one run of a rung: spans, and for KERNEL the API calls too."""
    runs = tables["runs"].loc[tables["runs"]["rung"] == rung, "run"].to_numpy()
    spans = tables["spans"]
    of_level = spans["run"].to_numpy()[spans["level"].to_numpy() == level]
    alone = _traced_alone(tables, level)["run"].to_numpy(dtype=np.int64)
    number = np.median(_in_each(runs, of_level) + _in_each(runs, alone))
    if level is Level.KERNEL:
        number += np.median(_in_each(runs, tables["api_calls"]["run"].to_numpy()))
    return int(number)


def _in_each(runs: IntArray, of_records: IntArray) -> IntArray:
    """How many of the records each run has."""
    most = int(max(runs.max(initial=0), of_records.max(initial=0)))
    return np.bincount(of_records, minlength=most + 1)[runs]
