"""Parents of spans on timelines whose truth is known: every kernel leads to the call that launched
it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from xsp.analysis.spans.assembly import Vocabulary, assemble, columns_of
from xsp.analysis.spans.correlate import Correlated, StructureCodes, correlate
from xsp.capture.run import MODEL_CALLS, Run
from xsp.measuring.other_launches import about_other_launches
from xsp.types import (
    API_CALLS,
    DEVICE_ACTIVITY,
    LAYER_EVENTS,
    LIBRARY_EVENTS,
    Columns,
    Level,
    RunSpec,
    Schema,
    empty,
)

MAIN = 1


@dataclass
class Timeline:
    """A run written event by event; every method returns the label of what it wrote."""

    calls: list[dict[str, int]] = field(default_factory=list)
    layers: list[dict[str, int]] = field(default_factory=list)
    library: list[dict[str, int]] = field(default_factory=list)
    api: list[dict[str, int]] = field(default_factory=list)
    device: list[dict[str, int]] = field(default_factory=list)

    def call(self, start: int, end: int) -> None:
        """A model call."""
        self.calls.append({"thread": MAIN, "start_ns": start, "host_end_ns": end, "end_ns": end})

    def layer(self, code: int, start: int, end: int, thread: int = MAIN) -> None:
        """A layer."""
        self.layers.append({"thread": thread, "code": code, "start_ns": start, "end_ns": end})

    def library_call(self, symbol: int, start: int, end: int, thread: int = MAIN) -> None:
        """A library call."""
        self.library.append({"thread": thread, "symbol": symbol, "start_ns": start, "end_ns": end})

    def launch(
        self, correlation: int, start: int, end: int, thread: int = MAIN, domain: int = 0
    ) -> None:
        """A launching API call."""
        self.api.append(
            {
                "thread": thread,
                "domain": domain,
                "correlation_id": correlation,
                "start_ns": start,
                "end_ns": end,
            }
        )

    def kernel(self, correlation: int, start: int, end: int, stream: int = 7) -> None:
        """An execution on the device."""
        self.device.append(
            {"correlation_id": correlation, "stream": stream, "start_ns": start, "end_ns": end}
        )

    def run(self) -> Run:
        """The run."""
        tables = {
            "layer_events": _table(LAYER_EVENTS, self.layers),
            "library_events": _table(LIBRARY_EVENTS, self.library),
            "api_calls": _table(API_CALLS, self.api),
            "device_activity": _table(DEVICE_ACTIVITY, self.device),
        }
        return Run(RunSpec(tuple(Level)), 0, 0, _table(MODEL_CALLS, self.calls), tables)

    def correlated(self) -> Correlated:
        """The run's spans, matched against a structure that repeats it."""
        layers = sorted(self.layers, key=lambda row: row["start_ns"])
        library = sorted(self.library, key=lambda row: row["start_ns"])
        codes = StructureCodes(
            np.array([row["code"] for row in layers], dtype=np.int64),
            np.array([row["symbol"] for row in library], dtype=np.int64),
        )
        return correlate(self.run(), codes)


def _table(schema: Schema, rows: list[dict[str, int]]) -> Columns:
    table = empty(schema, len(rows))
    for name in {name for row in rows for name in row}:
        table[name][:] = [row[name] for row in rows]
    return table


def label(spans: Columns, index: int) -> Any:
    """What a span is, by its level and start, which are unique in these timelines."""
    return (
        (Level(int(spans["level"][index])).name, int(spans["start_ns"][index]))
        if index >= 0
        else None
    )


def parents(correlated: Correlated) -> dict[Any, Any]:
    """Label of the parent of every span."""
    spans = correlated.spans
    return {label(spans, i): label(spans, int(parent)) for i, parent in enumerate(spans["parent"])}


def simple() -> Timeline:
    """One model call over 0..1000."""
    timeline = Timeline()
    timeline.call(0, 1000)
    return timeline


def test_kernel_leads_through_library_call_and_layer_to_the_model() -> None:
    """The parent chain is kernel, library call, layer, model call."""
    timeline = simple()
    timeline.layer(5, 10, 100)
    timeline.library_call(0, 20, 90)
    timeline.launch(1, 30, 40)
    timeline.kernel(1, 500, 600)
    assert parents(timeline.correlated()) == {
        ("MODEL", 0): None,
        ("LAYER", 10): ("MODEL", 0),
        ("LIBRARY", 20): ("LAYER", 10),
        ("KERNEL", 500): ("LIBRARY", 20),
    }


def test_execution_order_and_streams_do_not_matter() -> None:
    """Kernels belong to where they were launched, wherever and whenever they run."""
    timeline = simple()
    timeline.layer(1, 10, 100)
    timeline.layer(2, 200, 300)
    timeline.launch(1, 20, 30)
    timeline.launch(2, 210, 220)
    timeline.kernel(1, 900, 950, stream=7)
    timeline.kernel(2, 230, 240, stream=13)
    found = parents(timeline.correlated())
    assert found["KERNEL", 900] == ("LAYER", 10)
    assert found["KERNEL", 230] == ("LAYER", 200)


def test_graph_launch_gives_all_its_kernels_one_parent() -> None:
    """Many activities under one correlation id, as a graph launch makes, share the
    launching layer.
    """
    timeline = simple()
    timeline.layer(1, 10, 100)
    timeline.launch(9, 20, 30)
    for number in range(20):
        timeline.kernel(9, 100 + 10 * number, 105 + 10 * number)
    correlated = timeline.correlated()
    assert sum(parent == ("LAYER", 10) for parent in parents(correlated).values()) == 20
    assert correlated.orphans == 0


def test_launches_outside_the_model_call_are_left_out() -> None:
    """Work launched before or after the model call is no span of it, and is no orphan either."""
    timeline = Timeline()
    timeline.call(100, 200)
    timeline.launch(1, 50, 60)
    timeline.kernel(1, 110, 120)
    timeline.launch(2, 250, 260)
    timeline.kernel(2, 270, 280)
    correlated = timeline.correlated()
    assert list(parents(correlated)) == [("MODEL", 100)]
    assert correlated.orphans == 0


def test_activity_without_a_launch_is_counted() -> None:
    """A device activity whose launch record is missing is in no table and is counted as an
    orphan.
    """
    timeline = simple()
    timeline.launch(1, 20, 30)
    timeline.kernel(1, 100, 110)
    timeline.kernel(2, 120, 130)
    correlated = timeline.correlated()
    assert correlated.orphans == 1
    assert ("KERNEL", 120) not in parents(correlated)


def test_work_outside_layers_has_a_place_of_its_own() -> None:
    """What no layer accounts for hangs below one span per model call that says so."""
    timeline = simple()
    timeline.layer(1, 10, 100)
    timeline.launch(1, 500, 510)
    timeline.kernel(1, 520, 530)
    correlated = timeline.correlated()
    spans = correlated.spans
    kernel = int(np.flatnonzero(spans["level"] == Level.KERNEL)[0])
    outside = int(spans["parent"][kernel])
    assert spans["level"][outside] == Level.LAYER
    assert spans["detail"][outside] == 1, "one layer row, then the row for what lies outside"
    assert label(spans, int(spans["parent"][outside])) == ("MODEL", 0)


def test_runtime_call_wins_over_the_driver_call_below_it() -> None:
    """Runtime and driver calls can share a correlation id: the kernel hangs on the outer one's
    layer, once.
    """
    timeline = simple()
    timeline.layer(1, 10, 100)
    timeline.launch(1, 20, 60, domain=0)
    timeline.launch(1, 30, 50, domain=1)
    timeline.kernel(1, 200, 210)
    correlated = timeline.correlated()
    assert parents(correlated)["KERNEL", 200] == ("LAYER", 10)
    assert list(correlated.spans["level"]).count(Level.KERNEL) == 1


def test_a_kernel_launched_before_the_call_is_none_of_its_own() -> None:
    """A kernel that still runs when the call begins, and ends inside it, is left out by its launch;
    it is no orphan, for its launch was seen.
    """
    timeline = simple()
    timeline.launch(1, -50, -40)
    timeline.kernel(1, -30, 700)
    timeline.layer(1, 10, 100)
    timeline.launch(2, 20, 30)
    timeline.kernel(2, 700, 760)
    correlated = timeline.correlated()
    kernels = correlated.spans["level"] == Level.KERNEL
    assert correlated.spans["start_ns"][kernels].tolist() == [700]
    assert correlated.orphans == 0


def told(timeline: Timeline) -> list[dict[str, int]]:
    """What is told of launches that may not be the call's."""
    texts = dict.fromkeys(("type", "module"), "") | {"kind": "module", "phase": "forward"}
    lists: dict[str, Any] = {
        f"{side}put_{what}": [] for side in ("in", "out") for what in ("shapes", "dtypes")
    }
    numbers = {"forward": -1, "parameter_bytes": 0}
    rows = [
        {"code": row["code"], "name": f"layer {row['code']}", **texts, **lists, **numbers}
        for row in timeline.layers
    ]
    words = Vocabulary([{}], [], columns_of(rows), [], [], str, ["sin"], lambda _domain, _cbid: "")
    run = timeline.run()
    return [dict(doubt.facts) for doubt in about_other_launches([run], assemble([run], words))]


def test_work_that_the_call_did_not_launch_is_told() -> None:
    """A kernel that runs inside the call and was launched before it, and one that another thread
    launched outside every layer, are told of; the call's own, and those of a layer on another
    thread, are not.
    """
    timeline = simple()
    timeline.layer(1, 10, 100)
    timeline.launch(1, 20, 30)
    timeline.kernel(1, 40, 50)
    timeline.layer(2, 200, 300, thread=8)
    timeline.launch(2, 220, 230, thread=8)
    timeline.kernel(2, 240, 250)
    timeline.launch(3, 500, 510)
    timeline.kernel(3, 520, 530)
    timeline.call(2000, 2100)
    timeline.launch(7, 2010, 2020)
    timeline.kernel(7, 2030, 2040)
    assert told(timeline) == []
    timeline.launch(4, -50, -40)
    timeline.kernel(4, -30, -20)
    assert told(timeline) == []
    timeline.launch(5, -50, -40)
    timeline.kernel(5, -30, 5)
    timeline.launch(6, 600, 610, thread=9)
    timeline.kernel(6, 620, 630)
    assert told(timeline) == [{"before": 1, "beside": 1, "runs": 1}]


def test_events_the_structure_run_lacks_are_counted() -> None:
    """Unknown layers and library calls keep their place in time, and are counted as unmatched."""
    timeline = simple()
    timeline.layer(1, 10, 100)
    timeline.layer(2, 200, 300)
    timeline.library_call(4, 210, 220)
    correlated = correlate(
        timeline.run(), StructureCodes(np.array([1]), np.array([], dtype=np.int64))
    )
    assert correlated.unmatched == 2
    assert parents(correlated)["LIBRARY", 210] == ("LAYER", 200)


def test_empty_run_has_only_model_spans() -> None:
    """A run of rung M, without any tracer's table, gives its model calls."""
    timeline = Timeline()
    timeline.call(0, 10)
    timeline.call(20, 30)
    run = Run(RunSpec((Level.MODEL,)), 0, 0, timeline.run().model_calls)
    correlated = correlate(
        run, StructureCodes(np.array([], dtype=np.int64), np.array([], dtype=np.int64))
    )
    assert parents(correlated) == {("MODEL", 0): None, ("MODEL", 20): None}


@st.composite
def truthful(draw: st.DrawFn) -> tuple[Timeline, dict[Any, Any], int]:  # noqa: C901 - one generator, nested rules
    """Random call trees on several threads, kernels launched at random depths; the truth; the
    number of orphans.
    """
    timeline, truth, clock = Timeline(), {}, 0
    kernels: list[tuple[int, Any]] = []

    def tick() -> int:
        nonlocal clock
        clock += draw(st.integers(1, 4))
        return clock

    def launch(owner: Any, thread: int) -> None:
        start = tick()
        timeline.launch(len(kernels) + 1, start, tick(), thread)
        kernels.append((len(kernels) + 1, owner))

    def library(owner: Any, thread: int) -> None:
        start = tick()
        for _ in range(draw(st.integers(0, 2))):
            launch(("LIBRARY", start), thread)
        timeline.library_call(draw(st.integers(0, 3)), start, tick(), thread)
        truth["LIBRARY", start] = owner

    def layer(owner: Any, thread: int, depth: int) -> None:
        start = tick()
        for _ in range(draw(st.integers(0, 3))):
            kind = draw(
                st.sampled_from(["layer", "library", "launch"] if depth else ["library", "launch"])
            )
            if kind == "layer":
                layer(("LAYER", start), thread, depth - 1)
            else:
                (library if kind == "library" else launch)(("LAYER", start), thread)
        timeline.layer(draw(st.integers(0, 3)), start, tick(), thread)
        truth["LAYER", start] = owner

    for _ in range(draw(st.integers(1, 3))):
        begin = tick()
        for _ in range(draw(st.integers(0, 4))):
            layer(("MODEL", begin), draw(st.integers(1, 3)), 2)
        timeline.call(begin, tick())
        truth["MODEL", begin] = None
    lost = draw(st.sets(st.sampled_from([each for each, _ in kernels]))) if kernels else set()
    timeline.api = [row for row in timeline.api if row["correlation_id"] not in lost]
    for correlation, owner in draw(st.permutations(kernels)):
        start = tick()
        timeline.kernel(correlation, start, tick(), stream=draw(st.integers(0, 3)))
        if correlation not in lost:
            truth["KERNEL", start] = owner
    for table in (timeline.layers, timeline.library, timeline.api):
        table[:] = draw(st.permutations(table))
    return timeline, truth, len(lost)


@settings(max_examples=150)
@given(truthful())
def test_every_parent_of_random_timelines_is_the_true_one(
    case: tuple[Timeline, dict[Any, Any], int],
) -> None:
    """Over random call trees on several threads, parents are exact and exactly the lost launches
    are orphans.
    """
    timeline, truth, lost = case
    correlated = timeline.correlated()
    assert parents(correlated) == truth
    assert correlated.orphans == lost
    assert correlated.unmatched == 0
