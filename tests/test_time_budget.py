"""`budget_s`: one budget for all that a profile does, counted in calls of a slow target."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import xsp
from xsp.measuring import deadline
from xsp.measuring.deadline import Deadline
from xsp.measuring.options import Options

CALL_S = 1.0


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The phases of a profile in which the target was called, a name for each call."""
    calls: list[str] = []
    monkeypatch.setattr(deadline, "time", _Clock(calls))
    return calls


class _Clock:
    """As the module `time`, for the deadline: a second for each call that was made."""

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls

    def perf_counter(self) -> float:
        return CALL_S * len(self._calls)


def profiled(calls: list[str], **options: object) -> xsp.Profile:
    model = nn.Linear(2, 2)

    def step(x: torch.Tensor) -> torch.Tensor:
        calls.append("call")
        y: torch.Tensor = model(x)
        return y

    with torch.no_grad():
        return xsp.measure(step, torch.ones(1, 2), levels="M/L", progress=False, **options)


def slugs(prof: xsp.Profile) -> list[str]:
    return [sentence.rpartition("[")[2].rstrip("]") for sentence in prof.warnings]


def test_no_time_at_all_gives_two_rounds_and_says_what_is_missing(made: list[str]) -> None:
    """With `budget_s=0` two rounds are made, and memory and corrected times are left out, each
    with a warning.
    """
    prof = profiled(made, budget_s=0)
    assert prof.runs["round"].nunique() == 2
    assert (prof.table("layers")["peak_bytes"] == -1).all()
    missing = [sentence for sentence in prof.warnings if "[out-of-time]" in sentence]
    assert any("bytes allocated" in sentence for sentence in missing)
    assert any("corrected times" in sentence for sentence in missing)


def test_warm_up_and_structure_run_count(made: list[str]) -> None:
    """All calls together, those of warm-up, structure and memory run among them, take the budget
    but for a tenth, or two rounds.
    """
    budget = 60
    prof = profiled(made, budget_s=budget)
    a_round = 4  # two rungs, each with a settling run
    assert prof.runs["round"].nunique() > 2
    assert len(made) <= max(1.1 * budget, budget + 2 * a_round)
    assert "out-of-time" not in slugs(prof)


@pytest.mark.parametrize("given", [{"iterations": 3}, {"stop": lambda runs: "enough"}])
def test_rounds_that_are_asked_for_have_no_deadline(given: dict[str, object]) -> None:
    """With `iterations` or `stop` the budget ends nothing."""
    made = Deadline.of(Options.of(budget_s=0, **given))
    assert math.isinf(made.left_s)
    assert made.fits(1e9)
