"""The table of levels is complete, and tracers are used only through their protocol."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import xsp
from xsp.analysis.correction.charges import COST_LEVELS
from xsp.levels import TRACED_LEVELS, statuses, timed_tracers
from xsp.levels.layer.function_mode import Codes
from xsp.levels.layer.structure import Structure
from xsp.types import LEVEL_ABBREVIATIONS, Level, Tracer

MEASURING = Path(xsp.__file__).parent / "measuring"


def test_every_level_has_a_row() -> None:
    """A level that exists has an abbreviation, and all but MODEL a tracer; each names itself."""
    assert set(LEVEL_ABBREVIATIONS) == set(Level)
    assert set(TRACED_LEVELS) == set(Level) - {Level.MODEL}
    assert [row.level for row in statuses(Level)] == list(Level)


def test_costs_belong_to_the_level_that_causes_them() -> None:
    """The prices that the correction fits are those that the table of levels names."""
    of_levels = {cost: level for level, row in TRACED_LEVELS.items() for cost in row.costs}
    assert of_levels == dict(COST_LEVELS)


def test_tracers_that_can_be_made_here_keep_the_protocol() -> None:
    """A tracer that has never recorded can be stopped, has lost nothing and says so."""
    traced = [row.level for row in statuses(Level) if row.status.value == "traced"]
    tracers = timed_tracers(traced, Structure(Codes()))
    assert Level.LAYER in tracers
    for level, tracer in tracers.items():
        assert Tracer in type(tracer).__mro__
        assert tracer.level is level
        tracer.stop()
        assert tracer.lost() == 0


@pytest.mark.parametrize("path", sorted(MEASURING.glob("*.py")), ids=lambda path: path.name)
def test_the_driver_knows_tracers_only_by_their_protocol(path: Path) -> None:
    """No module of the driver looks for an attribute of a tracer by name, or names its class."""
    tree = ast.parse(path.read_text())
    imported = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert not {"LayerTracer", "LibraryTracer", "KernelTracer"} & set(imported)
