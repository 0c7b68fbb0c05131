"""Rungs by name, and from which runs the latency of a level is read."""

from __future__ import annotations

import pandas as pd

from xsp.types import LEVEL_ABBREVIATIONS, Level, RunSpec, Tables


def runs_of(runs: pd.DataFrame, level: Level) -> pd.DataFrame:
    """The runs of the rung that has `level` and the fewest levels; none if no rung has it.

    On a ladder these are the runs whose deepest level it is (XSP, section III-C). A profile
    imported from another tool has one rung, and every level's times hold the cost of tracing all of
    them.
    """
    levels = {rung: spec_of(str(rung)).levels for rung in runs["rung"].unique()}
    having = [rung for rung, there in levels.items() if level in there]
    return (
        runs[runs["rung"] == min(having, key=lambda rung: len(levels[rung]))]
        if having
        else runs.iloc[:0]
    )


_LEVELS = {short: level for level, short in LEVEL_ABBREVIATIONS.items()}


def spec_of(rung: str) -> RunSpec:
    """The rung of this name: the inverse of `RunSpec.name`."""
    return RunSpec(tuple(_LEVELS[short] for short in rung.split("/")))


def deepest_rung(tables: Tables) -> str:
    """Name of the rung with the most levels."""
    return str(max(tables["runs"]["rung"].unique(), key=lambda rung: len(spec_of(rung).levels)))
