"""From the columns of a run to spans with parents: kernel -> library call -> layer -> model.

Rules (XSP, sections III-B and III-C): a host event's parent is the innermost event of the level
above that contains it on its thread; a kernel takes its parent from its launch, joined on the
correlation id, and its time from its execution.
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
    """Spans of all levels of one run with their parents; no loop over spans."""
    calls = run.model_calls
    layers, layer_call = within_model(
        sorted_by_start(run.table("layer_events", LAYER_EVENTS)), calls
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
    host = _HostParents(calls, layers, layer_call, library, library_call, api, api_call, launches)
    layer_row = match_events(layers["code"], structure.layers)
    library_row = match_events(library["symbol"], structure.library_calls)
    unmatched = int((layer_row < 0).sum() + (library_row < 0).sum())
    unmatched += _missing(layer_row, structure.layers, run, Level.LAYER)
    unmatched += _missing(library_row, structure.library_calls, run, Level.LIBRARY)
    layer_row = np.where(layer_row < 0, _same_code(layers["code"], structure), layer_row)
    library_row = np.where(
        library_row < 0, len(structure.library_calls) + library["symbol"], library_row
    )
    spans = _spans(host, layer_row, structure.outside, library_row, device, launch)
    api["parent"] = host.api_parent
    return Correlated(spans, api, device, unmatched, orphans)


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


class _HostParents:
    """Indices of the parents of host events. Span indices: model calls first, then layers, the
    spans that hold what lies outside layers (one per model call that needs one), library calls,
    device activity.
    """

    def __init__(
        self,
        calls: Columns,
        layers: Columns,
        layer_call: IntArray,
        library: Columns,
        library_call: IntArray,
        api: Columns,
        api_call: IntArray,
        launches: npt.NDArray[np.bool_],
    ) -> None:
        self.calls, self.layers, self.library, self.api = calls, layers, library, api
        first_layer = len(calls["start_ns"])
        enclosing = _enclosing(layers, layers, strict=True)
        self.layer_parent = np.where(enclosing >= 0, first_layer + enclosing, layer_call)
        owner = _enclosing(layers, library)
        self._api_library = _enclosing(library, api)
        api_owner = np.where(self._api_library >= 0, 0, _enclosing(layers, api))
        # An API call that launches nothing (the final synchronise) needs no layer: it is the model
        # call's own.
        bare = (api_owner < 0) & ~launches
        self.outside = np.unique(
            np.concatenate([library_call[owner < 0], api_call[(api_owner < 0) & launches]])
        )
        first_outside = first_layer + len(layers["start_ns"])
        self.library_parent = self._span_of(owner, library_call, first_layer, first_outside)
        first_library = first_outside + len(self.outside)
        self.api_parent = np.where(
            self._api_library >= 0,
            first_library + self._api_library,
            np.where(
                bare, api_call, self._span_of(api_owner, api_call, first_layer, first_outside)
            ),
        )
        self.first_library = first_library

    def _span_of(
        self, owner: IntArray, call: IntArray, first_layer: int, first_outside: int
    ) -> npt.NDArray[np.int64]:
        return np.where(
            owner >= 0, first_layer + owner, first_outside + np.searchsorted(self.outside, call)
        )


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
    outside_calls = {name: column[host.outside] for name, column in calls.items()}
    sizes = [len(t["start_ns"]) for t in (calls, layers, outside_calls, library, device)]
    none = [np.zeros(size, dtype=np.int64) for size in sizes]
    api = host.api
    return {
        "level": np.repeat(
            [Level.MODEL, Level.LAYER, Level.LAYER, Level.LIBRARY, Level.KERNEL], sizes
        ).astype(np.int8),
        "detail": np.concatenate(
            [np.arange(sizes[0]), layer_row, none[2] + outside, library_row, np.arange(sizes[4])]
        ),
        "parent": np.concatenate(
            [
                none[0] - 1,
                host.layer_parent,
                host.outside,
                host.library_parent,
                host.api_parent[launch],
            ]
        ),
        "start_ns": np.concatenate(
            [t["start_ns"] for t in (calls, layers, outside_calls, library, device)]
        ),
        "end_ns": np.concatenate(
            [t["end_ns"] for t in (calls, layers, outside_calls, library, device)]
        ),
        "thread": np.concatenate(
            [
                calls["thread"],
                layers["thread"],
                outside_calls["thread"],
                library["thread"],
                api["thread"][launch],
            ]
        ).astype(np.uint32),
        "stream": np.concatenate([*(n - 1 for n in none[:4]), device["stream"]]).astype(np.int32),
        "context": np.concatenate([*none[:4], device["context"]]).astype(np.uint32),
        "correlation_id": np.concatenate([*none[:4], device["correlation_id"]]).astype(np.uint32),
    }
