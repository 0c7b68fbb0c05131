"""Costs fitted on simulated ladders must be the true ones, or say that they are not known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import pytest
import torch
from simulator import Call, Launch, Machine, Simulation, Synchronize, Work, lognormal
from torch import nn

import xsp
from xsp.analysis.correction import Correction, fitted
from xsp.analysis.correction.charges import COST_LEVELS, Costs
from xsp.analysis.correction.costs import (
    Closure,
    Round,
    closure,
    cross_validated_closure,
    fit_costs,
)
from xsp.errors import XspError
from xsp.measuring.warnings import about_closure
from xsp.types import Level, RunSpec
from xsp.words.doubts import worded

LADDER = tuple(RunSpec(tuple(Level)[:depth]) for depth in range(1, 5))
KERNELS_ONLY = (LADDER[0], RunSpec((Level.MODEL, Level.KERNEL)))
TRUE = Costs(layer_ns=6200, library_ns=900, launch_ns=1800, api_ns=500, kernel_ns=1300)


def layers(number: int, kernel_ns: int) -> tuple[object, ...]:
    body = (Work(12_000), Call(Level.LIBRARY, (Work(2_000), Launch(1, kernel_ns))), Work(3_000))
    return (Call(Level.LAYER, body),) * number


HOST_BOUND = layers(12, 3_000)
GPU_BOUND = layers(12, 90_000)
MIXED = (*layers(10, 3_000), *layers(8, 60_000), Synchronize(), *layers(5, 3_000))


def measured(
    program: Sequence[object],
    rounds: int,
    seed: int = 0,
    ladder: Sequence[RunSpec] = LADDER,
    noisy: bool = True,
) -> list[Round]:
    """Rounds of the ladder. The host drifts by 20 % from round to round; each cost varies by 20 %,
    each latency by 5 %."""
    drift = lognormal(seed, 0.2)
    return [
        _round(program, seed * 1_000 + 50 * i, ladder, drift() if noisy else 1.0, noisy)
        for i in range(rounds)
    ]


def _round(
    program: Sequence[object], seed: int, ladder: Sequence[RunSpec], speed: float, noisy: bool
) -> Round:
    def draws(offset: int, spread: float) -> Callable[[], float]:
        return lognormal(seed + offset, spread) if noisy else lambda: 1.0

    host = replace(Machine(), launch_call=round(5_000 * speed))
    sims = {
        rung: Simulation(
            program, TRUE, frozenset(rung.levels), host, draws(2 * i, 0.2), draws(2 * i + 1, 0.05)
        )
        for i, rung in enumerate(ladder)
    }
    return Round(
        (sims[ladder[-1]].timeline(),), {rung: float(sim.latency_ns) for rung, sim in sims.items()}
    )


def test_costs_of_a_host_bound_model_are_found_without_noise() -> None:
    """Layer, library and launch costs come out of the rungs' differences, although the prior is 2
    to 3 times off.
    """
    prior = Costs(
        layer_ns=3000, functional_ns=3000, library_ns=300, launch_ns=900, api_ns=500, kernel_ns=1000
    )
    costs = fit_costs(measured(HOST_BOUND, 4, noisy=False), prior)
    assert costs.layer_ns == pytest.approx(TRUE.layer_ns, rel=0.05)
    assert costs.library_ns == pytest.approx(TRUE.library_ns, rel=0.05)
    assert costs.launch_ns == pytest.approx(TRUE.launch_ns, rel=0.05)
    assert costs.identified["layer_ns"]
    assert costs.identified["launch_ns"]


def test_noise_makes_no_host_cost_larger() -> None:
    """At the true costs the replayed latency is the unprofiled one on average, however single costs
    vary.
    """
    rounds = measured(HOST_BOUND[:4], 150, 5)
    assert abs(closure(rounds, TRUE).error) < 0.012
    assert fit_costs(measured(HOST_BOUND, 4, noisy=False)).layer_ns == pytest.approx(
        TRUE.layer_ns, rel=0.01
    )


def test_a_gpu_bound_model_tells_the_device_cost_only() -> None:
    """Host costs that hide behind the queue keep their prior and are said not to be identified."""
    costs = fit_costs(measured(GPU_BOUND, 24))
    low, high = costs.intervals["kernel_ns"]
    assert low <= TRUE.kernel_ns <= high
    identified = {name for name, known in costs.identified.items() if known}
    assert identified == {"kernel_ns"}


def test_what_never_happened_is_not_identified() -> None:
    """A model without functional calls says nothing of their cost."""
    assert not fit_costs(measured(HOST_BOUND, 4, noisy=False)).identified["functional_ns"]


def test_tight_loop_calibration_bounds_the_costs_from_below() -> None:
    """No fitted cost lies below what the same event costs in a tight loop."""
    lower = Costs(layer_ns=7_000, launch_ns=500)
    costs = fit_costs(measured(HOST_BOUND, 4, noisy=False), lower=lower)
    assert costs.layer_ns == pytest.approx(7_000)
    assert all(getattr(costs, name) >= getattr(lower, name) for name in COST_LEVELS)


@pytest.mark.parametrize("program", [HOST_BOUND, GPU_BOUND, MIXED], ids=["host", "gpu", "mixed"])
def test_fitted_costs_close_on_other_rounds(program: Sequence[object]) -> None:
    """On rounds that they were not fitted on, the replayed latency is the unprofiled one within its
    interval.
    """
    costs = fit_costs(measured(program, 12, seed=1))
    found = closure(measured(program, 12, seed=2), costs, fitted_on=12)
    assert found.low <= 0 <= found.high
    assert found.within(0.08)
    assert cross_validated_closure(measured(program, 12, seed=3), folds=3).within(0.12)


@pytest.mark.parametrize(
    ("program", "cost"), [(HOST_BOUND[:8], "launch_ns"), (GPU_BOUND[:8], "kernel_ns")]
)
def test_intervals_cover_the_truth_as_often_as_they_say(
    program: Sequence[object], cost: str
) -> None:
    """Of 50 noisy ladders, 45 or more 95 % intervals contain the true cost, and as many closure
    intervals 0.
    """
    covered = closed = 0
    for seed in range(50):
        costs = fit_costs(measured(program, 8, seed, KERNELS_ONLY))
        low, high = costs.intervals[cost]
        covered += low <= getattr(TRUE, cost) <= high
        found = closure(measured(program, 8, seed + 500, KERNELS_ONLY), costs, fitted_on=8)
        closed += found.low <= 0 <= found.high
    assert covered >= 45
    assert closed >= 45


def test_closure_fails_where_the_model_does_not_hold() -> None:
    """A tracer that makes kernels themselves slower is no cost the model knows, and the closure
    error shows it.
    """
    rounds = []
    for seed in range(8):
        slowed = measured(layers(12, 99_000), 1, seed)[0]
        plain = measured(GPU_BOUND, 1, seed + 100)[0]
        rounds.append(
            Round(slowed.runs, {**slowed.latency_ns, LADDER[0]: plain.latency_ns[LADDER[0]]})
        )
    found = cross_validated_closure(rounds, folds=4)
    assert not found.within(0.05)
    assert found.low > 0


def test_scatter_alone_is_no_closure_error() -> None:
    """Where slow and fast runs meet in every combination and nothing was traced, the closure error
    is 0.
    """
    slow, fast = (Simulation((Work(ns),), levels=frozenset()) for ns in (1_500_000, 500_000))
    rounds = [
        Round((replayed.timeline(),), {LADDER[0]: float(unprofiled.latency_ns)})
        for replayed, unprofiled in product((slow, fast), repeat=2)
    ]
    assert closure(rounds * 3, Costs()).error == pytest.approx(0, abs=1e-9)


def test_every_rung_that_does_not_close_is_said() -> None:
    """An error larger than its interval gives a sentence, at any rung and however small; one within
    it gives none.
    """
    closes = Closure(0.02, -0.01, 0.05, ())
    assert about_closure(Correction(TRUE, {"M/L": closes, "M/L/K": closes})) == []
    said = about_closure(
        Correction(TRUE, {"M/L": Closure(0.003, 0.002, 0.004, ()), "M/L/K": closes})
    )
    assert len(said) == 1
    assert "timeline of M/L is +0.3% off" in worded(said[0])
    assert about_closure(None) == []


def test_a_bound_is_held_by_the_whole_interval() -> None:
    """An error of 0 with a wide interval is no proof."""
    assert Closure(0.0, -0.01, 0.01, ()).within(0.02)
    assert not Closure(0.0, -0.03, 0.01, ()).within(0.02)


def test_rounds_that_lost_records_are_no_evidence() -> None:
    """Costs are fitted on complete rounds only, and not at all where too few are left."""
    prof = xsp.measure(
        nn.Linear(2, 2), torch.ones(1, 2), levels="M/L", iterations=6, warmup=1, progress=False
    )
    tables = {
        name: prof.table(name)
        for name in ("runs", "model_calls", "spans", "api_calls", "calls", "layers")
    }
    tables |= {name: prof.table(name) for name in ("synchronizations", "kernels")}
    found = []
    for lossy in (0, 1, 3):
        tables["runs"]["lost"] = tables["runs"]["round"] < lossy
        correction = fitted(tables)
        found.append(len(correction.closure["M/L"].by_round) if correction else None)
    assert found == [6, 5, None]


def test_rounds_that_cannot_be_fitted_are_refused() -> None:
    """Too few rounds, incomplete rounds and a ladder of one rung are refused with the number and
    the way out.
    """
    rounds = measured(HOST_BOUND, 3, noisy=False)
    with pytest.raises(XspError, match="fitted on 2 rounds: at least 3"):
        fit_costs(rounds[:2])
    with pytest.raises(XspError, match="differ in their rungs"):
        fit_costs([*rounds[:2], Round(rounds[2].runs, {LADDER[0]: 1.0})])
    with pytest.raises(XspError, match="only the rung M"):
        fit_costs([Round(entry.runs, {LADDER[0]: entry.latency_ns[LADDER[0]]}) for entry in rounds])
    with pytest.raises(XspError, match="at least 2 rounds, got 1"):
        closure(rounds[:1], Costs())
