"""Rungs by name, and from which runs the latency of a level is read."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pandas as pd

from xsp.types import LEVEL_ABBREVIATIONS, Level, RunSpec, Tables


def runs_of(runs: pd.DataFrame, level: Level) -> pd.DataFrame:
    """The runs of the rung that has `level` and the fewest levels; none if no rung has it.

    On a ladder these are the runs whose deepest level it is (XSP, section III-C). A profile
    imported from another tool has one rung, and every level's times hold the cost of tracing all of
    them. Library calls and kernels of a separate ladder have spans in its annotated runs only:
    `timed_events` has those that were traced alone.
    """
    levels = {rung: spec_of(str(rung)).levels for rung in runs["rung"].unique()}
    having = [rung for rung, there in levels.items() if level in there]
    if is_separate(map(str, levels)) and level > Level.LAYER:
        having = [max(having, key=lambda rung: len(levels[rung]))] if having else []
    return (
        runs[runs["rung"] == min(having, key=lambda rung: len(levels[rung]))]
        if having
        else runs.iloc[:0]
    )


_LEVELS = {short: level for level, short in LEVEL_ABBREVIATIONS.items()}


def spec_of(rung: str) -> RunSpec:
    """The rung of this name: the inverse of `RunSpec.name`."""
    return RunSpec(tuple(_LEVELS[short] for short in rung.split("/")))


def is_separate(rungs: Iterable[str]) -> bool:
    """Whether these rungs trace levels one at a time, and do not each add a level to the one
    before.
    """
    levels = sorted((set(spec_of(rung).levels) for rung in rungs), key=len)
    return any(not shallow < deep for shallow, deep in pairwise(levels))


def traced_alone(rung: str, rungs: Iterable[str]) -> Level | None:
    """The level of a separate ladder whose events this rung recorded without knowing what they
    belong to; None for other rungs.
    """
    levels = spec_of(rung).levels
    alone = len(levels) == 2 and levels[-1] > Level.LAYER and is_separate(rungs)
    return levels[-1] if alone else None


def deepest_rung(tables: Tables) -> str:
    """Name of the rung with the most levels."""
    return str(max(tables["runs"]["rung"].unique(), key=lambda rung: len(spec_of(rung).levels)))
