"""The host's time in operators and library calls as a part of the pieces of `host_turns`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.ancestors import layer_spans, model_spans, nearest
from xsp.analysis.spans.corrected_times import at_rows
from xsp.analysis.spans.outside import stands_for_outside
from xsp.types import Level, Tables

Ints = npt.NDArray[np.int64]


def library_turns(tables: Tables, spans: pd.DataFrame, pieces: pd.DataFrame) -> pd.DataFrame:
    """What each library call has of the time of its layer or, outside layers, of the time between
    two layers: never more than these have, however calls overlap.

    `spans` are rows of the spans table with the times to use, `pieces` what `host_turns` makes of
    them. Columns: run, row (of the spans table), piece (a row of `pieces` of which the time is a
    part, -1 where there is none), duration_ns. Of calls that overlap, as one inside another does,
    the one that began first has the time.
    """
    calls = spans[spans["level"] == Level.LIBRARY]
    placed = _Placed(tables, spans, calls, pieces)
    return _turns(calls, placed.piece, placed.taken())


def operator_turns(tables: Tables, spans: pd.DataFrame, pieces: pd.DataFrame) -> pd.DataFrame:
    """The same of operators, which lie in each other: what each has with all inside it
    (duration_ns) and without the operators directly inside it (own_ns).

    Of outermost operators that overlap, which only those of several threads outside layers do, the
    one that began first has the time; those inside the others lose their share of what these lose.
    """
    operators = spans[spans["level"] == Level.OP]
    placed = _Placed(tables, spans, operators, pieces)
    every, row = tables["spans"], operators.index.to_numpy()
    parent = every["parent"].to_numpy()
    is_operator = (every["level"] == Level.OP).to_numpy()
    outermost = nearest(parent, is_operator & ~is_operator[parent], row)
    is_outermost = outermost == row
    whole = placed.covered().astype(np.float64)
    kept = np.ones(len(row))
    first = np.flatnonzero(is_outermost)
    taken = placed.taken(first)
    kept[first] = np.divide(taken, whole[first], out=np.zeros(len(first)), where=whole[first] > 0)
    duration = whole * kept[np.searchsorted(row, outermost)]
    own = duration.copy()
    inner = np.flatnonzero(~is_outermost)
    np.subtract.at(own, np.searchsorted(row, parent[row[inner]]), duration[inner])
    return _turns(operators, placed.piece, duration).assign(own_ns=own, is_outermost=is_outermost)


def _turns(events: pd.DataFrame, piece: Ints, duration: npt.NDArray[Any]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "run": events["run"].to_numpy(),
            "row": events.index.to_numpy().astype(np.int64),
            "piece": piece,
            "duration_ns": duration,
        }
    )


class _Placed:
    """Events of one level on the axis of the pieces that their time is a part of."""

    def __init__(
        self, tables: Tables, spans: pd.DataFrame, events: pd.DataFrame, pieces: pd.DataFrame
    ) -> None:
        row = events.index.to_numpy().astype(np.int64)
        start = events["start_ns"].to_numpy()
        end = start + events["duration_ns"].to_numpy()
        model = model_spans(tables["spans"], row)
        group_of_piece, self._group = _groups(tables, pieces, row, start, model)
        origin = at_rows(spans, "start_ns", model)
        piece_origin = at_rows(spans, "start_ns", pieces["call"].to_numpy())
        self._axis = _Axis(
            group_of_piece,
            pieces["start_ns"].to_numpy() - piece_origin,
            pieces["end_ns"].to_numpy() - piece_origin,
        )
        self._start, self._end = start - origin, end - origin

    @property
    def piece(self) -> Ints:
        """A piece of which each event's time is a part, -1 where there is none."""
        return self._axis.first_piece(self._group)

    def covered(self) -> Ints:
        """How much of its pieces each event covers."""
        return self._axis.lengths_within(self._group, self._start, self._end)

    def taken(self, chosen: Ints | None = None) -> Ints:
        """The same of all events, or only of those chosen, each instant given to the one that began
        first.
        """
        chosen = np.arange(len(self._group)) if chosen is None else chosen
        group, start, end = (each[chosen] for each in (self._group, self._start, self._end))
        order = np.lexsort((end, start, group))
        taken = np.zeros(len(chosen), dtype=np.int64)
        taken[order] = self._axis.covered(group[order], start[order], end[order])
        return taken


def _groups(
    tables: Tables, pieces: pd.DataFrame, row: Ints, start: Ints, model: Ints
) -> tuple[Ints, Ints]:
    """Of every piece and of every event what must be the same for the one to be part of the
    other: the layer or, between layers, the piece itself.
    """
    owner = pieces["layer_span"].to_numpy()
    first_free = len(tables["spans"])
    group_of_piece = np.where(owner >= 0, owner, first_free + np.arange(len(owner)))
    layer = layer_spans(tables["spans"], row)
    detail = tables["spans"]["detail"].to_numpy()[layer]
    outside = stands_for_outside(tables["layers"])[detail]
    group = np.where(outside, _piece_at(pieces, model, start) + first_free, layer)
    return group_of_piece, group


def _piece_at(pieces: pd.DataFrame, model: Ints, start: Ints) -> Ints:
    """The piece in which something of a model call begins. Pieces lie in order of calls and, within
    each, of time.
    """
    begins = pd.DataFrame(
        {"call": pieces["call"].to_numpy(), "at": pieces["start_ns"].to_numpy(), "asked": 0}
    )
    asked = pd.DataFrame({"call": model, "at": start, "asked": 1})
    both = pd.concat([begins, asked], ignore_index=True)
    order = np.lexsort((both["asked"], both["at"], both["call"]))
    is_piece = order < len(begins)
    latest = np.cumsum(is_piece) - 1
    found = np.empty(len(start), dtype=np.int64)
    found[order[~is_piece] - len(begins)] = np.maximum(latest[~is_piece], 0)
    return found


class _Axis:
    """Groups of disjoint intervals laid end to end, so that one search serves them all."""

    def __init__(self, group: Ints, start: Ints, end: Ints) -> None:
        self.order = np.lexsort((start, group))
        self.known, self.first = np.unique(group[self.order], return_index=True)
        self.low = int(start.min(initial=0))
        self.width = int(end.max(initial=0)) - self.low + 1
        self.opens = self._place(group[self.order], start[self.order])
        self.passed = np.concatenate([[0], np.cumsum((end - start)[self.order])])
        self.lengths = np.append((end - start)[self.order], 0)

    def _place(self, group: Ints, time: Ints) -> Ints:
        within = np.clip(time - self.low, 0, self.width - 1)
        placed: Ints = np.searchsorted(self.known, group) * self.width + within
        return placed

    def _is_known(self, group: Ints) -> npt.NDArray[np.bool_]:
        place = np.searchsorted(self.known, group)
        known: npt.NDArray[np.bool_] = np.append(self.known, -1)[place] == group
        return known

    def first_piece(self, group: Ints) -> Ints:
        """The first interval of each group, -1 for a group that has none."""
        place = np.searchsorted(self.known, group)
        first = np.append(self.order[self.first], -1)[place]
        return np.where(self._is_known(group), first, -1)

    def covered(self, group: Ints, start: Ints, end: Ints) -> Ints:
        """How much of its group's intervals each asked interval covers that none before it in the
        group does; asked intervals are in order of group and start.
        """
        begin, until = self._place(group, start), self._place(group, end)
        reached = np.maximum.accumulate(until)
        is_same_group = group[1:] == group[:-1]
        covered_before = np.where(is_same_group, reached[:-1], 0)
        begin[1:] = np.maximum(begin[1:], covered_before)
        begin = np.minimum(begin, until)
        taken = self._passed_by(until) - self._passed_by(begin)
        return np.where(self._is_known(group), taken, 0)

    def lengths_within(self, group: Ints, start: Ints, end: Ints) -> Ints:
        """How much of its group's intervals each asked interval covers."""
        begin, until = self._place(group, start), self._place(group, end)
        within = self._passed_by(until) - self._passed_by(begin)
        return np.where(self._is_known(group), within, 0)

    def _passed_by(self, place: Ints) -> Ints:
        """Length of all intervals up to a place on the axis."""
        last = np.searchsorted(self.opens, place, side="right") - 1
        inside = np.minimum(place - np.append(self.opens, 0)[last], self.lengths[last])
        return np.where(last < 0, 0, self.passed[np.maximum(last, 0)] + inside)
