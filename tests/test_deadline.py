"""When a profile stops: the arithmetic of its time and of how well its latencies are known, on a
clock and latencies that are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from test_driver import model_calls

from xsp import importing, profiler
from xsp.capture.run import Run, call_of, sorted_by_start, within_model
from xsp.doubts import Slug, Stopped, StopReason
from xsp.measuring.deadline import Deadline, fit_s
from xsp.measuring.options import Options
from xsp.measuring.stopping import TopLayers, relative_half_width, rule_for, until_precise
from xsp.measuring.warmup import is_settled, warm_up
from xsp.types import LAYER_EVENTS, Level, RunSpec, empty

MODEL = RunSpec((Level.MODEL,))
LAYERS = RunSpec((Level.MODEL, Level.LAYER))


class Clock:
    """`time.perf_counter` under a test's control."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that profiles read."""
    made = Clock()
    monkeypatch.setattr("time.perf_counter", made)
    return made


def run(number: int, latency_ns: int, layers: Sequence[int] = ()) -> Run:
    """A run at rung M, or with layers of these lengths in ns at rung M/L."""
    calls = model_calls(0, latency_ns)
    if not layers:
        return Run(MODEL, number, 0, calls)
    events = empty(LAYER_EVENTS, len(layers))
    events["code"] = np.arange(len(layers), dtype=events["code"].dtype)
    events["end_ns"] = np.array(layers, dtype=np.int64)
    return Run(LAYERS, number, 1, calls, {"layer_events": events})


# ---- the time ----


@pytest.mark.parametrize("given", [{"iterations": 1}, {"stop": lambda _: None}])
def test_rounds_that_are_counted_have_no_end_in_time(given: dict[str, Any]) -> None:
    """A number of rounds, or a rule of one's own, is not cut short by the default budget."""
    assert not Deadline.of(Options.of(**given)).is_limited
    assert Deadline.of(Options.of()).is_limited
    assert Deadline.of(Options.of(budget_s=3)).budget_s == 3


def test_the_time_runs_from_when_the_profile_begins(clock: Clock) -> None:
    """What has passed and what is left add up to the budget, also when it is over."""
    deadline = Deadline(10.0)
    clock.now += 4
    assert (deadline.elapsed_s, deadline.left_s) == (4, 6)
    clock.now += 8
    assert (deadline.elapsed_s, deadline.left_s) == (12, -2)


def test_an_import_for_the_profile_is_in_its_time(clock: Clock) -> None:
    """What `xsp.measure(model)` imports where it looks `measure` up counts, in one profile; an
    import at the top of a program, long before, is no profile's.
    """
    for waited, spent in ((0.0, 4.0), (60.0, 0.0)):
        with importing.timed("not there yet"):
            clock.now += 4
        clock.now += waited
        assert Deadline.of(Options.of(budget_s=10)).elapsed_s == spent
        assert Deadline.of(Options.of(budget_s=10)).elapsed_s == 0
    with importing.timed(profiler.__name__):
        clock.now += 4
    assert Deadline.of(Options.of(budget_s=10)).elapsed_s == 0


def test_phases_after_the_rounds_have_their_time_kept(clock: Clock) -> None:
    """As much as 40 % of what is left is kept from the rounds; what would take more is not, and
    nothing is once the rounds are over.
    """
    deadline = Deadline(12.0)
    clock.now += 2
    without = deadline.left_for_rounds_s(0)
    deadline.reserve(4.0)
    assert deadline.left_for_rounds_s(0) == pytest.approx(without - 4)
    deadline.reserve(4.01)
    assert deadline.left_for_rounds_s(0) == pytest.approx(without)
    deadline.reserve(1.0)
    deadline.release()
    assert deadline.left_for_rounds_s(0) == pytest.approx(without)


def test_evaluating_the_rounds_takes_its_time(clock: Clock) -> None:
    """A million events are tables in 4.1 s and fitted in 2.2 s, and tight loops take 0.5 s, which
    the rounds do not get.
    """
    deadline = Deadline(10.0)
    assert deadline.left_for_rounds_s(0) == pytest.approx(10 - 0.1 - 0.2 - 0.5)
    assert deadline.left_for_rounds_s(1_000_000) == pytest.approx(10 - 4.1 - 2.2 - 0.5)
    assert fit_s(1_000_000) == pytest.approx(2.2)


def test_a_phase_may_end_a_tenth_of_the_budget_late(clock: Clock) -> None:
    """What ends later than that is left out; what is kept for later phases counts."""
    deadline = Deadline(8.0)
    clock.now += 3
    assert deadline.fits(5.75)
    assert not deadline.fits(5.85)
    deadline.reserve(1.0)
    assert deadline.fits(4.75)
    assert not deadline.fits(4.85)


# ---- how well it is known ----


def test_half_widths_are_relative_to_the_latency() -> None:
    """The half width of a t interval of four latencies, over their mean: 3.182 * s / sqrt(4)."""
    values = [90, 95, 105, 110]
    runs = [run(number, 1000 * value) for number, value in enumerate(values)]
    expected = 3.182446 * np.std(values, ddof=1) / np.sqrt(4) / 100
    assert relative_half_width(runs) == pytest.approx(expected, rel=1e-4)
    assert relative_half_width(runs[:1]) == float("inf")
    layers = [run(number, 1000 * value, [1]) for number, value in enumerate(values)]
    assert relative_half_width([*runs, *layers]) == pytest.approx(expected, rel=1e-4)


def test_the_ten_longest_layers_count() -> None:
    """The widest interval of the ten longest layers is asked for; that of a short one is not."""
    steady, wide = [1000] * 9, [400, 500, 600]
    runs = [run(0, 5000, [*steady, 800, value]) for value in wide]
    assert TopLayers().half_width_ns(runs) == 0
    runs = [run(0, 5000, [*steady, value]) for value in wide]
    half = 4.302653 * np.std(wide, ddof=1) / np.sqrt(3)
    assert TopLayers().half_width_ns(runs) == pytest.approx(half, rel=1e-4)
    assert TopLayers().half_width_ns([run(0, 5000)]) == 0


def test_calls_of_a_layer_are_summed_and_a_run_counts_once() -> None:
    """A layer's time in a run is that of all of its calls, and rounds seen before are not counted
    again.
    """
    runs = []
    for value in (400, 500, 600):
        one = run(0, 5000, [200, value - 200])
        one.tables["layer_events"]["code"][:] = 7
        runs.append(one)
    layers = TopLayers()
    layers.half_width_ns(runs[:2])
    half = 4.302653 * 100 / np.sqrt(3)
    assert layers.half_width_ns(runs) == pytest.approx(half, rel=1e-4)


def rounds(latencies: Sequence[int], layers: Callable[[int], Sequence[int]]) -> Iterator[list[Run]]:
    """The runs so far after each round."""
    runs: list[Run] = []
    for number, latency in enumerate(latencies):
        runs += [run(number, latency), run(number, latency, layers(number))]
        yield list(runs)


def test_layers_that_are_not_known_go_on(clock: Clock) -> None:
    """A steady latency is not enough where a layer varies by more than the target; the width of
    both is told in the end.
    """
    swinging = until_precise(target=0.01, max_rounds=20)
    found = [
        swinging(runs) for runs in rounds([1000] * 20, lambda number: [500 + 300 * (number % 2)])
    ]
    assert found[:-1] == [None] * 19
    stopped = found[-1]
    assert isinstance(stopped, Stopped)
    assert (stopped.reason, stopped.rounds) == (StopReason.MOST_ROUNDS, 20)
    assert stopped.half_width == 0
    assert stopped.of_layers is not None
    assert stopped.of_layers > 0.05


def test_the_time_is_over_when_a_round_would_end_nearer_behind_it(clock: Clock) -> None:
    """Rounds of 1 s, and 0.8 s for evaluating them: with 10.35 s a tenth round is made, since more
    than half of it fits, and an eleventh is not.
    """
    deadline = Deadline(10.35)
    rule = until_precise(target=0.0, deadline=deadline)
    latencies = [1000 + 100 * (number % 2) for number in range(20)]
    for runs in rounds(latencies, lambda _: [1]):
        clock.now += 1
        if (stopped := rule(runs)) is not None:
            break
    assert isinstance(stopped, Stopped)
    assert (stopped.reason, stopped.rounds) == (StopReason.BUDGET, 10)


def test_the_rule_is_the_one_asked_for() -> None:
    """An own rule comes before a number of rounds, and that before the default."""

    def own(_: Sequence[Run]) -> str:
        return "enough"

    deadline = Deadline(1.0)
    assert rule_for(Options.of(stop=own), deadline) is own
    three = rule_for(Options.of(iterations=3), deadline)
    assert three([run(1, 1000)]) is None
    stopped = three([run(2, 1000)])
    assert isinstance(stopped, Stopped)
    assert (stopped.reason, stopped.rounds) == (StopReason.ASKED, 3)


# ---- warm-up ----


def test_latencies_are_settled_when_the_later_half_is_no_faster() -> None:
    """Medians of two halves of the last eight runs, 2 % apart at most; three runs say nothing."""
    assert is_settled([100, 100, 98, 98])
    assert not is_settled([100, 100, 97, 97])
    assert not is_settled([100, 100, 100])
    assert is_settled([500] * 4 + [100] * 8)
    assert not is_settled([500] * 3 + [100, 100, 50, 50, 50])


def test_warm_up_makes_the_runs_that_are_asked_for(clock: Clock) -> None:
    """So many and no more, settled or not, whatever the time; none if none are."""
    for asked in (0, 2, 40):
        latencies = iter(range(1000, 0, -10))
        assert warm_up(latencies.__next__, asked, 0.0) == (asked, None)
        assert len(list(latencies)) == 100 - asked


def test_warm_up_ends_with_its_time_after_two_runs_at_least(clock: Clock) -> None:
    """Where the time is over before the latency has settled, that is said."""

    def slow() -> int:
        clock.now += 3
        return 100

    runs, doubt = warm_up(slow, None, 2.0)
    assert runs == 2
    assert doubt is not None
    assert (doubt.slug, doubt.facts["runs"]) == (Slug.UNSETTLED, 2)
    runs, doubt = warm_up(slow, None, 6.0)
    assert runs == 3


# ---- model calls ----


def calls() -> dict[str, Any]:
    """Two model calls, from 100 to 200 and from 300 to 400 ns."""
    return {"start_ns": np.array([100, 300]), "end_ns": np.array([200, 400])}


def test_stamps_belong_to_the_call_that_they_lie_in() -> None:
    """The first and the last instant of a call are in it, what lies between calls is in none."""
    stamps = np.array([99, 100, 200, 201, 299, 300, 400, 401])
    assert call_of(stamps, calls()).tolist() == [-1, 0, 0, -1, -1, 1, 1, -1]
    events = {"start_ns": stamps, "value": np.arange(8)}
    kept, call = within_model(events, calls())
    assert kept["value"].tolist() == [1, 2, 5, 6]
    assert call.tolist() == [0, 0, 1, 1]


def test_events_are_sorted_by_their_start() -> None:
    """Those that start together stay in the order in which they were recorded."""
    events = {"start_ns": np.array([3, 1, 3, 2]), "value": np.arange(4)}
    assert sorted_by_start(events)["value"].tolist() == [1, 3, 0, 2]


def test_a_run_counts_its_calls_and_events() -> None:
    """Latency to the device's end and to the return are summed over calls; events over tables."""
    both = {
        "start_ns": np.array([0, 100]),
        "host_end_ns": np.array([30, 150]),
        "end_ns": np.array([40, 170]),
    }
    one = Run(MODEL, 0, 0, both, {"a": {"x": np.zeros(3)}, "b": {}, "c": {"x": np.zeros(2)}})
    assert (one.latency_ns, one.host_latency_ns, one.events) == (110, 80, 5)
    assert len(one.table("layer_events", LAYER_EVENTS)["code"]) == 0


def test_less_time_is_kept_for_tight_loops_where_no_kernels_are_traced(clock: Clock) -> None:
    """They take a tenth of a second on a CPU, and what is kept for them is no round's."""
    deadline = Deadline(10.0)
    deadline.without_kernels()
    assert deadline.left_for_rounds_s(0) == pytest.approx(10 - 0.1 - 0.2 - 0.15)
    assert deadline.corrected_s(1_000_000) == pytest.approx(2.2 + 0.15)
