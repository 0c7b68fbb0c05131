"""The tables of a capture in parts of whole runs, so that what is done for every span is done for a
few hundred thousand of them at a time, whatever the size of the capture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.hierarchy import Hierarchy
from xsp.types import Level, Tables

Ints = npt.NDArray[np.int64]

SPANS_OF_PART = 500_000
"""Spans of a part, or the spans of the runs that cannot be parted. Smaller parts take no less
memory than the capture itself, larger ones leave the processor's caches.
"""

BY_RUN = ("runs", "model_calls", "spans", "api_calls", "synchronizations", "ranges")


@dataclass(frozen=True)
class Part:
    """Tables with some of the runs, as if there were no others: spans are counted from 0, and
    `graph_nodes`, which no sum reads, is left out.

    `first` is the row of the first span in the whole table.
    """

    first: int
    tables: Tables
    corrected: pd.DataFrame | None

    def tree(self, whole: Hierarchy) -> Hierarchy:
        """The hierarchy with the nodes of these spans."""
        until = self.first + len(self.tables["spans"])
        return replace(whole, of_span=whole.of_span[self.first : until])


def parts_of(
    tables: Tables, corrected: pd.DataFrame | None, most: int | None = None
) -> Iterator[Part]:
    """The parts of a capture, in order of runs, of at most `most` spans, SPANS_OF_PART by default.

    Every part has runs of all rungs, with spans of all levels, that the whole has: what is decided
    by which there are is decided alike. One part where rows do not lie in order of runs, and of
    a separate ladder.
    """
    cuts = cut(tables, SPANS_OF_PART if most is None else most)
    if len(cuts) == 2:
        yield Part(0, tables, corrected)
        return
    runs_of_rows = {name: tables[name]["run"].to_numpy() for name in BY_RUN if name in tables}
    bounds = {name: np.searchsorted(run, cuts) for name, run in runs_of_rows.items()}
    rows = None if corrected is None else corrected["row"].to_numpy()
    for number in range(len(cuts) - 1):
        mine = {name: tables[name].iloc[at[number] : at[number + 1]] for name, at in bounds.items()}
        first, until = bounds["spans"][number : number + 2].tolist()
        its_own = None
        if corrected is not None and rows is not None:
            low, high = np.searchsorted(rows, [first, until]).tolist()
            its_own = _moved(corrected.iloc[low:high], "row", first)
        others = {name: table for name, table in tables.items() if name != "graph_nodes"}
        yield Part(first, {**others, **renumbered(mine, first)}, its_own)


def renumbered(tables: Tables, first: int) -> dict[str, pd.DataFrame]:
    """Tables of some runs with spans counted from 0, of which the first is row `first` of all."""
    found = dict(tables)
    for name in ("spans", "api_calls"):
        found[name] = _moved(found[name], "parent", first)
    return found


def _moved(table: pd.DataFrame, column: str, first: int) -> pd.DataFrame:
    """The table counted from 0, with rows of spans that count from `first` on."""
    values = table[column].to_numpy()
    moved = np.where(values < 0, values, values - first).astype(values.dtype)
    counted: pd.DataFrame = table.reset_index(drop=True).assign(**{column: moved})
    return counted


def cut(tables: Tables, most: int) -> Ints:
    """Numbers of the runs that parts begin with, and one more than the last run's."""
    runs, spans = tables["runs"], tables["spans"]
    # The events of a separate ladder repeat spans of one run, whichever run they are of.
    if len(spans) <= most or "repeats" in tables or not _in_order(tables):
        return np.array([0, len(runs)])
    run, level = spans["run"].to_numpy().astype(np.int64), spans["level"].to_numpy()
    events = np.bincount(run * len(Level) + level, minlength=len(runs) * len(Level))
    return cuts_of(runs, events.reshape(-1, len(Level)), most)


def cuts_of(runs: pd.DataFrame, events: Ints, most: int) -> Ints:
    """Where to cut the runs so that parts are of whole rounds, have no more spans than `most`, if
    they can, and all rungs and levels of events that the whole has. What is left over is the last
    part's. `events` are the spans of each run by level, of shape (runs, levels).
    """
    rungs = pd.get_dummies(runs["rung"].astype(object)).to_numpy(dtype=bool)
    there = np.concatenate([rungs, events > 0], axis=1)
    wanted = set(np.flatnonzero(there.any(axis=0)).tolist())
    begins = np.flatnonzero(np.diff(runs["round"], prepend=-1))
    of_round = np.logical_or.reduceat(there, begins, axis=0)
    sizes = np.add.reduceat(events.sum(axis=1), begins)
    cuts, held = [0], 0
    seen: set[int] = set()
    for first, size, kinds in zip(begins.tolist(), sizes.tolist(), of_round, strict=True):
        if seen == wanted and held + size > most:
            cuts.append(first)
            held, seen = 0, set()
        held += size
        seen |= set(np.flatnonzero(kinds).tolist())
    if seen != wanted and len(cuts) > 1:
        cuts.pop()
    return np.array([*cuts, len(runs)])


def _in_order(tables: Tables) -> bool:
    ordered = (tables[name]["run"] for name in BY_RUN if name in tables)
    return all(run.is_monotonic_increasing for run in ordered)
