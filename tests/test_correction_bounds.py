"""Whatever a program does and whatever its tracers cost, a correction stays within what can be."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from simulated_programs import programs
from simulator import (
    Call,
    Join,
    Launch,
    Record,
    Simulation,
    Spawn,
    StreamWait,
    Synchronize,
    Work,
    lognormal,
)

from xsp.analysis.correction.charges import COST_LEVELS, Costs, EventKind
from xsp.analysis.correction.corrected import mostly_tracing
from xsp.analysis.correction.costs import Fit, fit_costs
from xsp.analysis.correction.critical_path import slopes
from xsp.analysis.correction.evidence import Round
from xsp.analysis.correction.replay import ReplayedTimeline, replay, replay_together
from xsp.analysis.correction.timeline import Timeline
from xsp.types import DEFAULT_LEVELS, Level, RunSpec

LADDER = tuple(RunSpec(DEFAULT_LEVELS[:depth]) for depth in range(1, 5))


def costs_up_to(most_ns: int) -> st.SearchStrategy[Costs]:
    amounts = st.lists(
        st.integers(0, most_ns), min_size=len(COST_LEVELS), max_size=len(COST_LEVELS)
    )
    return amounts.map(Costs.from_values)


def durations(played: ReplayedTimeline) -> tuple[np.ndarray, np.ndarray]:
    """Recorded and corrected length of every host event."""
    run = played.timeline
    threads = {clock: thread for thread, clock in run.clocks.items()}
    events = run.events
    corrected = np.zeros(len(events.kind))
    for clock, thread in threads.items():
        mine = events.clock == clock
        corrected[mine] = played.host(thread, events.end_ns[mine]) - played.host(
            thread, events.start_ns[mine]
        )
    return events.end_ns - events.start_ns, corrected


def waiting(run: Timeline) -> np.ndarray:
    """Which host events touch a wait."""
    found = np.zeros(len(run.events.kind), bool)
    for start, end in zip(run.waits.start_ns, run.waits.end_ns, strict=True):
        found |= (run.events.start_ns <= end) & (run.events.end_ns >= start)
    return found


ONE_WITHOUT_LENGTH = (
    Call(Level.LAYER, (Work(300), Call(Level.LIBRARY, ()))),
    Work(1),
    Synchronize(),
)
"""The library call begins and ends within a nanosecond of the layer that makes it."""


@settings(max_examples=25, deadline=None)
@example(ONE_WITHOUT_LENGTH, Costs(library_ns=1), Costs(library_ns=248), 0)
@given(programs(), costs_up_to(20_000), costs_up_to(100_000), st.integers(0, 2**16))
def test_no_correction_exceeds_what_it_corrects(
    program: tuple[object, ...], true: Costs, taken: Costs, seed: int
) -> None:
    """However wrong the costs that are taken out, every event without a wait inside keeps some
    length, unless all that it holds takes no time, and does not become longer (a host that arrives
    earlier may have to wait longer), no run becomes longer, and operations of the device keep their
    length.
    """
    run = Simulation(program, true, noise=lognormal(seed, 0.5), price_noise=lognormal(seed, 0.5))
    played = replay(run.timeline(), taken)
    recorded, corrected = durations(played)
    assert (corrected >= 0).all()
    free = ~waiting(played.timeline)
    assert (corrected > 0)[lasting(played.timeline) & free].all()
    assert (corrected[free] <= recorded[free] + 1).all()
    assert 0 <= played.latency_ns <= run.latency_ns
    assert 0 <= played.host_latency_ns <= played.latency_ns
    kept = [op.end - op.start for op in run.ops]
    assert (played.device_end_ns - played.device_start_ns).tolist() == kept


def lasting(run: Timeline) -> np.ndarray:
    """Which host events are, or hold, one with a length in which no other begins or ends."""
    events = run.events
    start, end = events.start_ns, events.end_ns
    on_one_clock = events.clock[:, None] == events.clock
    within = on_one_clock & (start[:, None] <= start) & (end <= end[:, None])
    divided = np.zeros(len(start), bool)
    for stamps in (start, end):
        divided |= (on_one_clock & (start[:, None] < stamps) & (stamps < end[:, None])).any(axis=1)
    found: np.ndarray = (within & (start < end) & ~divided).any(axis=1)
    return found


def ladder(program: tuple[object, ...], true: Costs, seed: int, spread: float) -> list[Round]:
    def played(number: int, place: int, rung: RunSpec) -> Simulation:
        draw = seed + 100 * number + place
        return Simulation(
            program,
            true,
            frozenset(rung.levels),
            price_noise=lognormal(draw, spread),
            noise=lognormal(draw + 50, spread / 4),
        )

    rounds = []
    for number in range(4):
        runs = {rung: played(number, place, rung) for place, rung in enumerate(LADDER)}
        latency = {rung: float(run.latency_ns) for rung, run in runs.items()}
        host = {rung: float(run.host_end_ns - run.start_ns) for rung, run in runs.items()}
        rounds.append(Round((runs[LADDER[-1]].timeline(),), latency, host))
    return rounds


@settings(max_examples=12, deadline=None)
@given(programs(), costs_up_to(20_000), st.integers(0, 2**16), st.sampled_from([0.0, 0.3, 1.0]))
def test_fitted_costs_stay_within_what_the_rungs_and_the_stamps_allow(
    program: tuple[object, ...], true: Costs, seed: int, spread: float
) -> None:
    """No cost is negative, outside its own interval or above the room between stamps; what never
    happened costs nothing. All costs of a level together, replayed, take no more out of the runs
    than the upper end of the 95 % interval of what its rung adds and a thousandth, be it to the
    latency or to the host's own time.
    """
    rounds = ladder(program, true, seed, spread)
    fit = fit_costs(rounds)
    assert_costs_are_possible(fit)
    assert_no_more_is_taken_than_was_added(rounds, fit.costs)


def assert_costs_are_possible(fit: Fit) -> None:
    values, events = fit.costs.values(), fit.problem.evidence.events
    low, high = np.array([fit.costs.intervals[name] for name in COST_LEVELS]).T
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert (low <= values).all()
    assert (values <= high + 1e-6).all()
    assert (values <= fit.problem.room + 1e-6).all()
    assert (values[events == 0] == 0).all()
    assert not any(
        fit.costs.identified[name]
        for name, happened in zip(COST_LEVELS, events > 0, strict=True)
        if not happened
    )


def assert_no_more_is_taken_than_was_added(rounds: list[Round], costs: Costs) -> None:
    times = [(one.latency_ns, one.host_ns) for one in rounds]
    deepest = [
        [one.runs[0].latency_ns, one.runs[0].host_end_ns - one.runs[0].start_ns] for one in rounds
    ]
    below = np.mean(deepest, axis=0)
    for shallower, deeper in reversed(list(pairwise(LADDER))):
        lacking = costs.of_levels([level for level in Level if level not in shallower.levels])
        played = replay_together([one.runs[0] for one in rounds], lacking)
        left = np.mean([[one.latency_ns, one.host_latency_ns] for one in played], axis=0)
        added = np.array([[table[deeper] - table[shallower] for table in two] for two in times])
        half = stats.t.ppf(0.975, len(rounds) - 1) * stats.sem(added, axis=0)
        most = np.maximum(added.mean(axis=0) + half, 0.0)
        counted = slice(None) if len(rounds[0].runs[0].ops.kind) else slice(0, 1)
        assert (below - left <= 1.001 * most + 3)[counted].all()
        below = left


TWO_STREAMS = (
    Launch(1, 60_000),
    Record(1, 5),
    StreamWait(2, 5),
    Launch(2, 40_000),
    Record(2, 6),
    StreamWait(1, 6),
)
"""Operations of two streams that wait for each other."""


def layers(number: int, kernel_ns: int, *more: object) -> tuple[object, ...]:
    body = (Work(12_000), Call(Level.LIBRARY, (Work(2_000), Launch(1, kernel_ns))), Work(3_000))
    return (Call(Level.LAYER, body), *more) * number


PROGRAMS = {
    "host": layers(10, 3_000),
    "device": layers(10, 90_000),
    "mixed": (*layers(6, 3_000), *layers(6, 70_000)),
    "waits": layers(6, 40_000, Work(1_000), Synchronize(), Work(500)),
    "copies": layers(6, 40_000, Launch(1, 9_000, 1, blocking=True)),
    "operators": (
        Call(
            Level.OP,
            (Work(900), Call(Level.OP, (Work(2_500),), EventKind.OPERATOR), Work(1_200)),
            EventKind.OPERATOR,
        ),
        Work(700),
    )
    * 20,
    "functional": (Call(Level.LAYER, (Work(1_500),), EventKind.FUNCTIONAL), Work(700)) * 20,
    "backward": (Call(Level.LAYER, (Work(5_500),), EventKind.BACKWARD), Work(700)) * 20,
    "streams": (*layers(4, 30_000), *TWO_STREAMS * 6),
    "threads": (
        *layers(4, 40_000),
        Spawn(8, layers(6, 3_000)),
        *layers(2, 3_000),
        Join(8),
        Work(6_000),
    ),
}


ALL_COSTS = Costs.from_values([5_200, 3_400, 4_100, 700, 1_800, 600, 400, 1_000])


@pytest.mark.parametrize("name", PROGRAMS)
def test_slopes_are_those_of_the_replay(name: str) -> None:
    """The slope of the latency by each cost, found by walking the critical path once, is what
    replays at a slightly different cost give.
    """
    run = Simulation(PROGRAMS[name], ALL_COSTS, frozenset(Level)).timeline()
    at = np.array([3_400.0, 2_600.0, 2_900.0, 500.0, 1_300.0, 400.0, 300.0, 700.0])
    ends = (run.end_ns, run.host_end_ns)
    found = slopes(replay(run, Costs.from_values(at)), ends)

    def latencies(values: np.ndarray) -> np.ndarray:
        clock = replay(run, Costs.from_values(values)).path.clocks[0]
        return clock.at(np.array(ends, dtype=float) - run.start_ns)

    for place in range(len(COST_LEVELS)):
        step = np.zeros(len(COST_LEVELS))
        step[place] = 0.5
        expected = latencies(at + step) - latencies(at - step)
        assert found[:, place] == pytest.approx(expected, abs=1e-3)
    assert (found <= 0).all()


@pytest.mark.parametrize("name", PROGRAMS)
def test_slopes_of_any_time_are_those_of_the_replay(name: str) -> None:
    """Between events, inside payments and inside waits, wherever a little more of a cost does the
    opposite of a little less.
    """
    run = Simulation(PROGRAMS[name], ALL_COSTS, frozenset(Level)).timeline()
    at = np.array([3_400.0, 2_600.0, 2_900.0, 500.0, 1_300.0, 400.0, 300.0, 700.0])
    stamps = np.linspace(run.start_ns + 1, run.end_ns - 1, 150).astype(np.int64)
    found = slopes(replay(run, Costs.from_values(at)), stamps.tolist())

    def times(values: np.ndarray) -> np.ndarray:
        clock = replay(run, Costs.from_values(values)).path.clocks[0]
        return clock.at((stamps - run.start_ns).astype(float))

    here, compared = times(at), 0
    for place in range(len(COST_LEVELS)):
        step = np.zeros(len(COST_LEVELS))
        step[place] = 0.5
        more, fewer = (times(at + step) - here) * 2, (here - times(at - step)) * 2
        smooth = np.abs(more - fewer) < 1e-4
        assert found[smooth, place] == pytest.approx(more[smooth], abs=1e-3)
        compared += smooth.sum()
    assert compared > 0.9 * found.size


def test_slopes_count_the_events_on_the_critical_path() -> None:
    """A host-bound program pays for every layer, a device-bound one for its kernels and its first
    launch only.
    """
    costs = Costs(layer_ns=2_000, launch_ns=1_000, kernel_ns=500)
    names = list(COST_LEVELS)
    for name, layer, kernel in (("host", -9.5, -1), ("device", -0.5, -10)):
        run = Simulation(PROGRAMS[name], costs).timeline()
        (found,) = slopes(replay(run, costs), [run.end_ns])
        # The last kernel is launched before the second half of the last layer's cost is paid.
        assert found[names.index("layer_ns")] == layer
        assert found[names.index("kernel_ns")] == kernel


def test_slopes_count_what_is_known_where_launches_were_lost() -> None:
    """An operation whose launch has no record starts by the main thread's clock: what that thread
    paid before counts.
    """
    costs = Costs(layer_ns=2_000, launch_ns=1_000, kernel_ns=500)
    run = Simulation(PROGRAMS["device"], costs)
    first = min(row[1] for row in run.api)
    run.api = [row for row in run.api if row[1] != first]
    timeline = run.timeline()
    assert (timeline.ops.launch < 0).sum() == 1
    less = Costs(layer_ns=1_300, launch_ns=700, kernel_ns=300)
    (found,) = slopes(replay(timeline, less), [timeline.end_ns])
    of_layers = found[list(COST_LEVELS).index("layer_ns")]
    more, fewer = (
        replay(timeline, replace(less, layer_ns=1_300 + by)).latency_ns for by in (10, -10)
    )
    assert of_layers == pytest.approx((more - fewer) / 20, abs=0.06)
    assert of_layers < 0


def only(kind: EventKind, cost_ns: float) -> Costs:
    """Costs of which only one kind's is not 0."""
    return Costs.from_values(np.where(np.arange(len(COST_LEVELS)) == kind, cost_ns, 0.0))


@pytest.mark.parametrize("kind", [EventKind.LAYER, EventKind.FUNCTIONAL])
def test_what_tracing_one_event_costs_less_than_another_is_not_taken_from_it(
    kind: EventKind,
) -> None:
    """Where tracing some calls costs half as much and others twice as much as the mean, as it does
    by the number of their arguments, short calls keep nine tenths of their own length, and the sum
    is right.
    """
    operation = Call(Level.LAYER, (Work(900),), kind)
    program = (operation, Work(100)) * 200
    true = only(kind, 3_000)
    run = Simulation(program, true, price_noise=lognormal(3, 0.7))
    paid = (run.latency_ns - Simulation(program, Costs()).latency_ns) / 200
    recorded, corrected = durations(replay(run.timeline(), only(kind, paid)))
    inside = 0.15 * paid if kind is EventKind.FUNCTIONAL else 0.0
    assert corrected.mean() == pytest.approx(900, rel=0.05)
    assert np.quantile(corrected, 0.05) >= 0.9 * min(900, np.quantile(recorded, 0.05) - inside)


def test_every_event_keeps_a_tenth_of_its_length() -> None:
    """However much too dear tracing is taken to be: no operation is known to be nine tenths
    tracing.
    """
    lengths = (40_000, 5_000, 901)
    operations = [Call(Level.LAYER, (Work(each),), EventKind.FUNCTIONAL) for each in lengths]
    run = Simulation((*operations, Work(100)) * 20, Costs()).timeline()
    recorded, corrected = durations(replay(run, only(EventKind.FUNCTIONAL, 10**6)))
    for length, kept in zip(lengths, (4_000, 500, 91), strict=True):
        assert (corrected[recorded == length] == kept).all()


@pytest.mark.parametrize(("cost_ns", "share"), [(500, 0.0), (4_000, 0.25)])
def test_share_of_events_that_are_mostly_tracing_is_counted(cost_ns: int, share: float) -> None:
    """Of four calls one is so short that the correction takes more than half of it if tracing is
    dear; `prof.costs` shows this share.
    """
    lengths = (40_000, 40_000, 40_000, 900)
    operations = [Call(Level.LAYER, (Work(each),), EventKind.FUNCTIONAL) for each in lengths]
    run = Simulation((*operations, Work(20_000)) * 20, Costs()).timeline()
    found = mostly_tracing([run], only(EventKind.FUNCTIONAL, cost_ns))
    assert found["functional_ns"] == share
    assert found["layer_ns"] == 0.0
