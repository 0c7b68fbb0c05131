"""A target with its arguments, measured as a plan says."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xsp.doubts import Stopped
from xsp.levels._native.signals import held, let_through
from xsp.measuring.executor import Executor
from xsp.measuring.options import Options, Stop
from xsp.measuring.stopping import until_precise
from xsp.measuring.target import target_of
from xsp.profiler import measure_with
from xsp.regression.budgets import metrics_for
from xsp.regression.graph_breaks import graph_breaks
from xsp.regression.plan import Plan

if TYPE_CHECKING:
    from xsp.capture.run import Run
    from xsp.profiles import Profile

LEAST_ROUNDS = 7
"""Rounds that are always run: with fewer nothing can be significant at p < 0.002
(`verdict.runs_needed`).
"""
ROUNDS = 20
"""Rounds that are run before the default stopping rule is asked, as far as there is time."""


@dataclass(frozen=True)
class Call:
    """`function(*args, **kwargs)`, to be measured."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def profile(self, plan: Plan, rounds: int | None = None) -> Profile:
        """Measure, with that many rounds if they are given, else as many as the plan says."""
        chosen = dict(plan.measuring)
        if rounds is not None:
            chosen = {name: value for name, value in chosen.items() if name != "stop"} | {
                "iterations": rounds
            }
        elif "iterations" not in chosen and "stop" not in chosen:
            chosen["stop"] = enough(float(chosen["budget_s"]))
        chosen["metrics"] = (*_listed(chosen.get("metrics", ())), *metrics_for(plan.budgets))
        return self._measured(chosen)

    def counted(self, plan: Plan) -> Profile:
        """One round after one warm-up run: counts are exact, times say nothing."""
        chosen = {name: value for name, value in plan.measuring.items() if name != "budget_s"}
        metrics = (*_listed(chosen.get("metrics", ())), *metrics_for(plan.budgets))
        return self._measured({"warmup": 1, **chosen, "iterations": 1, "metrics": metrics})

    def executed(self, plan: Plan) -> Profile:
        """One round without warm-up: counts as always, times that say nothing."""
        kept = {
            name: plan.measuring[name]
            for name in ("levels", "ranges_as_layers")
            if name in plan.measuring
        }
        return self._measured({**kept, "iterations": 1, "warmup": 0, "serialize": False})

    def graph_breaks(self) -> dict[str, int] | None:
        """Graph breaks of one execution by place; empty where nothing is compiled, None where they
        are not known.
        """
        executor = Executor(target_of(self.function, self.args, dict(self.kwargs)))
        with held(), executor.restored_afterwards(), let_through():
            return graph_breaks(executor.run)

    def _measured(self, options: Mapping[str, Any]) -> Profile:
        checked = Options.of(progress=False, **options)
        return measure_with(self.function, self.args, self.kwargs, checked)


def _listed(metrics: Any) -> tuple[str, ...]:
    return (metrics,) if isinstance(metrics, str) else tuple(metrics)


def enough(budget_s: float) -> Stop:
    """The default stopping rule with more rounds at the least, because samples are compared and not
    only means.
    """
    rule: Stop | None = None
    begin = 0.0

    def stop(runs: Sequence[Run]) -> Stopped | str | None:
        nonlocal rule, begin
        if rule is None:
            rule, begin = until_precise(budget_s=budget_s), time.perf_counter()
        rounds = runs[-1].round + 1
        early = rounds < LEAST_ROUNDS or (
            rounds < ROUNDS and time.perf_counter() - begin < budget_s
        )
        return None if early else rule(runs)

    return stop
