"""Spans of a capture without the tracers' cost."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain, islice

import numpy as np
import pandas as pd

from xsp.analysis.correction.charges import SHARES, Costs, EventKind, Floats, Ints
from xsp.analysis.correction.critical_path import slopes
from xsp.analysis.correction.hostclock import Payments
from xsp.analysis.correction.latencies import Latencies
from xsp.analysis.correction.marks import Marks
from xsp.analysis.correction.recordings import CallTimeline, Recordings, RecordingsOfParts
from xsp.analysis.correction.replay import ReplayedTimeline, replay, replay_together
from xsp.analysis.correction.timeline import Timeline
from xsp.analysis.correction.untouched import Untouched
from xsp.analysis.spans.sums import distinct
from xsp.types import Columns, Level, Tables

_COLUMNS = ("start_ns", "duration_ns", "thread", "level")

TYPICAL_CALLS = 24
"""Model calls that typical latencies are taken from."""


def typical_latencies(recordings: Recordings | RecordingsOfParts, costs: Costs) -> Latencies:
    """Those that the replays of a capture share, of its first model calls."""
    first = [call.timeline for call in islice(recordings.calls(), TYPICAL_CALLS)]
    return Latencies.observed(first, costs)


def corrected_spans(
    tables: Tables, costs: Costs, spread: Floats, typical: Latencies | None = None
) -> pd.DataFrame:
    """Start and duration of the deepest rung's spans without the tracers' cost.

    Columns: row (of the spans table), start_ns, duration_ns, doubt_ns (half a 95 % interval of the
    duration, from that of the costs: `Fit.spread`). Device spans keep their duration. A doubt is
    at most the larger of what is left of a span and what was taken out: no more can be wrong. Where
    the tables are a part of a capture, `typical` are the latencies of the whole.
    """
    calls = Recordings(tables).calls()
    if typical is None:
        first = list(islice(calls, TYPICAL_CALLS))
        typical = Latencies.observed([call.timeline for call in first], costs)
        calls = chain(first, calls)
    spans = tables["spans"]
    columns = {name: spans[name].to_numpy() for name in _COLUMNS}
    # One after another: by two threads it took no less time.
    of_call = partial(_corrected_call, spans=columns, costs=costs, typical=typical, spread=spread)
    parts = map(of_call, calls)
    names = ("row", "start_ns", "duration_ns", "doubt_ns")
    found = {
        name: np.concatenate(columns)
        for name, columns in zip(names, zip(*parts, strict=True), strict=True)
    }
    if (found["row"][1:] < found["row"][:-1]).any():
        order = np.argsort(found["row"], kind="stable")
        found = {name: column[order] for name, column in found.items()}
    # Without a copy into one block: a column can be as large as a capture's.
    return pd.DataFrame(found, copy=False)


def _corrected_call(
    call: CallTimeline, *, spans: Columns, costs: Costs, typical: Latencies, spread: Floats
) -> list[Ints]:
    """Row, start, duration and doubt of the spans of one model call, in order of rows."""
    played = replay(call.timeline, costs, typical)
    rows = call.host_rows
    length = spans["duration_ns"][rows]
    host = _corrected_host(played, spans["thread"][rows], spans["start_ns"][rows], length, spread)
    model = np.flatnonzero(spans["level"][rows] == Level.MODEL)
    host[2][model] = _doubt_of_model(played, host[1][model], length[model], spread)
    device = call.device_rows, *_device(played)
    columns = [np.concatenate(pair) for pair in zip((rows, *host), device, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    return [column[order] for column in columns]


def _device(played: ReplayedTimeline) -> tuple[Ints, Ints, Ints]:
    duration = played.device_end_ns - played.device_start_ns
    return played.device_start_ns, duration, np.zeros_like(duration)


def _corrected_host(
    played: ReplayedTimeline, thread: Ints, begin: Ints, length: Ints, spread: Floats
) -> tuple[Ints, Ints, Ints]:
    """Start, duration and doubt of host spans."""
    start, end, doubt = begin.copy(), begin + length, np.zeros(len(begin))
    for one in distinct(thread).tolist():
        at = thread == one
        doubt[at] = _doubt(played, int(one), begin[at], (begin + length)[at], spread)
        start[at], end[at] = played.host(int(one), start[at]), played.host(int(one), end[at])
    duration = end - start
    return start, duration, _possible(doubt, duration, length)


def _possible(doubt: Floats, duration: Ints, length: Ints) -> Ints:
    """A span has lasted for as long as was recorded at most, and for no time at least."""
    most = np.maximum(duration, length - duration)
    possible: Ints = np.rint(np.minimum(doubt, most)).astype(np.int64)
    return possible


def _doubt_of_model(played: ReplayedTimeline, duration: Ints, length: Ints, spread: Floats) -> Ints:
    """Of a model call only the payments on the critical path matter."""
    paid = slopes(played, [played.timeline.end_ns])[0]
    doubt = np.full(len(length), np.sqrt(max(paid @ spread @ paid, 0.0)))
    return _possible(doubt, duration, length)


def _doubt(played: ReplayedTimeline, thread: int, begin: Ints, end: Ints, spread: Floats) -> Floats:
    """How much the payments between two stamps each can be more or less than was taken out."""
    run = played.timeline
    clock = run.clocks[thread]
    # One by kind at a time: what each payment begins with does not matter, so each costs 1 ns.
    marks = Marks.of(run, clock, np.zeros(0), Untouched())
    every = Payments.of(marks, SHARES, SHARES)
    low = np.searchsorted(every.begins, begin - run.start_ns, "left")
    high = np.searchsorted(every.begins, end - run.start_ns, "left")
    kinds = distinct(every.kind)
    counts = np.zeros((len(kinds), len(begin)))
    paid = np.zeros(len(every.kind) + 1)
    for count, kind in zip(counts, kinds, strict=True):
        np.cumsum(np.where(every.kind == kind, every.share, 0.0), out=paid[1:])
        np.subtract(paid[high], paid[low], out=count)
    host = spread[np.ix_(kinds, kinds)]
    doubt: Floats = np.sqrt(np.maximum((counts * (host @ counts)).sum(axis=0), 0.0))
    return doubt


def mostly_tracing(runs: Sequence[Timeline], costs: Costs) -> dict[str, float]:
    """By name of the cost, the share of the events that pay it of which the correction takes more
    than half. Events without any length are not counted.
    """
    kinds = len(EventKind)
    shrunk, every = np.zeros(kinds), np.zeros(kinds)
    for played in replay_together(runs, costs):
        run, events = played.timeline, played.timeline.events
        for number, clock in enumerate(played.path.clocks):
            mine = (events.clock == number) & (events.end_ns > events.start_ns)
            start = (events.start_ns[mine] - run.start_ns).astype(np.float64)
            end = (events.end_ns[mine] - run.start_ns).astype(np.float64)
            corrected = clock.at(end) - clock.at(start)
            kind = events.kind[mine]
            is_short = corrected < (end - start) / 2
            shrunk += np.bincount(kind[is_short], minlength=kinds)
            every += np.bincount(kind, minlength=kinds)
    shares = np.divide(shrunk, every, out=np.zeros_like(every), where=every > 0)
    return {f"{kind.name.lower()}_ns": float(shares[kind]) for kind in EventKind}
