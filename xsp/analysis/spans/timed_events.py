"""The events that the times of library calls and kernels are read from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.ancestors import model_spans
from xsp.analysis.spans.rungs import runs_of, traced_alone
from xsp.types import Level, Tables

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TimedEvents:
    """Events of one level in the runs `of`, equally long columns.

    `row` is a row of the spans table that says what the event is and what it belongs to: the
    event's own span or, where the level was traced `alone`, the one of an annotated run that it
    repeats.
    """

    of: Ints
    run: Ints
    row: Ints
    start_ns: Ints
    duration_ns: Ints
    alone: bool

    @property
    def end_ns(self) -> Ints:
        """When each ended."""
        return self.start_ns + self.duration_ns


def timed_events(tables: Tables, level: Level) -> TimedEvents:
    """The events of the runs that traced `level` alone, where they could be joined with the
    annotated runs; else those of the rung that has it and the fewest levels.
    """
    alone = tables.get("repeats")
    if alone is not None and (alone["level"] == level).any():
        mine = alone[alone["level"] == level]
        rungs = tables["runs"]["rung"].unique().astype(str)
        own = [rung for rung in rungs if traced_alone(rung, rungs) is level]
        runs = tables["runs"].loc[tables["runs"]["rung"].isin(own), "run"]
        row = mine["span"].to_numpy()
    else:
        runs = runs_of(tables["runs"], level)["run"]
        mine, row = tables["spans"], _rows_of(tables["spans"], level, runs.to_numpy())
    chosen = slice(None) if "span" in mine else row
    run, start_ns, duration_ns = (
        mine[name].to_numpy()[chosen].astype(np.int64)
        for name in ("run", "start_ns", "duration_ns")
    )
    return TimedEvents(
        runs.to_numpy(np.int64),
        run,
        row.astype(np.int64),
        start_ns,
        duration_ns,
        alone="span" in mine,
    )


def _rows_of(spans: pd.DataFrame, level: Level, runs: Ints) -> npt.NDArray[np.intp]:
    """Rows of a level in some of the runs."""
    of_level = np.flatnonzero(spans["level"].to_numpy() == level)
    return of_level[np.isin(spans["run"].to_numpy()[of_level], runs)]


def with_events_of(tables: Tables, run: int) -> Tables:
    """The tables with the events of a run that traced one level alone as spans, each below the
    model call that it ran in; their rows follow all others. The same tables for other runs.
    """
    alone, spans = tables.get("repeats"), tables["spans"]
    mine = None if alone is None else alone[alone["run"] == run]
    if mine is None or not len(mine):
        return tables
    calls = spans[spans["level"] == Level.MODEL]
    number = calls.groupby("run").cumcount()
    of_event = number.reindex(model_spans(spans, mine["span"].to_numpy())).to_numpy()
    own = calls.index[(calls["run"] == run).to_numpy()].to_numpy()
    events = mine.drop(columns="span").assign(
        parent=own[of_event], detail=spans["detail"].to_numpy()[mine["span"]]
    )
    return {**tables, "spans": pd.concat([spans, events[spans.columns]], ignore_index=True)}
