"""A recording has the same corrected numbers in every version.

`python tests/test_same_numbers.py` writes tests/same_numbers.json anew, for a version that corrects
differently on purpose; CHANGELOG.md then says what changes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xsp
from xsp.analysis.correction import fitted
from xsp.analysis.correction.charges import COST_LEVELS
from xsp.capture.schema import REQUIRED_TABLES

NUMBERS = Path(__file__).with_name("same_numbers.json")
CAPTURES = Path(__file__).parents[1] / "examples" / "captures"
NAMES = ("h100_resnet50", "h100_train_step", "h100_transformer")


def corrected_numbers(prof: xsp.Profile) -> dict[str, list[int]]:
    """Of the deepest rung's spans by level: how much earlier they start than they were recorded,
    their durations and their doubts, each summed, ns.
    """
    corrected, spans = prof.corrected, prof.table("spans")
    assert corrected is not None
    recorded = spans.iloc[corrected["row"]].reset_index(drop=True)
    columns = {
        "earlier_ns": recorded["start_ns"] - corrected["start_ns"],
        "duration_ns": corrected["duration_ns"],
        "doubt_ns": corrected["doubt_ns"],
    }
    return {
        name: column.groupby(recorded["level"]).sum().tolist() for name, column in columns.items()
    }


def fitted_numbers(prof: xsp.Profile) -> dict[str, Any]:
    """Costs with their intervals and spread, and the closure of every rung, fitted anew."""
    found = fitted({name: prof.table(name) for name in REQUIRED_TABLES})
    assert found is not None
    return {
        "costs": found.costs.values().tolist(),
        "intervals": [list(found.costs.intervals[name]) for name in COST_LEVELS],
        "identified": [found.costs.identified[name] for name in COST_LEVELS],
        "spread": np.diag(found.spread).tolist(),
        "closure": {
            rung: [one.error, one.low, one.high, one.by_round[0]]
            for rung, one in found.closure.items()
        },
        "mostly_tracing": dict(found.mostly_tracing),
    }


def numbers_of(name: str) -> dict[str, Any]:
    prof = xsp.load(CAPTURES / f"{name}.xsp")
    return {"fitted": fitted_numbers(prof), "corrected": corrected_numbers(prof)}


def assert_alike(now: Any, before: Any, rel: float) -> None:
    if isinstance(before, dict):
        assert now.keys() == before.keys()
        for key, value in before.items():
            assert_alike(now[key], value, rel)
    else:
        np.testing.assert_allclose(now, before, rtol=rel, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_has_the_numbers_that_it_had(name: str) -> None:
    """Costs, their doubt, closure and corrected times of the bundled captures are those of the
    version before: a change of them is a decision, never an accident.
    """
    before = json.loads(NUMBERS.read_text())[name]
    now = numbers_of(name)
    # The fit is a search in floating point, which differs a little from machine to machine.
    assert_alike(now["fitted"], before["fitted"], 1e-5)
    assert_alike(now["corrected"], before["corrected"], 1e-6)


if __name__ == "__main__":
    NUMBERS.write_text(json.dumps({name: numbers_of(name) for name in NAMES}, indent=1) + "\n")
