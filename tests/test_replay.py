"""The replay takes known tracer costs out of simulated runs and must give the untraced run back."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulator import (
    Call,
    Join,
    Launch,
    Machine,
    Record,
    Simulation,
    Spawn,
    StreamWait,
    Synchronize,
    Work,
    lognormal,
)
from xsp.analysis.charges import Costs
from xsp.analysis.replay import ReplayedTimeline, replay
from xsp.types import Level

COSTS = Costs(layer_ns=5200, functional_ns=3400, library_ns=120, launch_ns=1800, api_ns=600, kernel_ns=1000)
UNTRACED = frozenset({Level.MODEL})


def work() -> st.SearchStrategy[Work]:
    return st.integers(1, 60_000).map(Work)


def single(streams: tuple[int, ...]) -> st.SearchStrategy[object]:
    stream = st.sampled_from(streams)
    event = st.sampled_from([10 * streams[0] + i for i in range(2)])
    duration = st.one_of(st.integers(500, 5_000), st.integers(5_000, 200_000))
    launch = st.builds(Launch, stream, duration, st.integers(0, 2))
    return st.one_of(
        work(),
        launch,
        launch,
        launch,
        st.builds(Record, stream, event),
        st.builds(StreamWait, stream, event),
        st.builds(Synchronize, stream),
        st.builds(lambda e: Synchronize(event=e), event),
        st.builds(lambda s, ns: Launch(s, ns, 1, blocking=True), stream, duration),
    )


def block(streams: tuple[int, ...], size: int = 12) -> st.SearchStrategy[tuple[object, ...]]:
    inner = st.lists(single(streams), max_size=4).map(tuple)
    library = inner.map(lambda body: Call(Level.LIBRARY, body))
    layer_body = st.lists(st.one_of(single(streams), library), max_size=4).map(tuple)
    layer = st.builds(lambda body, functional: Call(Level.LAYER, body, functional), layer_body, st.booleans())
    return st.lists(st.one_of(single(streams), layer, layer), max_size=size).map(tuple)


@st.composite
def programs(draw: st.DrawFn) -> tuple[object, ...]:
    """Streams 1 and 2 on the main thread, 3 and 4 on a second thread that runs beside it, between two syncs or not."""
    before, beside, other, after = (draw(block(s)) for s in ((1, 2), (1, 2), (3, 4), (1, 2)))
    if not draw(st.booleans()):
        return (*before, Synchronize(), *after)
    return (*before, Spawn(8, (Work(10), *other)), *beside, Join(8), Work(5), Synchronize(), *after)


def assert_equals_untraced(replayed: ReplayedTimeline, traced: Simulation, truth: Simulation) -> None:
    assert replayed.latency_ns == truth.latency_ns
    assert replayed.host_latency_ns == truth.host_end_ns - truth.start_ns
    # Each stream is used by one thread, so that its operations come in the same order in both runs.
    order, mine = (sorted(range(len(run.ops)), key=lambda i: run.ops[i].stream) for run in (truth, traced))
    np.testing.assert_array_equal(replayed.device_start_ns[mine], [truth.ops[i].start for i in order])
    np.testing.assert_array_equal(replayed.device_end_ns[mine], [truth.ops[i].end for i in order])
    for thread in {name for name, _ in truth.stamps}:
        stamps = [[at for name, at in run.stamps if name == thread] for run in (traced, truth)]
        np.testing.assert_array_equal(replayed.host(thread, stamps[0]), stamps[1])


@settings(max_examples=60, deadline=None)
@given(programs(), st.integers(0, 2**16))
def test_zero_costs_reproduce_the_recording_exactly(program: tuple[object, ...], seed: int) -> None:
    """With nothing to take out, every stamp and every operation stays where it was recorded, however noisy the run."""
    run = Simulation(program, COSTS, noise=lognormal(seed, 0.5), price_noise=lognormal(seed + 1, 0.5))
    for records in (True, False):
        assert_equals_untraced(replay(run.timeline(with_records=records), Costs()), run, run)


@settings(max_examples=100, deadline=None)
@given(programs())
def test_exact_costs_give_the_untraced_run_exactly(program: tuple[object, ...]) -> None:
    """With the true costs the replayed timeline is the untraced one to the ns: streams, events, waits, threads."""
    traced, truth = Simulation(program, COSTS), Simulation(program, levels=UNTRACED)
    replayed = replay(traced.timeline(), COSTS, Machine().latencies())
    assert_equals_untraced(replayed, traced, truth)
