"""A measurement held against its baseline: which state it is in, and whether that fails
the test.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from xsp.comparing.comparison import compare, compare_data
from xsp.comparing.refusal import refusal
from xsp.comparing.sentences import Whole, narrowing
from xsp.comparing.spread import among_sessions
from xsp.comparing.verdict import ALPHA, UNDECIDED, Verdict, runs_needed, verdict
from xsp.comparing.verdict import UNDECIDED as CANNOT_TELL
from xsp.regression.baselines import Baseline, Baselines
from xsp.regression.counts import CountChange, changes
from xsp.regression.identity import machine_sentence
from xsp.regression.outcome import State
from xsp.regression.plan import Plan
from xsp.regression.sessions import knows_spread, model_times, spread_sentence, versions


@dataclass(frozen=True)
class Decision:
    """`verdict` is on one metric of the model, whose times are `a_ms` in the baseline and `b_ms`
    now.

    `by_runs` says that the runs alone decided: then more of them can settle what is undecided.
    `runs` are those of the smaller sample.
    """

    verdict: Verdict
    a_ms: float
    b_ms: float
    by_runs: bool
    runs: int

    @property
    def open(self) -> bool:
        """Whether more rounds could tell what these did not."""
        return self.by_runs and self.verdict.name == UNDECIDED

    @property
    def whole(self) -> Whole:
        """As the verdict on the model that a comparison tells."""
        sessions = "more sessions (--xsp-add) or runs in turn narrow it"
        more = narrowing(self.runs, runs_needed()) if self.by_runs else sessions
        return Whole(self.verdict, self.a_ms, self.b_ms, more)


def decide(own: Baseline, measured: Baseline, metric: str, threshold: float) -> Decision | None:
    """The verdict on `metric` at this threshold, a share; None where one of the two has not
    measured it.
    """
    samples = [model_times(each.profile, metric) for each in (own, measured)]
    if not all(map(len, samples)):
        return None
    within = verdict(*samples, threshold=threshold)
    earlier = versions(own.sessions, metric)
    time_ms = measured.sessions[-1].ms[metric]
    found = among_sessions(within, earlier, time_ms, threshold=threshold)
    usual_ms = float(np.exp(np.log(earlier[-1]).mean()))
    undecided_alone = within.name == UNDECIDED
    by_runs = undecided_alone or not knows_spread(own.sessions, metric)
    return Decision(found, usual_ms, time_ms, by_runs, min(map(len, samples)))


OTHER_PROGRAM = (str(State.GREW), str(State.SHRANK), str(State.REFUSED))
"""Rules that a session of the baseline's own program cannot break."""


@dataclass(frozen=True)
class Judgement:
    """`states` are all that apply, `says` has a sentence or paragraph for each of them that needs
    one.
    """

    states: tuple[State, ...]
    says: dict[State, str] = field(default_factory=dict)
    decision: Decision | None = None
    baseline: Baseline | None = None
    notes: tuple[str, ...] = ()

    @property
    def open(self) -> bool:
        """Whether more rounds could tell what these did not."""
        return self.decision is not None and self.decision.open

    @property
    def state(self) -> State:
        """The one that needs attention most."""
        return min(self.states, key=list(State).index)

    def failures(self, chosen: Iterable[str]) -> list[str]:
        """What there is to say about the states that fail a test under these rules."""
        failing = [state for state in self.states if str(state) in set(chosen)]
        return [self.says[state] for state in failing]


def judge(
    measured: Baseline,
    plan: Plan,
    threshold: float,
    baselines: Baselines,
    test: PurePosixPath,
    *,
    counts_only: bool = False,
) -> Judgement:
    """The state of a measurement; `threshold` is the ratio to the baseline that is still accepted.

    With `counts_only` its times are not those of a measurement, and are not compared. Without a
    baseline for this machine its state is "new": then the counts of the latest baseline
    of another machine are compared, as far as they must be equal there.

    Raises BaselineError if a baseline cannot be read.
    """
    own = baselines.read(measured.machine, test)
    if own is not None:
        if counts_only:
            return _counts_against(own, measured, threshold, baselines.name)
        return _against(own, measured, plan, threshold, baselines.name)
    others = baselines.elsewhere(measured.machine, test)
    return _new(others[0] if others else None, measured, threshold, baselines)


def _new(
    other: Baseline | None, measured: Baseline, threshold: float, baselines: Baselines
) -> Judgement:
    here = machine_sentence(measured.machine)
    new = (
        f"there is no baseline {baselines.name!r} of this test for this machine ({here}); save it "
        "with --xsp-save"
    )
    if other is None:
        return Judgement((State.NEW,), {State.NEW: new})
    there = (
        f"the baseline of another machine ({machine_sentence(other.machine)}, saved {other.saved})"
    )
    found = changes(
        other, measured, compare(other.profile, measured.profile, threshold=threshold - 1).nodes
    )
    counted = _counted(found, there)
    says = {State.NEW: new} | counted
    return Judgement(tuple(says), says, notes=(f"counts were compared with {there}",))


def _counts_against(own: Baseline, measured: Baseline, threshold: float, name: str) -> Judgement:
    what = f"baseline {name!r} of {own.saved}"
    found = compare(own.profile, measured.profile, threshold=threshold - 1)
    says = _counted(changes(own, measured, found.nodes), what)
    if said := _cannot_count(own, measured):
        says = {State.REFUSED: f"cannot be compared with {what}: {said}"}
    notes = _uncounted(own, measured)
    return Judgement(tuple(says) or (State.COUNTED,), says, None, own, tuple(notes))


def _cannot_count(own: Baseline, measured: Baseline) -> str | None:
    refused = refusal(own.profile, measured.profile)
    return f"{refused}; accept it with --xsp-update" if refused else _other_levels(own, measured)


def _against(
    own: Baseline, measured: Baseline, plan: Plan, threshold: float, name: str
) -> Judgement:
    what = f"baseline {name!r} of {own.saved}"
    refused = refusal(own.profile, measured.profile)
    latency, decided = (
        decide(own, measured, metric, threshold - 1) for metric in ("latency", plan.metric)
    )
    whole = latency.whole if latency else None
    found = compare_data(own.profile, measured.profile, threshold - 1, ALPHA, refused, whole)
    says = _counted(changes(own, measured, found.nodes), what)
    settled = None
    if refused is not None:
        says[State.REFUSED] = (
            f"cannot be compared with {what}: {refused}; accept it with --xsp-update"
        )
    elif _other_levels(own, measured):
        says[State.REFUSED] = f"cannot be compared with {what}: {_other_levels(own, measured)}"
    elif decided is None:
        says[State.UNDECIDED] = (
            f"times are not compared: metric {plan.metric!r} was not measured here; counts are"
        )
    else:
        settled = decided
        spread = spread_sentence(own.sessions, plan.metric)
        says |= _timed(decided.verdict, found.sentences, plan, threshold, what, spread)
    notes = [*found.sentences, *_uncounted(own, measured)]
    return Judgement(tuple(says) or (State.SAME,), says, settled, own, tuple(notes))


def _uncounted(own: Baseline, measured: Baseline) -> list[str]:
    known = own.graph_breaks is not None and measured.graph_breaks is not None
    return (
        []
        if known
        else ["Graph breaks are not compared: another profiler of Python calls was active."]
    )


def _counted(found: list[CountChange], what: str) -> dict[State, str]:
    """What there is to say about counts that grew and counts that shrank."""
    says = {}
    for state, word, which in (
        (State.GREW, "more", [change for change in found if change.more]),
        (State.SHRANK, "fewer", [change for change in found if not change.more]),
    ):
        if which:
            lines = "".join(f"\n    {change}" for change in which)
            says[state] = f"{word} than {what}:{lines}"
    return says


def _other_levels(own: Baseline, measured: Baseline) -> str | None:
    missing = [level for level in own.profile.levels if level not in measured.profile.levels]
    if not missing:
        return None
    return (
        f"level {', '.join(missing)} was traced for it and is not now; `xsp doctor` says why a "
        "level is unavailable"
    )


def _timed(
    decided: Verdict, sentences: Sequence[str], plan: Plan, threshold: float, what: str, spread: str
) -> dict[State, str]:
    """What there is to say about the times, by state; nothing if they are the same."""
    numbers = (
        f"{plan.metric} ratio {decided.ratio:.3f} ({decided.low:.3f} to {decided.high:.3f}, "
        f"p = {decided.p_value:.2g}), allowed is {threshold:.3f}; {spread}"
    )
    where = "".join(f"\n    {sentence}" for sentence in sentences)
    if decided.name == "regression":
        return {State.REGRESSION: f"slower than {what}: {numbers}{where}"}
    if decided.name == "improved":
        return {State.IMPROVED: f"faster than {what}: {numbers}"}
    if decided.name == CANNOT_TELL:
        return {State.UNDECIDED: f"noise is too large to tell it from {what}: {numbers}"}
    return {}
