"""The deepest rung's runs of a capture as the timelines that are replayed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from captures import gpu_capture

from xsp.analysis.correction.charges import Costs, EventKind
from xsp.analysis.correction.recordings import CallTimeline, Recordings, most_of_layers
from xsp.analysis.spans.outside import NO_LAYER_KIND, OUTSIDE_LAYERS
from xsp.types import Level, Tables


def first_call(tables: Tables) -> CallTimeline:
    recordings = Recordings(tables)
    return next(recordings.calls({recordings.runs[0]}))


def test_a_timeline_has_what_the_tracers_paid_for() -> None:
    """Three layers, two library calls and five launches are events of the host, each with its
    kind; the span that stands for what lies outside layers is not one. Five operations ran.
    """
    tables = gpu_capture().tables
    outside = tables["layers"].iloc[:1].assign(kind=NO_LAYER_KIND, name=OUTSIDE_LAYERS)
    tables["layers"] = pd.concat([tables["layers"], outside], ignore_index=True)
    spans = tables["spans"]
    in_first_layer = (spans["level"] == Level.LAYER) & (spans["detail"] == 0)
    without = first_call({**tables, "spans": spans.copy()})
    tables["spans"] = spans.assign(
        detail=spans["detail"].mask(in_first_layer, len(tables["layers"]) - 1)
    )
    call = first_call(tables)
    assert len(without.timeline.events.kind) == len(call.timeline.events.kind) + 1
    call = without
    kinds = np.bincount(call.timeline.events.kind, minlength=len(EventKind))
    assert kinds[EventKind.LAYER] == 3
    assert kinds[EventKind.LIBRARY] == 2
    assert kinds[EventKind.LAUNCH] == 5
    assert (call.timeline.ops.launch >= 0).all()
    assert len(call.device_rows) == 5


@pytest.mark.parametrize(
    ("kind", "waits"), [(0, False), (1, True), (2, False), (3, True), (4, True)]
)
def test_a_call_with_a_record_of_a_wait_of_the_host_is_one(kind: int, waits: bool) -> None:
    """Event, stream and context synchronisation stop the host whatever the call's name; a stream
    that waits for an event does not.
    """
    tables = gpu_capture().tables
    run = Recordings(tables).runs[0]
    api = tables["api_calls"]
    mine = np.flatnonzero(api["run"] == run)[-1]
    tables["api_calls"] = api.assign(name=api["name"].astype(str).mask(api.index == mine, "cuAny"))
    synchronizations = {name: [0] for name in tables["synchronizations"].columns}
    synchronizations |= {
        "run": [run],
        "kind": [kind],
        "correlation_id": [int(api["correlation_id"].iloc[mine])],
    }
    tables["synchronizations"] = tables["synchronizations"].iloc[:0].reset_index(drop=True)
    for name, column in synchronizations.items():
        tables["synchronizations"][name] = np.array(
            column, dtype=tables["synchronizations"][name].to_numpy().dtype
        )
    found = first_call(tables).timeline.waits
    assert (found.start_ns == api["start_ns"].iloc[mine]).any() == waits


def test_runs_are_found_wherever_they_lie() -> None:
    """Only the runs asked for are built, and rows refer to the whole table of spans."""
    tables = gpu_capture().tables
    recordings = Recordings(tables)
    last = recordings.runs[-1]
    (call,) = recordings.calls({last})
    spans = tables["spans"]
    assert call.run == last
    assert (spans["run"].to_numpy()[call.host_rows] == last).all()
    assert (spans["run"].to_numpy()[call.device_rows] == last).all()
    events = (spans["run"] == last).sum() + (tables["api_calls"]["run"] == last).sum()
    assert recordings.events_of(last) == events
    assert recordings.events_of(0) < events


def test_each_model_call_has_its_own_events() -> None:
    """Of three calls in a run, each has the spans and API calls that began in it, and the
    operations that it launched, whenever these ran.
    """
    tables = gpu_capture().tables
    run = Recordings(tables).runs[-1]
    spans, calls, api = tables["spans"], tables["model_calls"], tables["api_calls"]
    in_run = (spans["run"] == run).to_numpy()
    layers = spans[in_run & (spans["level"] == Level.LAYER)]
    own = calls[calls["run"] == run]
    begins = [int(own["start_ns"].iloc[0]), *sorted(layers["start_ns"])[1:]]
    ends = [*(begin - 1 for begin in begins[1:]), int(own["end_ns"].iloc[0])]
    three = [
        own.assign(start_ns=begin, host_end_ns=end, end_ns=end)
        for begin, end in zip(begins, ends, strict=True)
    ]
    every = pd.concat([calls[calls["run"] != run], *three])
    tables["model_calls"] = every.sort_values(["run", "start_ns"], ignore_index=True)
    found = list(Recordings(tables).calls({run}))
    assert len(found) == 3
    start = spans["start_ns"].to_numpy()
    began = api.loc[api["run"] == run, "start_ns"]
    for call, begin, end in zip(found, begins, ends, strict=True):
        launched = start[spans["parent"].to_numpy()[call.device_rows]]
        for times in (start[call.host_rows], launched):
            assert len(times) > 0
            assert ((times >= begin) & (times <= end)).all()
        is_api = np.isin(call.timeline.events.kind, [EventKind.LAUNCH, EventKind.API])
        assert is_api.sum() == began.between(begin, end).sum() > 0
    rows = np.concatenate([rows for call in found for rows in (call.host_rows, call.device_rows)])
    assert np.array_equal(np.sort(rows), np.flatnonzero(in_run))


def test_tracing_a_layer_costs_around_it_and_inside() -> None:
    """For each layer the upper end of its cost's interval: of a module all around its call, of a
    function, a range and a backward node a part inside; of what lies in no layer nothing.
    """
    kinds = ["module", "function", "autograd", NO_LAYER_KIND, "range"]
    names = ["a", "b", "c", OUTSIDE_LAYERS, "d"]
    layers = pd.DataFrame({"kind": kinds, "name": names})
    intervals = {"layer_ns": (10, 1000), "functional_ns": (0, 2000), "backward_ns": (5, 400)}
    most = most_of_layers({"layers": layers}, Costs(intervals=intervals))
    assert most.sum(axis=1) == pytest.approx([1000, 2000, 400, 0, 2000])
    assert most[:, 1] == pytest.approx([0, 300, 200, 0, 300])
    assert not most_of_layers({"layers": layers}, Costs()).any()
