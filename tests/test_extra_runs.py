"""What is run once the rounds are over, what is left out for lack of time, and what is said then.

Nothing is run: the target's runs are replaced, and time passes as a test says.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from captures import gpu_capture
from test_deadline import Clock

from xsp.analysis.correction import fitted
from xsp.analysis.correction.charges import Costs
from xsp.doubts import Doubt, Slug
from xsp.measuring.afterwards import compiled, extra_runs, memory
from xsp.measuring.afterwards.extra_runs import ExtraRuns
from xsp.measuring.afterwards.memory import LayerMemory
from xsp.measuring.afterwards.serialized import RUNS, expected_s
from xsp.measuring.deadline import LOOPS_S, Deadline, fit_s
from xsp.measuring.ladder import SETTLING_RUNS
from xsp.measuring.options import Options
from xsp.measuring.ranks import Ranks
from xsp.types import DEFAULT_LEVELS, Level

ALL = DEFAULT_LEVELS
ALONE = "layers with the device to themselves"
SERIALIZED = pd.DataFrame({"run": [0], "layer": [0], "kernels": [1], "busy_ns": [7]})


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time passes where a test says so only; layers alone are measured at once."""
    made = Clock()
    monkeypatch.setattr("time.perf_counter", made)
    monkeypatch.setattr(extra_runs, "serialize_layers", lambda *_: SERIALIZED)
    return made


def after_rounds(
    budget_s: float = 30.0, traced: tuple[Level, ...] = ALL, shared: int = 0, **given: Any
) -> ExtraRuns:
    """A profile of the synthetic capture whose rounds are over, and that began just now."""
    executor: Any = SimpleNamespace(ranks=Ranks(), target=None, run=None)
    prepared: Any = SimpleNamespace(
        traced=traced,
        tracers={},
        structure=SimpleNamespace(layers=[]),
        structure_s=0.0,
        runs_compiled_code=False,
    )
    tables = dict(gpu_capture().tables)
    # Only the last round says how long a run takes.
    is_middle = tables["runs"]["round"] == 1
    tables["runs"] = tables["runs"].assign(
        latency_ns=tables["runs"]["latency_ns"].mask(is_middle, 10**10)
    )
    options = Options.of(budget_s=budget_s, **given)
    made = ExtraRuns(executor, prepared, options, tables, Deadline(budget_s))
    if shared:
        # Kernels of two layers at once.
        spans = tables["spans"].copy()
        device = spans["level"] == Level.KERNEL
        spans.loc[device, "start_ns"] = spans.loc[device, "start_ns"].min()
        made.tables["spans"] = spans
    return made


def slugs(runs: ExtraRuns) -> list[tuple[Slug, Any]]:
    """What is missing, and why."""
    assert all(isinstance(each, Doubt) for each in runs.cut_off)
    return [(each.slug, each.facts["missing"]) for each in runs.cut_off if isinstance(each, Doubt)]


def test_layers_that_share_the_device_are_measured_alone() -> None:
    """Where kernels of several layers ran at once and nobody said no; how many did is counted for
    one run.
    """
    plain, overlapping = after_rounds(), after_rounds(shared=1)
    for each in (plain, overlapping):
        each.before_the_fit(None)
        assert each.cut_off == []
    assert plain.shared == 0
    assert "serialized" not in plain.tables
    assert overlapping.tables["serialized"] is SERIALIZED
    one = after_rounds(shared=1)
    for name, rows in one.tables.items():
        if "run" in rows:
            one.tables[name] = rows[rows["run"] < len(ALL)]
    one.before_the_fit(None)
    assert one.shared == overlapping.shared > 0


@pytest.mark.parametrize(
    ("asked", "shared", "is_measured"), [(True, 0, True), (False, 1, False), (True, 1, True)]
)
def test_what_was_asked_for_decides(asked: bool, shared: int, is_measured: bool) -> None:
    """Whether layers are measured alone, where it was said."""
    runs = after_rounds(serialize=asked, shared=shared)
    runs.before_the_fit(None)
    assert ("serialized" in runs.tables) == is_measured
    assert runs.cut_off == []


def test_layers_alone_need_layers_and_kernels() -> None:
    """Without one of the levels that is told where they were asked for, and not measured."""
    host = after_rounds(traced=(Level.MODEL, Level.LAYER), serialize=True)
    host.before_the_fit(None)
    assert slugs(host) == [(Slug.NOT_SERIALIZED, ["KERNEL"])]
    neither = after_rounds(traced=(Level.MODEL,), serialize=True)
    neither.before_the_fit(None)
    assert slugs(neither) == [(Slug.NOT_SERIALIZED, ["LAYER", "KERNEL"])]
    by_itself = after_rounds(traced=(Level.MODEL, Level.LAYER), shared=1)
    by_itself.before_the_fit(None)
    assert slugs(by_itself) == []
    assert "serialized" not in by_itself.tables


def test_tight_loops_are_left_out_for_lack_of_time(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They and the fit after them must both end in time; where only the fit does, it is made, and
    what it lacks is said.
    """
    looped: list[object] = []

    def loops_of(tracers: object) -> Costs:
        looped.append(tracers)
        return Costs()

    monkeypatch.setattr(extra_runs, "tight_loops", loops_of)
    fit = fit_s(len(gpu_capture().tables["spans"]))
    for late_s, loops, missing in (
        (-0.01, 1, []),
        (0.01, 0, [(Slug.OUT_OF_TIME, "the tracers' costs in tight loops")]),
    ):
        looped.clear()
        runs = after_rounds(budget_s=10.0)
        clock.now += 11.0 - LOOPS_S - fit + late_s
        runs.before_the_fit(None)
        assert len(looped) == loops
        assert slugs(runs) == []
        runs.fit(5)
        assert slugs(runs) == missing


def test_layers_alone_are_left_out_for_lack_of_time(clock: Clock) -> None:
    """Their runs and the fit after them must both end in time, with a tenth of tolerance; who asked
    for them gets them in any case.
    """
    tables = gpu_capture().tables
    longest_ns = float(tables["runs"]["latency_ns"].iloc[-len(ALL) :].max())
    needed_s = expected_s(longest_ns) + fit_s(len(tables["spans"]))
    assert expected_s(1e6) == pytest.approx(RUNS * (1 + SETTLING_RUNS) * 1e-3)
    for early_s, missing in ((1e-6, []), (-1e-3, [(Slug.OUT_OF_TIME, ALONE)])):
        runs = after_rounds(budget_s=30.0, shared=1)
        clock.now += 33.0 - needed_s - early_s
        runs.before_the_fit(None)
        assert slugs(runs) == missing
        assert ("serialized" in runs.tables) == (not missing)
    asked = after_rounds(budget_s=30.0, shared=1, serialize=True)
    clock.now += 100
    asked.before_the_fit(None)
    assert "serialized" in asked.tables


def test_costs_are_not_fitted_when_the_time_is_over(clock: Clock) -> None:
    """What is missing then is told."""
    in_time, late = after_rounds(), after_rounds()
    assert in_time.fit(3) is None
    clock.now += 34
    assert late.fit(3) is None
    told = (Slug.OUT_OF_TIME, "corrected times, costs and closure error")
    assert slugs(late) == [told]
    # Three rounds are too few to fit costs to: in time, that is for lack of time too.
    assert fitted(in_time.tables) is None
    assert slugs(in_time) == [told]


def test_few_rounds_that_were_asked_for_are_no_lack_of_time() -> None:
    """Who sets the number of rounds gets no costs from three of them, and no word of time."""
    runs = after_rounds()
    runs.deadline = Deadline(float("inf"))
    assert runs.fit(3) is None
    assert runs.cut_off == []


def test_ctrl_c_costs_what_was_being_made_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rounds and all other extra runs are kept, and what is missing is told."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(extra_runs, "serialize_layers", interrupted)
    runs = after_rounds(shared=1)
    runs.before_the_fit(None)
    assert slugs(runs) == [(Slug.CUT_SHORT, ALONE)]


def test_bytes_of_layers_are_filled_in_where_there_is_time(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """And what was doubtful about them is kept; when the time is over they are missing."""
    layers = gpu_capture().tables["layers"]
    doubt = Doubt.of(Slug.OUT_OF_TIME, missing="some")
    found = LayerMemory("cpu", *[np.arange(len(layers) - 2)] * 2)
    monkeypatch.setattr(memory, "measure_memory", lambda *_: (found, [doubt]))
    runs, late = after_rounds(), after_rounds()
    runs.after_the_fit()
    assert runs.memory is found
    assert runs.cut_off == [doubt]
    assert runs.tables["layers"]["allocated_bytes"].tolist()[:3] == [0, 1, 2]
    clock.now += 100
    late.after_the_fit()
    assert late.memory is None
    assert slugs(late) == [(Slug.OUT_OF_TIME, "bytes allocated per layer")]


SOURCES = "source layers of compiled kernels"


def with_compiled_code(traced: tuple[Level, ...] = ALL, *, runs_it: bool = True) -> ExtraRuns:
    """A profile of a target that runs compiled code, without time for memory."""
    made = after_rounds(traced=traced)
    prepared: Any = made.prepared
    prepared.runs_compiled_code = runs_it
    prepared.structure_s = 1e9
    return made


def test_source_layers_are_found_where_there_is_time(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """Their runs must end in time, with a tenth of tolerance: as many as are made, each as long as
    the longest of the rounds. What was doubtful is kept.
    """
    found, doubt = {"compiled_launches": pd.DataFrame()}, "some are not led"
    monkeypatch.setattr(compiled, "lead_kernels", lambda *_: (found, [doubt]))
    longest_ns = float(after_rounds().tables["runs"]["latency_ns"].max())
    needed_s = compiled.expected_s(longest_ns)
    for early_s, is_found in ((1e-6, True), (-1e-3, False)):
        runs = with_compiled_code()
        clock.now += 33.0 - needed_s - early_s
        runs.after_the_fit()
        assert ("compiled_launches" in runs.tables) == is_found
        assert (doubt in runs.cut_off) == is_found
        missing = [] if is_found else [(Slug.OUT_OF_TIME, SOURCES)]
        said = [each for each in runs.cut_off if isinstance(each, Doubt)]
        told = [(each.slug, each.facts["missing"]) for each in said]
        assert told == [(Slug.OUT_OF_TIME, "bytes allocated per layer"), *missing]


def test_source_layers_are_looked_for_in_compiled_code_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor where whole calls alone are traced: nothing is run, and nothing is missing."""
    monkeypatch.setattr(compiled, "lead_kernels", lambda *_: pytest.fail("run"))
    for runs in (with_compiled_code(runs_it=False), with_compiled_code((Level.MODEL,))):
        runs.after_the_fit()
        assert slugs(runs) == [(Slug.OUT_OF_TIME, "bytes allocated per layer")]


def test_ctrl_c_costs_the_source_layers_alone(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """All that was found before is kept."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(compiled, "lead_kernels", interrupted)
    runs = with_compiled_code()
    clock.now -= 1_000
    runs.after_the_fit()
    assert slugs(runs)[-1] == (Slug.CUT_SHORT, SOURCES)
