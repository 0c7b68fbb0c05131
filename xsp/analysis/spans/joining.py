"""What events that were traced alone belong to: what they belonged to in an annotated run.

A separate ladder times library calls and kernels in runs that trace nothing else, so nothing in
these runs says which layer they belong to. An annotated run, which traces all levels, does; `order`
finds which of its spans each event repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.ancestors import nearest
from xsp.analysis.spans.correlate import Correlated, StructureCodes
from xsp.analysis.spans.launches import launch_of
from xsp.analysis.spans.order import Difference, InOrder, Ints, find_repeated
from xsp.analysis.spans.rungs import traced_alone
from xsp.capture.run import Run, call_of
from xsp.types import Columns, IntArray, Level

_COLUMNS = ("start_ns", "duration_ns", "thread", "stream", "context", "correlation_id")
LAUNCH_FACTS = (
    "kind",
    "name",
    "registers_per_thread",
    "static_shared_bytes",
    "dynamic_shared_bytes",
    "bytes",
)
"""What a device activity was launched with, besides its grid and block."""

_FACTS = (*LAUNCH_FACTS, "device")
"""Of a device activity, besides its grid and block, what must be equal."""


@dataclass(frozen=True)
class NotJoined:
    """A level whose events, traced alone, are not in all runs those of the annotated run.

    `runs` of `of` runs differ, `run` is the first of them, `place` the event where it does, counted
    on its thread; `expected` and `found` are indices of names, None where there is no event.
    `alike` as in `Difference`.
    """

    level: Level
    runs: int
    of: int
    run: int
    place: int
    expected: int | None
    found: int | None
    alike: bool


@dataclass(frozen=True)
class Joined:
    """Runs of which those that traced one level alone keep only model calls and API calls as spans;
    the events of these runs as the table `repeats`; and the levels where that is not possible.
    """

    parts: list[Correlated]
    repeats: pd.DataFrame
    differences: tuple[NotJoined, ...]


def join_by_order(
    runs: Sequence[Run], parts: Sequence[Correlated], codes: StructureCodes
) -> Joined:
    """Find, for the events of a level that runs traced alone, what they repeat.

    A level is joined if all its runs repeat the first annotated run exactly; otherwise its events
    are left out, and its times are those of the annotated runs. `span` of `repeats` is a row of
    the spans of all parts one after the other. Runs of a nested ladder stay as they are.
    """
    rungs = list(dict.fromkeys(run.spec.name for run in runs))
    alone = [traced_alone(run.spec.name, rungs) for run in runs]
    result = [
        part if level is None else _without_events(part)
        for part, level in zip(parts, alone, strict=True)
    ]
    levels = sorted({level for level in alone if level is not None})
    if not levels:
        return Joined(result, pd.DataFrame(), ())
    first = np.cumsum([0, *(len(part.spans["level"]) for part in result)])
    reference = _reference(runs)
    tables, differences = [], []
    for level in levels:
        others = _events(runs[reference], parts[reference], level, codes)
        events = {
            number: _events(run, part, level, codes)
            for number, (run, part, one) in enumerate(zip(runs, parts, alone, strict=True))
            if one is level
        }
        found = _places(events, others)
        if isinstance(found, NotJoined):
            differences.append(found)
            continue
        tables += [
            events[number].table(number, first[reference] + others.rows[place])
            for number, place in found.items()
        ]
    repeats = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    return Joined(result, repeats, tuple(differences))


def _places(events: dict[int, _Events], reference: _Events) -> dict[int, Ints] | NotJoined:
    """By run the events of the reference that its events repeat, or the first run that differs."""
    found: dict[int, Ints] = {}
    differing: dict[int, Difference] = {}
    for number, one in events.items():
        place = find_repeated(one.sequence, reference.sequence)
        if isinstance(place, Difference):
            differing[number] = place
        else:
            found[number] = place
    if not differing:
        return found
    number, first = next(iter(differing.items()))
    return NotJoined(
        reference.level,
        len(differing),
        len(events),
        number,
        first.place,
        reference.name_at(first.reference),
        events[number].name_at(first.run),
        first.alike,
    )


def _reference(runs: Sequence[Run]) -> int:
    """The first annotated run that lost nothing, else the first."""
    most = max(len(run.spec.levels) for run in runs)
    annotated = [number for number, run in enumerate(runs) if len(run.spec.levels) == most]
    return min(annotated, key=lambda number: (runs[number].lost > 0, number))


def _without_events(part: Correlated) -> Correlated:
    """The model calls alone, with the API calls directly in them."""
    calls = part.spans["level"] == Level.MODEL
    above = nearest(part.spans["parent"], calls, part.api_calls["parent"])
    return replace(
        part,
        # The model calls are the first spans of a run, so they keep their rows.
        spans={name: column[calls] for name, column in part.spans.items()},
        api_calls={**part.api_calls, "parent": above},
        device={name: column[:0] for name, column in part.device.items()},
    )


@dataclass(frozen=True, eq=False)
class _Events:
    """The events of a level in a run: rows of the run's spans, names by index, what orders them."""

    level: Level
    rows: Ints
    names: IntArray
    sequence: InOrder
    spans: Columns

    def name_at(self, event: int) -> int | None:
        """Index of an event's name; None for no event."""
        return int(self.names[event]) if event >= 0 else None

    def table(self, run: int, span: Ints) -> pd.DataFrame:
        """Rows of `repeats`, of the spans that the events repeat."""
        own = {name: column[self.rows] for name, column in self.spans.items()}
        own["duration_ns"] = own["end_ns"] - own["start_ns"]
        facts: dict[str, npt.NDArray[Any]] = {
            "run": np.full(len(span), run, dtype=np.int32),
            "level": np.full(len(span), self.level, dtype=np.int8),
            "span": span.astype(np.int32),
        }
        return pd.DataFrame(facts | {name: own[name] for name in _COLUMNS})


def _events(run: Run, part: Correlated, level: Level, codes: StructureCodes) -> _Events:
    rows = np.flatnonzero(part.spans["level"] == level).astype(np.int64)
    spans = {name: column[rows] for name, column in part.spans.items()}
    if level is Level.KERNEL:
        names, sequence = part.device["name"], _kernels(run, part, spans)
    else:
        names = _symbols(spans["detail"], codes)
        sequence = _library_calls(run, spans, names)
    return _Events(level, rows, names, sequence, part.spans)


def _kernels(run: Run, part: Correlated, spans: Columns) -> InOrder:
    """In the order of their launches. Kernels of one launch of a graph are put in the order of its
    nodes, or else in that of their names: branches may overtake each other.
    """
    api, device = part.api_calls, part.device
    launched = api["start_ns"][launch_of(spans["correlation_id"], api["correlation_id"])]
    facts = [device[name].astype(np.int64) for name in _FACTS]
    shapes = [device[name].astype(np.int64) for name in ("grid", "block")]
    nodes = device["graph_node"].astype(np.int64)
    return InOrder(
        thread=spans["thread"],
        order=np.column_stack([launched, nodes, device["name"], spans["start_ns"]]),
        key=np.column_stack([call_of(launched, run.model_calls), *facts, *shapes]),
        lane=spans["context"].astype(np.int64) << 32 | spans["stream"].astype(np.int64),
    )


def _library_calls(run: Run, spans: Columns, symbols: IntArray) -> InOrder:
    return InOrder(
        thread=spans["thread"],
        order=spans["start_ns"][:, np.newaxis],
        key=np.column_stack([call_of(spans["start_ns"], run.model_calls), symbols]),
        lane=np.zeros(len(symbols), dtype=np.int64),
    )


def _symbols(detail: IntArray, codes: StructureCodes) -> IntArray:
    """The symbol of each library call: of a row of the structure run, or beyond these rows."""
    recorded = len(codes.library_calls)
    known = np.append(codes.library_calls, 0)[np.minimum(detail, recorded)]
    symbols: IntArray = np.where(detail < recorded, known, detail - recorded)
    return symbols
