"""The replay takes known tracer costs out of simulated runs and must give the untraced run back."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_programs import programs
from simulator import (
    MAIN,
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

from xsp.analysis.correction.charges import Costs, EventKind
from xsp.analysis.correction.latencies import Latencies
from xsp.analysis.correction.replay import ReplayedTimeline, replay
from xsp.analysis.correction.timeline import ApiKind, Timeline
from xsp.errors import TracingError, XspError
from xsp.types import (
    API_CALLS,
    DEVICE_ACTIVITY,
    LAYER_EVENTS,
    LIBRARY_EVENTS,
    SYNCHRONIZATIONS,
    Level,
    empty,
)

COSTS = Costs(
    layer_ns=5200,
    functional_ns=3400,
    backward_ns=4100,
    library_ns=120,
    launch_ns=1800,
    api_ns=600,
    kernel_ns=1000,
)
UNTRACED = frozenset({Level.MODEL})


def assert_equals_untraced(
    replayed: ReplayedTimeline, traced: Simulation, truth: Simulation
) -> None:
    assert replayed.latency_ns == truth.latency_ns
    assert replayed.host_latency_ns == truth.host_end_ns - truth.start_ns
    # Each stream is used by one thread, so that its operations come in the same order in both runs.
    order, mine = (
        sorted(range(len(run.ops)), key=lambda i: run.ops[i].stream) for run in (truth, traced)
    )
    np.testing.assert_array_equal(
        replayed.device_start_ns[mine], [truth.ops[i].start for i in order]
    )
    np.testing.assert_array_equal(replayed.device_end_ns[mine], [truth.ops[i].end for i in order])
    for thread in {name for name, _ in truth.stamps}:
        stamps = [[at for name, at in run.stamps if name == thread] for run in (traced, truth)]
        np.testing.assert_array_equal(replayed.host(thread, stamps[0]), stamps[1])


@settings(max_examples=20)
@given(programs(), st.integers(0, 2**16))
def test_zero_costs_reproduce_the_recording_exactly(program: tuple[object, ...], seed: int) -> None:
    """With nothing to take out, every stamp and every operation stays where it was recorded,
    however noisy the run.
    """
    run = Simulation(
        program, COSTS, noise=lognormal(seed, 0.5), price_noise=lognormal(seed + 1, 0.5)
    )
    for records in (True, False):
        assert_equals_untraced(replay(run.timeline(with_records=records), Costs()), run, run)


@settings(max_examples=35)
@given(programs())
def test_exact_costs_give_the_untraced_run_exactly(program: tuple[object, ...]) -> None:
    """With the true costs the replayed timeline is the untraced one to the ns: streams, events,
    waits, threads.
    """
    traced, truth = Simulation(program, COSTS), Simulation(program, levels=UNTRACED)
    replayed = replay(traced.timeline(), COSTS, Machine().latencies())
    assert_equals_untraced(replayed, traced, truth)


def test_operators_are_replayed_without_their_cost() -> None:
    """Operators in operators, with launches in them, on a thread beside the main one too: every
    stamp and every operation is where it is without tracing.
    """
    costs = replace(COSTS, operator_ns=400)
    inner = Call(Level.OP, (Work(2_000), Launch(1, 3_000)), EventKind.OPERATOR)
    outer = Call(Level.OP, (Work(1_000), inner, inner, Work(500)), EventKind.OPERATOR)
    layer = Call(Level.LAYER, (Work(3_000), outer, Work(1_500)))
    program = (*(layer,) * 8, Spawn(8, (inner, Work(900), inner)), Join(8))
    traced = Simulation(program, costs, levels=frozenset(Level))
    truth = Simulation(program, levels=UNTRACED)
    replayed = replay(traced.timeline(), costs, Machine().latencies())
    assert_equals_untraced(replayed, traced, truth)


def layers(number: int, kernel_ns: int) -> tuple[object, ...]:
    """A model of equal layers, each with one library call that launches one kernel."""
    body = (Work(12_000), Call(Level.LIBRARY, (Work(2_000), Launch(1, kernel_ns))), Work(3_000))
    return (Call(Level.LAYER, body),) * number


def backward(number: int) -> tuple[object, ...]:
    """Forward on the main thread, then the same again on a second one while the main thread waits
    for it.
    """
    return (
        *layers(number, 40_000),
        Work(4_000),
        Spawn(8, layers(number, 40_000)),
        Join(8),
        Work(6_000),
    )


def plainly_subtracted(run: Simulation) -> float:
    paid = (
        len(run.layers) * COSTS.layer_ns
        + len(run.library) * COSTS.library_ns
        + len(run.ops) * COSTS.launch_ns
    )
    return run.latency_ns - paid - len(run.ops) * COSTS.kernel_ns


@pytest.mark.parametrize("kernel_ns", [3_000, 25_000, 150_000])
def test_latencies_learnt_from_the_run_itself_suffice(kernel_ns: int) -> None:
    """Host-bound, mixed and GPU-bound models come out exactly without being told the machine's
    latencies.
    """
    program = (*layers(20, kernel_ns), *layers(20, 2 * kernel_ns))
    traced, truth = Simulation(program, COSTS), Simulation(program, levels=UNTRACED)
    assert_equals_untraced(replay(traced.timeline(), COSTS), traced, truth)


def test_plain_subtraction_is_wrong_where_the_replay_is_right() -> None:
    """On a GPU-bound model host costs hide behind the queue, and subtracting them removes what was
    never there.
    """
    program = layers(40, 150_000)
    traced, truth = Simulation(program, COSTS), Simulation(program, levels=UNTRACED)
    assert plainly_subtracted(traced) / truth.latency_ns - 1 < -0.03
    assert replay(traced.timeline(), COSTS).latency_ns == truth.latency_ns


@pytest.mark.parametrize("kernel_ns", [3_000, 25_000, 150_000])
def test_noisy_costs_and_latencies_leave_no_bias(kernel_ns: int) -> None:
    """With costs and latencies that vary by 30 %, mean costs bring the mean latency back to within
    1 %.
    """
    ratios = []
    for seed in range(40):
        jitter = [lognormal(4 * seed + i, 0.3) for i in range(4)]
        traced = Simulation(layers(30, kernel_ns), COSTS, price_noise=jitter[0], noise=jitter[1])
        truth = Simulation(layers(30, kernel_ns), levels=UNTRACED, noise=jitter[2])
        ratios.append((replay(traced.timeline(), COSTS).latency_ns, truth.latency_ns))
    replayed, untraced = np.mean(ratios, axis=0)
    assert replayed / untraced == pytest.approx(1, abs=0.01)


def test_a_thread_that_the_main_thread_waits_for_needs_no_handoffs() -> None:
    """Backward on the autograd thread continues the main thread's clock, so its cost comes out
    without being told.
    """
    traced, truth = Simulation(backward(10), COSTS), Simulation(backward(10), levels=UNTRACED)
    run = traced.timeline(with_handoffs=False)
    assert set(run.clocks.values()) == {0}
    assert_equals_untraced(replay(run, COSTS, Machine().latencies()), traced, truth)


def test_threads_that_work_side_by_side_get_their_own_clock() -> None:
    """Calls that overlap the main thread's are another host's worth of time: their cost is not the
    main thread's.
    """
    program = (Spawn(8, layers(10, 3_000)), *layers(10, 3_000), Join(8))
    run = Simulation(program, COSTS).timeline(with_handoffs=False)
    assert sorted(run.clocks.values()) == [0, 1]


def test_layers_on_threads_side_by_side_are_not_charged_to_each_other() -> None:
    """Where only layers are traced, a layer of another thread that outlasts one of the main
    thread's shows that both
    work: the replay takes the main thread's own cost out and no more.
    """
    layer = (Call(Level.LAYER, (Work(20_000),)),)
    program = (Work(1_000), Spawn(8, layer * 10), *layer * 30, Join(8), Work(1_000))
    traced = Simulation(program, COSTS, levels=frozenset({Level.MODEL, Level.LAYER}))
    run = traced.timeline(with_handoffs=False)
    assert run.clocks == {MAIN: 0, 8: 1}
    assert replay(run, COSTS).latency_ns == Simulation(program, levels=UNTRACED).latency_ns


def test_threads_beside_each_other_while_the_main_thread_waits_are_told_apart() -> None:
    """Of two threads that the main thread waits for, one continues its clock, and the other's cost
    is not added.
    """
    program = (
        Work(1_000),
        Spawn(8, layers(10, 3_000)),
        Spawn(9, layers(10, 3_000)),
        Join(8),
        Join(9),
        Work(1_000),
    )
    run = Simulation(program, COSTS).timeline(with_handoffs=False)
    assert run.clocks == {MAIN: 0, 8: 0, 9: 1}


def test_event_waits_are_found_without_event_records() -> None:
    """Without records of events a waiting operation is taken to wait for what ended last before it
    started.
    """
    pair = (
        Launch(1, 60_000),
        Record(1, 5),
        StreamWait(2, 5),
        Launch(2, 40_000),
        Record(2, 6),
        StreamWait(1, 6),
    )
    program = (*layers(4, 30_000), *pair * 10)
    traced, truth = Simulation(program, COSTS), Simulation(program, levels=UNTRACED)
    replayed = replay(traced.timeline(with_records=False), COSTS, Machine().latencies())
    assert_equals_untraced(replayed, traced, truth)


def test_a_stream_that_waits_for_its_own_event_waits_for_its_order_only() -> None:
    """An event recorded on a stream and waited for on the same one changes no operation's start."""
    again = (Launch(1, 30_000), Record(1, 5), StreamWait(1, 5))
    program = (*again * 4, Launch(1, 20_000))
    traced, truth = Simulation(program, COSTS), Simulation(program, levels=UNTRACED)
    replayed = replay(traced.timeline(), COSTS, Machine().latencies())
    assert replayed.timeline.ops.after.tolist() == []
    assert_equals_untraced(replayed, traced, truth)


def test_a_copy_that_returned_early_is_not_waited_for() -> None:
    """A copy call marked as blocking that came back while the copy still ran leaves the host clock
    alone.
    """
    program = (*layers(4, 3_000), Launch(1, 300_000, 1), *layers(4, 3_000))
    traced, truth = Simulation(program, COSTS), Simulation(program, levels=UNTRACED)
    traced.api = [
        (*row[:4], row[4] | ApiKind.WAIT if row[1] == 5 else row[4]) for row in traced.api
    ]
    assert_equals_untraced(replay(traced.timeline(), COSTS, Machine().latencies()), traced, truth)


def test_what_one_run_does_not_show_is_learnt_from_others() -> None:
    """A run whose synchronise found nothing to wait for takes its wake-up latency from runs that
    did wait.
    """
    program = layers(10, 8_000)
    traced, truth = Simulation(program, COSTS), Simulation(program, levels=UNTRACED)
    slow = Simulation(layers(10, 60_000), COSTS)
    typical = Latencies.observed([slow.timeline(), traced.timeline()], COSTS)
    assert typical.wake_ns[0] == Machine().wake
    assert_equals_untraced(replay(traced.timeline(), COSTS, typical), traced, truth)


def test_a_price_slightly_too_high_takes_slightly_too_much_out() -> None:
    """What is paid before the first stamp, and before the first one after a wait, is taken out
    whatever the price.
    """
    program = (*layers(4, 3_000), Synchronize(), *layers(4, 3_000))
    traced, truth = Simulation(program, COSTS), Simulation(program, levels=UNTRACED)
    dearer = replace(COSTS, layer_ns=COSTS.layer_ns + 100)
    found = replay(traced.timeline(), dearer, Machine().latencies()).latency_ns
    assert truth.latency_ns - 8 * 100 <= found <= truth.latency_ns


def test_time_never_runs_backwards() -> None:
    """Costs far above the true ones still give a monotone map of host time."""
    run = Simulation(layers(30, 3_000), COSTS, price_noise=lognormal(1, 0.5))
    too_much = Costs(layer_ns=40_000, launch_ns=20_000, api_ns=9_000, kernel_ns=5_000)
    at = np.arange(run.start_ns, run.end_ns, 97)
    assert (np.diff(replay(run.timeline(), too_much).host(MAIN, at)) >= 0).all()


def test_operations_without_a_launch_record_are_counted() -> None:
    """A lost launch is said in the notes, and its operation keeps its place on the main thread's
    clock.
    """
    run = Simulation(layers(5, 3_000), COSTS)
    run.api = [row for row in run.api if row[1] != 3]
    timeline = run.timeline()
    assert any("1 of 5 device operations have no launch record" in note for note in timeline.notes)
    assert replay(timeline, Costs()).latency_ns == run.latency_ns


def test_a_run_without_a_gpu_is_replayed() -> None:
    """Without device records only host costs are taken out."""
    program = (Call(Level.LAYER, (Work(50_000),)),) * 10
    run = Simulation(program, COSTS, levels=frozenset({Level.MODEL, Level.LAYER}))
    assert replay(run.timeline(), COSTS).host_latency_ns == 500_000


def test_errors_say_what_was_wrong() -> None:
    """A thread that is not in the run and stamps out of order are refused with their values."""
    run = Simulation(layers(2, 3_000), COSTS)
    with pytest.raises(
        XspError, match=r"thread 99 recorded nothing in this run; threads that did: \[7\]"
    ):
        replay(run.timeline(), Costs()).host(99, [run.start_ns])
    run.host_end_ns = run.start_ns - 1
    with pytest.raises(TracingError, match="must be in this order"):
        run.timeline()


def many_kernels(kernels: int, waits: int) -> Timeline:
    launch = np.arange(kernels) * 9_000 + 10**15
    api = empty(API_CALLS, kernels + waits)
    api["thread"][:] = MAIN
    api["correlation_id"][:] = np.arange(kernels + waits)
    api["start_ns"][:] = np.concatenate([launch, launch[:: kernels // waits] + 5_500])
    api["end_ns"][:] = api["start_ns"] + np.repeat([5_000, 2_000], [kernels, waits])
    device = empty(DEVICE_ACTIVITY, kernels)
    device["correlation_id"][:] = np.arange(kernels)
    device["stream"][:] = np.arange(kernels) % 3
    device["start_ns"][:], device["end_ns"][:] = launch + 6_000, launch + 12_000
    layer = empty(LAYER_EVENTS, kernels // 4)
    layer["thread"][:] = MAIN
    layer["start_ns"][:], layer["end_ns"][:] = launch[::4] - 100, launch[3::4] + 5_200
    return Timeline.from_columns(
        model_start_ns=10**15 - 5_000,
        host_end_ns=int(api["end_ns"].max()),
        sync_end_ns=int(api["end_ns"].max()) + 20_000,
        main_thread=MAIN,
        layer_events=layer,
        library_events=empty(LIBRARY_EVENTS),
        api_calls=api,
        device_activity=device,
        synchronizations=empty(SYNCHRONIZATIONS),
        api_kind=np.repeat([ApiKind.LAUNCH, ApiKind.WAIT], [kernels, waits]),
    )


def calls_of_replay(kernels: int) -> int:
    """How many functions, of Python or C, a replay of so many kernels calls."""
    run = many_kernels(kernels, 100)
    calls: list[str] = []
    sys.setprofile(lambda _frame, event, _argument: calls.append(event))
    try:
        replayed = replay(run, COSTS)
    finally:
        sys.setprofile(None)
    assert replayed.latency_ns < run.latency_ns
    return len(calls)


def test_no_python_loop_runs_over_kernels() -> None:
    """A replay of a hundred thousand kernels calls about as many functions as one of a tenth."""
    assert calls_of_replay(100_000) < 1.5 * calls_of_replay(10_000)


def test_a_wait_whose_device_was_done_just_before_tells_no_return() -> None:
    """It ends when the device's news arrives: only waits that begin long after the device was done
    tell how long a wait takes that has nothing to wait for.
    """
    near = [(Launch(1, 30_000), Work(work), Synchronize()) for work in range(20_000, 44_000, 1_000)]
    late = [(Launch(1, 3_000), Work(90_000), Synchronize())] * 3
    program = tuple(step for steps in (*near, *late) for step in steps)
    seen = Latencies.observed([Simulation(program, Costs()).timeline()], Costs())
    truth = Machine().latencies()
    assert (seen.wake_ns[0], seen.return_ns[0]) == (truth.wake_ns[0], truth.return_ns[0])
