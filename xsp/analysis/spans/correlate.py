"""From the columns of a run to spans with parents: kernel -> library call -> operator -> layer ->
model.

Rules (XSP, sections III-B and III-C): a host event's parent is the innermost event of a level above
that contains it on its thread, operators lying in operators too; a kernel takes its parent from its
launch, joined on the correlation id, and its time from its execution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xsp.analysis.spans.align import match_events
from xsp.analysis.spans.intervals import innermost
from xsp.analysis.spans.launches import launch_of
from xsp.analysis.spans.sums import distinct
from xsp.capture.run import Run, sorted_by_start, within_model
from xsp.types import (
    API_CALLS,
    BACKWARD_BASE,
    DEVICE_ACTIVITY,
    LAYER_EVENTS,
    LIBRARY_EVENTS,
    OPERATOR_EVENTS,
    Columns,
    IntArray,
    Level,
)


@dataclass(frozen=True)
class StructureCodes:
    """Codes of the structure run's rows, by which timed events find their row: layers (forward rows
    in order of start, backward rows unique) and library calls (symbol indices in order of start).

    Details beyond the recorded rows: layer `outside` holds what no layer, forward or backward,
    accounts for; layer `unknown` is an event the structure run did not have; library call
    `n + symbol` is such a call of that symbol.
    """

    layers: IntArray
    library_calls: IntArray

    @property
    def outside(self) -> int:
        """Detail of a LAYER span for work outside every layer."""
        return len(self.layers)

    @property
    def unknown(self) -> int:
        """Detail of a LAYER span that the structure run does not have."""
        return len(self.layers) + 1


@dataclass(frozen=True)
class Correlated:
    """Spans of one run, indexed 0..n-1 with `parent` an index or -1; its API calls with the span
    they ran in; and its device activities, to which `detail` of the KERNEL spans points.

    `unmatched` counts layer and library events that the structure run does not have, and those of
    the structure run that this run does not have; `orphans` counts device activities whose launch
    was not seen.
    """

    spans: Columns
    api_calls: Columns
    device: Columns
    unmatched: int
    orphans: int


def correlate(run: Run, structure: StructureCodes) -> Correlated:
    """Spans of all levels of one run with their parents; no loop over spans. `detail` of operators
    is the index of their name.
    """
    calls = run.model_calls
    layers, layer_call = within_model(
        sorted_by_start(run.table("layer_events", LAYER_EVENTS)), calls
    )
    operators, operator_call = within_model(
        _outermost_first(run.table("operator_events", OPERATOR_EVENTS)), calls
    )
    library, library_call = within_model(
        sorted_by_start(run.table("library_events", LIBRARY_EVENTS)), calls
    )
    every_api = run.table("api_calls", API_CALLS)
    api, api_call = within_model(sorted_by_start(every_api), calls)
    device = run.table("device_activity", DEVICE_ACTIVITY)
    # What was launched outside the model calls (settling runs, restoring state) is seen, and is
    # none of the model's.
    orphans = int((launch_of(device["correlation_id"], every_api["correlation_id"]) < 0).sum())
    launch = launch_of(device["correlation_id"], api["correlation_id"])
    device = {name: column[launch >= 0] for name, column in device.items()}
    launch = launch[launch >= 0]

    launches = np.zeros(len(api["start_ns"]), dtype=bool)
    launches[launch] = True
    host = _HostParents(
        calls,
        (layers, layer_call),
        (operators, operator_call),
        (library, library_call),
        (api, api_call),
        launches,
    )
    layer_row = match_events(layers["code"], structure.layers)
    library_row = match_events(library["symbol"], structure.library_calls)
    unmatched = int((layer_row < 0).sum() + (library_row < 0).sum())
    unmatched += _missing(layer_row, structure.layers, run, Level.LAYER)
    unmatched += _missing(library_row, structure.library_calls, run, Level.LIBRARY)
    if (layer_row < 0).any():
        layer_row = np.where(layer_row < 0, _same_code(layers["code"], structure), layer_row)
    library_row = np.where(
        library_row < 0, len(structure.library_calls) + library["symbol"], library_row
    )
    spans = _spans(host, layer_row, structure.outside, library_row, device, launch)
    api["parent"] = host.api_parent
    return Correlated(spans, api, device, unmatched, orphans)


def _outermost_first(events: Columns) -> Columns:
    """In order of their start; of those that start together the longest first."""
    order = np.lexsort((-events["end_ns"], events["start_ns"]))
    return {name: column[order] for name, column in events.items()}


def _missing(row: IntArray, structure_codes: IntArray, run: Run, level: Level) -> int:
    """How many rows of the structure run have no event in a run that traced their level.

    Rows of autograd nodes are those that a backward pass could run, not those that ran.
    """
    if level not in run.spec.levels:
        return 0
    expected = structure_codes < BACKWARD_BASE
    seen = distinct(row[row >= 0])
    return int(expected.sum() - expected[seen].sum())


def _same_code(codes: IntArray, structure: StructureCodes) -> npt.NDArray[np.int64]:
    """For each event the last row of the structure run with its code: a layer that is called more
    often than there keeps its name. `structure.unknown` where there is none.
    """
    known, place = np.unique(structure.layers[::-1], return_index=True)
    if not len(known):
        return np.full(len(codes), structure.unknown, dtype=np.int64)
    at = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    row = len(structure.layers) - 1 - place[at]
    return np.where(known[at] == codes, row, structure.unknown)


InCalls = tuple[Columns, IntArray]
"""Events, and the model call of each."""


class _HostParents:
    """Indices of the parents of host events. Span indices: model calls first, then layers, the
    spans that hold what lies outside layers (one per model call that needs one), operators, library
    calls, device activity.
    """

    def __init__(
        self,
        calls: Columns,
        in_layers: InCalls,
        in_operators: InCalls,
        in_libraries: InCalls,
        in_api: InCalls,
        launches: npt.NDArray[np.bool_],
    ) -> None:
        layers, layer_call = in_layers
        operators, operator_call = in_operators
        library, library_call = in_libraries
        api, api_call = in_api
        self.calls, self.layers, self.operators = calls, layers, operators
        self.library, self.api = library, api
        first_layer = len(calls["start_ns"])
        enclosing = _enclosing(layers, layers, strict=True)
        self.layer_parent = np.where(enclosing >= 0, first_layer + enclosing, layer_call)
        around_operator = self._around(operators, strict=True)
        around_library = self._around(library)
        api_library = _enclosing(library, api)
        around_api = self._around(api)
        # An API call that launches nothing (the final synchronise) needs no layer: it is the model
        # call's own.
        free = (api_library < 0) & (around_api.operator < 0) & (around_api.layer < 0)
        bare = free & ~launches
        self.outside = np.unique(
            np.concatenate(
                [
                    operator_call[around_operator.is_outside],
                    library_call[around_library.is_outside],
                    api_call[free & launches],
                ]
            )
        )
        self._first_layer = first_layer
        self._first_outside = first_layer + len(layers["start_ns"])
        self._first_operator = self._first_outside + len(self.outside)
        self.operator_parent = self._span_of(around_operator, operator_call)
        self.library_parent = self._span_of(around_library, library_call)
        first_library = self._first_operator + len(operators["start_ns"])
        self.api_parent = np.where(
            api_library >= 0,
            first_library + api_library,
            np.where(bare, api_call, self._span_of(around_api, api_call)),
        )

    def _around(self, inner: Columns, *, strict: bool = False) -> _Around:
        layer = _enclosing(self.layers, inner)
        operator = _enclosing(self.operators, inner, strict=strict)
        # Both contain the event: what began later is the inner one.
        begun = np.append(self.layers["start_ns"], np.iinfo(np.int64).min)[layer]
        in_operator = np.append(self.operators["start_ns"], np.iinfo(np.int64).min)[operator]
        return _Around(layer, np.where(in_operator >= begun, operator, -1))

    def _span_of(self, around: _Around, call: IntArray) -> npt.NDArray[np.int64]:
        """The innermost operator or layer, or what stands for the work outside layers."""
        outside = self._first_outside + np.searchsorted(self.outside, call)
        in_layer = np.where(around.layer >= 0, self._first_layer + around.layer, outside)
        return np.where(around.operator >= 0, self._first_operator + around.operator, in_layer)


@dataclass(frozen=True, eq=False)
class _Around:
    """The innermost layer around each event, and the innermost operator where that lies in the
    layer; -1 for none.
    """

    layer: npt.NDArray[np.int64]
    operator: npt.NDArray[np.int64]

    @property
    def is_outside(self) -> npt.NDArray[np.bool_]:
        """Whether an event lies in neither."""
        return (self.layer < 0) & (self.operator < 0)


def _enclosing(outer: Columns, inner: Columns, *, strict: bool = False) -> npt.NDArray[np.int64]:
    # An interval contains itself: shrunk by one on the left, its innermost container is a real one.
    start = inner["start_ns"] - int(strict)
    return innermost(
        outer["thread"], outer["start_ns"], outer["end_ns"], inner["thread"], start, inner["end_ns"]
    )


def _spans(
    host: _HostParents,
    layer_row: IntArray,
    outside: int,
    library_row: IntArray,
    device: Columns,
    launch: IntArray,
) -> Columns:
    calls, layers, library = host.calls, host.layers, host.library
    operators = host.operators
    outside_calls = {name: column[host.outside] for name, column in calls.items()}
    of_host = (calls, layers, outside_calls, operators, library)
    sizes = [len(table["start_ns"]) for table in (*of_host, device)]
    levels = [Level.MODEL, Level.LAYER, Level.LAYER, Level.OP, Level.LIBRARY, Level.KERNEL]
    on_host = np.zeros(sum(sizes[:-1]), dtype=np.int64)
    details = [
        np.arange(sizes[0]),
        layer_row,
        np.full(sizes[2], outside),
        operators["name"],
        library_row,
        np.arange(sizes[5]),
    ]
    parents = [
        np.full(sizes[0], -1),
        host.layer_parent,
        host.outside,
        host.operator_parent,
        host.library_parent,
        host.api_parent[launch],
    ]
    threads = [*(table["thread"] for table in of_host), host.api["thread"][launch]]
    stamps = {
        name: np.concatenate([table[name] for table in (*of_host, device)])
        for name in ("start_ns", "end_ns")
    }
    return {
        "level": np.repeat(levels, sizes).astype(np.int8),
        "detail": np.concatenate(details).astype(np.int32),
        "parent": np.concatenate(parents).astype(np.int32),
        **stamps,
        "thread": np.concatenate(threads).astype(np.uint32),
        "stream": np.concatenate([on_host - 1, device["stream"]]).astype(np.int32),
        "context": np.concatenate([on_host, device["context"]]).astype(np.uint32),
        "correlation_id": np.concatenate([on_host, device["correlation_id"]]).astype(np.uint32),
    }
