"""The ladder: every rung once a round, in changing order, until a rule says that enough
is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from quick import LAYERS, QUICK
from torch import nn

import xsp
from xsp.analysis.spans.assembly import Vocabulary, assemble, columns_of
from xsp.analysis.spans.statistics import trimmed
from xsp.capture.run import MODEL_CALLS, Run
from xsp.machine import devices
from xsp.measuring import stopping, warmup
from xsp.measuring.executor import Executor
from xsp.measuring.ladder import Ladder, climb, rungs_for
from xsp.measuring.options import SEPARATE, Stop
from xsp.measuring.ranks import Ranks
from xsp.measuring.stopping import (
    FEWEST_ROUNDS,
    MAXIMUM_ROUNDS,
    MINIMUM_ROUNDS,
    STEADY_ROUNDS,
    after_rounds,
    until_precise,
)
from xsp.measuring.target import target_of
from xsp.profiles import Profile
from xsp.types import LAYER_EVENTS, Columns, Level, RunSpec, Tracer, empty
from xsp.words.doubts import end_of_rounds, sentence_of

LADDER = Ladder(rungs_for([Level.MODEL, Level.LAYER, Level.LIBRARY, Level.KERNEL]))


def model_calls(start_ns: int, latency_ns: int) -> Columns:
    """One model call."""
    columns = empty(MODEL_CALLS, 1)
    columns["start_ns"][:], columns["end_ns"][:] = start_ns, start_ns + latency_ns
    columns["host_end_ns"] = columns["end_ns"]
    return columns


class ScriptedExecutor:
    """Executes nothing; its latencies are given, so that no test waits for a clock."""

    def __init__(self, latencies_ns: Iterator[int]) -> None:
        self._latencies = latencies_ns
        self.executions = 0
        self.ranks = Ranks()

    def run(self, ready: Callable[[], None] = lambda: None) -> Columns:
        """The next latency."""
        ready()
        self.executions += 1
        return model_calls(1000 * self.executions, next(self._latencies))


class NoTracer(Tracer):
    """A tracer that only remembers what was asked of it."""

    def __init__(self, level: Level, log: list[str]) -> None:
        self.level, self.name, self._log = level, level.name, log

    def start(self) -> None:
        self._log.append(f"start {self.name}")

    def new_run(self) -> None:
        self._log.append(f"run {self.name}")

    def stop(self) -> None:
        self._log.append(f"stop {self.name}")

    def collect(self) -> dict[str, Columns]:
        return {}

    def lost(self) -> int:
        return 0


def climbed(
    stop: Stop,
    latencies: Iterator[int] | None = None,
    ladder: Ladder = LADDER,
    on_round: Callable[[int], None] = lambda _round: None,
) -> tuple[list[Run], str]:
    """Climb with a scripted executor and no tracers."""
    executor: Any = ScriptedExecutor(latencies or iter(lambda: 1000, None))
    runs, stopped = climb(executor, ladder, {}, stop, on_round)
    return runs, end_of_rounds(stopped)


def order_of(runs: Sequence[Run]) -> list[tuple[int, str]]:
    """Round and rung of every run."""
    return [(run.round, run.spec.name) for run in runs]


def test_ladder_adds_one_level_at_a_time() -> None:
    """Rungs go from the model alone to all traced levels; levels that are not traced are
    left out.
    """
    assert [rung.name for rung in LADDER.rungs] == ["M", "M/L", "M/L/Lib", "M/L/Lib/K"]
    assert [rung.name for rung in rungs_for([Level.KERNEL, Level.MODEL])] == ["M", "M/K"]


def test_a_separate_ladder_traces_one_level_at_a_time() -> None:
    """And all of them once a round, to say what belongs to what; where there is only one level
    below MODEL, as on a CPU, both ladders are the same.
    """
    every = [Level.MODEL, Level.LAYER, Level.LIBRARY, Level.KERNEL]
    names = [rung.name for rung in rungs_for(every, SEPARATE)]
    assert names == ["M", "M/L", "M/Lib", "M/K", "M/L/Lib/K"]
    for one in ([Level.MODEL, Level.LAYER], [Level.KERNEL], [Level.MODEL]):
        assert rungs_for(one, SEPARATE) == rungs_for(one)


def test_every_rung_once_a_round_in_changing_order() -> None:
    """Each round visits every rung exactly once, and rounds differ in their order."""
    runs, why = climbed(after_rounds(12))
    rounds = [[run.spec.name for run in runs if run.round == number] for number in range(12)]
    assert all(sorted(names) == sorted(rung.name for rung in LADDER.rungs) for names in rounds)
    assert len({tuple(names) for names in rounds}) > 3
    assert [run.position for run in runs] == [0, 1, 2, 3] * 12
    assert why == "12 rounds as asked for"


def test_same_seed_same_order() -> None:
    """The order is a function of the seed."""
    one, same, other = (
        climbed(after_rounds(8), ladder=Ladder(LADDER.rungs, seed))[0] for seed in (3, 3, 4)
    )
    assert order_of(one) == order_of(same) != order_of(other)


def test_seed_of_measure_reaches_the_ladder() -> None:
    """`seed=` repeats the order of the table of runs."""
    orders = [
        list(
            xsp.measure(
                nn.Linear(2, 2), torch.ones(1, 2), **{**LAYERS, "iterations": 8}, seed=seed
            ).runs["rung"]
        )
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == ["M"] * 8 + ["M/L"] * 8


def test_tracers_of_a_rung_and_no_others_are_on() -> None:
    """At each rung its own tracers start in order of level and stop in the opposite order."""
    log: list[str] = []
    executor: Any = ScriptedExecutor(iter(lambda: 1000, None))
    tracers: Any = {level: NoTracer(level, log) for level in (Level.LAYER, Level.KERNEL)}
    climb(executor, Ladder((RunSpec((Level.MODEL,)),)), tracers, after_rounds(1))
    assert log == []
    climb(executor, Ladder((RunSpec(tuple(Level)),)), tracers, after_rounds(1))
    assert log == [
        "start LAYER",
        "start KERNEL",
        "run LAYER",
        "run KERNEL",
        "stop KERNEL",
        "stop LAYER",
    ]


def test_tracers_stop_when_the_target_raises() -> None:
    """An error of the target stops the tracers and passes through with a note that names
    the rung.
    """
    log: list[str] = []

    def failing() -> Iterator[int]:
        yield 1000
        raise ZeroDivisionError("the user's own")

    executor: Any = ScriptedExecutor(failing())
    tracers: Any = {Level.LAYER: NoTracer(Level.LAYER, log)}
    with pytest.raises(ZeroDivisionError) as caught:
        climb(executor, Ladder((RunSpec((Level.MODEL, Level.LAYER)),)), tracers, after_rounds(1))
    assert log[-1] == "stop LAYER"
    assert any("M/L" in note for note in caught.value.__notes__)


def test_own_stopping_rule() -> None:
    """A stopping rule is any function of the runs so far; its sentence is handed back."""

    def stop(runs: Sequence[Run]) -> str | None:
        return "seen enough" if len(runs) >= 12 else None

    runs, why = climbed(stop)
    assert len(runs) == 12
    assert why == "seen enough"


def test_stopping_rule_that_gives_no_sentence_is_refused() -> None:
    """A rule that answers yes or no would end the rounds at its first no; the error says what it
    must give.
    """

    def rule(runs: Any) -> Any:
        return len(runs) > 40

    with pytest.raises(
        xsp.XspError, match="returned False: it must return None to go on, or a sentence"
    ):
        xsp.measure(
            nn.Linear(2, 2), torch.ones(1, 2), levels="M", warmup=1, progress=False, stop=rule
        )


def test_constant_latencies_stop_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the latency does not vary, the fewest rounds after which the rule has looked often
    enough suffice.
    """
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    runs, why = climbed(until_precise())
    assert runs[-1].round + 1 == MINIMUM_ROUNDS + STEADY_ROUNDS - 1
    assert "known to" in why


def test_interval_at_the_stop_holds_the_truth_nearly_as_often_as_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopping when the interval is narrow does not make it lie: of 200 profiles, 186 or more hold
    the truth.
    """
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        values = generator.normal(1e6, 1.5e4, MAXIMUM_ROUNDS + 10).astype(int)
        latencies = iter(np.repeat(values, 2).tolist())  # a settling run before each
        runs, _why = climbed(until_precise(), latencies, Ladder(LADDER.rungs[:1]))
        mean, half = trimmed([run.latency_ns for run in runs])
        held += bool(abs(mean - 1e6) <= half)
    assert held >= 186


def test_spent_budget_is_no_complaint_where_enough_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the budget ends before the rule has looked often enough, a narrow interval is said to
    be narrow.
    """
    clock = count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    _, why = climbed(until_precise(budget_s=2))
    assert why.startswith("model latency known to ±0.0%")


def test_the_last_round_is_no_complaint_where_enough_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many narrow intervals there were by then, as long as fewer than are usually asked
    for.
    """
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    for rounds in (MINIMUM_ROUNDS, MINIMUM_ROUNDS + 2):
        runs, why = climbed(until_precise(max_rounds=rounds))
        assert runs[-1].round + 1 == rounds
        assert why.startswith("model latency known to ±0.0%")


def test_noisy_latencies_run_longer_than_steady_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule goes on until the interval is as narrow as was asked for, and no further."""
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    rounds = []
    for noise in (0.005, 0.02):
        values = np.random.default_rng(0).normal(1e6, noise * 1e6, 10_000).astype(int)
        runs, why = climbed(until_precise(target=0.01), iter(int(value) for value in values))
        rounds.append(runs[-1].round + 1)
        assert stopping.relative_half_width(runs) <= 0.01
        assert "only" not in why
    assert rounds[0] < rounds[1] < MAXIMUM_ROUNDS


def test_spent_budget_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the time is over before the latency is known well enough, the sentence says how well it
    is known.
    """
    clock = count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    values = np.random.default_rng(0).normal(1e6, 3e5, 10_000).astype(int)
    runs, why = climbed(
        until_precise(target=0.01, budget_s=20), iter(int(value) for value in values)
    )
    assert "budget" in why
    assert "only" in why
    assert MINIMUM_ROUNDS <= runs[-1].round + 1 < 20


def test_a_spent_budget_ends_after_two_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the time is over before the usual fewest rounds, two are made and no more."""
    clock = count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    runs, why = climbed(until_precise(budget_s=1), iter(range(1_000_000, 9_000_000, 100_000)))
    assert runs[-1].round + 1 == FEWEST_ROUNDS == 2
    assert why.startswith("time budget spent after 2 rounds")


def test_rounds_never_go_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A latency that never settles ends after the greatest number of rounds, whatever the clock
    says.
    """
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    values = np.random.default_rng(0).lognormal(10, 3, 10_000).astype(int)
    runs, why = climbed(until_precise(target=1e-6), iter(int(value) for value in values))
    assert runs[-1].round + 1 == MAXIMUM_ROUNDS
    assert "budget" not in why, "it was not the time that ran out"


def test_interrupt_keeps_the_finished_rounds() -> None:
    """Ctrl-C in the middle of a round drops that round, keeps the others, and the reason
    says so.
    """

    def interrupted() -> Iterator[int]:
        for number in count():
            # two executions a rung, four rungs: the third round is broken off
            if number == 2 * 8 + 5:
                raise KeyboardInterrupt
            yield 1000

    runs, why = climbed(after_rounds(10), interrupted())
    assert len(runs) == 8
    assert "2 finished rounds are kept" in why


@pytest.mark.parametrize("place", ["on_round", "stop"])
def test_interrupt_between_rounds_keeps_the_finished_rounds(place: str) -> None:
    """Ctrl-C while progress is shown, or while it is decided whether to go on, keeps the round that
    has just ended.
    """

    def interrupt(number: int) -> None:
        if number == 3:
            raise KeyboardInterrupt

    def stop(runs: Sequence[Run]) -> str | None:
        if place == "stop":
            interrupt(runs[-1].round + 1)
        return None

    runs, why = climbed(stop, on_round=interrupt if place == "on_round" else lambda _round: None)
    assert len(runs) == 3 * 4
    assert "3 finished rounds are kept" in why


def test_interrupt_before_the_first_round_is_the_users() -> None:
    """Ctrl-C before anything is known passes through."""

    def interrupted() -> Iterator[int]:
        yield 1000
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        climbed(after_rounds(10), interrupted())


def layer_run(number: int, rung: RunSpec, latency_ns: int, layer_ns: int) -> Run:
    """A run whose model call and layer took what is given."""
    start = 1_000_000 * (number + 1)
    tables: dict[str, Columns] = {}
    if Level.LAYER in rung.levels:
        events = empty(LAYER_EVENTS, 1)
        events["start_ns"][:], events["end_ns"][:] = start + 10, start + 10 + layer_ns
        tables["layer_events"] = events
    return Run(rung, number // 2, number % 2, model_calls(start, latency_ns), tables)


def test_each_level_is_read_from_its_own_rung() -> None:
    """Model time comes from rung M, layer time from rung M/L, layers' time below deeper tracers
    from neither.
    """
    rungs = rungs_for([Level.MODEL, Level.LAYER, Level.LIBRARY])
    latency = {"M": 1000, "M/L": 5000, "M/L/Lib": 90_000}
    layer = {"M": 0, "M/L": 400, "M/L/Lib": 70_000}
    runs = [
        layer_run(3 * number + position, rung, latency[rung.name], layer[rung.name])
        for number in range(4)
        for position, rung in enumerate(rungs)
    ]
    row = {
        "code": 0,
        "name": "fc",
        "type": "Linear",
        "kind": "module",
        "module": "",
        "phase": "forward",
        "forward": -1,
        "input_shapes": [],
        "input_dtypes": [],
        "output_shapes": [],
        "output_dtypes": [],
        "parameter_bytes": 0,
    }
    call = {"name": "Net", "call": 0, "input_shapes": "[]", "input_dtypes": "[]", "batch_size": -1}
    layers = columns_of([row])
    words = Vocabulary([call], [], layers, [], [], lambda _name: "", [], lambda _domain, _cbid: "")
    trace = {"trace_id": "1" * 32, "parent_span_id": "0" * 16, "first_span_id": 1}
    meta = {"name": "Net", "levels": [], "environment": {}, "warnings": [], "trace": trace}
    prof = Profile(xsp.capture.file.Capture(meta, assemble(runs, words)))
    tree = prof.tree().set_index("name")
    assert prof.latency_ms == pytest.approx(1000 / 1e6)
    assert tree.loc["Net", "host_ms"] == pytest.approx(1000 / 1e6)
    assert tree.loc["fc", "host_ms"] == pytest.approx(400 / 1e6)


def test_warm_up_goes_on_while_runs_get_faster() -> None:
    """Warm-up ends when later runs are no faster than earlier ones, not before."""
    falling = iter([8000, 6000, 4500, 3400, 2500, 1900, 1500, 1200, *[1000] * 30])
    runs, doubt = warmup.warm_up(lambda: next(falling), None, budget_s=60)
    assert 8 < runs < warmup.MAXIMUM_RUNS
    assert doubt is None
    steady = warmup.warm_up(lambda: 1000, None, budget_s=60)
    assert steady == (warmup.MINIMUM_RUNS, None)


def test_warm_up_that_never_settles_is_said() -> None:
    """A latency that falls for ever ends at the greatest number of runs, with a sentence."""
    falling = iter(int(1e9 * 0.8**n) for n in count())
    runs, doubt = warmup.warm_up(lambda: next(falling), None, budget_s=60)
    assert runs == warmup.MAXIMUM_RUNS
    assert doubt is not None
    assert "not settled after 30 warm-up runs [unsettled]" in sentence_of(doubt)


def test_interrupted_measurement_is_a_profile_with_a_warning() -> None:
    """Ctrl-C while rounds are running gives the profile of the finished rounds, and a warning."""
    calls = count()

    def target() -> None:
        if next(calls) == 20:
            raise KeyboardInterrupt

    prof = xsp.measure(target, **{**QUICK, "iterations": 1000}, levels="M")
    assert 0 < prof.runs["round"].nunique() < 20
    assert any("interrupted" in sentence for sentence in prof.warnings)


def test_interrupt_after_the_rounds_keeps_them() -> None:
    """Ctrl-C in the work after the ladder costs what that would have given, and a warning
    names it.
    """
    calls = count()

    def target() -> None:
        if next(calls) == last:
            raise KeyboardInterrupt

    last = -1
    xsp.measure(target, **QUICK, levels="M", nvtx=True)
    calls, last = count(), next(calls) - 1
    prof = xsp.measure(target, **QUICK, levels="M", nvtx=True)
    assert prof.runs["round"].nunique() == QUICK["iterations"]
    assert [
        sentence
        for sentence in prof.warnings
        if "NVTX ranges" in sentence and "cut-short" in sentence
    ]


def test_every_gpu_in_use_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A latency ends when all GPUs have finished, not only the current one: each is waited for
    after every call.
    """
    events: list[Any] = []
    monkeypatch.setattr(devices, "in_use", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "synchronize", events.append)
    Executor(target_of(lambda: events.append("call"), (), {})).run()
    assert events == [0, 1, "call", 0, 1]
