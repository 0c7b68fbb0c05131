"""One run as slices on tracks, arrows between them and counters: what the trace formats write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.corrected_times import with_corrected_times
from xsp.analysis.spans.launches import launch_of
from xsp.analysis.spans.timed_events import with_events_of
from xsp.capture.file import Capture
from xsp.capture.run import call_of
from xsp.export.trace.arguments import Arguments
from xsp.export.trace.choice import ChosenRun, RunChoice, choose_run
from xsp.export.trace.counters import Counter, counters_of
from xsp.export.trace.modules import enclosing_modules
from xsp.export.trace.slices import (
    CATEGORIES,
    api_slices,
    module_slices,
    nvtx_slices,
    span_slices,
)
from xsp.export.trace.tracks import Track, tracks_of
from xsp.types import Level, Tables


def view_of(capture: Capture, wanted: RunChoice, corrected: pd.DataFrame | None) -> RunView:
    """The chosen run as slices; its MODEL slices carry the capture's environment and warnings.

    `corrected` are the capture's corrected times, None where it has none. Raises XspError for a run
    that is not there.
    """
    run = choose_run(wanted, capture.tables, corrected)
    known = {
        name: value for name, value in capture.meta["environment"].items() if value is not None
    }
    about = {"run": run.run, "rung": run.rung, "corrected": run.corrected, "environment": known}
    view = run_view(
        with_events_of(capture.tables, run.run),
        capture.meta,
        run,
        corrected,
        about | {"warnings": capture.meta["warnings"]},
    )
    recorded = view.slices["row"] < len(capture.tables["spans"])
    view.slices["row"] = view.slices["row"].where(recorded, -1)
    return view


Ints = npt.NDArray[np.int64]

LAUNCH, BACKWARD = "launch", "backward"
"""Kinds of arrows: from the launch (the API call, or else the span that launched) to the execution
on the device; from a forward layer to its backward work."""


@dataclass(frozen=True, eq=False)
class RunView:
    """What is shown of one run.

    `slices` has a row per slice: row (of `prof.spans`; -1 for all but spans), category (index into
    CATEGORIES), name, start_ns, end_ns, track (index into `tracks`), correlation_id, arguments
    (index into `arguments`), parent (row of `slices`; -1 for modules, ranges and the outermost).
    `flows` has kind, source and target (rows of `slices`). `events` are the begins and ends in
    order (see `lanes.Layout`).
    """

    title: str
    chosen: ChosenRun
    slices: pd.DataFrame
    tracks: list[Track]
    events: Ints
    arguments: list[Arguments]
    flows: pd.DataFrame
    counters: list[Counter]


def run_view(
    tables: Tables,
    meta: Mapping[str, Any],
    chosen: ChosenRun,
    corrected: pd.DataFrame | None,
    about: Arguments,
) -> RunView:
    """Slices, arrows and counters of one run.

    `corrected` replaces the recorded times where `choose_run` says so; API calls and the program's
    own ranges, which the correction does not give, are then left out. `about` is added to the
    arguments of MODEL slices.
    """
    spans = _spans(tables, chosen, corrected)
    api = _of_run(tables["api_calls"], chosen.run).sort_values("start_ns", kind="stable")
    launch = launch_of(spans["correlation_id"].to_numpy(), api["correlation_id"].to_numpy())
    launch[spans["level"] != Level.KERNEL] = -1
    shown_api = api.iloc[:0] if chosen.corrected else api
    modules = _modules(tables, spans)

    launched_ns = _launched_ns(spans, api, launch)
    of_spans, of_spans_arguments = span_slices(tables, spans, about, launched_ns)
    of_modules, of_modules_arguments = module_slices(tables, modules)
    of_api = api_slices(shown_api)
    of_ranges, domains = nvtx_slices({} if chosen.corrected else tables, chosen.run)
    # A slice's `arguments` is a place in one list of them all; API calls share an empty entry.
    arguments = [*of_spans_arguments, *of_modules_arguments, {}, *domains]
    of_modules["arguments"] += len(of_spans_arguments)
    of_api["arguments"] += len(of_spans_arguments) + len(of_modules_arguments)
    of_ranges["arguments"] += len(arguments) - len(domains)

    slices = pd.concat([of_spans, of_modules, of_api, of_ranges], ignore_index=True)
    slices["parent"] = _places(spans, _parents(spans, of_modules, shown_api, of_ranges))
    backward = np.zeros(len(slices), dtype=bool)
    backward[: len(spans)] = _is_backward(tables, spans)
    tracks, slices["track"], events = tracks_of(slices, _nesting_rank(slices, modules), backward)
    first_api = None if chosen.corrected else len(of_spans) + len(of_modules)
    arrows = [_launches(spans, launch, first_api), _backward(tables, spans)]
    return RunView(
        f"{meta['name']} ({chosen.title})",
        chosen,
        slices,
        tracks,
        events,
        arguments,
        pd.concat(arrows, ignore_index=True),
        counters_of(tables, meta, spans, chosen, None if chosen.corrected else launched_ns),
    )


def _launched_ns(
    spans: pd.DataFrame, api: pd.DataFrame, launch: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """When each span was launched; of one without a launch, its start."""
    launched = spans["start_ns"].to_numpy().copy()
    launched[launch >= 0] = api["start_ns"].to_numpy()[launch[launch >= 0]]
    return launched


def _parents(
    spans: pd.DataFrame, modules: pd.DataFrame, api: pd.DataFrame, ranges: pd.DataFrame
) -> npt.NDArray[np.int64]:
    """The parents of all slices; those of modules and of the program's own ranges have none."""
    of_modules, of_ranges = np.full(len(modules), -1), np.full(len(ranges), -1)
    of_spans, of_api = spans["parent"].to_numpy(), api["parent"].to_numpy()
    return np.concatenate([of_spans, of_modules, of_api, of_ranges])


def _of_run(table: pd.DataFrame, run: int) -> pd.DataFrame:
    return table[table["run"] == run]


def _spans(tables: Tables, chosen: ChosenRun, corrected: pd.DataFrame | None) -> pd.DataFrame:
    """The run's rows of `spans`, with corrected times if these are wanted; `recorded_ns` is the
    recorded start.
    """
    spans = tables["spans"].assign(recorded_ns=tables["spans"]["start_ns"])
    return _of_run(with_corrected_times(spans, corrected if chosen.corrected else None), chosen.run)


def _places(spans: pd.DataFrame, rows: npt.NDArray[Any]) -> Ints:
    """Where rows of the spans table stand among this run's spans; -1 stays -1."""
    return np.where(rows >= 0, np.searchsorted(spans.index.to_numpy(), rows), -1)


def _modules(tables: Tables, spans: pd.DataFrame) -> pd.DataFrame:
    layers = spans[spans["level"] == Level.LAYER]
    layers = layers.assign(end_ns=layers["start_ns"] + layers["duration_ns"])
    calls = spans[spans["level"] == Level.MODEL]
    bounds = {
        "start_ns": calls["start_ns"].to_numpy(),
        "end_ns": (calls["start_ns"] + calls["duration_ns"]).to_numpy(),
    }
    return enclosing_modules(tables, layers, call_of(layers["start_ns"].to_numpy(), bounds))


def _nesting_rank(slices: pd.DataFrame, modules: pd.DataFrame) -> Ints:
    """Of slices with equal intervals the outer one is of the outer category, or the outer
    module.
    """
    rank = slices["category"].to_numpy(dtype=np.int64) << 32
    depth = np.zeros(len(slices), dtype=np.int64)
    depth[slices["category"] == CATEGORIES.index("MODULE")] = modules["depth"].to_numpy(
        dtype=np.int64
    )
    return rank + depth


def _is_backward(tables: Tables, spans: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Which spans are layers of a backward pass."""
    is_layer = (spans["level"] == Level.LAYER).to_numpy()
    backward = np.zeros(len(spans), dtype=bool)
    phase = tables["layers"]["phase"].to_numpy(dtype=object)
    backward[is_layer] = phase[spans["detail"].to_numpy()[is_layer]] == "backward"
    return backward


def _launches(spans: pd.DataFrame, launch: Ints, first_api: int | None) -> pd.DataFrame:
    """Arrows to device activities from their API call, or from their parent where that is not
    shown.
    """
    device = np.flatnonzero((spans["level"] == Level.KERNEL).to_numpy())
    parent = _places(spans, spans["parent"].to_numpy()[device])
    source = (
        parent
        if first_api is None
        else np.where(launch[device] >= 0, first_api + launch[device], parent)
    )
    return pd.DataFrame({"kind": LAUNCH, "source": source, "target": device})


def _backward(tables: Tables, spans: pd.DataFrame) -> pd.DataFrame:
    """Arrows from forward layers to their backward work in the same run."""
    layers = np.flatnonzero((spans["level"] == Level.LAYER).to_numpy())
    detail = spans["detail"].to_numpy()[layers]
    place = np.full(len(tables["layers"]) + 1, -1, dtype=np.int64)
    place[detail[::-1]] = layers[::-1]
    forward = tables["layers"]["forward"].to_numpy()[detail]
    source = place[forward]
    known = (forward >= 0) & (source >= 0)
    return pd.DataFrame({"kind": BACKWARD, "source": source[known], "target": layers[known]})
