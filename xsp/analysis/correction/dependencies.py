"""Which API call launched each device operation, and what stream waits and host waits wait for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.correction.charges import Bools, Ints
from xsp.analysis.spans.launches import launch_of
from xsp.analysis.spans.sums import among
from xsp.types import Columns

LAUNCH, WAIT = 1, 2  # ApiKind's bits
UNKNOWN = -2  # an event whose record was not seen, a wait whose context is not known

# CUpti_ActivitySynchronizationType
EVENT_SYNCHRONIZE, STREAM_WAIT_EVENT, STREAM_SYNCHRONIZE, CONTEXT_SYNCHRONIZE = 1, 2, 3, 4
HOST_WAITS = (EVENT_SYNCHRONIZE, STREAM_SYNCHRONIZE, CONTEXT_SYNCHRONIZE)


@dataclass
class Dependencies:
    """Rows refer to `api_calls`, operations to the order of `ops`; pair arrays have shape
    (n, 2).
    """

    ops: dict[str, Ints]
    launch: Ints
    wait_rows: Ints
    wait_on: Ints
    last_ops: Ints
    notes: list[str]


class _Streams:
    """Device operations by stream in start order, with the time each was launched."""

    def __init__(
        self, device: Columns, launch_ns: Ints, order: Ints, stream: Ints, context: Ints
    ) -> None:
        self.stream = stream
        self.bounds = np.searchsorted(stream, np.arange(stream[-1] + 2 if len(stream) else 1))
        self.contexts = context[self.bounds[:-1]]
        self.ids = device["stream"][order][self.bounds[:-1]].astype(np.int64)
        self.end_ns = device["end_ns"][order]
        self.start_ns = device["start_ns"][order]
        self.launched_ns = np.concatenate(
            [np.maximum.accumulate(launch_ns[lo:hi]) for lo, hi in self] or [launch_ns]
        )

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self.bounds[:-1].tolist(), self.bounds[1:].tolist(), strict=True))

    def number(self, context: Ints, stream: Ints) -> Ints:
        """The index of each (context, stream), -1 where nothing ran on it."""
        known = {
            (int(c), int(s)): i
            for i, (c, s) in enumerate(zip(self.contexts, self.ids, strict=True))
        }
        return np.array(
            [known.get((int(c), int(s)), -1) for c, s in zip(context, stream, strict=True)],
            dtype=np.int64,
        )

    def last_launched(self, stream: Ints, before_ns: Ints) -> Ints:
        """The last operation on each stream launched before each time, -1 if none."""
        found = np.full(len(stream), -1, dtype=np.int64)
        for index, (lo, hi) in enumerate(self):
            asked = stream == index
            at = lo + np.searchsorted(self.launched_ns[lo:hi], before_ns[asked], "left") - 1
            found[asked] = np.where(at < lo, -1, at)
        return found

    def first_launched(self, stream: Ints, after_ns: Ints) -> Ints:
        """The first operation on each stream launched at or after each time, -1 if none."""
        found = np.full(len(stream), -1, dtype=np.int64)
        for index, (lo, hi) in enumerate(self):
            asked = stream == index
            at = lo + np.searchsorted(self.launched_ns[lo:hi], after_ns[asked], "left")
            found[asked] = np.where(at >= hi, -1, at)
        return found

    def last_ended(self, launched_before_ns: Ints, ended_by_ns: Ints, not_on: Ints) -> Ints:
        """The operation that ended last by each time among those launched before another, outside a
        stream.
        """
        best = np.full(len(not_on), -1, dtype=np.int64)
        best_end = np.full(len(not_on), np.iinfo(np.int64).min)
        for index, (lo, hi) in enumerate(self):
            launched = np.searchsorted(self.launched_ns[lo:hi], launched_before_ns, "left")
            ended = np.searchsorted(np.maximum.accumulate(self.end_ns[lo:hi]), ended_by_ns, "right")
            at = lo + np.minimum(launched, ended) - 1
            end = self.end_ns[np.maximum(at, lo)]
            better = (at >= lo) & (not_on != index) & (end > best_end)
            best, best_end = np.where(better, at, best), np.where(better, end, best_end)
        return best


def find(
    api: Columns,
    kinds: Ints,
    device: Columns,
    synchronizations: Columns,
    event_records: Columns | None,
) -> Dependencies:
    """Match launches by correlation id (the earliest call that has it), waits by their
    synchronisation records.
    """
    launch = _launched_by(api, np.flatnonzero(kinds & LAUNCH), device["correlation_id"])
    context = device["context"].astype(np.int64)
    _, stream = np.unique(context << 32 | device["stream"].astype(np.int64), return_inverse=True)
    stream = stream.astype(np.int64)
    order = np.lexsort((device["end_ns"], device["start_ns"], stream))
    stream, launch = stream[order], launch[order]
    launch_ns = np.where(
        launch < 0, device["start_ns"][order], np.append(api["start_ns"], 0)[launch]
    )
    streams = _Streams(device, launch_ns, order, stream, context[order])
    syncs = _Synchronizations(api, synchronizations, event_records, streams)
    wait_rows = _outermost(api, np.flatnonzero(kinds & WAIT))
    ops = {
        "kind": device["kind"][order].astype(np.int64),
        "stream": stream,
        "start_ns": streams.start_ns.astype(np.int64),
        "end_ns": streams.end_ns.astype(np.int64),
        "launch": launch,
        "row": order,
        "after": syncs.stream_waits(),
    }
    on = syncs.host_waits(api, wait_rows, np.flatnonzero(kinds & LAUNCH), launch)
    return Dependencies(ops, launch, wait_rows, on, streams.bounds[1:] - 1, _notes(launch, syncs))


def _notes(launch: Ints, syncs: _Synchronizations) -> list[str]:
    notes = []
    if missing := int((launch < 0).sum()):
        notes.append(
            f"{missing} of {len(launch)} device operations have no launch record; they move with "
            "the main thread."
        )
    if missing := int((syncs.row < 0).sum()):
        notes.append(
            f"{missing} of {len(syncs.row)} synchronisation records have no API call and were left "
            "out."
        )
    return notes


class _Synchronizations:
    """Synchronisation records joined with their API calls and, for events, with the record that
    they wait for.
    """

    def __init__(
        self, api: Columns, table: Columns, event_records: Columns | None, streams: _Streams
    ) -> None:
        self.streams = streams
        self.kind = table["kind"].astype(np.int64)
        self.context = table["context"].astype(np.int64)
        self.row = launch_of(table["correlation_id"], api["correlation_id"], api["start_ns"])
        self.call_ns = np.where(
            self.row < 0, table["start_ns"], np.append(api["start_ns"], 0)[self.row]
        )
        self.stream = streams.number(self.context, table["stream"])
        self.recorded = np.full(len(self.kind), UNKNOWN, dtype=np.int64)
        if event_records is not None:
            self.recorded = self._recorded(api, table, event_records)

    def _recorded(self, api: Columns, table: Columns, records: Columns) -> Ints:
        """The last operation before the event's last record before the call; -1 if there was none
        in this run.
        """
        row = launch_of(records["correlation_id"], api["correlation_id"], api["start_ns"])
        known = row >= 0
        stream = self.streams.number(records["context"], records["stream"])
        recorded_ns = api["start_ns"][row[known]].astype(np.int64)
        right = pd.DataFrame(
            {
                "at_ns": recorded_ns,
                "event": records["event_id"][known].astype(np.int64),
                "context": records["context"][known].astype(np.int64),
                "operation": self.streams.last_launched(stream[known], recorded_ns),
            }
        ).sort_values("at_ns", kind="stable")
        left = pd.DataFrame(
            {
                "at_ns": self.call_ns,
                "event": table["event_id"].astype(np.int64),
                "context": self.context,
            }
        ).sort_values("at_ns", kind="stable")
        joined = pd.merge_asof(left, right, on="at_ns", by=["event", "context"])
        found = np.empty(len(left), dtype=np.int64)
        found[left.index] = joined["operation"].fillna(-1).astype(np.int64)
        return found

    def stream_waits(self) -> Ints:
        """Pairs of an operation and the one on another stream that it waits for."""
        streams = self.streams
        asked = (self.kind == STREAM_WAIT_EVENT) & (self.row >= 0)
        stream, call_ns = self.stream[asked], self.call_ns[asked]
        held = streams.first_launched(stream, call_ns)
        started = np.append(streams.start_ns, 0)[held]
        recorded = self.recorded[asked]
        on = np.where(recorded == UNKNOWN, streams.last_ended(call_ns, started, stream), recorded)
        is_known = (held >= 0) & (on >= 0)
        held, on = held[is_known], on[is_known]
        crosses = streams.stream[held] != streams.stream[on]
        return np.unique(np.stack([held, on], axis=1)[crosses], axis=0)

    def host_waits(self, api: Columns, wait_rows: Ints, launch_rows: Ints, launch: Ints) -> Ints:
        """Pairs of a wait (by its place in `wait_rows`) and a device operation that it
        waits for.
        """
        number = np.full(len(api["thread"]) + 1, -1, dtype=np.int64)
        number[wait_rows] = np.arange(len(wait_rows))
        copies = np.flatnonzero(number[launch] >= 0) if len(launch) else np.zeros(0, np.int64)
        parts = [np.stack([number[launch[copies]], copies], axis=1)]
        mine = number[self.row] >= 0
        parts += [self._by_stream(number, mine), self._by_event(api, number, mine)]
        whole = mine & (self.kind == CONTEXT_SYNCHRONIZE)
        known = among(wait_rows, np.concatenate([self.row[mine], launch_rows]))
        pending = np.sort(wait_rows[~known])
        everything = np.full(len(pending), UNKNOWN)
        rows = np.concatenate([self.row[whole], pending])
        context = np.concatenate([self.context[whole], everything])
        for index, own_context in enumerate(self.streams.contexts.tolist()):
            asked = (context == own_context) | (context == UNKNOWN)
            last = self.streams.last_launched(
                np.full(asked.sum(), index), api["start_ns"][rows[asked]]
            )
            parts.append(np.stack([number[rows[asked]], last], axis=1))
        pairs = np.concatenate(parts)
        return pairs[pairs[:, 1] >= 0]

    def _by_stream(self, number: Ints, mine: Bools) -> Ints:
        asked = mine & (self.kind == STREAM_SYNCHRONIZE)
        last = self.streams.last_launched(self.stream[asked], self.call_ns[asked])
        return np.stack([number[self.row[asked]], last], axis=1)

    def _by_event(self, api: Columns, number: Ints, mine: Bools) -> Ints:
        asked = mine & (self.kind == EVENT_SYNCHRONIZE)
        row, on = self.row[asked], self.recorded[asked]
        guess = self.streams.last_ended(
            self.call_ns[asked], api["end_ns"][row], np.full(len(row), -1)
        )
        return np.stack([number[row], np.where(on == UNKNOWN, guess, on)], axis=1)


def _launched_by(api: Columns, rows: Ints, ids: npt.NDArray[Any]) -> Ints:
    """For each correlation id the row of the earliest of the given API calls that has it, or -1."""
    launch = launch_of(ids, api["correlation_id"][rows], api["start_ns"][rows])
    return np.where(launch >= 0, np.append(rows, -1)[launch], -1)


def _outermost(api: Columns, rows: Ints) -> Ints:
    """Waits that do not lie inside another wait of the same thread (a runtime call and the driver
    call it makes).
    """
    rows = rows[np.lexsort((-api["end_ns"][rows], api["start_ns"][rows], api["thread"][rows]))]
    thread, end = api["thread"][rows], api["end_ns"][rows]
    keep = np.ones(len(rows), bool)
    for name in np.unique(thread):
        mine = np.flatnonzero(thread == name)
        reached = np.maximum.accumulate(end[mine])
        keep[mine[1:]] = end[mine[1:]] > reached[:-1]
    return rows[keep]
